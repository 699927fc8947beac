"""SQL over the store: one SELECT, in a DuckDB that can read the store's files and nothing else.

memexp query "SELECT model, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL"
"""

from __future__ import annotations

import csv
import sys

import duckdb
from rich.console import Console
from rich.table import Table

from memexp.errors import StoreError
from memexp.store import Store

__all__ = ["print_query"]


def print_query(store: Store, sql: str, as_csv: bool) -> int:
    """Print the answer to one SELECT over tables named by kind. Raises StoreError with DuckDB's complaint."""
    with duckdb.connect() as connection:
        try:
            _open_to(connection, store)
            statements = connection.extract_statements(sql)
            if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
                raise StoreError("query takes one SELECT and changes nothing")
            result = connection.execute(statements[0])
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
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")
