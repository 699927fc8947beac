"""Files of Parquet that are damaged, or that nobody of this project wrote: refused with a line that names them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from memexp.code_columns import code_column
from memexp.errors import StoreError, one_line

__all__ = ["broken", "named", "plain"]

_UNREADABLE = (pa.ArrowException, OSError, ValueError, OverflowError, MemoryError)
"""What pyarrow raises about a damaged file, whose names may be no text and whose lengths anything."""


@contextmanager
def named(path: str, is_near: bool = True) -> Iterator[None]:
    """Turn what a damaged file raises into a StoreError that names it; not what the way to it raises.

    `is_near`: there is no network in between, whose errors look like those of a file.
    """
    try:
        yield
    except _UNREADABLE as error:
        if isinstance(error, OSError) and (error.errno is not None or not is_near):
            raise
        raise StoreError(f"cannot read {path}: {broken(one_line(error, 160))}") from error


def plain(path: str, schema: pa.Schema) -> pa.Schema:
    """`schema` of the file `path`, which may be looked at.

    Raises:
        UnicodeDecodeError: a name is no text.
        StoreError: looking at a column would execute something.
    """
    for field in schema:
        _ = field.name
    if column := code_column(schema):
        raise StoreError(f"cannot read {path}: {column}; delete it")
    return schema


def broken(detail: str) -> str:
    return f"broken ({detail}); delete it and start the sweep again"
