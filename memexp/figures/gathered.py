"""The rows that figures are drawn from, as DuckDB has aggregated them: a line per result, not per item.

    with gathered(store, "quickstart") as found:
        for result in found.results("recognition"):
            result.settings["model"], result.mean("recognition")

A result is what one file holds: a condition's answer to a probe; of kinds with parts (tasks, ablated blocks) each part.
Settings are the same in all rows of a file, so they are taken from its footer; only files of several results (exports)
are read for them.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from memexp.errors import StoreError
from memexp.figures.footers import settings_of
from memexp.figures.measures import PARTS, Measure, column_measure, measures_of
from memexp.figures.order import in_order
from memexp.probes.constant import constant_columns
from memexp.records import BARE, measured_by
from memexp.spec import Headline
from memexp.store import Store
from memexp.store.closed import closed, give, identifier
from memexp.store.manifests import latest_manifests

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["Gathered", "Result", "gathered", "gathered_rows", "ids_of"]

IDS = ("stage_id", "probe_id", "condition_id")
_NUMBERS = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT|U?INTEGER|FLOAT|DOUBLE|REAL|DECIMAL\(.*\)|BOOLEAN")
"""DuckDB's types whose values have a mean."""


@dataclass
class Result:
    """One result, or one part of it."""

    key: int
    """Of its rows in DuckDB."""
    settings: dict[str, Any]
    """Settings, labels and the columns that name the part, by name; what is NULL is not there."""
    rows: int
    """Items."""
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    """By measure: the sum over its items, and how many are not NULL."""

    @property
    def unstudied(self) -> bool:
        """Whether its model has studied nothing, as `memexp.stats.tables.unstudied` says of rows."""
        parts = ("further_batches", "restudy_exposures", "then_exposures")
        return self.settings.get("exposures") == 0 and not any(self.settings.get(name) for name in parts)

    def mean(self, measure: str) -> float | None:
        """Over the items that have it."""
        total, count = self.sums.get(measure, (0.0, 0))
        return total / count if count else None


