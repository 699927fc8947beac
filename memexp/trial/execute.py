"""One trial: load a base model once, walk the trees of stages under it, measure, and hand the rows to the store.

Knows neither Ray nor where it is: the same `execute` runs in a test, in a Tune trial and on eight ranks.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch
import transformers
from torch.optim import AdamW

from memexp import __version__
from memexp.core import fork
from memexp.core.batches import Batches, PassingBatches, RowWindows, StreamBatches, StudyBatches
from memexp.core.checkpoint import Loaded, load_snapshot, save_snapshot
from memexp.core.data import encode
from memexp.core.forget import reset
from memexp.core.fork import Fork
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import adamw
from memexp.core.session import Session
from memexp.core.train import Diverged, Step, train
from memexp.core.world import World
from memexp.errors import MemexpError, StoreError
from memexp.identity import NUMERICS
from memexp.plan import Ask, Stage, Trial
from memexp.plan.attempts import Attempt, Progress, stage_row
from memexp.records import MADE_WITH, STAGES, TRAINING, rows_for
from memexp.sources import Stream
from memexp.sources.streams import HubTexts
from memexp.spec import Full, Resources, Study
from memexp.store.snapshots import Mark, Marks, SideFiles, discard, find
from memexp.trial.watch import watched

__all__ = ["Report", "Sink", "execute"]


class Sink(SideFiles, Protocol):
    """Where records go, and snapshots; `memexp.store.Store` is one."""

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """Write a file if there is none of this name; whether it was written."""

    def names(self, kind: str, prefix: str = "") -> set[str]:
        """Names of the files there are."""

    def read(self, kind: str, name: str) -> pa.Table:
        """A file's rows."""


Report = Callable[[Progress], None]

REPORT_STEPS = 50
"""Steps between two reports of progress: by number, since every rank must report equally often."""


def execute(trial: Trial, sink: Sink, world: World, attempt: Attempt, report: Report = lambda _: None) -> list[str]:
    """Train and measure what of `trial` is not in `sink` yet. All ranks of `world` call.

    What fails is recorded in ``stages/`` and left, and everything that does not depend on it goes on. With several
    ranks an error is recorded and raised, since the ranks that do not have it wait for the one that has.

    Returns:
        One line for every stage or measurement that failed; empty where all is complete.
    """
    torch.set_num_threads(trial.resources.threads)
    asks = _outstanding(trial, sink, world)
    left = {_file(ask) for ask in asks}
    report(Progress(answered=tuple(_file(ask) for ask in trial.asks if _file(ask) not in left)))
    marks = world.broadcast(find(sink) if world.leads else Marks())
    leaves = set(trial.leaves) - {mark.trajectory for mark in marks.found}
    if not asks and not leaves:
        return []
    return _Walk(trial, asks, leaves, sink, world, attempt, report, marks).run()


def _outstanding(trial: Trial, sink: Sink, world: World) -> list[Ask]:
    """The asks without a file: an earlier attempt or another sweep may have answered some. Rank 0 decides for all."""
    done: set[str] = set()
    if world.leads:
        done = {f"{kind}/{name}" for kind in {ask.kind for ask in trial.asks} for name in sink.names(kind)}
    done = world.broadcast(done)
    return [ask for ask in trial.asks if _file(ask) not in done]


def _file(ask: Ask) -> str:
    return f"{ask.kind}/{ask.name}"


@dataclass
class _Warm:
    """The base model this process loaded last, and its weights as loaded."""

    key: tuple[str, World]
    lm: LanguageModel
    loaded: Fork


_warm: _Warm | None = None


def _base(stage: Stage, world: World, resources: Resources) -> _Warm:
    """The base model with its weights as loaded: from this process's memory where it can be."""
    global _warm  # a reused Tune actor gets trial after trial on the same base
    key = (stage.id, world)
    if _warm is None or _warm.key != key:
        _warm = None  # let go of the old one before the new one needs the memory
        lm = load(stage.model, stage.method, stage.dtype, world, resources)
        _warm = _Warm(key, lm, fork.take(lm, None))
    else:
        fork.restore(_warm.lm, _warm.loaded, None)
    return _warm


