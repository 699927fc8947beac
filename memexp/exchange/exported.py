"""The files of an export: rows of many small files in few large ones.

    part = written(folder, "recognition", "recognition-0123", tables, schema)

A part of an export is what was written in one go: some files of one kind, with what they were made of.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.records import METADATA
from memexp.store import Store
from memexp.store.folder import sync
from memexp.store.seal import close_to_seal, seal_file, to_be_sealed
from memexp.store.threads import THREADS

__all__ = ["Part", "differing", "rank", "read_in_order", "told", "written"]

SORTED_BY = (
    *("sweep", "started", "model", "method", "experiment", "exposures", "lr", "batch_size", "seed"),
    *("forget_side", "forget_layer", "restudy_exposures", "retention_steps"),
)
"""Columns by which files are put in order, where they have them; the rows of a file stay together and in order."""
GROUP_ROWS = 1 << 17
GROUP_BYTES = 128 << 20
"""A row group ends at either: DuckDB's threads take one each, and one has to fit in memory."""
FILE_BYTES = 128 << 20
"""A file ends beyond it: `Store.verify` has several whole ones in memory."""
READ_AT_ONCE = 64
"""Small files of the store in memory at a time."""


@dataclass
class Part:
    """Files of one kind that were written in one go."""

    kind: str
    files: dict[str, int]
    """Their bytes, by path in the export."""
    rows: int
    sources: dict[str, str] = field(default_factory=dict)
    """What is in them: the names of the store's files, each with what changes when it is made anew."""


def differing(known: list[pa.Schema], schemas: Iterable[pa.Schema]) -> list[pa.Schema]:
    """`known` and those of `schemas` that differ from all before them, in columns or in what `told` looks at."""
    for schema in schemas:
        said = (schema.metadata or {}).get(METADATA)
        kept = schema.with_metadata(None if said is None else {METADATA: said})
        if not any(kept.equals(other, check_metadata=True) for other in known):
            known.append(kept)
    return known


def told(schemas: Iterable[pa.Schema]) -> dict[bytes, bytes] | None:
    """What the last of these says of the probe that measured, which is kept; nothing else that they say is."""
    found = [schema.metadata[METADATA] for schema in schemas if METADATA in (schema.metadata or {})]
    return {METADATA: found[-1]} if found else None


def read_in_order(store: Store, kind: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Tables in the order of `names`, a few at a time."""
    left = iter(names)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(left, READ_AT_ONCE)):
            yield from pool.map(lambda name: store.read(kind, name), some)


def rank(table: pa.Table) -> list[tuple[int, Any]]:
    """Where a file comes in the order: by its first row; columns that it has not, and NULL, come first."""
    first = table.slice(0, 1)
    values = [first[name][0].as_py() if name in first.column_names and first.num_rows else None for name in SORTED_BY]
    return [_comparable(value) for value in values]


def _comparable(value: Any) -> tuple[int, Any]:
    """A key that any two values of a column have an order by, also if their files disagree on its type."""
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def written(
    folder: Path, kind: str, stem: str, tables: Iterable[pa.Table], schema: pa.Schema, sources: Mapping[str, str]
) -> Part:
    """Write `tables`, which have this schema, to files of `kind` that begin with `stem`."""
    writer, rows = _Writer(folder / kind, stem, schema), 0
    for group in _groups(tables):
        writer.write(group)
        rows += group.num_rows
    files = {f"{kind}/{path.name}": path.stat().st_size for path in writer.close()}
    return Part(kind, files, rows, dict(sources))


def _groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables joined to the size of row groups."""
    kept: list[pa.Table] = []
    rows = size = 0
    for table in tables:
        kept.append(table)
        rows, size = rows + table.num_rows, size + table.nbytes
        if rows >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.concat_tables(kept).combine_chunks()
            kept, rows, size = [], 0, 0
    if kept:
        yield pa.concat_tables(kept).combine_chunks()


class _Writer:
    """Row groups into files of a bounded size."""

    def __init__(self, folder: Path, stem: str, schema: pa.Schema) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.stem, self.schema = folder, stem, schema
        self.paths: list[Path] = []
        self.open: pq.ParquetWriter | None = None

    def write(self, group: pa.Table) -> None:
        if self.open is None:
            self.paths.append(self.folder / f"{self.stem}-{len(self.paths):03d}.parquet")
            self.open = to_be_sealed(self.paths[-1], self.schema)
        self.open.write_table(group, row_group_size=max(1, group.num_rows))
        if self.paths[-1].stat().st_size >= FILE_BYTES:
            self.close()

    def close(self) -> list[Path]:
        """End the file and make it durable; all paths so far."""
        if self.open is not None:
            close_to_seal(self.open)
            self.open = None
            seal_file(self.paths[-1])
            for path in (self.paths[-1], self.folder):
                sync(path)
        return self.paths
