"""The trajectory that a point of a search's space stands for. Planning only: nothing here reads or writes a store.

    prepared = prepare(search, Resources(), Sources())
    prepared.candidate({"lr": 1e-3}).stops  # its conditions, in order

What the store knows of the points that were suggested is in `memexp.search.ledger`.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from memexp import plan as planning
from memexp.errors import MemexpError, SpecError
from memexp.identity import canonical, identity
from memexp.plan import Ask, Forest
from memexp.records import MET, rows_for
from memexp.sources import Sources
from memexp.spec import Condition, Point, Probe, ResourcesFor, Search
from memexp.spec.search import point_text
from memexp.store.query import Metric

__all__ = ["Candidate", "Prepared", "Stop", "prepare"]


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
        return frozenset(ask.file for ask in self.asks)


@dataclass(frozen=True)
class Candidate:
    """A point, and the trajectory it stands for."""

    point: Point
    """A value for every name of the space."""
    axis: Literal["exposures", "retention_steps"]
    """What its conditions differ in, the unit of `Stop.at`."""
    forest: Forest
    """The stages of the trajectory."""
    stops: tuple[Stop, ...]
    """Its conditions, ascending."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal points."""
        return tuple((type(value), value) for value in self.point.values())


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
    edges: tuple[Candidate, ...] = ()
    """The trajectories at the edges of the space."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the longest suggestion: as far as more of one value never means both more and fewer."""
        return max(candidate.forest.steps for candidate in self.edges)

    @property
    def metric(self) -> Metric:
        """What makes a value of rows."""
        return Metric(self.search.metric)

    def candidate(self, point: Point) -> Candidate:
        """The trajectory of a point. Raises SpecError, naming search and point, where there is none."""
        try:
            conditions = self.search.conditions(point)
            forest = planning.grow(conditions, self.resources, self.sources)
            return Candidate(point, _axis(conditions), forest, _stops(conditions, forest))
        except Exception as error:  # the function is the user's and may raise anything
            kind = "" if isinstance(error, MemexpError) else f"{type(error).__name__}: "
            raise SpecError(f"search {self.search.name}, {point_text(point)}: {kind}{error}") from error


def prepare(search: Search, resources: ResourcesFor, sources: Sources) -> Prepared:
    """`search` with its identity. Raises what `memexp.plan.grow` raises, and SpecError where the metric is no number.

    The function of a search cannot be hashed, so the conditions at the edges of the space stand for it. One that is not
    a function (it draws at random, say) would be another search every time, and is refused.
    """
    draft = Prepared(search, resources, sources)
    candidates = [draft.candidate(corner) for corner in search.corners]
    if draft.candidate(candidates[0].point).stops != candidates[0].stops:
        point = point_text(candidates[0].point)
        raise SpecError(f"search {search.name}, {point}: asked again, condition returns others than before")
    for stop in candidates[0].stops:
        without = {ask.kind: rows_for(_columns(ask).empty_table(), ask.settings, ask.labels, {}) for ask in stop.asks}
        try:
            draft.metric.check(without)
        except MemexpError as error:
            raise SpecError(f"search {search.name}: {error}") from error
    key = {
        name: canonical(getattr(search, name)) for name in ("space", "metric", "mode", "seed", "sampler", "stopping")
    }
    edges = [
        [[stop.condition_id, *sorted(ask.probe_id for ask in stop.asks)] for stop in candidate.stops]
        for candidate in candidates
    ]
    return dataclasses.replace(draft, id=identity({"search": key, "edges": edges}), edges=tuple(candidates))


def _columns(ask: Ask) -> pa.Schema:
    """Those that tell items apart; what was met of them, where rows may be about texts."""
    told = type(ask.probe).texts_of is not Probe.texts_of or bool({"targets", "corpus"} & ask.corpora.keys())
    return pa.schema([*ask.probe.schema(), *(MET if told else ())])


def _axis(conditions: Sequence[Condition]) -> Literal["exposures", "retention_steps"]:
    """What conditions of one trajectory differ in."""
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
