"""SQL over the store: one SELECT, in a DuckDB that has the store's tables and no way to any file.

    names, rows = answer(store, "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL")
    names, rows = answer(store, "FROM recall", sweep="quickstart")
    with asked(store, "FROM mine", views={"mine": view}) as found:
        found.table()

With a sweep named, tables of results hold the rows that belong to it as it was last started, `sweeps` says which those
are, and `stages` what it attempted. `training` is shared by sweeps and is no table then.
"""

from __future__ import annotations

import fnmatch
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import duckdb
import pyarrow as pa

from memexp.errors import SpecError, StoreError
from memexp.store import Store
from memexp.store.closed import STREAM, closed, give, identifier
from memexp.store.manifests import latest_manifests
from memexp.store.sql_text import columns_of, complaint, labels_of, starred, told_apart
from memexp.store.threads import threaded

__all__ = ["Asked", "Metric", "View", "answer", "asked", "distinct", "quoted", "rows_of", "totals"]


Columns = Mapping[str, Sequence[Sequence[str]]]
"""By kind, for each group of files that have the same ones, the names of their columns."""


class View(Protocol):
    """A table that is made of others; `memexp.report.views.View` is one."""

    @property
    def reads(self) -> Sequence[str]:
        """The kinds that it is made of, as far as there are any."""

    @property
    def sql(self) -> Callable[[Columns], str | None]:
        """Its SELECT for tables with these columns; None where they lack what it needs."""