@dataclass
class _Unsaved:
    """What a crash would cost now."""

    steps: int = 0
    seconds: float = 0.0


@dataclass
class _Walk:
    """Depth first through the stages that outstanding asks need, each brought about only when it is called for.

    A stage is reached from the nearest state there is: the model as it stands, a copy in memory where the path forks,
    a snapshot in the store, or else its parent, reached likewise.
    """

    trial: Trial
    asks: Sequence[Ask]
    leaves: Collection[str]
    """Pretrain stages whose ends are to be in the store for trials to come, and are not yet."""
    sink: Sink
    world: World
    attempt: Attempt
    report: Report
    marks: Marks
    """The snapshots there were in the store when the trial began."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of ``stages/``, not committed yet."""
    failures: list[str] = field(default_factory=list)
    """One line each, for the user."""
    lost: set[str] = field(default_factory=set)
    """Stages that failed, or lie below one that did."""
    lm: LanguageModel = field(init=False)
    """The model, in the state after `at`."""
    optimizer: AdamW | None = None
    """Its optimizer in that state, None before the first step."""
    at: str | None = None
    """The stage after which the model is; None where it is of no use as it is."""
    forks: dict[str, Fork] = field(default_factory=dict)
    """States that will be needed again, by stage: the base, the end of pretraining, and where the path forks."""
    unsaved: _Unsaved = field(default_factory=_Unsaved)
    """Since the last snapshot in the store, on the way to where the model is."""
    unsaved_at: dict[str, _Unsaved] = field(default_factory=dict)
    """The same at each fork."""
    doing: tuple[Stage, Ask | None, float] = field(init=False)
    """The stage, and the measurement if it is one, that is under way, and when it began."""
    kept: set[str] = field(default_factory=set)
    """Trajectories with files of snapshots in the store."""
    commits: int = 0
    """Files of ``stages/`` so far."""
    waiting: bool = False
    """Whether it waits for the hub or the driver now."""
    raised: Exception | None = None
    """A failure that is recorded and on its way up, through the stages that it keeps from being reached."""

    def __post_init__(self) -> None:
        self.stages = {stage.id: stage for stage in [self.trial.base, *self.trial.stages]}
        needed: set[str] = set()
        for end in [*(ask.stage for ask in self.asks), *self.leaves]:
            at: str | None = end
            while at is not None:
                needed.add(at)
                at = self.stages[at].parent
        self.children: dict[str, list[Stage]] = {}
        for stage in self.trial.stages:
            if stage.id in needed and stage.parent is not None:
                self.children.setdefault(stage.parent, []).append(stage)
        self.made_with = _made_with(self.world, self.trial)
        self.encoded: dict[tuple[str, int], list[list[int]]] = {}
        self.windows: dict[tuple[str, int], RowWindows] = {}
        self.kept = set(self.marks.trajectories)

    def run(self) -> list[str]:
        """Everything, from the base down; a process that hangs ends itself."""
        with watched(self.trial.resources.stall_minutes, lambda: self.progress, self._stuck):
            return self._run()

    @property
    def progress(self) -> int:
        """Forward passes made so far; the time while it waits for others, which know themselves when to give up."""
        if self.waiting:
            return -time.monotonic_ns()
        return self.lm.passes if hasattr(self, "lm") else 0

    @contextlib.contextmanager
    def _waits(self) -> Iterator[None]:
        """While the context lasts, it waits for the hub or for the driver: hours of either are no hang of its own."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False

    def tell(self, progress: Progress) -> None:
        """Report progress. All ranks call."""
        with self._waits():
            self.report(progress)

    def _stuck(self) -> None:
        """Record what hangs. Called from another thread, of a process that is about to end."""
        stage, ask, began = self.doing
        limit = self.trial.resources.stall_minutes
        self._record(stage, "failed", f"no progress for {limit:g} minutes (Resources.stall_minutes)", began, ask)
        self._commit_rows(stage)

    def _run(self) -> list[str]:
        base = self.trial.base
        began = time.monotonic()
        self.doing = base, None, began
        try:
            with self._waits() if base.model.commit is not None else contextlib.nullcontext():
                warm = _base(base, self.world, self.trial.resources)
        except Exception as error:  # recorded, never swallowed: `_fail` writes it to stages/ and to the outcome
            self._fail(base, error, began)
            self._skip(base)
            self._commit_rows(base)
            return self.failures
        self._note(base, "complete", began)
        self.lm, self.at, self.forks = warm.lm, base.id, {base.id: warm.loaded}
        self._visit(base)
        return self.failures

    def _visit(self, stage: Stage) -> None:
        """Measure after `stage` and after all that hangs below it.

        A stage that fails is recorded and its descendants are skipped; its siblings go on.
        """
        failures = len(self.failures)
        wanted = stage.id in self.leaves or any(ask.stage == stage.id for ask in self.asks)
        if wanted and self._reach(stage):
            self._measure(stage)
        if stage is self.trial.base:
            self._commit_rows(stage)
        for child in self.children.get(stage.id, []):
            if stage.id not in self.lost:
                self._visit(child)
            if stage.kind in ("base", "pretrain"):
                self._commit_rows(child)
        if stage is not self.trial.base:
            self.forks.pop(stage.id, None)
            if len(self.failures) == failures and stage.trajectory in self.kept and not self._outlives(stage):
                self.kept.discard(stage.trajectory)
                if self.world.leads:
                    discard(self.sink, stage.trajectory)

    def _outlives(self, stage: Stage) -> bool:
        """Whether the snapshots of a stage are kept when all below it is done: other trials may begin after it."""
        return self.trial.snapshots.keep or stage.kind == "pretrain"

    def _reach(self, stage: Stage) -> bool:
        """Bring the model to the state after `stage`. False where the stage, or one before it, failed."""
        if self.at == stage.id:
            return True
        if stage.id in self.lost:
            return False
        if stage.id in self.forks:
            self.optimizer = fork.restore(self.lm, self.forks[stage.id], stage.settings)
            self.at, self.unsaved = stage.id, dataclasses.replace(self.unsaved_at.get(stage.id, _Unsaved()))
            return True
        began = time.monotonic()
        try:
            self.doing = stage, None, began
            taken = self._take_up(stage)
            if taken is None and not self._reach(self.stages[stage.parent or ""]):
                self.lost.add(stage.id)
                return False
            self.at, self.doing = None, (stage, None, began)
            self._change(stage, taken, began)
        except StoreError:
            raise  # nothing could be recorded any more
        except Exception as error:  # whatever it is, it is this stage's and not its siblings'
            self._fail(stage, error, began)
            self._skip(stage)
            self.lost.add(stage.id)
            return False
        self.at = stage.id
        if len(self.children.get(stage.id, [])) > 1 or stage.kind == "pretrain":
            self.forks[stage.id] = fork.take(self.lm, self.optimizer)
            self.unsaved_at[stage.id] = dataclasses.replace(self.unsaved)
        return True

    def _take_up(self, stage: Stage) -> tuple[Mark, Loaded] | None:
        """The model in the middle or at the end of `stage`, from the newest whole snapshot there is."""
        if stage.settings is None:
            return None
        ends = self.marks.of(stage.id, stage.last_step, stage.last_step) if stage.kind == "pretrain" else []
        for mark in [*ends, *self.marks.of(stage.trajectory, stage.first_step, stage.last_step)]:
            self.at = None
            taken = load_snapshot(self.sink, mark, self.lm, stage.settings)
            if taken is not None:
                self.unsaved = _Unsaved()
                if stage.id not in self.trial.given:
                    self.tell(Progress(steps=mark.step - stage.first_step + 1))
                return mark, taken
        return None

    def _change(self, stage: Stage, taken: tuple[Mark, Loaded] | None, began: float) -> None:
        """One stage from the model's present state, or from the middle of it."""
        if stage.forget is not None:
            reset(self.lm, stage.forget, self._untaught(stage), stage.seed)
            self.optimizer = None
            self._note(stage, "complete", began)
            return
        settings = stage.settings
        assert settings is not None and stage.corpus is not None  # only a base and a reset have none
        first, done = stage.first_step, []
        if taken is not None:
            self.optimizer, done, first = taken[1].optimizer, taken[1].steps, taken[0].step + 1
        elif self.optimizer is None or stage.begins_afresh:
            self.optimizer = adamw(self.lm, settings)
        keeper = _Keeper(self, stage, self.optimizer, list(done))
        made = train(self.lm, self.optimizer, settings, self._batches(stage), first, stage.last_step, keeper)
        if self.world.leads:
            self._commit_steps(stage, [*done, *made])
        self._note(stage, "complete", began, len(made), sum(step.tokens for step in made))
        keeper.finish()

    def _batches(self, stage: Stage) -> Batches:
        settings = stage.settings
        assert stage.corpus is not None and settings is not None  # as in `_change`
        corpus, key = self.trial.corpus(stage.corpus), (stage.corpus, settings.block_size)
        if isinstance(corpus, Stream):
            assert not isinstance(settings, Study)  # its corpus is a list
            if key not in self.windows:
                tokenizer = self.lm.tokenizer
                reading = self._waits if isinstance(corpus, HubTexts) else contextlib.nullcontext
                self.windows[key] = RowWindows(corpus, lambda texts: encode(tokenizer, texts, key[1]), reading)
            return StreamBatches(settings, self.windows[key], stage.seed)
        if key not in self.encoded:
            self.encoded[key] = encode(self.lm.tokenizer, corpus.items, key[1])
        if isinstance(settings, Study):
            return StudyBatches(settings, self.encoded[key], stage.seed)
        return PassingBatches(settings, self.encoded[key], stage.seed)

    def _untaught(self, stage: Stage) -> Fork:
        """The weights that forgetting goes back to: as pretraining left them, or else as they were loaded."""
        origin = stage
        while origin.kind not in ("base", "pretrain"):
            origin = self.stages[origin.parent or ""]
        if origin.id not in self.forks:  # begun from a snapshot further down
            here, at = fork.take(self.lm, self.optimizer), self.at
            settings = self.stages[stage.parent or ""].settings if stage.settings is None else stage.settings
            try:
                if not self._reach(origin):
                    raise MemexpError(f"the weights before study cannot be had: stage {origin.id} failed")
            finally:  # what is measured next is to find the model where it is thought to be
                self.optimizer = fork.restore(self.lm, here, settings)
                self.at = at
        return self.forks[origin.id]

    def _commit_steps(self, stage: Stage, steps: Sequence[Step]) -> None:
        """The steps of a stage; on a line with stops those that no file has: others may have stopped elsewhere."""
        if stage.origin is None:
            self._commit("training", stage.id, _training(stage, self.trial, steps), stage)
            return
        spans = [name.split("-")[-2:] for name in self.sink.names("training", f"{stage.origin}-")]
        new = [step for step in steps if not any(int(first) <= step.step <= int(last) for first, last in spans)]
        if new:
            name = f"{stage.origin}-{new[0].step:07d}-{new[-1].step:07d}"
            self._commit("training", name, _training(stage, self.trial, new), stage)

    def _measure(self, stage: Stage) -> None:
        """Every outstanding measurement of a stage once, for all who ask. One that fails costs its own rows only."""
        by_probe: dict[tuple[str, str], list[Ask]] = {}
        for ask in self.asks:
            if ask.stage == stage.id:
                by_probe.setdefault((ask.kind, ask.probe_id), []).append(ask)
        for asks in by_probe.values():
            began = time.monotonic()
            probe = asks[0].probe
            texts = {name: self.trial.texts[corpus].items for name, corpus in asks[0].corpora.items()}
            try:
                untaught = self._untaught(stage)
                self.doing = stage, asks[0], began
                with torch.random.fork_rng(devices=_cuda(self.world)):
                    items = probe.measure(Session(self.lm, untaught), texts)
                items = items.select(probe.schema().names).cast(probe.schema())
            except StoreError:
                raise  # as in `_reach`
            except Exception as error:  # a user's own code may raise anything
                self._fail(stage, error, began, asks[0])
                continue
            if self.world.leads:
                for ask in asks:
                    table = rows_for(items, ask.settings, ask.labels, self.made_with)
                    self._commit(ask.kind, ask.name, table, stage)
            if self.trial.stoppable:
                self._commit_rows(stage)
            self.tell(Progress(answered=tuple(map(_file, asks))))

    def _commit(self, kind: str, name: str, table: pa.Table, stage: Stage) -> None:
        """Hand over one file. The first commit wins; numbers that differ from it are reported, never merged."""
        if self.sink.commit(kind, name, table):
            return
        if not _same(self.sink.read(kind, name), table):
            self.rows.append(stage_row(stage, self.attempt, self.made_with, "differs", f"{kind}/{name} was first"))

    def _fail(self, stage: Stage, error: Exception, began: float, ask: Ask | None = None) -> None:
        """Record a failure; raised again where other ranks cannot know of it and wait for this one in vain."""
        if error is self.raised or self.world.blames_peer(error):
            raise error
        status = "diverged" if isinstance(error, Diverged) else "failed"
        self._record(stage, status, str(error) if isinstance(error, MemexpError) else _told(error), began, ask)
        if self.world.size > 1 and status == "failed":
            self._commit_rows(stage)
            self.raised = error
            raise error

    def _record(self, stage: Stage, status: str, text: str, began: float, ask: Ask | None) -> None:
        """A row of ``stages/`` for what went wrong, and a line for the user."""
        text = (f"{ask.kind}: " if ask else "") + text
        self._note(stage, status, began, error=text)
        self.rows[-1]["probe_id"] = ask.probe_id if ask else None
        self.failures.append(f"{stage.model.name}, {stage.kind} {stage.id} {status}: {text.strip().splitlines()[0]}")

    def _skip(self, stage: Stage) -> None:
        """Record that the descendants of a failed stage were not reached."""
        for child in self.children.get(stage.id, []):
            self.rows.append(
                stage_row(child, self.attempt, self.made_with, "skipped", f"stage {stage.id} did not complete")
            )
            self._skip(child)

    def _note(
        self, stage: Stage, status: str, began: float, steps: int = 0, tokens: int = 0, error: str | None = None
    ) -> None:
        row = stage_row(stage, self.attempt, self.made_with, status, error)
        self.rows.append(row | {"seconds": time.monotonic() - began, "steps": steps, "tokens": tokens})

    def _commit_rows(self, tree: Stage) -> None:
        """One file for a tree's stages, by the rank that leads or by one whose error the others do not know."""
        failed = any(row["status"] == "failed" for row in self.rows)
        if self.rows and (self.world.leads or failed):
            self.commits += 1
            name = f"{tree.id}-{self.attempt.id}" + ("" if self.world.leads else f"-{self.world.rank}")
            name += f"-{self.commits}" if self.trial.stoppable else ""
            rows = pa.Table.from_pylist(self.rows, schema=STAGES)
            if not self.sink.commit("stages", name, rows):  # what hangs may hang after its tree had a file
                self.sink.commit("stages", f"{name}-{uuid.uuid4().hex[:8]}", rows)
        self.rows = []


