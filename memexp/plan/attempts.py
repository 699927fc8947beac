"""The log of attempts, ``stages/``: who tried which stage or measurement, and how it ended. Written and read here only.

    attempt = Attempt("quickstart", "0123456789ab").of_trial(phase=0, trial=3).begun()
    write(store, attempt, [row(stage, attempt, "failed", error="...")])
    Log.read(store).diverged                       # stages whose loss was not finite
    failures(store, attempt, stages)               # what this attempt recorded as failed, a line each

Rows are never changed and never merged: a stage that was tried three times has three. Columns name the attempt. Files
of memexp 0.1 have it in their names; they are read as if they had the columns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import subprocess
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from memexp.errors import redacted, writable
from memexp.events import Event
from memexp.plan.forest import Stage
from memexp.records import STAGES
from memexp.store import Store
from memexp.store.known import known
from memexp.store.threads import threaded
from memexp.store.unified import with_columns

__all__ = [
    "Attempt",
    "Failed",
    "Log",
    "Progress",
    "Row",
    "Status",
    "commit_of_code",
    "failures",
    "row",
    "sentence",
    "skipped",
    "write",
]

KIND = "stages"
STOPPED = "stopped-"
"""Before the identity of a search in the names of files about what its rule ended."""

Row = dict[str, Any]
"""One row of ``stages/``, see `memexp.records.STAGES`."""

Failed = tuple[str, str | None]
"""A stage, or with the identity of a probe its measurement by that probe."""

Part = Literal["conditions", "apart", "conditions-alone", "searches", "searches-apart", "searches-alone"]
Status = Literal[
    "complete", "failed", "diverged", "skipped", "stopped", "differs", "unsaved", "unread", "begun", "halved", "left"
]


@dataclass(frozen=True)
class Attempt:
    """Who executes something: each field after `commit` narrows it down, None where there is nothing to tell apart."""

    sweep: str
    """Name of the sweep."""
    id: str
    """Identity of one run of the command."""
    commit: str | None = None
    """Version of the user's code."""
    part: Part = "conditions"
    """Which part of the run: the conditions, the trees of trials that died, each apart, or the searches; what of these
    is tried with nothing beside it."""
    phase: int | None = None
    """Phase of the trials."""
    trial: int | None = None
    """Number of the trial among those of its part and phase."""
    start: str | None = None
    """One process or worker group that executes the trial: one that takes over from a dead one has another."""
    rank: int | None = None
    """The worker that writes, where it is not the one that leads."""

    def of_trial(self, phase: int, trial: int) -> Attempt:
        """This attempt at one trial."""
        return dataclasses.replace(self, phase=phase, trial=trial)

    def begun(self) -> Attempt:
        """This attempt by one more process or worker group."""
        return dataclasses.replace(self, start=uuid.uuid4().hex[:8])

    @property
    def name(self) -> str:
        """All of it in one word, for Ray: whatever has the same name is taken for the same thing there."""
        return "-".join(str(part) for part in self._parts if part is not None)

    @property
    def of(self) -> str:
        """The trial, whoever executes it: its name among those of one run of the command."""
        return "-".join(str(part) for part in (self.part, self.phase, self.trial) if part is not None)

    @property
    def prefix(self) -> str:
        """Beginning of the names of all files that it or whoever it contains writes."""
        return f"{self.name}-"

    @property
    def _parts(self) -> tuple[str | int | None, ...]:
        return self.id, self.part, self.phase, self.trial, self.start, self.rank


@dataclass(frozen=True)
class Progress:
    """What has been done since the last report."""

    answered: tuple[str, ...] = ()
    """Result files that exist now, as ``kind/name``."""
    steps: int = 0
    """Optimizer steps made."""
    reached: Mapping[str, int] = field(default_factory=dict)
    """How many steps of a stage are behind a trajectory now, by stage: those that are made once more count once."""
    suggestions: int = 0
    """Suggestions of a search that are through."""
    said: tuple[str, ...] = ()
    """Lines that a user's own probe printed, each with its name in front."""
    events: tuple[Event, ...] = ()
    """What hooks are told (`memexp.events`): that the trial begins or ends, and losses."""


