"""The suggestions of a search: the trajectory that a point stands for, and what the store knows of it.

    prepared = prepare(search, Resources(), Sources())
    ledger = Ledger(prepared, store)
    ledger.entries[3].state  # complete, diverged, stopped or open

A suggestion is written to ``searches/`` before it is tried, under the search's identity and its own number. Its value
is what the metric makes of the rows in the store, never a number that came another way.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

import pyarrow as pa

from memexp import plan as planning
from memexp.errors import MemexpError, SpecError
from memexp.identity import canonical, identity
from memexp.plan import Ask, Forest, Missing
from memexp.plan.attempts import Attempt, stage_row
from memexp.records import SEARCHES, STAGES, rows_for
from memexp.sources import Sources
from memexp.spec import Condition, Point, ResourcesFor, Search
from memexp.spec.search import shown
from memexp.store import Store
from memexp.store.query import Metric, distinct

__all__ = [
    "Entry",
    "Ledger",
    "Place",
    "Prepared",
    "Stop",
    "elsewhere",
    "prepare",
    "record_stopped",
    "remember",
    "stopped",
    "through",
]

State = Literal["complete", "diverged", "stopped", "open"]


@dataclass(frozen=True)
class Stop:
    """One condition of a suggestion."""

    at: int
    """Its exposures or its retention steps."""
    condition_id: str
    """Its identity."""
    stage: str
    """The stage it is measured after."""
    asks: tuple[Ask, ...]
    """Its probes."""

    @property
    def files(self) -> frozenset[str]:
        """The files that answer, as ``kind/name``."""
        return frozenset(file_of(ask) for ask in self.asks)


@dataclass(frozen=True)
class Place:
    """A point, and the trajectory it stands for."""

    point: Point
    """A value for every name of the space."""
    axis: Literal["exposures", "retention_steps"]
    """What its conditions differ in."""
    forest: Forest
    """The stages of the trajectory."""
    stops: tuple[Stop, ...]
    """Its conditions, ascending."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal points."""
        return tuple((type(value), value) for value in self.point.values())


def file_of(ask: Ask) -> str:
    """Where an ask is answered."""
    return f"{ask.kind}/{ask.name}"


@dataclass(frozen=True)
class Prepared:
    """A search whose function has been tried at the edges of its space."""

    search: Search
    """As described."""
    resources: ResourcesFor
    """What its trials hold."""
    sources: Sources
    """Corpora and models read so far."""
    id: str = ""
    """Identity: space, metric, sampler, rule, and the conditions at the edges of the space."""
    edges: tuple[Place, ...] = ()
    """The trajectories at the edges of the space."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the longest suggestion: as far as more of one value never means both more and fewer."""
        return max(place.forest.steps for place in self.edges)

    @property
    def metric(self) -> Metric:
        """What makes a value of rows."""
        return Metric(self.search.metric)

    def place(self, point: Point) -> Place:
        """The trajectory of a point. Raises SpecError, naming search and point, where there is none."""
        try:
            conditions = self.search.conditions(point)
            forest = planning.grow(conditions, self.resources, self.sources)
            return Place(point, _axis(conditions), forest, _stops(conditions, forest))
        except Exception as error:  # the function is the user's and may raise anything
            kind = "" if isinstance(error, MemexpError) else f"{type(error).__name__}: "
            raise SpecError(f"search {self.search.name}, {shown(point)}: {kind}{error}") from error

    def value(self, stop: Stop, store: Store, sources: Mapping[str, str] | None = None) -> float | None:
        """The metric of a condition whose rows are in the store, None where it comes to no finite number.

        Args:
            stop: the condition.
            store: where its rows are.
            sources: for a file that is not there the name of one that has its numbers.
        """
        tables: dict[str, list[pa.Table]] = {}
        for ask in stop.asks:
            source = (sources or {}).get(ask.name)
            rows = store.read(ask.kind, source or ask.name)
            tables.setdefault(ask.kind, []).append(rows if source is None else planning.answered(ask, rows))
        return self.metric.of({k: pa.concat_tables(t, promote_options="permissive") for k, t in tables.items()})


