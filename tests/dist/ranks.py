"""Starts functions on several gloo ranks of this machine and brings back what each rank returns.

    first, second = on_ranks(2, tmp_path, work, argument)

Never hangs: a collective that waits too long raises in its rank, and what is left after the deadline is killed.
"""

from __future__ import annotations

import datetime
import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["on_ranks"]

COLLECTIVE = 60.0
"""Seconds a rank waits for its peers."""
DEADLINE = 240.0
"""Seconds for everything."""
IMPORTED = (
    "memexp.trial.execute",
    "memexp.core.load",
    "peft",
    "torch.distributed.fsdp",
    "torch.distributed.checkpoint",
)
"""By the process that ranks are forked from, which takes a rank longer than most work. (The tests' own modules it would
not find: before Python 3.11.9 it has not the path of who starts it.)"""


def on_ranks(size: int, folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What ``work(*arguments)`` returns on each of `size` ranks, in order; raises what a rank raises."""
    folder.mkdir(parents=True, exist_ok=True)
    multiprocessing.set_forkserver_preload([*IMPORTED])
    context = mp.start_processes(
        _rank, (size, folder, work, arguments), nprocs=size, join=False, start_method="forkserver"
    )
    assert context is not None
    end = time.monotonic() + DEADLINE
    try:
        while not context.join(timeout=1):
            if time.monotonic() > end:
                raise TimeoutError(f"{work.__name__} did not end within {DEADLINE:g} s on {size} ranks")
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(size)]


def _rank(rank: int, size: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # A file to meet at, so that no port has to be guessed.
    dist.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=size,
        timeout=datetime.timedelta(seconds=COLLECTIVE),
    )
    try:
        torch.save(work(*arguments), folder / f"{rank}.pt")
    finally:
        dist.destroy_process_group()