@dataclass
class _Keeper:
    """Called after every step of a stage: reports progress, and puts the trajectory down in the store in time."""

    walk: _Walk
    stage: Stage
    optimizer: AdamW
    steps: list[Step]
    """Of the stage so far, those before a restart included."""
    unreported: int = 0
    saved: int = 0
    """The step of the last snapshot."""

    def __post_init__(self) -> None:
        self.clock = time.monotonic()

    def __call__(self, step: Step) -> None:
        self.steps.append(step)
        self.unreported += 1
        if self.unreported == REPORT_STEPS:
            self.finish()
        now, unsaved = time.monotonic(), self.walk.unsaved
        unsaved.steps, unsaved.seconds, self.clock = unsaved.steps + 1, unsaved.seconds + now - self.clock, now
        spacing = self.walk.trial.snapshots
        due = spacing.minutes is not None and self.walk.world.any(unsaved.seconds >= 60 * spacing.minutes)
        due = due or (spacing.steps is not None and unsaved.steps >= spacing.steps)
        if self.stage.kind == "pretrain" and step.step == self.stage.last_step:
            # Under the stage's own name: a later one on the line would take its place, and other trials begin here.
            self._save(step, self.stage.id)
        elif due:
            self._save(step, self.stage.trajectory)

    def _save(self, step: Step, name: str) -> None:
        """A snapshot that cannot be written is recorded; the trajectory goes on and tries again in time."""
        walk, began = self.walk, time.monotonic()
        try:
            walk.kept.add(name)
            save_snapshot(walk.sink, name, step.step, walk.lm, self.optimizer, self.steps)
            if name != self.stage.trajectory and walk.world.leads:
                discard(walk.sink, self.stage.trajectory)  # what came before the end
        except StoreError as error:
            walk._note(self.stage, "unsaved", began, error=str(error))
            if name == self.stage.id and name in walk.leaves:
                walk.failures.append(
                    f"{self.stage.model.name}, the end of pretraining {name} could not be saved, and is trained again "
                    f"by all that begins there: {error}"
                )
        walk.unsaved.steps, walk.unsaved.seconds, self.clock = 0, 0.0, time.monotonic()

    def finish(self) -> None:
        """Report the steps since the last report."""
        if self.unreported:
            self.walk.tell(Progress(steps=self.unreported))
        self.unreported = 0