class Gathered:
    """What a store, or one table, has; made by `gathered` and `gathered_rows`, and gone when their context ends."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self._sources: dict[str, _Source] = {}
        self._results: dict[str, list[Result]] = {}
        self._chosen: Callable[[Result], bool] | None = None

    def only(self, chosen: Callable[[Result], bool]) -> Gathered:
        """The same, of some results."""
        part = copy.copy(self)
        part._chosen = chosen
        return part

    @property
    def kinds(self) -> list[str]:
        """The kinds of results that there are."""
        return list(self._sources)

    def measures(self, kind: str) -> dict[str, Measure]:
        """What can be drawn of a kind, by name; the first is its headline."""
        return self._sources[kind].measures

    def add(self, kind: str, column: str) -> Measure | None:
        """Make a measure of a column, before the results of its kind are asked for; None where it holds no numbers."""
        source, measure = self._sources[kind], column_measure(column)
        if kind in self._results or not _possible(self.connection, source.rows, measure):
            return None
        [(_, type_, *_)] = self.connection.execute(
            f"DESCRIBE SELECT {identifier(column)} FROM {source.rows}"
        ).fetchall()
        if not _NUMBERS.fullmatch(str(type_)):  # a text may be cast to a number, until one cannot
            return None
        source.measures[column] = measure
        return measure

    def columns(self, kind: str) -> list[str]:
        """Names of all columns of a kind."""
        return self._sources[kind].columns

    def results(self, kind: str) -> list[Result]:
        """The results of a kind, with the sums of its measures."""
        if kind not in self._results:
            source = self._sources[kind]
            results = source.aggregated(self.connection)
            results.sort(key=lambda one: in_order(one.settings))
            results.sort(key=lambda one: source.order.get(ids_of(one.settings), len(source.order)))
            self._results[kind] = results
        everything = self._results[kind]
        return everything if self._chosen is None else [one for one in everything if self._chosen(one)]

    def items(self, kind: str, measure: str, cells: Sequence[Sequence[Result]]) -> pa.Table:
        """A row for every item of some results: cell, item, result, value.

        Args:
            kind: of the results.
            measure: the value.
            cells: the results of each; ``cell`` is its number, ``result`` the number of the result in all of them.
        """
        chosen = [(at, result) for at, members in enumerate(cells) for result in members]
        parts = self._sources[kind].parts
        columns = {
            "key": pa.array([result.key for _, result in chosen], pa.uint64()),
            "cell": pa.array([at for at, _ in chosen], pa.int64()),
            "result": pa.array(range(len(chosen)), pa.int64()),
            **{name: pa.array([result.settings.get(name) for _, result in chosen]) for name in parts},
        }
        self.connection.register("chosen", pa.table(columns))
        rows, value = self._sources[kind].table, f"m{list(self.measures(kind)).index(measure)}"
        same = "".join(f" AND own.{identifier(p)} IS NOT DISTINCT FROM chosen.{identifier(p)}" for p in parts)
        return self.connection.sql(
            f"SELECT cell, item, chosen.result, {value} AS value FROM {rows} own JOIN chosen ON own.result = chosen.key"
            + same
        ).to_arrow_table()

    def texts(
        self, kind: str, result: Result, columns: Mapping[str, str], score: str, each: int
    ) -> list[dict[str, Any]]:
        """The items of one result with the highest score and those with the lowest, each text once.

        Args:
            columns: SQL of the columns that are wanted, by name.
            score: SQL of an item.
            each: how many from either end.
        """
        source = self._sources[kind]
        own = "".join(f", {sql} AS {identifier(name)}" for name, sql in columns.items())
        parts = "".join(f" AND {identifier(p)} IS NOT DISTINCT FROM ?" for p in source.parts)
        ids = [name for name in IDS if name in result.settings]
        # By its ids where it has them: then only the file that has it is read.
        its = " AND ".join(f"{name} = ?" for name in ids) if len(ids) == len(IDS) else f"{source.key} = ?"
        own_key = [result.settings[name] for name in ids] if len(ids) == len(IDS) else [result.key]
        given = [*own_key, *(result.settings.get(name) for name in source.parts)]
        asked = ", ".join(list(columns.values())[:2])  # the same text twice is one to a reader
        try:
            found = self.connection.execute(
                f"SELECT ({score})::double AS score{own} FROM {source.rows} WHERE {its}{parts} "
                f"AND isfinite(({score})::double) "
                f"QUALIFY row_number() OVER (PARTITION BY {asked} ORDER BY item) = 1 ORDER BY 1 DESC, item",
                given,
            )
        except duckdb.Error:  # the columns are others', or have no texts
            return []
        names = ["score", *columns]
        rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
        return rows if len(rows) <= 2 * each else rows[:each] + rows[-each:]


@dataclass
class _Source:
    """The files of a kind, of which the rows that belong to a sweep are looked at."""

    kind: str
    rows: str
    """In SQL."""
    columns: list[str]
    measures: dict[str, Measure]
    settings: dict[int, dict[str, Any]]
    """By key of the result."""
    key: str
    """SQL that tells results apart: 64 bits instead of three texts a row."""
    order: dict[tuple[str, str, str], int] = field(default_factory=dict)
    """Where a result stands in its sweep, by its ids."""
    others: bool = True
    """Whether results are looked at that have no place there."""

    @property
    def parts(self) -> list[str]:
        """Columns that tell apart what is never averaged."""
        return [name for name in PARTS.get(self.kind, ()) if name in self.columns]

    @property
    def table(self) -> str:
        """Its rows as DuckDB has them, with the number of each measure."""
        return identifier(f"{self.kind}/items")

    def aggregated(self, connection: duckdb.DuckDBPyConnection) -> list[Result]:
        """Read the items once; returns the sums by result and part."""
        parts = self.parts
        item = "item" if "item" in self.columns else "0"
        values = "".join(f", ({one.sql})::double AS m{at}" for at, one in enumerate(self.measures.values()))
        named = "".join(f", {identifier(name)}" for name in parts)
        sums = "".join(f", sum(m{at}), count(m{at})" for at in range(len(self.measures)))
        try:
            connection.execute(
                f"CREATE TEMP TABLE {self.table} AS SELECT {self.key} AS result, {item} AS item{named}{values} "
                f"FROM {self.rows}"
            )
            found = connection.execute(
                f"SELECT result{named}, count(*){sums} FROM {self.table} GROUP BY ALL ORDER BY ALL"
            ).fetchall()
        except duckdb.Error as error:
            raise StoreError(f"{self.kind}: {str(error).splitlines()[0]}") from error
        results = []
        for key, *rest in found:
            settings = self.settings.get(key)
            if settings is None or not (self.others or ids_of(settings) in self.order):
                continue
            own = {name: value for name, value in zip(parts, rest, strict=False) if value is not None}
            count, *numbers = rest[len(parts) :]
            pairs = zip(numbers[::2], numbers[1::2], strict=True)
            sums_of = {
                name: (total if total is not None and math.isfinite(total) else 0.0, there)
                for name, (total, there) in zip(self.measures, pairs, strict=True)
            }
            results.append(Result(key, settings | own, count, sums_of))
        return results


def ids_of(settings: Mapping[str, Any]) -> tuple[str, str, str]:
    """Of a result: stage, probe, condition."""
    stage, probe, condition = (settings.get(name, "") for name in IDS)
    return stage, probe, condition


@contextmanager
def gathered(store: Store, sweep: str | None = None) -> Iterator[Gathered]:
    """What a store has of a sweep as it was last started, or of all that it holds.

    Raises StoreError where the store has no such sweep, or a file that cannot be read.
    """
    listed = _listed(store, sweep)
    with closed() as connection:
        found = Gathered(connection)
        for kind in store.kinds():
            if kind in BARE or (sweep is not None and kind not in listed):
                continue
            names, its = sorted(store.names(kind)), listed.get(kind, {})
            if sweep is not None:
                names = [name for name in names if name in its or name.count("-") != 2] or names
            if not names:
                continue
            source = _source(connection, kind, store.datasets(kind, names), _headline(store, kind, names[-1]))
            source.order = {ids: at for at, ids in enumerate(its.values())}
            source.others = sweep is None
            found._sources[kind] = source
        yield found


@contextmanager
def gathered_rows(kind: str, rows: pa.Table) -> Iterator[Gathered]:
    """What a table of a kind's rows has: of a store, or with the same columns."""
    with closed() as connection:
        found = Gathered(connection)
        try:
            headline = said.headline if (said := measured_by(rows.schema)) is not None else None
        except StoreError:
            headline = None
        found._sources[kind] = _source(connection, kind, [rows], headline)
        yield found


