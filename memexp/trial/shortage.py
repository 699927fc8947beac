"""Memory that ran out: what was under way is tried once more with half the batch, before it is recorded as failed.

A stage begins again where it began, from the nearest state there is. Ranks that share a model cannot go on when one of
them failed: all of them end, and a new group tries with half the batch throughout (`Trial.halved`).

    shortage = Shortage(trial, notes, world)
    items = shortage.again(lambda: measured(...), lm, stage, ask)
    if shortage.failure(lm, stage, error, began) is None: ...      # once more
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

from memexp.core.batch_sizes import halved
from memexp.core.faults import of_memory
from memexp.core.model import LanguageModel, drops, set_dropout
from memexp.core.processes import World
from memexp.errors import MemexpError, one_line
from memexp.plan import Ask, Stage, TrainingStage, Trial
from memexp.plan.attempts import Failed
from memexp.trial.rows import Notes

__all__ = ["Shortage"]

T = TypeVar("T")


class Shortage:
    """What of one trial is tried once more, on one rank of its world."""

    def __init__(self, trial: Trial, notes: Notes, world: World) -> None:
        self.trial, self.notes, self.world = trial, notes, world
        self._tried: set[Failed] = set()
        self._raised: Exception | None = None
        """What every rank ends for, on its way up."""

    def failure(
        self, lm: LanguageModel, stage: Stage, error: Exception, began: float, ask: Ask | None = None
    ) -> Exception | None:
        """The failure of a stage, or with `ask` of its measurement; None where it is to be tried with half the batch.

        Raises `error` where that is not for this group; it is written down, and not as a failure.
        """
        self.let_pass(error)
        key = stage.id, ask.probe_id if ask else None
        if not of_memory(error) or self.trial.halved or key in self._tried:
            return error
        if isinstance(stage, TrainingStage) and ask is None and _drops(lm, stage):
            return MemexpError(
                f"{one_line(error)}; not tried with half the batch, whose dropout would be drawn otherwise: give "
                "Resources(checkpointing=True) or more workers, or study without dropout"
            )
        self._tried.add(key)
        self.notes.fail(stage, "halved", one_line(error), began, ask)
        self.notes.lines.pop()  # it has not failed yet
        if self.world.size > 1:
            self.notes.commit()
            self._raised = error
            raise error
        return None

    def let_pass(self, error: Exception) -> None:
        """Raise what every rank ends for; no other stage or measurement is at fault."""
        if error is self._raised:
            raise error

    def again(self, work: Callable[[], T], lm: LanguageModel, stage: Stage, ask: Ask) -> T:
        """What a measurement comes to, at its second try with half the batch."""
        began = time.monotonic()
        try:
            return work()
        except RuntimeError as error:
            if self.failure(lm, stage, error, began, ask) is not None:
                raise
        self.make_room()
        with halved(lm):
            return work()

    def batches(self, lm: LanguageModel, stage: Stage) -> AbstractContextManager[None]:
        """A stage is trained in it: at its second try with half the batch."""
        return halved(lm) if (stage.id, None) in self._tried else contextlib.nullcontext()

    def make_room(self) -> None:
        """What the first try held is given back, frames of its error and unused blocks of the GPU included."""
        gc.collect()
        if self.world.device.type == "cuda":
            torch.cuda.empty_cache()


def _drops(lm: LanguageModel, stage: TrainingStage) -> bool:
    """Whether the stage draws dropout, which it may not have come to yet."""
    set_dropout(lm.lm, stage.settings.dropout)
    return drops(lm)
