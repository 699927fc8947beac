"""TensorBoard: losses and how far a sweep is, written by the process that was started, while trials execute.

    memexp run sweeps/quickstart.py --tensorboard runs
    tensorboard --logdir runs

A line of training is a run of TensorBoard, called by model, part, learning rate, seed and the beginning of its
identity; ``loss/study``, ``loss/interference`` ... are its scalars. Without the package tensorboardX, which Ray Tune
brings, it is refused in a line.
"""

from __future__ import annotations

import importlib.util
import os
import re
from collections import OrderedDict
from typing import Any

from memexp.errors import SpecError
from memexp.events import ConditionComplete, Event, Losses, SweepEnded

__all__ = ["TensorBoard"]

MOST_OPEN = 16
"""Files at a time: each has a thread of its own."""


class TensorBoard:
    """A hook, see `memexp.events`."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """`folder`: what is given to ``tensorboard --logdir``; made when there is something to write."""
        if importlib.util.find_spec("tensorboardX") is None:
            raise SpecError("--tensorboard needs tensorboardX: pip install tensorboardX")
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        if os.path.exists(self.folder) and not os.path.isdir(self.folder):
            raise SpecError(f"--tensorboard: {self.folder} is a file; give a folder")
        self._open: OrderedDict[str, Any] = OrderedDict()
        self._opened = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, Losses):
            name = f"{event.model}-{event.kind}-lr{event.lr:g}-seed{event.seed}-{event.line[:6]}"
            for step, loss in zip(event.steps, event.losses, strict=True):
                if loss is not None:
                    self._writer(event.sweep, name).add_scalar(f"loss/{event.kind}", loss, step)
        if isinstance(event, ConditionComplete):
            self._writer(event.sweep, "progress").add_scalar("conditions_complete", event.complete, event.complete)
        if isinstance(event, SweepEnded):
            while self._open:
                self._open.popitem()[1].close()

    def _writer(self, sweep: str, name: str) -> Any:
        """The file of a run; of many the one that was not used for longest is closed, and goes on in another file."""
        # It imports torch, which --local has to be the first to do, with the threads that a sweep asks for.
        from tensorboardX import SummaryWriter

        place = os.path.join(self.folder, sweep, re.sub(r"[^A-Za-z0-9._-]+", "-", name))
        if place not in self._open:
            if len(self._open) >= MOST_OPEN:
                self._open.popitem(last=False)[1].close()
            # By itself a file is called after the second it is opened in, and a second one would take its place.
            self._opened += 1
            own = f".{os.getpid()}-{self._opened}"
            self._open[place] = SummaryWriter(place, flush_secs=5, filename_suffix=own)
        self._open.move_to_end(place)
        return self._open[place]
