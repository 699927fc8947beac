"""A DuckDB that is given its tables by Python and can neither read nor write a file, whatever SQL says.

with closed() as connection:
    rows = give(connection, "recognition", store.datasets("recognition"))
    connection.execute(f"SELECT count(*) FROM {rows}")

Views over files would need a folder that DuckDB may reach, and where it may read it may also write: a COPY in a WITH is
part of a SELECT. A file system of Python's is no way either: DuckDB 2.0 lets threads share its files, and mixes up what
they read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb
import pyarrow as pa

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["STREAM", "closed", "give", "identifier"]

STREAM = "reading the stream registered as"
"""In what DuckDB says where a table that it was given cannot be read."""


LOCKED = (
    "SET temp_directory = ''",  # else .tmp in the current folder, which is open to whatever SQL says
    "SET python_enable_replacements = false",  # a variable of ours is no table
    "SET enable_external_access = false",
    "SET lock_configuration = true",
)


@contextmanager
def closed() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory that reaches no file, from before it is given its tables; no statement can change that."""
    with duckdb.connect() as connection:
        for setting in LOCKED:
            connection.execute(setting)
        yield connection


def give(
    connection: duckdb.DuckDBPyConnection, name: str, tables: Sequence[pa.Table | ds.Dataset], view: bool = False
) -> str:
    """Let SQL read `tables`, of equal columns or not, as one; returns what it is called there.

    Args:
        connection: made by `closed`.
        name: of a view over them, if there is to be one.
        tables: columns are matched by name and widened as by ``read_parquet(..., union_by_name=true)``.
        view: whether it is to be called `name` and nothing else.
    """
    if view and len(tables) == 1:
        connection.register(name, tables[0])
        return identifier(name)
    parts = [f"{name}/{number}" for number in range(len(tables))]
    for part, table in zip(parts, tables, strict=True):
        connection.register(part, table)
    rows = f"({' UNION ALL BY NAME '.join(f'FROM {identifier(part)}' for part in parts)})"
    if view:
        connection.execute(f"CREATE VIEW {identifier(name)} AS FROM {rows}")
    return identifier(name) if view else rows


def identifier(name: str) -> str:
    """The name of a table or column in SQL."""
    return f'"{name.replace(chr(34), chr(34) * 2)}"'
