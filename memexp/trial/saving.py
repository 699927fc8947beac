"""Snapshots of a trajectory in the middle of training, as often as the sweep's `Snapshots` say, and taken up again.

saver = Saver(trial, leaves, sink, notes, world, marks, notice)
loaded = saver.load(stage, lm)
train(..., after=saver.along(stage, lm, optimizer, done))
"""

from __future__ import annotations

import copy
import dataclasses
import sys
import time
import weakref
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.optim import Optimizer

from memexp.core.checkpoint import Loaded, load_snapshot, save_snapshot
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.train import Step
from memexp.errors import StoreError
from memexp.plan import Stage, TrainingStage, Trial
from memexp.store.snapshots import Mark, Marks, Unfit, discard
from memexp.trial.leaving import Leaving, Notice
from memexp.trial.rows import Notes, Sink

__all__ = ["Saver"]


@dataclass
class _Unsaved:
    """What a crash would cost now."""

    steps: int = 0
    seconds: float = 0.0


@dataclass
class _Training:
    """A stage that is trained, or was the last."""

    stage: TrainingStage
    lm: LanguageModel
    optimizer: weakref.ref[Optimizer]
    """What goes on from here without it lets go of its moments, which may be twice the model."""
    steps: list[Step]
    """All of it, those before a snapshot that was taken up included."""
    before: int
    """How many these are."""
    began: float