def commit_of_code() -> str | None:
    """Commit of the code in the current folder, with a + where it has been changed since."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return answer.stdout.strip() or None
    return None


# ---------------------------------------------------------------------------------------------------------
# Writing


class Sink(Protocol):
    """Where files go; `memexp.store.Store` is one."""

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """Write a file if there is none of this name; whether it was written."""


def row(
    stage: Stage,
    attempt: Attempt,
    status: Status,
    made_with: Mapping[str, Any] | None = None,
    error: str | None = None,
    **more: Any,
) -> Row:
    """One row of ``stages/``; `more` are columns of it such as ``probe_id``, ``seconds`` or ``search_id``."""
    return {
        "stage_id": stage.id,
        "parent_id": stage.parent,
        "kind": stage.kind,
        "sweep": attempt.sweep,
        "model": stage.model.name,
        "status": status,
        "error": None if error is None else writable(redacted(error)),
        "finished": datetime.now(UTC),
        "host": socket.gethostname(),
        "commit": attempt.commit,
        "attempt": attempt.id,
        **{name: getattr(attempt, name) for name in ("part", "phase", "trial", "start", "rank")},
        **(made_with or {}),
        **more,
    }


def skipped(stage: Stage, attempt: Attempt, made_with: Mapping[str, Any] | None = None) -> Row:
    """The row of a stage that was not reached, since one before it did not complete."""
    return row(stage, attempt, "skipped", made_with, "a stage before it did not complete")


def write(sink: Sink, attempt: Attempt, rows: Sequence[Row]) -> None:
    """Commit `rows` as one file. Raises StoreError."""
    if rows:
        # Names begin with what is looked for, so that few files are read; what is in them decides.
        search = rows[0].get("search_id")
        begin = f"{STOPPED}{search}-" if search else ""
        name = f"{begin}{attempt.prefix}{uuid.uuid4().hex[:8]}"
        sink.commit(KIND, name, pa.Table.from_pylist(list(rows), schema=STAGES))


# ---------------------------------------------------------------------------------------------------------
# Reading


@dataclass(frozen=True)
class Log:
    """Rows of ``stages/``, in no order."""

    table: pa.Table

    @classmethod
    def read(cls, store: Store, attempt: Attempt | None = None) -> Log:
        """All of a store's, or those of one attempt and of whatever it contains. Raises StoreError."""
        return cls._of(store, store.names(KIND, "" if attempt is None else attempt.prefix))

    @classmethod
    def of_search(cls, store: Store, search_id: str) -> Log:
        """The rows of suggestions that the rule of a search ended, without reading all others. Raises StoreError."""
        return cls._of(store, [name for name in store.names(KIND) if f"{STOPPED}{search_id}-" in name])

    @classmethod
    def _of(cls, store: Store, names: Iterable[str]) -> Log:
        tables = threaded(lambda name: _columns(name, known(store, KIND, name)), sorted(names))
        # `Schema.empty_table` has pyarrow import pandas, and so does any look at values.
        return cls(pa.concat_tables([pa.Table.from_batches([], schema=STAGES), *tables]).combine_chunks())

    def rows(self, **where: Any) -> list[Row]:
        """The rows that have these values in these columns."""
        table = self.table
        if not table.num_rows:
            return []
        for name, value in where.items():
            table = table.filter(pc.equal(table.column(name), value))
        found: list[Row] = table.to_pylist()
        return found

    def _stages(self, status: Status) -> set[str]:
        return {one["stage_id"] for one in self.rows(status=status) if one["probe_id"] is None}

    @cached_property
    def diverged(self) -> set[str]:
        """The stages that reached a loss that is not finite, whenever they were tried, and never completed."""
        found = self._stages("diverged")
        return found - self._stages("complete") if found else found

    def stopped(self, search_id: str) -> set[int]:
        """Numbers of the suggestions that the rule of a search ended."""
        return {one["suggestion"] for one in self.rows(status="stopped", search_id=search_id)}

    @cached_property
    def last(self) -> dict[Failed, Row]:
        """The latest row of each stage, and of what went wrong with its measurements.

        Without those whose numbers differ from stored ones, that speak of a snapshot or a second try, or that something
        began or goes on elsewhere.
        """
        found: dict[Failed, Row] = {}
        for one in sorted(self.rows(), key=lambda row: row["finished"]):
            if one["status"] not in ("differs", "unsaved", "unread", "begun", "halved", "left"):
                found[one["stage_id"], one["probe_id"]] = one
        return found

    def end(self, stage: str) -> Row | None:
        """How a stage ended, and where it was skipped the one before it."""
        last = self.last
        one = last.get((stage, None))
        while one is not None and one["status"] == "skipped" and (one["parent_id"], None) in last:
            one = last[one["parent_id"], None]
        return one


def sentence(row: Row) -> str:
    """What went wrong, for people, in a line."""
    why = (row["error"] or "").strip().splitlines()
    return f"{row['model']}, {row['kind']} {row['stage_id']} {row['status']}: {(why or ['for no stated reason'])[0]}"


def failures(
    store: Store, attempt: Attempt, stages: Iterable[Stage], statuses: Collection[str] = ("failed",)
) -> dict[Failed, str]:
    """Which of these stages, or measurements after them, ended so in an attempt, and a line for each.

    A stage that the same attempt completed elsewhere is none of them.
    """
    wanted = {stage.id for stage in stages}
    rows = [one for one in Log.read(store, attempt).rows() if one["stage_id"] in wanted]
    complete = {(one["stage_id"], None) for one in rows if one["status"] == "complete"}
    found = {(one["stage_id"], one["probe_id"]): sentence(one) for one in rows if one["status"] in statuses}
    return {what: line for what, line in found.items() if what not in complete}


_OLD_ATTEMPT = re.compile(r"[^-]+-([0-9a-f]{12})")
_OLD_STOPPED = re.compile(r".*stopped-([^-]+)-(\d+)")


def _columns(name: str, table: pa.Table) -> pa.Table:
    """A file with all columns. Names of memexp 0.1 begin with a stage and the attempt, and end with what stopped."""
    if "attempt" in table.column_names:
        return with_columns(table, STAGES)
    attempt, stopped = _OLD_ATTEMPT.match(name), _OLD_STOPPED.fullmatch(name)
    known = {
        "attempt": attempt[1] if attempt else None,
        "search_id": stopped[1] if stopped else None,
        "suggestion": int(stopped[2]) if stopped else None,
    }
    for column, value in known.items():
        filled = pa.repeat(pa.scalar(value, STAGES.field(column).type), table.num_rows)
        table = table.append_column(STAGES.field(column), filled)
    return with_columns(table, STAGES)