def prepare(search: Search, resources: ResourcesFor, sources: Sources) -> Prepared:
    """`search` with its identity. Raises what `memexp.plan.grow` raises, and SpecError where the metric is no number.

    The function of a search cannot be hashed, so the conditions at the edges of the space stand for it. One that is not
    a function (it draws at random, say) would be another search every time, and is refused.
    """
    draft = Prepared(search, resources, sources)
    places = [draft.place(corner) for corner in search.corners]
    if draft.place(places[0].point).stops != places[0].stops:
        point = shown(places[0].point)
        raise SpecError(f"search {search.name}, {point}: asked again, condition returns others than before")
    for stop in places[0].stops:
        without = {
            ask.kind: rows_for(ask.probe.schema().empty_table(), ask.settings, ask.labels, {}) for ask in stop.asks
        }
        try:
            draft.metric.check(without)
        except MemexpError as error:
            raise SpecError(f"search {search.name}: {error}") from error
    key = {
        name: canonical(getattr(search, name)) for name in ("space", "metric", "mode", "seed", "sampler", "stopping")
    }
    edges = [[[stop.condition_id, *sorted(ask.probe_id for ask in stop.asks)] for stop in at.stops] for at in places]
    return dataclasses.replace(draft, id=identity({"search": key, "edges": edges}), edges=tuple(places))


def _axis(conditions: Sequence[Condition]) -> Literal["exposures", "retention_steps"]:
    steps = {one.interference.steps if one.interference is not None else 0 for one in conditions}
    return "retention_steps" if len(steps) > 1 else "exposures"


def _stops(conditions: Sequence[Condition], forest: Forest) -> tuple[Stop, ...]:
    """The conditions in order, each of which must lie on the way to the next. Raises SpecError."""
    ids = dict.fromkeys(ask.condition_id for ask in forest.asks)
    asks = {one: tuple(ask for ask in forest.asks if ask.condition_id == one) for one in ids}
    column = _axis(conditions)
    stops = [Stop(int(found[0].settings[column] or 0), one, found[0].stage, found) for one, found in asks.items()]
    for before, after in itertools.pairwise(stops):
        way = [stage.id for stage in forest.path(after.stage)[:-1]]
        if before.stage not in way or before.at >= after.at:
            raise SpecError(
                f"the condition with {column} {before.at} is not on the way to the one with {after.at}: they may "
                "differ in exposures (where the schedule is constant) or in interference steps only, ascending"
            )
    return tuple(stops)


# ---------------------------------------------------------------------------------------------------------
# What the store knows


@dataclass
class Entry:
    """A stored suggestion."""

    index: int
    """Its number in the search, from 0."""
    place: Place
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
    """The suggestions of a search that its store has, with those whose results can be copied from other conditions'."""

    def __init__(self, prepared: Prepared, store: Store, retry_diverged: bool = False) -> None:
        self.prepared, self.store = prepared, store
        points = _stored_points(store, prepared.id)
        self.entries = {index: Entry(index, prepared.place(point)) for index, point in sorted(points.items())}
        places = [entry.place for entry in self.entries.values()]
        forest = _union(places, prepared)
        self.missing = planning.find_missing(forest, store, retry_diverged)
        ended = stopped(store, prepared.id)
        for entry in self.entries.values():
            entry.state = _state(entry, self.missing, ended)
            entry.values = _values(prepared, store, entry.place, self.missing)

    def copy(self) -> None:
        """Give suggestions the results that were measured for other conditions."""
        planning.copy_results(self.missing, self.store)

    @property
    def done(self) -> int:
        """How many of the first `trials` suggestions are through, with whatever outcome."""
        return sum(self.through(index) for index in range(self.prepared.search.trials))

    def through(self, index: int) -> bool:
        """Whether nothing is left to do for a suggestion."""
        return index in self.entries and self.entries[index].state != "open"

    @property
    def best(self) -> Entry | None:
        """The complete suggestion with the best value."""
        found = [entry for entry in self.entries.values() if entry.value is not None]
        sign = -1.0 if self.prepared.search.mode == "max" else 1.0
        return min(found, key=lambda entry: sign * (entry.value or 0.0), default=None)


def _values(prepared: Prepared, store: Store, place: Place, missing: Missing) -> list[float | None]:
    """The metric of the conditions from the first on, as far as their numbers are in the store."""
    lacking = {file_of(ask) for ask in (*missing.asks, *missing.diverged)}
    sources = {copy.ask.name: copy.source for copy in missing.copies}
    there = itertools.takewhile(lambda stop: not stop.files & lacking, place.stops)
    return [prepared.value(stop, store, sources) for stop in there]