class Saver:
    """Saves trajectories in time, takes them up again, and discards what nobody will load again."""

    def __init__(
        self,
        trial: Trial,
        leaves: Collection[str],
        sink: Sink,
        notes: Notes,
        world: World,
        marks: Marks,
        notice: Notice,
    ) -> None:
        """`leaves`: stages whose ends are for trials to come; `marks`: the snapshots there were at first."""
        self.spacing, self.leaves, self.given = trial.snapshots, leaves, trial.given
        self.sink, self.notes, self.world = sink, notes, world
        self.marks, self._kept = marks, set(marks.trajectories)
        self.notice = notice
        self._last: _Training | None = None
        self._unsaved = _Unsaved()  # since the last snapshot, on the way to where the model is
        self._unsaved_at: dict[str, _Unsaved] = {}

    def beside(self) -> Saver:
        """The saver of another lane, whose model is elsewhere: what is kept is known to both."""
        other = copy.copy(self)
        other._unsaved, other._last = _Unsaved(), None
        return other

    def at_fork(self, stage: str) -> None:
        """The model's state after `stage` is kept in memory, and may be gone back to."""
        self._unsaved_at[stage] = dataclasses.replace(self._unsaved)

    def back_at(self, stage: str) -> None:
        """The model is after `stage` again."""
        self._unsaved = dataclasses.replace(self._unsaved_at.get(stage, _Unsaved()))
        self._last = None

    def marks_of(self, stage: TrainingStage) -> list[Mark]:
        """The snapshots at the end or in the middle of a stage, the newest first."""
        ends = self.marks.of(stage.id, stage.last_step, stage.last_step) if stage.kind == "pretrain" else []
        return [*ends, *self.marks.of(stage.trajectory, stage.first_step, stage.last_step)]

    def load(self, stage: TrainingStage, lm: LanguageModel) -> tuple[Mark, Loaded] | None:
        """Bring the model to the newest of them that is of use; each that is not is recorded and passed over.

        None where there is none; the model is then of no use as it is.
        """
        for mark in self.marks_of(stage):
            began = time.monotonic()
            try:
                loaded = load_snapshot(self.sink, mark, stage.start or stage.parent, lm, stage.settings)
            except Unfit as error:
                self.notes.add(stage, "unread", began, str(error))
                self.marks = self.marks.without(mark)
                continue
            if loaded is not None:
                self._unsaved = _Unsaved()
                return mark, loaded
        return None

    def along(
        self, stage: TrainingStage, lm: LanguageModel, optimizer: Optimizer, done: Iterable[Step]
    ) -> Callable[[Sequence[Step]], None]:
        """What to call with the steps of a stage, of which the steps `done` were made before; see `train`.

        Where there is notice it raises `Leaving`, all that was trained being saved.
        """
        steps, clock = list(done), time.monotonic()
        training = _Training(stage, lm, weakref.ref(optimizer), steps, len(steps), clock)

        def after(made: Sequence[Step]) -> None:
            nonlocal clock
            steps.extend(made)
            now = time.monotonic()
            self._unsaved.steps += len(made)
            self._unsaved.seconds += now - clock
            self._last = training
            due, leaving = self._asked()
            if self._is_shared(stage) and steps[-1].step == stage.last_step:
                # Under the stage's own name: a later one on the line would take its place, and other trials begin here.
                self._save(stage.id, training)
            elif due or leaving:
                self._save(stage.trajectory, training)
            if leaving:
                made = steps[training.before :]
                tokens = sum(step.tokens for step in made)
                self.notes.add(stage, "left", training.began, self.notice.why, steps=len(made), tokens=tokens)
                raise Leaving
            clock = time.monotonic()

        return after

    def leave_if_told(self, stage: Stage) -> None:
        """Save what training has made and raise `Leaving`, if there is notice. All ranks call before a measurement."""
        if self._asked()[1]:
            if self._last is not None and self._last.stage is stage and self._unsaved.steps:
                self._save(self._last.stage.trajectory, self._last)
            self.notes.add(stage, "left", time.monotonic(), self.notice.why)
            raise Leaving

    def _is_shared(self, stage: Stage) -> bool:
        """Whether other trials, or other sweeps, may begin at the end of a stage."""
        return stage.kind == "pretrain" or stage.id in self.leaves or stage.id in self.given

    def room(self) -> int:
        """How many steps may be made before a snapshot is due by their number."""
        return sys.maxsize if self.spacing.steps is None else self.spacing.steps - self._unsaved.steps

    def _asked(self) -> tuple[bool, bool]:
        """Whether a snapshot is due, and whether the machine of any rank is about to go. All ranks ask."""
        minutes, steps = self.spacing.minutes, self.spacing.steps
        late = minutes is not None and self._unsaved.seconds >= 60 * minutes
        leaving = self.notice.why is not None
        if self.world.size > 1:
            late, leaving = (self.world.sum(torch.tensor([late, leaving], dtype=torch.float64)) > 0).tolist()
        return late or (steps is not None and self._unsaved.steps >= steps), leaving

    def _save(self, name: str, training: _Training) -> None:
        """A snapshot that cannot be written is recorded; the trajectory goes on and tries again in time."""
        began, stage, steps, optimizer = time.monotonic(), training.stage, training.steps, training.optimizer()
        if optimizer is None:
            return
        try:
            self._kept.add(name)
            mark = Mark(name, steps[-1].step)
            save_snapshot(self.sink, mark, stage.start or stage.parent, training.lm, optimizer, steps)
            if name != stage.trajectory and self.world.leads:
                discard(self.sink, stage.trajectory)  # what came before the end
        except StoreError as error:
            self.notes.add(stage, "unsaved", began, str(error))
            if name == stage.id and name in self.leaves:
                what = "pretraining" if stage.kind == "pretrain" else stage.kind
                self.notes.lines.append(
                    f"{stage.model.name}, the end of {what} {name} could not be saved, and is trained again by "
                    f"all that begins there: {error}"
                )
        self._unsaved = _Unsaved()

    def over(self, stage: Stage) -> None:
        """All below `stage` is measured: its snapshots go, unless other trials may begin after it."""
        if self.spacing.keep or self._is_shared(stage) or stage.trajectory not in self._kept:
            return
        self._kept.discard(stage.trajectory)
        if self.world.leads:
            discard(self.sink, stage.trajectory)
