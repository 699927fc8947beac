"""What a process takes of the memory beside what the meter counts, phase by phase: of a real model, with its content.

    python -m core.process_memory FOLDER        # of a model; prints {meter: {phase: [counted, taken]}}, in bytes

For tests/drills/test_meter_drills.py, which starts it with a C library that gives back at once what is freed.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import torch
from core.fake_ranks import STUDY
from core.meter import Meter
from core.small import language_model
from torch.optim import AdamW
from torch.utils._python_dispatch import _disable_current_modes

from memexp.core.fork import restore, take
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import update
from memexp.sources import Sources
from memexp.spec import Full, Model

__all__ = ["Forgetful", "resident"]

ROWS, WIDTH = 4, 64
Found = dict[str, list[int]]


class Forgetful(Meter):
    """Misses what the optimizer makes in its steps."""

    def __enter__(self) -> Meter:
        step = AdamW.step

        def unseen(optimizer: AdamW) -> None:
            with _disable_current_modes():
                step(optimizer)
            for state in optimizer.state.values():  # nor is it seen when it is copied
                self._missed |= {one.untyped_storage()._cdata for one in state.values()}

        self._missed: set[int] = set()
        super().__enter__()
        self._patches.enter_context(mock.patch.object(AdamW, "step", unseen))
        return self

    def note(self, *tensors: torch.Tensor) -> None:
        super().note(*(one for one in tensors if one.untyped_storage()._cdata not in self._missed))


def resident() -> int:
    """Bytes of this process that are no file's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


@contextlib.contextmanager
def watched() -> Iterator[list[int]]:
    """Has the most that is resident meanwhile as its only element, at the end."""
    most, over = [resident()], threading.Event()

    def watch() -> None:
        while not over.wait(0.004):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield most
    finally:
        over.set()
        watcher.join()
        most[0] = max(most[0], resident())


def trained(lm: LanguageModel, vocabulary: int) -> AdamW:
    """A step, after which there are moments."""
    optimizer = fresh_optimizer(lm, STUDY)
    lm.train()
    update(lm, optimizer, [[(7 * i + j) % vocabulary for j in range(WIDTH)] for i in range(ROWS)], 1e-4, 1.0)
    return optimizer


def phases(folder: str, meter: Meter) -> Found:
    """Loading, two steps, a fork and back to it: what `meter` counts at the peak, and what the process takes."""
    model, found = Sources().model(Model(folder)), Found()
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = resident()

    @contextlib.contextmanager
    def phase(name: str) -> Iterator[None]:
        with meter.phase() as counted, watched() as most:
            yield
        found[name] = [counted.peak + counted.host, most[0] - before]

    with meter:
        with phase("load"):
            lm = load(model, Full(), "float32", World.current())
        with phase("training"):
            optimizer: AdamW | None = trained(lm, 600)
        with phase("fork"):
            kept = take(lm, optimizer)
        optimizer = None
        with phase("restore"):
            optimizer = restore(lm, kept, STUDY)
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    small = language_model("llama")  # what is made once a process is made now
    take(small, trained(small, 600))
    del small
    print(json.dumps({meter.__name__: phases(sys.argv[1], meter()) for meter in (Meter, Forgetful)}))
