"""What a trial commits: result files, the losses of every step, and its rows of the log of attempts.

notes = Notes(sink, world, attempt, made_with(world, trial.resources, trial.base.dtype))
results = Results(trial, sink, notes)
"""

from __future__ import annotations

import dataclasses
import time
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import torch

from memexp.core.precision import columns
from memexp.core.processes import World
from memexp.core.train import Step
from memexp.errors import MemexpError
from memexp.plan import Ask, Stage, TrainingStage, Trial
from memexp.plan.attempts import Attempt, Row, Status, row, sentence, skipped, write
from memexp.probes.checks import raised_at
from memexp.records import MADE_WITH, TRAINING, rows_for, versions, with_source
from memexp.spec import Full, Resources, written_by_user
from memexp.store.snapshots import SideFiles
from memexp.trial.measuring import Quit
from memexp.trial.met import Meetings

__all__ = ["Notes", "Results", "Sink", "described", "made_with"]


class Sink(SideFiles, Protocol):
    """Where records go, and snapshots; `memexp.store.Store` is one."""

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """Write a file if there is none of this name; whether it was written."""

    def exists(self, kind: str, name: str) -> bool:
        """Whether there is a file of this name."""

    def names(self, kind: str, prefix: str) -> set[str]:
        """Names of the files there are that begin so."""

    def read(self, kind: str, name: str) -> pa.Table:
        """A file's rows."""


def made_with(world: World, resources: Resources, dtype: str, lanes: int = 1) -> dict[str, Any]:
    """The columns of `memexp.records.MADE_WITH`."""
    device = "cpu" if world.device.type == "cpu" else torch.cuda.get_device_name(world.device)
    where = {"device": device, "threads": resources.threads, "workers": world.size}
    how = {"checkpointing": resources.checkpointing, "offload": resources.offload, "lanes": lanes}
    return versions() | where | how | columns(dtype, world.device)


class Notes:
    """Rows of ``stages/`` that are not committed yet, and a line for the user for each that says of a failure."""

    def __init__(self, sink: Sink, world: World, attempt: Attempt, made_with: dict[str, Any]) -> None:
        self.sink, self.world, self.made_with = sink, world, made_with
        self.attempt = attempt if world.leads else dataclasses.replace(attempt, rank=world.rank)
        self.rows: list[Row] = []
        self.lines: list[str] = []

    def add(
        self, stage: Stage, status: Status, began: float, error: str | None = None, steps: int = 0, tokens: int = 0
    ) -> None:
        """A stage that ended so."""
        seconds = time.monotonic() - began
        cost = {"seconds": seconds, "steps": steps, "tokens": tokens}
        self.rows.append(row(stage, self.attempt, status, self.made_with, error, **cost))

    def begin(self, stage: Stage, ask: Ask | None) -> None:
        """A stage, or with `ask` a measurement after it, begins: written at once, as it may end the process."""
        if self.world.leads:
            self.rows.append(row(stage, self.attempt, "begun", self.made_with, probe_id=ask.probe_id if ask else None))
            self.commit()

    def fail(self, stage: Stage, status: Status, why: str, began: float, ask: Ask | None = None) -> None:
        """A stage, or with `ask` a measurement after it, that went wrong."""
        self.add(stage, status, began, f"{ask.kind}: {why}" if ask else why)
        self.rows[-1]["probe_id"] = ask.probe_id if ask else None
        self.lines.append(sentence(self.rows[-1]))

    def skip(self, stages: Iterable[Stage]) -> None:
        """Stages that were not reached."""
        self.rows += [skipped(stage, self.attempt, self.made_with) for stage in stages]

    def differs(self, stage: Stage, file: str) -> None:
        """Numbers that are not those of the file that was first."""
        self.rows.append(row(stage, self.attempt, "differs", self.made_with, f"{file} was first"))

    def log(self, ask: Ask) -> str:
        """Where in the store it is kept what a probe prints: a file for each measurement, attempt and worker."""
        return f".logs/{self.attempt.sweep}/{ask.kind}-{ask.measurement[0]}-{ask.probe_id}-{self.attempt.name}.txt"

    def commit(self) -> None:
        """Write what there is, on the rank that leads or on one whose error the others do not know."""
        if self.world.leads or any(one["status"] in ("failed", "halved") for one in self.rows):
            write(self.sink, self.attempt, self.rows)
        self.rows = []


