"""One trial: load a base model once, walk the trees of stages under it, measure, and hand the rows to the store.

Knows neither Ray nor where it is: the same `execute` runs in a test, in a Tune trial and on eight ranks.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch
import transformers
from torch.optim import AdamW

from memexp import __version__
from memexp.attempt import Attempt, Progress, stage_row
from memexp.core import snapshot
from memexp.core.batches import PassingBatches, StudyBatches
from memexp.core.data import encode
from memexp.core.forget import reset
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.session import Session
from memexp.core.snapshot import Snapshot
from memexp.core.train import Diverged, Step, adamw, train
from memexp.core.world import World
from memexp.errors import MemexpError, StoreError
from memexp.identity import NUMERICS
from memexp.plan import Ask, Stage, Trial
from memexp.records import MADE_WITH, STAGES, TRAINING, rows_for
from memexp.spec import Full, Interference

__all__ = ["Report", "Sink", "execute"]


class Sink(Protocol):
    """Where records go; `memexp.store.Store` is one."""

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """Write a file if there is none of this name; whether it was written."""

    def names(self, kind: str, prefix: str = "") -> set[str]:
        """Names of the files there are."""

    def read(self, kind: str, name: str) -> pa.Table:
        """A file's rows."""


Report = Callable[[Progress], None]


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
    if not asks:
        return []
    return _Walk(trial, asks, sink, world, attempt, report).run()


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
    loaded: Snapshot


_warm: _Warm | None = None


def _base(stage: Stage, world: World) -> _Warm:
    """The base model with its weights as loaded: from this process's memory where it can be."""
    global _warm  # a reused Tune actor gets trial after trial on the same base
    key = (stage.id, world)
    if _warm is None or _warm.key != key:
        _warm = None  # let go of the old one before the new one needs the memory
        lm = load(stage.model, stage.method, stage.dtype, world)
        _warm = _Warm(key, lm, snapshot.take(lm, None))
    else:
        snapshot.restore(_warm.lm, _warm.loaded, None)
    return _warm


