"""Notice that this process is about to be taken away: what is trained is saved, and the trial ends, to go on elsewhere.

notice = Notice()
execute(trial, store, world, attempt, notice=notice)   # raises Leaving once it is saved
notice.give("the node 10.0.0.7 is about to go")        # at any time, from any thread

Heeded between two optimizer steps and before every measurement, on all ranks at the same one: a step that is under way
is made, and a measurement too.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Leaving", "Notice"]


class Leaving(BaseException):
    """A trial has saved what it has and ends: no failure of what it is raised through."""


@dataclass
class Notice:
    """Whether the process of a trial, or its machine, is about to go."""

    why: str | None = None
    """A clause; None while it may stay."""
    trainings: int = 0
    """How many stages are being made, by lanes: there is something to save soon."""

    def give(self, why: str) -> None:
        """The trial is to leave. The first reason stays."""
        self.why = self.why or why

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """While the context lasts, a stage is made: its training heeds the notice after every step."""
        self.trainings += 1
        try:
            yield
        finally:
            self.trainings -= 1
