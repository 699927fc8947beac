"""SQL over the store: one SELECT, in a DuckDB that can read the store's files and nothing else.

memexp query "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL"
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from memexp.errors import SpecError, StoreError
from memexp.store import Store

__all__ = ["Metric", "distinct", "print_query"]


def print_query(store: Store, sql: str, as_csv: bool) -> int:
    """Print the answer to one SELECT over tables named by kind. Raises StoreError with DuckDB's complaint."""
    with duckdb.connect() as connection:
        try:
            _open_to(connection, store)
            result = connection.execute(_select(connection, sql))
            names = [column[0] for column in result.description or []]
            rows = result.fetchall()
        except duckdb.Error as error:
            tables = ", ".join(store.kinds()) or "none, the store is empty"
            raise StoreError(f"{str(error).splitlines()[0]} (tables: {tables})") from error
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
        return 0
    table = Table(*names)
    for row in rows:
        table.add_row(
            *("" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in row)
        )
    # A pipe or file has room for every column.
    console = Console(emoji=False, width=None if sys.stdout.isatty() else 100_000)
    console.print(table, markup=False) if rows else print("no rows")
    return 0


class Metric:
    """One SELECT that makes one number of the rows of a condition.

    Metric("SELECT avg(exact::int) FROM qa").of({"qa": rows})
    """

    def __init__(self, sql: str) -> None:
        self.sql = sql

    def check(self, tables: Mapping[str, pa.Table]) -> None:
        """Try it on tables without rows. Raises SpecError unless it gives one number, or NULL, for any rows."""
        try:
            columns, rows = self._asked(tables)
        except duckdb.Error as error:
            line = str(error).splitlines()[0]
            raise SpecError(f"Search.metric: {line} (tables: {', '.join(sorted(tables))})") from error
        if len(columns) != 1 or len(rows) != 1:
            raise SpecError(
                f"Search.metric must give one number, an aggregate over all rows; it gives {len(columns)} columns "
                f"and, of no rows, {len(rows)} rows"
            )
        if not re.fullmatch(NUMBER, columns[0]):
            raise SpecError(f"Search.metric must give a number, not {columns[0]}")

    def of(self, tables: Mapping[str, pa.Table]) -> float | None:
        """Its value, or None where that is NULL or not finite. Raises SpecError with DuckDB's complaint."""
        try:
            _, [(value,)] = self._asked(tables)
        except (duckdb.Error, ValueError) as error:
            raise SpecError(f"Search.metric: {str(error).splitlines()[0]}") from error
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


def _open_to(connection: duckdb.DuckDBPyConnection, store: Store) -> None:
    """Give `connection` a view for every kind, and lock it so that SQL cannot reach beyond the store."""
    for kind in store.kinds():
        if store.is_local:
            glob = store.path(kind).replace("'", "''")
            connection.execute(f"CREATE VIEW \"{kind}\" AS SELECT * FROM read_parquet('{glob}', union_by_name=true)")
        else:
            connection.register(kind, store.dataset(kind))
    if store.is_local:
        connection.execute("SET allowed_directories = ?", [[store.location]])
    _lock(connection)


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET python_enable_replacements = false")  # a variable of ours is no table
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
