"""What of an older export can stay as it is, and what is new in the store since: `memexp compact --incremental`.

    parts = extended(store, "recognition", sources, older_parts, out, folder)

Files of the older export are linked into the new one, which then appears whole like any other: whoever kills this loses
what is hidden beside the export and nothing else. A part of which a file of the store is gone or was made anew is made
anew itself. Small parts are joined once there are many of them, from the export's own files.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.exchange.exported import Part, differing, rank, told, written
from memexp.report.progress import counted
from memexp.store import Store
from memexp.store.threads import threaded
from memexp.store.unified import with_columns

__all__ = ["ReplacedError", "extended"]

AT_ONCE = 2_000
"""Small files of the store in memory at a time: they are put in order, and become a part."""
SMALL = 16 << 20
"""Bytes of a part that is worth joining with others."""
MANY = 24
"""So many small parts of a kind are joined: each costs a query its time to open."""


class ReplacedError(Exception):
    """Somebody else has replaced the older export meanwhile."""


def extended(
    store: Store, kind: str, sources: Mapping[str, str], older: Sequence[Part], out: Path, folder: Path
) -> list[Part]:
    """Put an export of `kind` in `folder`: what the older one in `out` has, as far as it holds, and what is new.

    Args:
        store: what is exported.
        kind: a kind of it.
        sources: its files, each with what changes when it is made anew.
        older: the parts in `out`.
        out: the older export.
        folder: the new one.
    """
    kept = [part for part in older if part.sources.items() <= sources.items()]
    (folder / kind).mkdir()
    small = [part for part in kept if sum(part.files.values()) < SMALL]
    joined = small if len(small) > MANY else []
    parts = [part for part in kept if part not in joined]
    for part in kept:
        for path in part.files:
            _link(out / path, folder / path)
    if joined:
        parts.append(_join(store, joined, folder))
    known = {name for part in kept for name in part.sources}
    new = sorted(sources.keys() - known)
    chunks = [new[at : at + AT_ONCE] for at in range(0, len(new), AT_ONCE)]
    for names in counted(chunks, f"of {kind} exported, {AT_ONCE} at a time", len(chunks)):
        parts.append(_new(store, kind, {name: sources[name] for name in names}, folder))
    return parts


def _new(store: Store, kind: str, sources: dict[str, str], folder: Path) -> Part:
    """A part with these files of the store, each read once."""
    read = threaded(lambda name: (name, store.read(kind, name)), sources)
    tables = [table for _, table in sorted(read, key=lambda item: (rank(item[1]), item[0]))]
    schemas = differing([], (table.schema for table in tables))
    schema = store.unified(kind, schemas)
    same = (with_columns(table, schema) for table in tables)
    return written(folder, kind, _stem(kind), same, schema.with_metadata(told(schemas)), sources)


def _join(store: Store, parts: Sequence[Part], folder: Path) -> Part:
    """One part in the place of several, in their order."""
    kind, files = parts[0].kind, [folder / path for part in parts for path in part.files]
    schemas = differing([], map(pq.read_schema, files))
    schema = store.unified(kind, schemas)

    def tables() -> Iterator[pa.Table]:
        for path in files:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    yield with_columns(file.read_row_group(group, use_threads=False), schema)

    sources = {name: stamp for part in parts for name, stamp in part.sources.items()}
    joined = written(folder, kind, _stem(kind), tables(), schema.with_metadata(told(schemas)), sources)
    for path in files:
        path.unlink()
    return joined


def _stem(kind: str) -> str:
    """A name for new files: a reader that meets two exports never mixes them."""
    return f"{kind}-{uuid.uuid4().hex[:16]}"


def _link(old: Path, new: Path) -> None:
    """The same file once more; a copy where the file system has no links."""
    try:
        os.link(old, new)
    except FileNotFoundError as error:
        raise ReplacedError(str(old)) from error
    except OSError:
        shutil.copyfile(old, new)
