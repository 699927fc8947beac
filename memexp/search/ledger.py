"""What a store knows of a search: its stored suggestions, how each of them ended, and what their conditions came to.

    ledger = Ledger(prepared, store)
    ledger.entries[3].state  # complete, diverged, stopped or open

A suggestion is written to ``searches/`` before it is tried, under the search's identity and its own number. Its value
is what the metric makes of the rows in the store, never a number that came another way.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from memexp import plan as planning
from memexp.errors import StoreError
from memexp.identity import parsed
from memexp.plan import Missing
from memexp.plan.attempts import Attempt, Log, row, write
from memexp.records import SEARCHES
from memexp.search.candidates import Candidate, Prepared, Stop
from memexp.spec import Point
from memexp.store import Store
from memexp.store.known import known
from memexp.store.query import distinct
from memexp.store.threads import threaded
from memexp.wording import amount

__all__ = [
    "Entry",
    "Ledger",
    "measured_elsewhere",
    "progress_of",
    "record_stopped",
    "remember",
    "stored_value",
]

State = Literal["complete", "diverged", "stopped", "open"]


@dataclass
class Entry:
    """A stored suggestion."""

    index: int
    """Its number in the search, from 0."""
    candidate: Candidate
    """Its trajectory."""
    state: State = "open"
    """Complete, diverged, stopped by the rule of the search, or open: not tried to the end, or failed."""
    values: list[float | None] = field(default_factory=list)
    """The metric of its conditions, from the first, as far as they are in the store."""

    @property
    def value(self) -> float | None:
        """The metric of its last condition."""
        return self.values[-1] if self.state == "complete" else None


class Ledger:
    """The suggestions of a search that its store has, with those whose results can be copied from other conditions.

    Looks through the store once, when it is made: a later look needs another ledger.
    """

    def __init__(self, prepared: Prepared, store: Store, retry_diverged: bool = False) -> None:
        self.prepared, self.store, self.retry_diverged = prepared, store, retry_diverged
        points = _stored_points(store, prepared.id)
        self.entries = {index: Entry(index, prepared.candidate(point)) for index, point in sorted(points.items())}
        candidates = [entry.candidate for entry in self.entries.values()]
        self.missing = _missing(candidates, prepared, store, retry_diverged)
        ended = Log.of_search(store, prepared.id).stopped(prepared.id)
        for entry in self.entries.values():
            entry.state = _state(entry, self.missing, ended)
            entry.values = _values(prepared, store, entry.candidate, self.missing)

    def copy(self) -> None:
        """Give suggestions the results that were measured for other conditions."""
        planning.copy_results(self.missing, self.store)

    @property
    def done(self) -> int:
        """How many of the first `trials` suggestions are over, with whatever outcome."""
        return sum(self.is_over(index) for index in range(self.prepared.search.trials))

    def is_over(self, index: int) -> bool:
        """Whether nothing is left to do for a suggestion."""
        return index in self.entries and self.entries[index].state != "open"

    @property
    def best(self) -> Entry | None:
        """The complete suggestion with the best value."""
        found = [entry for entry in self.entries.values() if entry.value is not None]
        sign = -1.0 if self.prepared.search.mode == "max" else 1.0
        return min(found, key=lambda entry: sign * (entry.value or 0.0), default=None)


def stored_value(
    prepared: Prepared, store: Store, stop: Stop, sources: Mapping[str, str] | None = None
) -> float | None:
    """The metric of a condition whose rows are in the store, None where it comes to no finite number.

    Args:
        prepared: the search.
        store: where the rows are.
        stop: the condition.
        sources: for a file that is not there the name of one that has its numbers.
    """
    tables: dict[str, list[pa.Table]] = {}
    for ask in stop.asks:
        source = (sources or {}).get(ask.name)
        rows = store.read(ask.kind, source or ask.name)
        tables.setdefault(ask.kind, []).append(rows if source is None else planning.answered(ask, rows))
    return prepared.metric.of({k: pa.concat_tables(t, promote_options="permissive") for k, t in tables.items()})


def _values(prepared: Prepared, store: Store, candidate: Candidate, missing: Missing) -> list[float | None]:
    """The metric of the conditions from the first on, as far as their numbers are in the store."""
    lacking = {ask.file for ask in (*missing.asks, *missing.diverged)}
    sources = {copy.ask.name: copy.source for copy in missing.copies}
    there = itertools.takewhile(lambda stop: not stop.files & lacking, candidate.stops)
    return [stored_value(prepared, store, stop, sources) for stop in there]


def _missing(
    candidates: Iterable[Candidate], prepared: Prepared, store: Store, retry_diverged: bool = False
) -> Missing:
    """What of many trajectories is not measured yet: as one forest, so that the store is looked through once."""
    conditions = [one for candidate in candidates for one in prepared.search.conditions(candidate.point)]
    forest = planning.grow(conditions, prepared.resources, prepared.sources)
    return planning.find_missing(forest, store, retry_diverged)


def _state(entry: Entry, missing: Missing, ended: set[int]) -> State:
    """How a suggestion ended, or that it is open; `ended` are those that the rule of the search ended."""
    files = {file for stop in entry.candidate.stops for file in stop.files}
    lost = files & {ask.file for ask in missing.diverged}
    if not lost and not files & {ask.file for ask in missing.asks}:
        return "complete"
    if entry.index in ended:
        return "stopped"
    return "diverged" if lost else "open"


def _stored_points(store: Store, search_id: str) -> dict[int, Point]:
    """The points of all stored suggestions, by their number."""
    numbers = {name: name.removeprefix(f"{search_id}-") for name in store.names("searches", f"{search_id}-")}
    names = sorted(name for name, number in numbers.items() if number.isdecimal())
    points = threaded(lambda name: _point(store, name), names)
    return {int(numbers[name]): point for name, point in zip(names, points, strict=True)}


def _point(store: Store, name: str) -> Point:
    """The point of a stored suggestion. Raises StoreError where the file holds none."""
    table = known(store, "searches", name)
    with contextlib.suppress(ValueError):
        point = parsed(table.column("point")[0].as_py()) if table.num_rows else None
        if isinstance(point, dict):
            return point
    raise StoreError(f"{store.path('searches', name)}: column 'point' holds no point of a search; move it away")


def remember(store: Store, sweep: str, prepared: Prepared, index: int, candidate: Candidate) -> Candidate:
    """Write a suggestion; where another process was first, its suggestion of this number is returned instead."""
    search = prepared.search
    fixed = {
        "sweep": sweep,
        "search": search.name,
        "search_id": prepared.id,
        "suggestion": index,
        "point": json.dumps(dict(candidate.point)),
        "axis": candidate.axis,
        "metric": search.metric,
        "mode": search.mode,
        "trials": search.trials,
        "suggested": datetime.now(UTC),
    }
    rows = [
        {
            **fixed,
            "stop": stop.at,
            "condition_id": stop.condition_id,
            "stage_id": stop.stage,
            "results": sorted(stop.files),
        }
        for stop in candidate.stops
    ]
    name = f"{prepared.id}-{index:05d}"
    if store.commit("searches", name, pa.Table.from_pylist(rows, schema=SEARCHES)):
        return candidate
    return prepared.candidate(_point(store, name))


def record_stopped(
    store: Store, attempt: Attempt, prepared: Prepared, index: int, candidate: Candidate, reached: int
) -> None:
    """Say in ``stages/`` that the rule of the search ended a suggestion after its condition number `reached`."""
    path = candidate.forest.path(candidate.stops[-1].stage)
    at = [stage.id for stage in path].index(candidate.stops[reached].stage)
    why = f"search {prepared.search.name} stopped suggestion {index} at {candidate.axis} {candidate.stops[reached].at}"
    rows = [
        row(stage, attempt, "stopped", error=why, search_id=prepared.id, suggestion=index) for stage in path[at + 1 :]
    ]
    write(store, attempt, rows)


def progress_of(counts: Mapping[str, tuple[int, int]]) -> str:
    """How far searches are, as part of a sentence.

    Args:
        counts: for the name of each search its suggestions that are over, and all it is to have.
    """
    done, trials = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    which = f"search {next(iter(counts))}" if len(counts) == 1 else f"{len(counts)} searches"
    return f"{done} of {amount(trials, 'suggestion')} of {which}"


def measured_elsewhere(ledger: Ledger) -> list[Entry]:
    """Points of the space that were measured for other conditions, with their values; without the search's own.

    Looked for where all names of the space are columns of the probes' rows: settings such as ``lr``, or labels.
    """
    prepared, store = ledger.prepared, ledger.store
    names = list(prepared.search.space)
    known = {entry.candidate.key for entry in ledger.entries.values()}
    candidates: dict[tuple[Any, ...], Candidate] = {}
    for kind in dict.fromkeys(ask.kind for ask in prepared.edges[0].forest.asks):
        for values in distinct(store, kind, names):
            point = dict(zip(names, values, strict=True))
            if all(domain.holds(point[name]) for name, domain in prepared.search.space.items()):
                candidate = prepared.candidate(point)
                if candidate.key not in known:
                    candidates.setdefault(candidate.key, candidate)
    missing = _missing(candidates.values(), prepared, store)
    found = [(candidate, _values(prepared, store, candidate, missing)) for candidate in candidates.values()]
    return [
        Entry(-1, candidate, "complete", values) for candidate, values in found if len(values) == len(candidate.stops)
    ]