def _made_with(world: World, trial: Trial) -> dict[str, Any]:
    """The columns of `memexp.records.MADE_WITH`."""
    device = "cpu" if world.device.type == "cpu" else torch.cuda.get_device_name(world.device)
    return {
        "numerics": NUMERICS,
        "memexp": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": device,
        "threads": trial.resources.threads,
        "workers": world.size,
    }


_CALLED = ("model", "corpus", "pretrain_corpus", "interference_corpus", "probe_settings")
"""Columns of names: who asks for the same numbers may have the same texts and weights under others."""


def _same(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables say the same, whatever they were made with and called; NaN counts as equal to itself."""
    passed_over = {*MADE_WITH.names, *_CALLED}
    columns = [name for name in first.column_names if name in second.column_names and name not in passed_over]
    first, second = first.select(columns), second.select(columns)
    return bool(first.equals(second)) or repr(first.to_pydict()) == repr(second.to_pydict())


def _told(error: Exception) -> str:
    """A line with what happened and where, then the traceback."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    line = f"{type(error).__name__}: {first} ({Path(where.filename).name}, line {where.lineno})"
    return f"{line}\n{''.join(traceback.format_exception(error))}"


def _training(stage: Stage, trial: Trial, steps: Sequence[Step]) -> pa.Table:
    settings = stage.settings
    assert settings is not None and stage.corpus is not None  # a stage that trains has both
    fixed = {
        # Of interference the trajectory: where else a sweep stops on the way makes no difference to its steps.
        "stage_id": stage.trajectory,
        "parent_id": stage.start or stage.parent,
        "kind": stage.kind,
        "model": stage.model.name,
        "method": "full" if isinstance(stage.method, Full) else "lora",
        "corpus": trial.corpus(stage.corpus).name,
        "seed": stage.seed,
        "batch_size": settings.batch_size,
    }
    rows = [fixed | vars(step) for step in steps]
    return pa.Table.from_pylist(rows, schema=TRAINING)


def _cuda(world: World) -> list[torch.device]:
    return [world.device] if world.device.type == "cuda" else []