@dataclass
class _Walk:
    """Depth first through the stages that outstanding asks need."""

    trial: Trial
    asks: Sequence[Ask]
    sink: Sink
    world: World
    attempt: Attempt
    report: Report
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Of ``stages/``, not committed yet."""
    failures: list[str] = field(default_factory=list)
    """One line each, for the user."""
    loaded: Snapshot = field(init=False)
    """The base model's weights as loaded."""

    def __post_init__(self) -> None:
        self.stages = {stage.id: stage for stage in [self.trial.base, *self.trial.stages]}
        needed: set[str] = set()
        for ask in self.asks:
            at: str | None = ask.stage
            while at is not None:
                needed.add(at)
                at = self.stages[at].parent
        self.children: dict[str, list[Stage]] = {}
        for stage in self.trial.stages:
            if stage.id in needed and stage.parent is not None:
                self.children.setdefault(stage.parent, []).append(stage)
        self.made_with = _made_with(self.world, self.trial)

    def run(self) -> list[str]:
        """Everything, from the base down."""
        base = self.trial.base
        began = time.monotonic()
        try:
            warm = _base(base, self.world)
        except Exception as error:  # recorded, never swallowed: `_fail` writes it to stages/ and to the outcome
            self._fail(base, error, began)
            self._skip(base)
            self._commit_rows(base)
            return self.failures
        self._note(base, "complete", began)
        self.loaded = warm.loaded
        self._measure(base, warm.lm)
        self._commit_rows(base)
        self._descend(base, warm.lm, None, warm.loaded)
        return self.failures

    def _descend(self, stage: Stage, lm: LanguageModel, optimizer: AdamW | None, fork: Snapshot | None = None) -> None:
        """Every child of `stage` in turn, each from the state that `lm` and `optimizer` are in now.

        A child that fails is recorded and its descendants are skipped; its siblings go on.
        """
        children = self.children.get(stage.id, [])
        if len(children) > 1 and fork is None:
            fork = snapshot.take(lm, optimizer)
        for i, child in enumerate(children):
            if i and fork is not None:
                optimizer = snapshot.restore(lm, fork, stage.study)
            began = time.monotonic()
            try:
                optimizer = self._change(child, lm, optimizer)
            except StoreError:
                raise  # nothing could be recorded any more
            except Exception as error:  # whatever it is, it is this child's and not its siblings'
                self._fail(child, error, began)
                self._skip(child)
            else:
                self._measure(child, lm)
                self._descend(child, lm, optimizer)
            if stage is self.trial.base:
                self._commit_rows(child)

    def _change(self, stage: Stage, lm: LanguageModel, optimizer: AdamW | None) -> AdamW | None:
        """One stage from the model's present state; returns the optimizer as it is afterwards."""
        if stage.interference is not None:
            return self._interfere(stage, stage.interference, lm, optimizer)
        if stage.forget is None:
            return self._train(stage, lm, optimizer)
        began = time.monotonic()
        reset(lm, stage.forget, self.loaded, stage.seed)
        self._note(stage, "complete", began)
        return None

    def _train(self, stage: Stage, lm: LanguageModel, optimizer: AdamW | None) -> AdamW:
        assert stage.study is not None and stage.corpus is not None  # only base stages have none
        began = time.monotonic()
        rows = encode(lm.tokenizer, self.trial.texts[stage.corpus].items, stage.study.block_size)
        optimizer = optimizer or adamw(lm, stage.study)
        batches = StudyBatches(stage.study, rows, stage.seed)
        each = batches.per_exposure
        steps = train(lm, optimizer, stage.study, batches, (stage.first - 1) * each + 1, stage.last * each)
        if self.world.leads:
            self._commit("training", stage.id, _training(stage, self.trial, steps), stage)
        self._note(stage, "complete", began, len(steps), sum(step.tokens for step in steps))
        self.report(Progress(steps=len(steps)))
        return optimizer

    def _interfere(self, stage: Stage, interference: Interference, lm: LanguageModel, optimizer: AdamW | None) -> AdamW:
        """The steps from the stop before this one."""
        assert stage.corpus is not None  # interference has a corpus
        began = time.monotonic()
        rows = encode(lm.tokenizer, self.trial.texts[stage.corpus].items, interference.block_size)
        if optimizer is None or (stage.first == 1 and interference.optimizer == "fresh"):
            optimizer = adamw(lm, interference)
        batches = PassingBatches(interference, rows, stage.seed)
        steps = train(lm, optimizer, interference, batches, stage.first, stage.last)
        if self.world.leads:
            self._commit_steps(stage, steps)
        self._note(stage, "complete", began, len(steps), sum(step.tokens for step in steps))
        self.report(Progress(steps=len(steps)))
        return optimizer

    def _commit_steps(self, stage: Stage, steps: Sequence[Step]) -> None:
        """The steps of interference that no file has: an earlier sweep may have stopped elsewhere on the way."""
        assert stage.origin is not None  # the trajectory of an interference stage
        spans = [name.split("-")[-2:] for name in self.sink.names("training", f"{stage.origin}-")]
        new = [step for step in steps if not any(int(first) <= step.step <= int(last) for first, last in spans)]
        if new:
            name = f"{stage.origin}-{new[0].step:07d}-{new[-1].step:07d}"
            self._commit("training", name, _training(stage, self.trial, new), stage)

    def _measure(self, stage: Stage, lm: LanguageModel) -> None:
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
                with torch.random.fork_rng(devices=_cuda(self.world)):
                    items = probe.measure(Session(lm, self.loaded), texts)
                items = items.select(probe.schema().names).cast(probe.schema())
            except Exception as error:  # a user's own code may raise anything
                self._fail(stage, error, began, asks[0])
                continue
            if self.world.leads:
                for ask in asks:
                    table = rows_for(items, ask.settings, ask.labels, self.made_with)
                    self._commit(ask.kind, ask.name, table, stage)
            self.report(Progress(answered=tuple(map(_file, asks))))

    def _commit(self, kind: str, name: str, table: pa.Table, stage: Stage) -> None:
        """Hand over one file. The first commit wins; numbers that differ from it are reported, never merged."""
        if self.sink.commit(kind, name, table):
            return
        if not _same(self.sink.read(kind, name), table):
            self.rows.append(stage_row(stage, self.attempt, self.made_with, "differs", f"{kind}/{name} was first"))

    def _fail(self, stage: Stage, error: Exception, began: float, ask: Ask | None = None) -> None:
        """Record a failure; raised again where other ranks cannot know of it and wait for this one in vain."""
        if self.world.blames_peer(error):
            raise error
        status = "diverged" if isinstance(error, Diverged) else "failed"
        text = (f"{ask.kind}: " if ask else "") + (str(error) if isinstance(error, MemexpError) else _told(error))
        self._note(stage, status, began, error=text)
        self.rows[-1]["probe_id"] = ask.probe_id if ask else None
        self.failures.append(f"{stage.model.name}, {stage.kind} {stage.id} {status}: {text.strip().splitlines()[0]}")
        if self.world.size > 1 and status == "failed":
            self._commit_rows(stage)
            raise error

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
            name = f"{tree.id}-{self.attempt.id}" + ("" if self.world.leads else f"-{self.world.rank}")
            self.sink.commit("stages", name, pa.Table.from_pylist(self.rows, schema=STAGES))
        self.rows = []


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


def _same(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables say the same, whatever they were made with; NaN counts as equal to itself."""
    first, second = (
        table.drop_columns([n for n in MADE_WITH.names if n in table.column_names]) for table in (first, second)
    )
    return bool(first.equals(second)) or repr(first.to_pydict()) == repr(second.to_pydict())


def _told(error: Exception) -> str:
    """A line with what happened and where, then the traceback."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    line = f"{type(error).__name__}: {first} ({Path(where.filename).name}, line {where.lineno})"
    return f"{line}\n{''.join(traceback.format_exception(error))}"


def _training(stage: Stage, trial: Trial, steps: Sequence[Step]) -> pa.Table:
    settings = stage.interference or stage.study
    assert settings is not None and stage.corpus is not None
    fixed = {
        # Of interference the trajectory: where else a sweep stops on the way makes no difference to its steps.
        "stage_id": stage.origin or stage.id,
        "parent_id": stage.start or stage.parent,
        "kind": stage.kind,
        "model": stage.model.name,
        "method": "full" if isinstance(stage.method, Full) else "lora",
        "corpus": trial.texts[stage.corpus].name,
        "seed": stage.seed,
        "batch_size": settings.batch_size,
    }
    rows = [fixed | vars(step) for step in steps]
    return pa.Table.from_pylist(rows, schema=TRAINING)


def _cuda(world: World) -> list[torch.device]:
    return [world.device] if world.device.type == "cuda" else []