def answer(
    store: Store, sql: str, sweep: str | None = None, views: Mapping[str, View] | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of the columns and the rows that one SELECT gives. Raises what `asked` raises."""
    with asked(store, sql, sweep, views) as found:
        return found.rows()


@dataclass(frozen=True)
class Asked:
    """The answer to one SELECT, for as long as the context of `asked` lasts; to be taken once."""

    kinds: list[str]
    """The tables it is made of."""
    views: list[str]
    """The views that it names."""
    unnamed: frozenset[str] | None
    """Where all columns of a table or view are asked for with a ``*``: those that are not asked for by name."""
    rows: Callable[[], tuple[list[str], list[tuple[Any, ...]]]]
    """The names of its columns, and its rows as Python has them."""
    table: Callable[[], pa.Table]
    """The same as Arrow has them; columns of one name are told apart."""


@contextmanager
def asked(store: Store, sql: str, sweep: str | None = None, views: Mapping[str, View] | None = None) -> Iterator[Asked]:
    """What one SELECT over tables named by kind, and over `views`, gives.

    Only the kinds that the text names are opened, or that a view which it names is made of. The name of a table or view
    alone stands for all of it.

    Raises StoreError with DuckDB's complaint, where a file is broken, or where the store has no such sweep.
    """
    if sweep is not None:
        _check_sweep(store, sweep)
    kinds, every = _tables(store.kinds(), sweep), views or {}
    all_of_them = _ASKS_WHICH.search(sql) is not None
    called = [name for name in every if name not in kinds and (all_of_them or _names(sql, name))]
    wanted = {kind for name in called for kind in every[name].reads}
    opened = [kind for kind in kinds if all_of_them or kind in wanted or _names(sql, kind)]
    if sql.strip().strip('"') in {*kinds, *called}:
        sql = f"FROM {identifier(sql.strip().strip(chr(34)))}"
    columns: Columns = {}
    with closed() as connection:
        try:
            columns = _open_to(connection, store, opened, sweep)
            _give_files(connection, store, kinds, sql)
            for name in called:
                _make(connection, name, every[name], columns, quietly=all_of_them)
            yield _asked(connection, sql, opened, called)
        except duckdb.Error as error:
            if STREAM in str(error):
                _find_broken(store, opened)
            labels = labels_of(names for files in columns.values() for names in files)
            raise StoreError(complaint(connection, str(error), opened, called, kinds, list(every), labels)) from error


def _asked(connection: duckdb.DuckDBPyConnection, sql: str, kinds: list[str], called: list[str]) -> Asked:
    statement = _select(connection, sql)
    by_name, unnamed = starred(connection, sql), None
    if by_name is not None:
        unnamed = frozenset(name for table in (*kinds, *called) for name in columns_of(connection, table)) - by_name

    def rows() -> tuple[list[str], list[tuple[Any, ...]]]:
        result = connection.execute(statement)
        return [column[0] for column in result.description or []], result.fetchall()

    def table() -> pa.Table:
        found: pa.Table = connection.sql(sql).to_arrow_table()
        return found.rename_columns(told_apart(found.column_names))

    return Asked(kinds, called, unnamed, rows, table)


def _make(connection: duckdb.DuckDBPyConnection, name: str, view: View, columns: Columns, quietly: bool) -> None:
    """Make a view; where it cannot be made that is an error, unless it is one of all that might be asked for."""
    try:
        sql = view.sql(columns)
        if sql is not None:
            _select(connection, sql)  # parts of it may come from files
            connection.execute(f"CREATE VIEW {identifier(name)} AS {sql}")
            return
        why = "their columns are not those of memexp's results, or they have no mean"
    except duckdb.Error as error:
        why = str(error).splitlines()[0]
    if not quietly:
        tables = ", ".join(kind for kind in view.reads if kind in columns)
        raise StoreError(f"the view {name} cannot be made of the tables {tables}: {why}")


@dataclass(frozen=True)
class Totals:
    """What is asked of the rows of some files."""

    rows: list[tuple[Any, ...]]
    """Condition, probe, number of rows, then sum and count of each expression."""
    items: pa.Table | None
    """Of each row condition_id, probe_id, item (NULL where a kind has none) and the first expression as ``value``."""


def totals(store: Store, kind: str, names: Iterable[str], expressions: Sequence[str], most_items: int = 0) -> Totals:
    """Sums over the files of these names, by condition and probe, and their rows where there are at most so many.

    Raises StoreError with DuckDB's complaint.
    """
    names = sorted(names)
    try:
        return _summed(store, kind, names, expressions, most_items)
    except duckdb.Error as error:
        line = str(error).splitlines()[0]
    # Which of them it is DuckDB does not say; where it is each, the SQL may be wrong, which the last file said.
    for name in reversed(names):
        try:
            _summed(store, kind, [name], expressions, 0)
        except duckdb.Error as error:
            raise StoreError(f"{store.path(kind, name)}: {str(error).splitlines()[0]}") from error
    raise StoreError(f"{kind}: {line}")


def _summed(store: Store, kind: str, names: Sequence[str], expressions: Sequence[str], most_items: int) -> Totals:
    sums = "".join(f", sum({expression})::double, count({expression})" for expression in expressions)
    sql = f"SELECT condition_id, probe_id, count(*){sums} FROM"
    with _over(store, kind, names, f"{sql} item") as (connection, files):
        rows = connection.execute(_select(connection, f"{sql} {files} GROUP BY ALL")).fetchall()
        if sum(row[2] for row in rows) > most_items:
            return Totals(rows, None)
        columns = [name for name, *_ in connection.execute(f"DESCRIBE FROM {files}").fetchall()]
        item = "item" if "item" in columns else "NULL::bigint"
        each = f"SELECT condition_id, probe_id, {item} AS item, ({expressions[0]})::double AS value FROM {files}"
        return Totals(rows, connection.sql(_select(connection, each)).to_arrow_table())


@contextmanager
def _over(store: Store, kind: str, names: Sequence[str], sql: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
    """A database with the columns that `sql` names, of the files of these names, and what their rows are called."""
    same: dict[pa.Schema, list[pa.Table]] = {}
    for table in threaded(lambda name: store.read(kind, name, lambda column: column.lower() in sql.lower()), names):
        same.setdefault(table.schema.remove_metadata(), []).append(table.replace_schema_metadata())
    with closed() as connection:
        yield connection, give(connection, kind, [pa.concat_tables(tables) for tables in same.values()])


class Metric:
    """One SELECT that makes one number of the rows of a condition.

    Metric("SELECT avg(exact::int) FROM qa").of({"qa": rows})
    """

    def __init__(self, sql: str, field: str = "Search.metric") -> None:
        """`field`: what errors call it."""
        self.sql, self.field = sql, field

    def check(self, tables: Mapping[str, pa.Table]) -> None:
        """Try it on tables without rows. Raises SpecError unless it gives one number, or NULL, for any rows."""
        try:
            columns, rows = self._asked(tables)
        except (duckdb.Error, StoreError) as error:
            line = str(error).splitlines()[0]
            raise SpecError(f"{self.field}: {line} (tables: {', '.join(sorted(tables))})") from error
        if len(columns) != 1 or len(rows) != 1:
            raise SpecError(
                f"{self.field} must give one number, an aggregate over all rows; it gives {len(columns)} columns "
                f"and, of no rows, {len(rows)} rows"
            )
        if not re.fullmatch(NUMBER, columns[0]):
            raise SpecError(f"{self.field} must give a number, not {columns[0]}")

    def of(self, tables: Mapping[str, pa.Table]) -> float | None:
        """Its value, or None where that is NULL or not finite. Raises SpecError with DuckDB's complaint."""
        try:
            _, [(value,)] = self._asked(tables)
        except (duckdb.Error, ValueError) as error:
            raise SpecError(f"{self.field}: {str(error).splitlines()[0]}") from error
        return float(value) if value is not None and math.isfinite(value) else None

    def _asked(self, tables: Mapping[str, pa.Table]) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The types of its columns, and its rows."""
        with closed() as connection:
            for kind, table in tables.items():
                connection.register(kind, table)
            result = connection.execute(_select(connection, self.sql))
            return [str(column[1]) for column in result.description or []], result.fetchall()


NUMBER = r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*"


def distinct(store: Store, kind: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The different values that `columns` of a kind have together; none where the store has no such columns."""
    datasets = store.datasets(kind)
    if not datasets:
        return []
    with closed() as connection:
        rows = give(connection, kind, datasets)
        have = {row[0] for row in connection.execute(f"DESCRIBE FROM {rows}").fetchall()}
        if not have.issuperset(columns):
            return []
        names = ", ".join(map(identifier, columns))
        return connection.execute(f"SELECT DISTINCT {names} FROM {rows} ORDER BY ALL").fetchall()


def _select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement of `sql`. Raises StoreError unless it is a SELECT."""
    statements = connection.extract_statements(sql)
    try:
        kinds = [statement.type for statement in statements]
    except ValueError:  # a kind that DuckDB's Python package does not know
        kinds = []
    if kinds != [duckdb.StatementType.SELECT]:
        raise StoreError("query takes one SELECT and changes nothing")
    return statements[0]


def _check_sweep(store: Store, sweep: str) -> None:
    known = latest_manifests(store)
    if sweep not in known:
        raise StoreError(f"{store.location} has no sweep {sweep!r}; it has {', '.join(sorted(known)) or 'none'}")


def _tables(kinds: Sequence[str], sweep: str | None) -> list[str]:
    """The kinds that can be asked about; of a sweep that which says what belongs to it first."""
    if sweep is None:
        return list(kinds)
    return sorted((kind for kind in kinds if kind != "training"), key=lambda kind: (kind != "sweeps", kind))


_ASKS_WHICH = re.compile(r"(?i)\bshow\b|information_schema|duckdb_|pg_|sqlite_")
"""SQL that may ask which tables there are."""


def _names(sql: str, kind: str) -> bool:
    """Whether SQL may name a kind; names in it may be quoted and have any case."""
    return re.search(rf"(?i)(?<!\w){re.escape(kind.replace(chr(34), chr(34) * 2))}(?!\w)", sql) is not None


def _open_to(
    connection: duckdb.DuckDBPyConnection, store: Store, kinds: Sequence[str], sweep: str | None
) -> dict[str, list[list[str]]]:
    """Give `connection` these kinds as tables, of a sweep with its rows only; returns the columns of their files."""
    columns: dict[str, list[list[str]]] = {}
    manifests = "" if sweep is None else give(connection, "sweeps/", store.datasets("sweeps"))
    for kind in kinds:
        found = store.datasets(kind)
        columns[kind] = [one.schema.names for one in found]
        if sweep is None:
            give(connection, kind, found, view=True)
            continue
        rows = manifests if kind == "sweeps" else give(connection, f"{kind}/", found)
        where = rows_of(sweep, kind, manifests)
        connection.execute(f"CREATE VIEW {identifier(kind)} AS SELECT * FROM {rows}{where}")
    return columns


def _give_files(connection: duckdb.DuckDBPyConnection, store: Store, kinds: Sequence[str], sql: str) -> None:
    """Have ``read_parquet('STORE/<kind>/*.parquet')`` in `sql` find the files of the store that it names."""
    for text in dict.fromkeys(re.findall(r"'((?:[^']|'')*)'", sql)):
        path = text.replace("''", "'")
        place = os.path.abspath(path) if store.is_local else path
        kind, _, file = place.removeprefix(f"{store.location}/").partition("/")
        if place.startswith(f"{store.location}/") and kind in kinds:
            names = [name for name in store.names(kind) if fnmatch.fnmatchcase(f"{name}.parquet", file)]
            if names:
                give(connection, path, store.datasets(kind, names), view=True)
    for name in ("read_parquet", "parquet_scan"):
        connection.execute(f"CREATE MACRO {name}(path, union_by_name := true) AS TABLE FROM query_table(path)")


def _find_broken(store: Store, kinds: Iterable[str]) -> None:
    """Raise StoreError for a file that cannot be read; what reads many says only that one of them is broken."""
    for kind in kinds:
        for name in sorted(store.names(kind)):
            store.read(kind, name)


def rows_of(sweep: str, kind: str, manifests: str) -> str:
    """Which rows of a kind belong to a sweep, as a WHERE; of results those that it listed when it was last started.

    `manifests` is what all files of ``sweeps`` are called in SQL.
    """
    its = f" WHERE sweep = {quoted(sweep)}"
    latest = f"{its} AND started = (SELECT max(started) FROM {manifests}{its})"
    if kind in ("stages", "searches"):
        return its
    if kind == "sweeps":
        return latest
    ids = "stage_id, probe_id, condition_id"
    return f" WHERE ({ids}) IN (SELECT ({ids}) FROM {manifests}{latest} AND kind = {quoted(kind)})"


def quoted(text: str) -> str:
    """A string of SQL."""
    return "'" + text.replace("'", "''") + "'"