class Results:
    """Hands over result files and training losses. The first commit wins; what differs from it is noted, not merged."""

    def __init__(self, trial: Trial, sink: Sink, notes: Notes) -> None:
        self.trial, self.sink, self.notes = trial, sink, notes
        self.meetings = Meetings(trial)

    def answer(
        self, stage: Stage, asks: Sequence[Ask], items: pa.Table, about: Sequence[str | None] | None = None
    ) -> None:
        """The rows of one measurement, for all who ask; `about`: the text of each row, None where there is none."""
        items = self.meetings.told(stage, about, items)
        for ask in asks:
            table = rows_for(items, ask.settings, ask.labels, self.notes.made_with)
            self._commit(ask.kind, ask.name, with_source(table, ask.kind, ask.probe.headline), stage)

    def trained(self, stage: TrainingStage, steps: Sequence[Step]) -> None:
        """The steps of a stage; on a line with stops those that no file has: others may have stopped elsewhere."""
        name = stage.id
        if stage.origin is not None:
            spans = [file.split("-")[-2:] for file in self.sink.names("training", f"{stage.origin}-")]
            steps = [one for one in steps if not any(int(first) <= one.step <= int(last) for first, last in spans)]
            if not steps:
                return
            name = f"{stage.origin}-{steps[0].step:07d}-{steps[-1].step:07d}"
        self._commit("training", name, _training(stage, self.trial, steps), stage)

    def _commit(self, kind: str, name: str, table: pa.Table, stage: Stage) -> None:
        if not self.sink.commit(kind, name, table) and not _same(self.sink.read(kind, name), table):
            self.notes.differs(stage, f"{kind}/{name}")


_CALLED = ("model", "corpus", "pretrain_corpus", "interference_corpus", "probe_settings")
"""Columns of names: who asks for the same numbers may have the same texts and weights under others."""


def _same(first: pa.Table, second: pa.Table) -> bool:
    """Whether two tables say the same, whatever they were made with and called; NaN counts as equal to itself."""
    passed_over = {*MADE_WITH.names, *_CALLED}
    columns = [name for name in first.column_names if name in second.column_names and name not in passed_over]
    first, second = first.select(columns), second.select(columns)
    return bool(first.equals(second)) or repr(first.to_pydict()) == repr(second.to_pydict())


def _training(stage: TrainingStage, trial: Trial, steps: Sequence[Step]) -> pa.Table:
    fixed = {
        # Of interference the trajectory: where else a sweep stops on the way makes no difference to its steps.
        "stage_id": stage.trajectory,
        "parent_id": stage.start or stage.parent,
        "kind": stage.kind,
        "model": stage.model.name,
        "method": "full" if isinstance(stage.method, Full) else "lora",
        "corpus": trial.corpus(stage.corpus).name,
        "seed": stage.seed,
        "batch_size": stage.settings.batch_size,
    }
    return pa.Table.from_pylist([fixed | vars(step) for step in steps], schema=TRAINING)


def described(error: BaseException, ask: Ask | None = None) -> str:
    """What happened, for ``stages/``: the message of an error on purpose, else a line with where, and the traceback.

    With `ask`, where is the last line of the user's own probe on the way there.
    """
    if isinstance(error, MemexpError):
        return str(error)
    error = (error.__cause__ if isinstance(error, Quit) else None) or error
    where = raised_at(error, ask.probe) if ask else traceback.extract_tb(error.__traceback__)[-1]
    first = (str(error).splitlines() or [""])[0]
    cls = f"{type(ask.probe).__name__}, " if ask and written_by_user(type(ask.probe)) else ""
    line = f"{type(error).__name__}: {first} ({cls}{Path(where.filename).name}, line {where.lineno})"
    return f"{line}\n{''.join(traceback.format_exception(error))}"
