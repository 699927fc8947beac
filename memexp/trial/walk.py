"""Depth first through the stages that outstanding asks need, each brought about only when it is called for.

A stage is reached from the nearest state there is: the model as it stands, a copy in memory where the path forks, a
snapshot in the store, or else its parent, reached likewise. A stage that fails is recorded and its descendants are
skipped; its siblings go on.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import partial

from memexp.core.batch_sizes import halved
from memexp.core.forget import reset
from memexp.core.inert import Inert
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.core.train import Step, train
from memexp.errors import StoreError
from memexp.plan import Ask, ForgetStage, Stage, TrainingStage, Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.spec import runs_users_code
from memexp.store.snapshots import Mark, Marks
from memexp.trial.aims import aim_of, untaught
from memexp.trial.base import WarmBase, renew
from memexp.trial.encoded import TrialTexts
from memexp.trial.failing import Failures
from memexp.trial.leaving import Notice
from memexp.trial.measuring import measured, passes_of
from memexp.trial.printed import Printed
from memexp.trial.reporting import Counted, Report, line_of
from memexp.trial.rows import Notes, Results, Sink, made_with
from memexp.trial.saving import Saver
from memexp.trial.shortage import Shortage
from memexp.trial.side_by_side import in_lanes, lanes_of
from memexp.trial.state import State
from memexp.trial.watch import Activity, allowed, watched

__all__ = ["Walk"]


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
        notice: Notice,
    ) -> None:
        """Of `trial` `asks` are left to do, and the ends of `leaves`, for trials to come; `marks`: of what is saved."""
        self.trial, self.asks, self.leaves = trial, asks, leaves
        self.sink, self.world, self.report = sink, world, report
        self.stages = {stage.id: stage for stage in (trial.base, *trial.stages)}
        self.children = _children(trial, {*(ask.stage for ask in asks), *leaves})
        self.lanes = lanes_of(trial, asks, self.children)
        self.notes = Notes(sink, world, attempt, made_with(world, trial.resources, trial.base.dtype, self.lanes))
        self.results = Results(trial, sink, self.notes)
        self.saver = Saver(trial, leaves, sink, self.notes, world, marks, notice)
        self.activity = Activity(trial.base)
        if trial.cautious:
            self.activity.begins = self.notes.begin
        self.failures = Failures(self.notes, world, self.children)
        self.shortage = Shortage(trial, self.notes, world)

    def run(self, base: WarmBase, stall_minutes: float | None) -> list[str]:
        """Everything, from the base down; a process that hangs for so long ends itself. A line for all that failed."""
        self.base = base
        minutes = allowed(stall_minutes, self.world.size, getattr(self.sink, "is_local", True))
        with watched(minutes, self.activity, lambda: self.failures.stuck(self.activity, minutes)):
            state = _based(self, base)
            if state is None:
                return self.notes.lines
            self.state = state
            self.activity.work = lambda: self.state.lm.passes
            self.texts = TrialTexts(self.trial, state.lm.tokenizer, self.activity)
            with halved(state.lm) if self.trial.halved else contextlib.nullcontext():
                if self.lanes == 1 or not in_lanes(self, base):
                    self.visit(self.trial.base)
            return self.notes.lines

    def visit(self, stage: Stage) -> None:
        """Measure after `stage` and after all that hangs below it."""
        failures = len(self.notes.lines)
        wanted = stage.id in self.leaves or any(ask.stage == stage.id for ask in self.asks)
        if wanted and self.reach(stage):
            self._measure(stage)
        if stage is self.trial.base:
            self.notes.commit()
        self.below(stage, self.children.get(stage.id, []))
        if stage is not self.trial.base:
            self.state.let_go(stage)
            if len(self.notes.lines) == failures:
                self.saver.over(stage)

    def below(self, stage: Stage, children: Sequence[Stage]) -> None:
        """Visit what comes after `stage`, of which each begins where `stage` ends."""
        for child in children:
            if stage.id not in self.failures.lost:
                if child is children[-1]:
                    self.state.last_child(stage.id)
                self.visit(child)
            if stage.kind in ("base", "pretrain"):
                self.notes.commit()

    def reach(self, stage: Stage) -> bool:
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
        while not self._made(stage):
            if stage.id in self.failures.lost:
                return False
            state.nowhere()
            self.shortage.make_room()
        state.at = stage.id
        if len(self.children.get(stage.id, [])) > 1 or stage.kind == "pretrain":
            state.keep(stage.id, untaught=stage.kind == "pretrain")
            self.saver.at_fork(stage.id)
        return True

    def _made(self, stage: Stage) -> bool:
        """Make the stage. False where it is lost, or else to be made once more with half the batch."""
        began = self.activity.turn_to(stage)
        try:
            loaded = self._load_snapshot(stage)
            if loaded is None and not self.reach(self.stages[stage.parent or ""]):
                self.failures.lost.add(stage.id)
                return False
            began = self.activity.turn_to(stage)
            self.state.at = None
            with self.saver.notice.heeded(), self.shortage.batches(self.state.lm, stage):
                self._change(stage, loaded, began)
        except StoreError:
            raise  # nothing could be recorded any more
        except Exception as error:  # whatever it is, it is this stage's and not its siblings'
            failure = self.shortage.failure(self.state.lm, stage, error, began)
            if failure is not None:
                self.failures.lose(stage, failure, began)
            return False
        return True

    def _load_snapshot(self, stage: Stage) -> tuple[Mark, Sequence[Step]] | None:
        """The model in the middle or at the end of `stage`, from the newest whole snapshot there is; and its steps."""
        if not isinstance(stage, TrainingStage) or not self.saver.marks_of(stage):
            return None
        self.state.nowhere()
        loaded = self.saver.load(stage, self.state.lm)
        if loaded is None:
            return None
        self.state.optimizer = loaded[1].optimizer
        self._tell(_behind(stage, loaded[0], self.stages, self.trial))
        return loaded[0], loaded[1].steps

    def _change(self, stage: Stage, loaded: tuple[Mark, Sequence[Step]] | None, began: float) -> None:
        """One stage from the model's present state, or from the middle of it."""
        if isinstance(stage, ForgetStage):
            reset(self.state.lm, stage.forget, untaught(self, stage), stage.seed)
            self.state.optimizer = None
            self.notes.add(stage, "complete", began)
        if isinstance(stage, TrainingStage):
            self._train(stage, loaded, began)

    def _train(self, stage: TrainingStage, loaded: tuple[Mark, Sequence[Step]] | None, began: float) -> None:
        state, settings = self.state, stage.settings
        first, done = stage.first_step, list[Step]()
        if loaded is not None:
            first, done = loaded[0].step + 1, list(loaded[1])
        elif state.optimizer is None or stage.begins_afresh:
            state.optimizer = fresh_optimizer(state.lm, settings)
        aim = aim_of(self, stage, here=first == 1) if first <= stage.last_step else None
        optimizer = state.optimizer
        assert optimizer is not None
        counted = Counted(self._tell, self.trial, self.notes.attempt, line_of(stage, self.stages), stage, first)
        save = self.saver.along(stage, state.lm, optimizer, done)

        def after(steps: Sequence[Step]) -> None:
            counted(steps)
            save(steps)

        batches, room = self.texts.batches(stage), self.saver.room
        made = train(state.lm, optimizer, settings, batches, first, stage.last_step, after, room, aim)
        if self.world.leads:
            self.results.trained(stage, [*done, *made])
        self.notes.add(stage, "complete", began, steps=len(made), tokens=sum(step.tokens for step in made))
        counted.flush()

    def _measure(self, stage: Stage) -> None:
        """Every outstanding measurement of a stage once, for all who ask. One that fails costs its own rows only."""
        measurements = _by_probe(ask for ask in self.asks if ask.stage == stage.id)
        passes = passes_of(measurements, self.texts.of_probe)
        for asks in measurements:
            self.saver.leave_if_told(stage)
            began, probe, texts = time.monotonic(), asks[0].probe, self.texts.of_probe(asks[0])
            printed = Printed(probe)
            guard = Inert(self.state.lm, weights=runs_users_code(probe))
            try:
                before = untaught(self, stage)
                began = self.activity.turn_to(stage, asks[0])
                aside, shared = partial(self.state.aside, stage.settings), passes.for_(asks[0].probe_id)
                session = Session(self.state.lm, before, aside, shared)
                measure = partial(measured, probe, session, texts, guard, printed)
                items, about = self.shortage.again(measure, self.state.lm, stage, asks[0])
            except StoreError:
                raise  # as in `reach`
            except Exception as error:  # a user's own code may raise anything
                self.shortage.let_pass(error)
                said = printed.written(self.sink, self.notes.log(asks[0]))
                self.failures.record(stage, error, began, asks[0])
                self._tell(Progress(said=said))
                if guard.changed is not None:
                    renew(self, self.base)
                    if not self.reach(stage):
                        return
                continue
            said = printed.written(self.sink, self.notes.log(asks[0]))
            if self.world.leads:
                self.results.answer(stage, asks, items, about)
            if self.trial.stoppable:
                self.notes.commit()
            self._tell(Progress(answered=tuple(ask.file for ask in asks), said=said))

    def _tell(self, progress: Progress) -> None:
        """Report progress. All ranks call."""
        with self.activity.waits():
            self.report(progress)