def _union(places: Iterable[Place], prepared: Prepared) -> Forest:
    """One forest for many suggestions, so that the store is looked through once."""
    conditions = [one for place in places for one in prepared.search.conditions(place.point)]
    return planning.grow(conditions, prepared.resources, prepared.sources)


def _state(entry: Entry, missing: Missing, ended: set[int]) -> State:
    files = {file for stop in entry.place.stops for file in stop.files}
    lost = files & {file_of(ask) for ask in missing.diverged}
    if not lost and not files & {file_of(ask) for ask in missing.asks}:
        return "complete"
    if entry.index in ended:
        return "stopped"
    return "diverged" if lost else "open"


def _stored_points(store: Store, search_id: str) -> dict[int, Point]:
    names = sorted(store.names("searches", f"{search_id}-"))
    with ThreadPoolExecutor(8) as pool:
        tables = pool.map(lambda name: store.read("searches", name), names)
        return {int(name.rpartition("-")[2]): _point(table) for name, table in zip(names, tables, strict=True)}


def _point(table: pa.Table) -> Point:
    point: Point = json.loads(table.column("point")[0].as_py())
    return point


def remember(store: Store, sweep: str, prepared: Prepared, index: int, place: Place) -> Place:
    """Write a suggestion; where another process was first, its suggestion of this number is returned instead."""
    search = prepared.search
    fixed = {
        "sweep": sweep,
        "search": search.name,
        "search_id": prepared.id,
        "suggestion": index,
        "point": json.dumps(dict(place.point)),
        "axis": place.axis,
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
        for stop in place.stops
    ]
    name = f"{prepared.id}-{index:05d}"
    if store.commit("searches", name, pa.Table.from_pylist(rows, schema=SEARCHES)):
        return place
    return prepared.place(_point(store.read("searches", name)))


def record_stopped(store: Store, attempt: Attempt, prepared: Prepared, index: int, place: Place, reached: int) -> None:
    """Say in ``stages/`` that the rule of the search ended a suggestion after its condition number `reached`."""
    path = place.forest.path(place.stops[-1].stage)
    at = [stage.id for stage in path].index(place.stops[reached].stage)
    why = f"search {prepared.search.name} stopped suggestion {index} at {place.axis} {place.stops[reached].at}"
    rows = [stage_row(stage, attempt, {}, "stopped", why) for stage in path[at + 1 :]]
    name = f"{path[0].id}-{attempt.id}stopped-{prepared.id}-{index:05d}"
    store.commit("stages", name, pa.Table.from_pylist(rows, schema=STAGES))


def stopped(store: Store, search_id: str) -> set[int]:
    """Numbers of the suggestions that the rule of this search ended."""
    mark = re.compile(rf".*stopped-{search_id}-(\d+)")
    return {int(match[1]) for match in map(mark.fullmatch, store.names("stages")) if match}


def through(counts: Mapping[str, tuple[int, int]]) -> str:
    """How far searches are: for each name the suggestions that are through, and all it is to have."""
    done, trials = (sum(numbers) for numbers in zip(*counts.values(), strict=True))
    which = f"search {next(iter(counts))}" if len(counts) == 1 else f"{len(counts)} searches"
    return f"{done} of {trials} suggestions of {which}"


def elsewhere(ledger: Ledger) -> list[Entry]:
    """Points of the space that were measured for other conditions, with their values; the search's own are left out.

    Looked for where all names of the space are columns of the probes' rows: settings such as ``lr``, or labels.
    """
    prepared, store = ledger.prepared, ledger.store
    names = list(prepared.search.space)
    known = {entry.place.key for entry in ledger.entries.values()}
    places: dict[tuple[Any, ...], Place] = {}
    for kind in dict.fromkeys(ask.kind for ask in prepared.edges[0].forest.asks):
        for values in distinct(store, kind, names):
            point = dict(zip(names, values, strict=True))
            if all(domain.holds(point[name]) for name, domain in prepared.search.space.items()):
                place = prepared.place(point)
                if place.key not in known:
                    places.setdefault(place.key, place)
    missing = planning.find_missing(_union(places.values(), prepared), store)
    found = [(place, _values(prepared, store, place, missing)) for place in places.values()]
    return [Entry(-1, place, "complete", values) for place, values in found if len(values) == len(place.stops)]
