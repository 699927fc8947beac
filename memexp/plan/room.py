"""Whether what trials take at their peak is to be had on the machines there are: refused in a line before they start.

refuse([Peak("opt-13b (full)", Resources(workers=4, gpus=1), worker=58 * 10**9, host=6 * 10**9)], [here()])

A plan's peak is an estimate: refused is only what would not fit if it were a tenth less.
"""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from memexp.errors import ClusterError
from memexp.spec import Resources

__all__ = ["Peak", "Room", "here", "refuse"]

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Where a container learns how much of its machine's memory is its own."""
SURE = 0.9
"""The share of a peak that is certain to be taken."""


@dataclass(frozen=True)
class Peak:
    """What a trial takes at most."""

    what: str
    """The model and how it is trained, as a plan calls them."""
    resources: Resources
    worker: int
    """Bytes on each worker's device: its GPU, or the memory of its node."""
    host: int = 0
    """Bytes that each worker with a GPU takes of its node's memory beside it."""


@dataclass(frozen=True)
class Room:
    """What a machine has."""

    host: int
    """Bytes of memory."""
    gpus: tuple[int, ...] = ()
    """Bytes of each of its GPUs."""


def here() -> Room:
    """What this machine has; of GPUs what NVIDIA's driver tells, if there is one: no library has to be loaded."""
    host = psutil.virtual_memory().total
    for limit in LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            host = min(host, int(Path(limit).read_text()))
    ask = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    with contextlib.suppress(OSError, ValueError, subprocess.SubprocessError):
        said = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=30).stdout
        return Room(host, tuple(2**20 * int(line) for line in said.split()))
    return Room(host)


def refuse(peaks: Iterable[Peak], rooms: Sequence[Room]) -> None:
    """Raise ClusterError where a trial fits on no machine of `rooms`; on a cluster, those that could execute it."""
    for peak in peaks:
        misfits = [why for room in rooms if (why := _misfit(peak, room)) is not None]
        if rooms and len(misfits) == len(rooms):
            fewer = "give fewer lanes, or one: " if peak.resources.lanes not in (1, "auto") else ""
            raise ClusterError(
                f"{peak.what}: {misfits[-1]}; {fewer}`memexp plan --memory` says how many workers would do"
            )


def _misfit(peak: Peak, room: Room) -> str | None:
    """Why it does not fit there, None where it does."""
    resources = peak.resources
    together = 1 if resources.spread else resources.workers
    on_host = together * (peak.host if resources.gpus else peak.worker)
    if resources.gpus and room.gpus:
        has = min(1.0, resources.gpus) * max(room.gpus)
        if SURE * peak.worker > has:
            share = "a GPU has" if resources.gpus == 1 else f"{resources.gpus:g} of a GPU are"
            return f"takes {_gb(peak.worker)} on the GPU of each worker at its peak, and {share} {_gb(has)}"
    if SURE * on_host > room.host:
        workers = "worker" if together == 1 else f"{together} workers"
        return f"takes {_gb(on_host)} of memory with its {workers} at its peak, and the machine has {_gb(room.host)}"
    return None


def _gb(count: float) -> str:
    return f"{count / 1e9:.1f} GB"