def _based(walk: Walk, base: WarmBase) -> State | None:
    """The state that a trial begins with: the base model as loaded. None where it cannot be had, which is recorded."""
    stage, notes = walk.trial.base, walk.notes
    began = walk.activity.turn_to(stage)
    try:
        with walk.activity.waits() if stage.model.commit is not None else contextlib.nullcontext():
            lm, loaded = base.get(stage, walk.trial.resources, walk.world)
    except Exception as error:  # recorded, never swallowed: it is in stages/ and in the outcome
        walk.failures.lose(stage, error, began)
        notes.commit()
        return None
    notes.add(stage, "complete", began)
    if walk.saver.marks.fault is not None:
        notes.add(stage, "unread", began, f"no snapshot is taken up: {walk.saver.marks.fault}")
    return State(lm, stage.id, loaded)


def _behind(stage: TrainingStage, mark: Mark, stages: Mapping[str, Stage], trial: Trial) -> Progress:
    """What a snapshot in the middle or at the end of `stage` saves: all up to there."""
    steps, reached = mark.step - stage.first_step + 1, dict[str, int]()
    at: Stage = stage
    made = steps
    while at.parent is not None:
        reached[at.id] = made
        at = stages[at.parent]
        made = at.steps
    return Progress(steps=0 if stage.id in trial.given else steps, reached=reached)


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