def _listed(store: Store, sweep: str | None) -> dict[str, dict[str, tuple[str, str, str]]]:
    """The ids of a sweep's results, or of those of all sweeps, by kind and name of the file, in their order."""
    known = latest_manifests(store)
    if sweep is not None and sweep not in known:
        raise StoreError(f"{store.location} has no sweep {sweep!r}; it has {', '.join(sorted(known)) or 'none'}")
    found: dict[str, dict[str, tuple[str, str, str]]] = {}
    for name in known if sweep is None else [sweep]:
        for row in known[name]:
            found.setdefault(row["kind"], {})[row["name"]] = (row["stage_id"], row["probe_id"], row["condition_id"])
    return found


def _headline(store: Store, kind: str, name: str) -> Headline | None:
    try:
        said = measured_by(store.schema(kind, name))
    except StoreError as error:
        raise StoreError(f"{store.path(kind, name)}: {error}") from error
    return None if said is None else said.headline


def _source(
    connection: duckdb.DuckDBPyConnection,
    kind: str,
    tables: Sequence[pa.Table | ds.FileSystemDataset],
    headline: Headline | None,
) -> _Source:
    rows = give(connection, kind, tables)
    columns = [name for name, *_ in connection.execute(f"DESCRIBE FROM {rows}").fetchall()]
    known = measures_of(kind, headline)
    measures = {name: one for name, one in known.items() if _possible(connection, rows, one)}
    ids = list(IDS)
    if not set(columns).issuperset(IDS):  # somebody's own table: what is constant in a result tells it from others
        ids = constant_columns(kind, columns)
    key = f"hash({', '.join(map(identifier, ids))})" if ids else "0::uint64"
    return _Source(kind, rows, columns, measures, settings_of(connection, kind, tables, key), key)


def _possible(connection: duckdb.DuckDBPyConnection, rows: str, measure: Measure) -> bool:
    """Whether the table has the columns that a measure is of."""
    try:
        connection.execute(f"SELECT ({measure.sql})::double FROM {rows} LIMIT 0")
    except duckdb.Error:
        return False
    return True
