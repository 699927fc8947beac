"""Depth first through the stages that outstanding asks need, each brought about only when it is called for.

A stage is reached from the nearest state there is: the model as it stands, a copy in memory where the path forks, a
snapshot in the store, or else its parent, reached likewise. A stage that fails is recorded and its descendants are
skipped; its siblings go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import torch

from memexp.core.checkpoint import Loaded, load_snapshot
from memexp.core.forget import reset
from memexp.core.fork import Fork
from memexp.core.optimizer import adamw
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.core.train import Step, train
from memexp.errors import MemexpError, StoreError
from memexp.plan import Ask, ForgetStage, Stage, TrainingStage, Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.probes.checks import checked
from memexp.store.snapshots import Mark, Marks
from memexp.trial.base import WarmBase
from memexp.trial.encoded import TrialTexts
from memexp.trial.failing import Failures
from memexp.trial.printed import Printed
from memexp.trial.rows import Notes, Results, Sink, made_with
from memexp.trial.saving import Saver
from memexp.trial.state import State
from memexp.trial.watch import Activity, watched

__all__ = ["REPORT_STEPS", "Report", "Walk"]

Report = Callable[[Progress], None]

REPORT_STEPS = 50
"""Steps between two reports of progress: by number, since every rank must report equally often."""


class Walk:
    """One trial under way. All ranks of its world make the same one and `run` it together."""

    def __init__(
        self,
        trial: Trial,
        asks: Sequence[Ask],
        leaves: Collection[str],
        marks: Marks,
        sink: Sink,
        world: World,
        attempt: Attempt,
        report: Report,
    ) -> None:
        """What is left to do of `trial`: `asks`, and the pretrain stages `leaves` whose ends are for trials to come.

        `marks`: the snapshots there were in the store when the trial began.
        """
        self.trial, self.asks, self.leaves, self.marks = trial, asks, leaves, marks
        self.sink, self.world, self.report = sink, world, report
        self.stages = {stage.id: stage for stage in (trial.base, *trial.stages)}
        self.children = _children(trial, {*(ask.stage for ask in asks), *leaves})
        self.notes = Notes(sink, world, attempt, made_with(world, trial.resources))
        self.results = Results(trial, sink, self.notes)
        self.saver = Saver(trial, leaves, sink, self.notes, world, marks.trajectories)
        self.activity = Activity(trial.base)
        self.failures = Failures(self.notes, world, self.children)

    def run(self, base: WarmBase, stall_minutes: float | None) -> list[str]:
        """Everything, from the base down; a process that hangs for so long ends itself. A line for all that failed."""
        with watched(stall_minutes, self.activity, self._stuck):
            stage = self.trial.base
            began = self.activity.turn_to(stage)
            try:
                with self.activity.waits() if stage.model.commit is not None else contextlib.nullcontext():
                    lm, loaded = base.get(stage, self.trial.resources, self.world)
            except Exception as error:  # recorded, never swallowed: it is in stages/ and in the outcome
                self.failures.lose(stage, error, began)
                self.notes.commit()
                return self.notes.lines
            self.notes.add(stage, "complete", began)
            self.activity.work = lambda: lm.passes
            self.state = State(lm, stage.id, loaded)
            self.texts = TrialTexts(self.trial, lm.tokenizer, self.activity)
            self._visit(stage)
            return self.notes.lines

    # Where to go

    def _visit(self, stage: Stage) -> None:
        """Measure after `stage` and after all that hangs below it."""
        failures = len(self.notes.lines)
        wanted = stage.id in self.leaves or any(ask.stage == stage.id for ask in self.asks)
        if wanted and self._reach(stage):
            self._measure(stage)
        if stage is self.trial.base:
            self.notes.commit()
        for child in self.children.get(stage.id, []):
            if stage.id not in self.failures.lost:
                self._visit(child)
            if stage.kind in ("base", "pretrain"):
                self.notes.commit()
        if stage is not self.trial.base:
            self.state.let_go(stage.id)
            if len(self.notes.lines) == failures:
                self.saver.over(stage)

    def _reach(self, stage: Stage) -> bool:
        """Bring the model to the state after `stage`. False where the stage, or one before it, failed."""
        state = self.state
        if state.at == stage.id:
            return True
        if stage.id in self.failures.lost:
            return False
        if stage.id in state.forks:
            state.go_back(stage.id, stage.settings)
            self.saver.back_at(stage.id)
            return True
        began = self.activity.turn_to(stage)
        try:
            loaded = self._load_snapshot(stage)
            if loaded is None and not self._reach(self.stages[stage.parent or ""]):
                self.failures.lost.add(stage.id)
                return False
            began = self.activity.turn_to(stage)
            state.at = None
            self._change(stage, loaded, began)
        except StoreError:
            raise  # nothing could be recorded any more
        except Exception as error:  # whatever it is, it is this stage's and not its siblings'
            self.failures.lose(stage, error, began)
            return False
        state.at = stage.id
        if len(self.children.get(stage.id, [])) > 1 or stage.kind == "pretrain":
            state.keep(stage.id)
            self.saver.at_fork(stage.id)
        return True

    def _load_snapshot(self, stage: Stage) -> tuple[Mark, Loaded] | None:
        """The model in the middle or at the end of `stage`, from the newest whole snapshot there is."""
        if stage.settings is None:
            return None
        ends = self.marks.of(stage.id, stage.last_step, stage.last_step) if stage.kind == "pretrain" else []
        for mark in [*ends, *self.marks.of(stage.trajectory, stage.first_step, stage.last_step)]:
            self.state.at = None
            loaded = load_snapshot(self.sink, mark, self.state.lm, stage.settings)
            if loaded is not None:
                self.saver.loaded()
                if stage.id not in self.trial.given:
                    self._tell(Progress(steps=mark.step - stage.first_step + 1))
                return mark, loaded
        return None

    # What is done there

    def _change(self, stage: Stage, loaded: tuple[Mark, Loaded] | None, began: float) -> None:
        """One stage from the model's present state, or from the middle of it."""
        if isinstance(stage, ForgetStage):
            reset(self.state.lm, stage.forget, self._untaught(stage), stage.seed)
            self.state.optimizer = None
            self.notes.add(stage, "complete", began)
        if isinstance(stage, TrainingStage):
            self._train(stage, loaded, began)

    def _train(self, stage: TrainingStage, loaded: tuple[Mark, Loaded] | None, began: float) -> None:
        state, settings = self.state, stage.settings
        first, done, optimizer = stage.first_step, list[Step](), state.optimizer
        if loaded is not None:
            optimizer, done, first = loaded[1].optimizer, list(loaded[1].steps), loaded[0].step + 1
        elif optimizer is None or stage.begins_afresh:
            optimizer = adamw(state.lm, settings)
        state.optimizer = optimizer
        counted, save = _Counted(self._tell), self.saver.along(stage, state.lm, optimizer, done)

        def after(step: Step) -> None:
            counted(step)
            save(step)

        made = train(state.lm, optimizer, settings, self.texts.batches(stage), first, stage.last_step, after)
        if self.world.leads:
            self.results.trained(stage, [*done, *made])
        self.notes.add(stage, "complete", began, steps=len(made), tokens=sum(step.tokens for step in made))
        counted.flush()

    def _untaught(self, stage: Stage) -> Fork:
        """The weights that forgetting goes back to: as pretraining left them, or else as they were loaded."""
        origin = stage
        while origin.kind not in ("base", "pretrain"):
            origin = self.stages[origin.parent or ""]
        if origin.id not in self.state.forks:  # begun from a snapshot further down
            settings = self.stages[stage.parent or ""].settings if stage.settings is None else stage.settings
            with self.state.aside(settings):
                if not self._reach(origin):
                    raise MemexpError(f"the weights before study cannot be had: stage {origin.id} failed")
        return self.state.forks[origin.id]

    def _measure(self, stage: Stage) -> None:
        """Every outstanding measurement of a stage once, for all who ask. One that fails costs its own rows only."""
        for asks in _by_probe(ask for ask in self.asks if ask.stage == stage.id):
            began, probe, texts = time.monotonic(), asks[0].probe, self.texts.of_probe(asks[0])
            printed = Printed(probe)
            try:
                untaught = self._untaught(stage)
                began = self.activity.turn_to(stage, asks[0])
                with torch.random.fork_rng(devices=_cuda(self.world)), printed:
                    items = probe.measure(Session(self.state.lm, untaught), texts)
                items = checked(probe, items)
            except StoreError:
                raise  # as in `_reach`
            except Exception as error:  # a user's own code may raise anything
                said = printed.written(self.sink, self.notes.log(asks[0]))
                self.failures.record(stage, error, began, asks[0])
                self._tell(Progress(said=said))
                continue
            said = printed.written(self.sink, self.notes.log(asks[0]))
            if self.world.leads:
                self.results.answer(stage, asks, items)
            if self.trial.stoppable:
                self.notes.commit()
            self._tell(Progress(answered=tuple(ask.file for ask in asks), said=said))

    # What is said of it

    def _tell(self, progress: Progress) -> None:
        """Report progress. All ranks call."""
        with self.activity.waits():
            self.report(progress)

    def _stuck(self) -> None:
        """Record what hangs. Called from another thread, of a process that is about to end."""
        at, minutes = self.activity, self.trial.resources.stall_minutes
        why = f"no progress for {minutes:g} minutes (Resources.stall_minutes)"
        self.notes.fail(at.stage, "failed", why, at.began, at.ask)
        self.notes.commit()


