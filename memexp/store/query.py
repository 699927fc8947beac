"""SQL over the store: one SELECT, in a DuckDB that can read the store's files and nothing else.

    names, rows = answer(store, "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL")
    names, rows = answer(store, "FROM recall", sweep="quickstart")

With a sweep named, tables of results hold the rows that belong to it as it was last started, `sweeps` says which those
are, and `stages` what it attempted. `training` is shared by sweeps and is no table then.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa

from memexp.errors import SpecError, StoreError
from memexp.store import Store
from memexp.store.manifests import latest_manifests

__all__ = ["Metric", "answer", "distinct", "quoted", "rows_of", "source", "totals"]


def answer(store: Store, sql: str, sweep: str | None = None) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Names of the columns and the rows that one SELECT over tables named by kind gives.

    Raises StoreError with DuckDB's complaint, or where the store has no such sweep.
    """
    if sweep is not None:
        _check_sweep(store, sweep)
    with duckdb.connect() as connection:
        try:
            _open_to(connection, store, sweep)
            result = connection.execute(_select(connection, sql))
            return [column[0] for column in result.description or []], result.fetchall()
        except duckdb.Error as error:
            tables = ", ".join(_tables(store, sweep)) or "none, the store is empty"
            raise StoreError(f"{str(error).splitlines()[0]} (tables: {tables})") from error


def totals(store: Store, kind: str, names: Iterable[str], expressions: Sequence[str]) -> list[tuple[Any, ...]]:
    """Condition, probe, number of rows, then sum and count of each of `expressions`, over the files of these names.

    Raises StoreError with DuckDB's complaint.
    """
    sums = "".join(f", sum({expression}), count({expression})" for expression in expressions)
    with duckdb.connect() as connection:
        if store.is_local:
            files = ", ".join(quoted(store.path(kind, name)) for name in sorted(names))
            connection.execute(f"CREATE VIEW files AS FROM read_parquet([{files}], union_by_name=true)")
            connection.execute("SET allowed_directories = ?", [[store.location]])
        else:
            tables = [store.read(kind, name) for name in sorted(names)]
            connection.register("files", pa.concat_tables(tables, promote_options="permissive"))
        _lock(connection)
        try:
            sql = f"SELECT condition_id, probe_id, count(*){sums} FROM files GROUP BY ALL"
            return connection.execute(_select(connection, sql)).fetchall()
        except duckdb.Error as error:
            raise StoreError(f"{kind}: {str(error).splitlines()[0]}") from error


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
        with duckdb.connect() as connection:
            for kind, table in tables.items():
                connection.register(kind, table)
            _lock(connection)
            result = connection.execute(_select(connection, self.sql))
            return [str(column[1]) for column in result.description or []], result.fetchall()


NUMBER = r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL.*"


def distinct(store: Store, kind: str, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """The different values that `columns` of a kind have together; none where the store has no such columns."""
    if kind not in store.kinds():
        return []
    with duckdb.connect() as connection:
        _open_to(connection, store)
        have = {row[0] for row in connection.execute(f'DESCRIBE "{kind}"').fetchall()}
        if not have.issuperset(columns):
            return []
        names = ", ".join(f'"{name}"' for name in columns)
        return connection.execute(f'SELECT DISTINCT {names} FROM "{kind}" ORDER BY ALL').fetchall()


def _select(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """The one statement of `sql`. Raises StoreError unless it is a SELECT."""
    statements = connection.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise StoreError("query takes one SELECT and changes nothing")
    return statements[0]


def _check_sweep(store: Store, sweep: str) -> None:
    known = latest_manifests(store)
    if sweep not in known:
        raise StoreError(f"{store.location} has no sweep {sweep!r}; it has {', '.join(sorted(known)) or 'none'}")


def _tables(store: Store, sweep: str | None) -> list[str]:
    """The kinds that can be asked about; of a sweep that which says what belongs to it first."""
    kinds = [kind for kind in store.kinds() if sweep is None or kind != "training"]
    return sorted(kinds, key=lambda kind: (kind != "sweeps", kind)) if sweep is not None else kinds


def _open_to(connection: duckdb.DuckDBPyConnection, store: Store, sweep: str | None = None) -> None:
    """Give `connection` a view for every kind, and lock it so that SQL cannot reach beyond the store."""
    sources = {kind: source(store, kind) if store.is_local else f'"{kind}/*"' for kind in store.kinds()}
    if not store.is_local:
        for kind in sources:
            connection.register(f"{kind}/*", store.dataset(kind))  # no kind can be called so
    for kind in _tables(store, sweep):
        rows = "" if sweep is None else rows_of(sweep, kind, sources["sweeps"])
        connection.execute(f'CREATE VIEW "{kind}" AS SELECT * FROM {sources[kind]}{rows}')
    if store.is_local:
        connection.execute("SET allowed_directories = ?", [[store.location]])
    _lock(connection)


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET python_enable_replacements = false")  # a variable of ours is no table
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def source(store: Store, kind: str) -> str:
    """All files of a kind, as SQL that any DuckDB understands."""
    return f"read_parquet({quoted(store.path(kind))}, union_by_name=true)"


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
