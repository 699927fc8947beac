"""Files of memexp's own tables as it reads them again: with the columns that it wrote, and nothing that it cannot have.

rows = known_rows(store, "sweeps")
table = known(store, "stages", name)        # with all columns, those of later versions NULL

A store may be anybody's to write to; what does not fit is named, not read.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from memexp.errors import StoreError, one_line
from memexp.records import BARE, NEEDED, SINCE_STAGES, misfit
from memexp.store.store import Store
from memexp.store.threads import threaded

__all__ = ["known", "known_rows"]

FIRST, LAST = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The years 1 to 9999 in microseconds, which are all that Python has."""


def known(store: Store, kind: str, name: str) -> pa.Table:
    """One file of ``stages/``, ``sweeps/`` or ``searches/``. Raises StoreError naming it where it does not fit."""
    table = store.read(kind, name)
    complaint = None if table.schema.equals(BARE[kind]) else misfit(table.schema, BARE[kind], SINCE_STAGES)
    complaint = complaint or _unlike(kind, table)
    if complaint is not None:
        path = store.path(kind, name)
        raise StoreError(f"{path}: {complaint}, so memexp has not written it as it is; move it out of the store")
    return table


def known_rows(store: Store, kind: str) -> list[dict[str, Any]]:
    """The rows of all files of ``sweeps/`` or ``searches/``, by name of the file. Raises what `known` raises."""
    tables = threaded(lambda name: known(store, kind, name), sorted(store.names(kind)))
    return [row for table in tables for row in table.to_pylist()]


def _unlike(kind: str, table: pa.Table) -> str | None:
    """What is in no file of memexp's, or None."""
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:  # a text that is no UTF-8
        return one_line(error, 160)
    for name in NEEDED[kind]:
        column = table.column(name)
        if column.null_count:
            return f"column {name!r} is NULL in a row"
        if pa.types.is_timestamp(column.type) and not _within(column):
            return f"column {name!r} is out of range in a row"
        if pa.types.is_list(column.type) and pc.list_flatten(column).null_count:
            return f"column {name!r} holds NULL in a row"
    return None


def _within(column: pa.ChunkedArray) -> bool:
    ends = pc.min_max(column.cast(pa.int64())).as_py()
    return ends["min"] is None or (ends["min"] >= FIRST and ends["max"] <= LAST)