class _Counted:
    """Reports the steps of a stage, `REPORT_STEPS` at a time and the rest at its end."""

    def __init__(self, tell: Report) -> None:
        self.tell, self.steps = tell, 0

    def __call__(self, step: Step) -> None:
        self.steps += 1
        if self.steps == REPORT_STEPS:
            self.flush()

    def flush(self) -> None:
        if self.steps:
            self.tell(Progress(steps=self.steps))
        self.steps = 0


def _children(trial: Trial, ends: Collection[str]) -> dict[str, list[Stage]]:
    """The stages that `ends` need, by the one before each."""
    parents = {stage.id: stage.parent for stage in trial.stages}
    needed: set[str] = set()
    for end in ends:
        at: str | None = end
        while at is not None:
            needed.add(at)
            at = parents.get(at)
    found: dict[str, list[Stage]] = {}
    for stage in trial.stages:
        if stage.id in needed and stage.parent is not None:
            found.setdefault(stage.parent, []).append(stage)
    return found


def _by_probe(asks: Iterable[Ask]) -> list[list[Ask]]:
    found: dict[tuple[str, str], list[Ask]] = {}
    for ask in asks:
        found.setdefault((ask.kind, ask.probe_id), []).append(ask)
    return list(found.values())


def _cuda(world: World) -> list[torch.device]:
    return [world.device] if world.device.type == "cuda" else []
