"""SQL over the store: one SELECT, in a DuckDB that can read the store's files and nothing else.

    memexp query "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL"
    memexp query --sweep quickstart "FROM recall"

With a sweep named, tables of results hold the rows that belong to it as it was last started, `sweeps` says which those
are, and `stages` what it attempted. `training` is shared by sweeps and is no table then.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import duckdb
import pyarrow as pa
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from memexp.errors import SpecError, StoreError
from memexp.store import Store
from memexp.store.manifests import latest_manifests

__all__ = ["Metric", "distinct", "print_query"]

NARROWEST, WIDEST = 16, 40
"""A terminal without that many characters for each longer column shows part of an answer; that many of a value."""


def print_query(store: Store, sql: str, as_csv: bool, sweep: str | None = None) -> int:
    """Print the answer to one SELECT over tables named by kind.

    Raises StoreError with DuckDB's complaint, or where the store has no such sweep.
    """
    if sweep is not None:
        _check_sweep(store, sweep)
    with duckdb.connect() as connection:
        try:
            _open_to(connection, store, sweep)
            result = connection.execute(_select(connection, sql))
            names = [column[0] for column in result.description or []]
            rows = result.fetchall()
        except duckdb.Error as error:
            tables = ", ".join(_tables(store, sweep)) or "none, the store is empty"
            raise StoreError(f"{str(error).splitlines()[0]} (tables: {tables})") from error
    if as_csv:
        writer = csv.writer(sys.stdout)
        writer.writerow(names)
        writer.writerows(rows)
    elif rows:
        _print_table(names, [[_shown(value) for value in row] for row in rows])
    else:
        print("no rows")
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


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print all in a pipe or file, which have room for every column, and on a terminal as much as it has room for."""
    console = Console(emoji=False, width=None if sys.stdout.isatty() else 100_000)
    longest = [max(map(cell_len, column)) for column in zip(names, *rows, strict=True)]
    shown = list(range(len(names)))
    whole = not sys.stdout.isatty() or _line(min(width, NARROWEST) for width in longest) <= console.width
    if not whole:
        same = [at for at in shown if len({row[at] for row in rows}) == 1]
        _print_same({names[at]: rows[0][at] for at in same})
        shown = [at for at in shown if at not in same]
        while len(shown) > 1 and _line(min(longest[at], WIDEST) for at in shown) > console.width:
            shown.remove(max(shown, key=lambda at: (min(longest[at], WIDEST), at)))  # most columns stay so
    table = Table()
    for at in shown:
        if whole:
            table.add_column(names[at], overflow="fold")
        else:
            table.add_column(names[at], no_wrap=True, max_width=WIDEST)
    for row in rows:
        table.add_row(*(row[at] if whole else row[at].replace("\n", "\\n") for at in shown))
    if shown:
        console.print(table, markup=False)
    if not whole:
        left_out = [names[at] for at in range(len(names)) if at not in {*shown, *same}]
        print(f"rows: {len(rows)}, columns: {len(names)}")
        if left_out:
            print(f"no room for {', '.join(left_out)}")


def _print_same(values: Mapping[str, str]) -> None:
    """What is the same in all rows, as most settings are, is said once."""
    for name, value in values.items():
        if value:
            print(f"{name} = {value}")
    if nothing := [name for name, value in values.items() if not value]:
        print(f"NULL or empty: {', '.join(nothing)}")


def _line(widths: Iterable[int]) -> int:
    """Characters of a line of a table."""
    return sum(width + 3 for width in widths) + 1


def _check_sweep(store: Store, sweep: str) -> None:
    known = latest_manifests(store)
    if sweep not in known:
        raise StoreError(f"{store.location} has no sweep {sweep!r}; it has {', '.join(sorted(known)) or 'none'}")


def _tables(store: Store, sweep: str | None) -> list[str]:
    """The kinds that can be asked about, `sweeps` first."""
    kinds = [kind for kind in store.kinds() if sweep is None or kind != "training"]
    return sorted(kinds, key=lambda kind: (kind != "sweeps", kind)) if sweep is not None else kinds


def _open_to(connection: duckdb.DuckDBPyConnection, store: Store, sweep: str | None = None) -> None:
    """Give `connection` a view for every kind, and lock it so that SQL cannot reach beyond the store."""
    for kind in _tables(store, sweep):
        if store.is_local:
            source = f"read_parquet({_quoted(store.path(kind))}, union_by_name=true)"
        else:
            source = f'"{kind}/*"'  # no kind can be called so
            connection.register(f"{kind}/*", store.dataset(kind))
        rows = "" if sweep is None else _rows_of(sweep, kind, source)
        connection.execute(f'CREATE VIEW "{kind}" AS SELECT * FROM {source}{rows}')
    if store.is_local:
        connection.execute("SET allowed_directories = ?", [[store.location]])
    _lock(connection)


def _lock(connection: duckdb.DuckDBPyConnection) -> None:
    connection.execute("SET python_enable_replacements = false")  # a variable of ours is no table
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _rows_of(sweep: str, kind: str, source: str) -> str:
    """Which rows of a kind belong to a sweep, as SQL; of results those that its view of ``sweeps`` lists."""
    its = f" WHERE sweep = {_quoted(sweep)}"
    if kind in ("stages", "searches"):
        return its
    if kind == "sweeps":
        return f"{its} AND started = (SELECT max(started) FROM {source}{its})"
    ids = "stage_id, probe_id, condition_id"
    return f" WHERE ({ids}) IN (SELECT ({ids}) FROM sweeps WHERE kind = {_quoted(kind)})"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
