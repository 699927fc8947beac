"""Settings of results without reading their rows: what is the same in all rows of a file, its footer says.

settings_of(connection, "recall", store.datasets("recall"), rows, key)    # {key of a result: {"model": "gpt2", ...}}
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from memexp.probes.constant import constant_columns
from memexp.records import SETTINGS
from memexp.store.closed import give, identifier

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["settings_of"]

Settings = dict[str, Any]

UNSAID = {
    "optimizer": ("lr", "adamw"),
    "presentation": ("lr", "massed"),
    "pretrain_optimizer": ("pretrain_lr", "adamw"),
    "then_optimizer": ("then_lr", "adamw"),
    "further_batches": ("lr", 0),
    "interference_replay": ("interference_lr", 0.0),
    "interference_protect_strength": ("interference_lr", 0.0),
    "unlearn_loss": ("lr", "none"),
    "unlearn_optimizer": ("unlearn_lr", "adamw"),
}
"""What NULL stands for in columns that came later, where another is not NULL."""


def settings_of(
    connection: duckdb.DuckDBPyConnection, kind: str, tables: Sequence[pa.Table | ds.FileSystemDataset], key: str
) -> dict[int, Settings]:
    """What is constant in the rows of each result, without what is NULL, by the key of the result.

    `key` is SQL over the columns of the kind.
    """
    found: list[Settings] = []
    mixed: list[Any] = []
    for table in tables:
        names = constant_columns(kind, table.schema.names)
        if isinstance(table, pa.Table):
            mixed.append(table)
            continue
        fragments = list(table.get_fragments())
        said = [_said(fragment, names) for fragment in fragments]
        found += [settings for settings in said if settings is not None]
        rest = [fragment for fragment, settings in zip(fragments, said, strict=True) if settings is None]
        if rest:
            mixed.append(type(table)(rest, table.schema, table.format, table.filesystem))
    by_key = dict(zip(_keys(connection, found, key), found, strict=True))
    for table in mixed:
        by_key |= dict(_read(connection, table, constant_columns(kind, table.schema.names), key))
    for settings in by_key.values():
        for name, (beside, value) in UNSAID.items():
            if beside in settings:
                settings.setdefault(name, value)
    return by_key


def _said(fragment: ds.ParquetFileFragment, names: Sequence[str]) -> Settings | None:
    """What the footer of a file says of columns, None where one of them is not constant or is not told."""
    metadata = fragment.metadata
    if not metadata.num_rows:
        return None
    places = {name: at for at, name in enumerate(metadata.schema.names)}
    if len(places) < len(metadata.schema.names):  # the values of lists are all called alike
        places = {metadata.schema.column(at).path: at for at in range(len(metadata.schema.names))}
    found: Settings = {}
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for name in names:
            told = group.column(places[name]).statistics
            if told is None:
                return None
            if told.has_min_max:
                if told.min != told.max or told.null_count or (number and found.get(name) != told.min):
                    return None
                found[name] = told.min + 0.0 if isinstance(told.min, float) else told.min  # a footer has -0.0 for 0
            elif told.null_count != group.num_rows or name in found:
                return None
    return found


def _keys(connection: duckdb.DuckDBPyConnection, found: Sequence[Settings], key: str) -> list[int]:
    if not found:
        return []
    columns = dict.fromkeys(name for settings in found for name in settings)
    ids = pa.table({name: [settings.get(name) for settings in found] for name in (*columns,)})
    for field in SETTINGS:
        if field.name not in ids.column_names:
            ids = ids.append_column(field, pa.nulls(len(found), field.type))
    connection.register("footers", ids)
    return [value for (value,) in connection.execute(f"SELECT {key} FROM footers").fetchall()]


def _read(
    connection: duckdb.DuckDBPyConnection, table: pa.Table | ds.Dataset, names: Sequence[str], key: str
) -> Iterator[tuple[int, Settings]]:
    rows = give(connection, "mixed", [table])
    columns = ", ".join(f"any_value({identifier(name)})" for name in names)
    for value, *rest in connection.execute(f"SELECT {key}, {columns} FROM {rows} GROUP BY 1").fetchall():
        yield value, {name: cell for name, cell in zip(names, rest, strict=True) if cell is not None}
