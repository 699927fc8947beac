"""An export of a store in few large files, for questions about many conditions at once.

    memexp compact --store results               # writes results-compacted
    memexp query --store results-compacted "SELECT model, exposures, avg(f1) FROM qa GROUP BY ALL"

The export is itself a store, for reading: a folder for each kind, rows as they were, in each file the columns of all,
sorted by model, exposures, learning rate and so on. Nothing in the store is changed. `export.json` beside the kinds
lists the store's files that are in it, and its own.

An export appears whole: it is written to a hidden folder beside its place and renamed. An older export of the same
store changes places with the new one in a single step where the system can (Linux, renameat2), else in two renames.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp import __version__
from memexp.errors import StoreError
from memexp.identity import identity
from memexp.records import METADATA
from memexp.report.progress import counted
from memexp.store import EXPORT, Store
from memexp.store.folder import STALE, sync
from memexp.store.medium import explained
from memexp.store.unified import with_columns

__all__ = ["Export", "compact", "default_target"]

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
THREADS = 8


@dataclass(frozen=True)
class Export:
    """What `compact` wrote or found."""

    target: str
    sources: int
    """Files of the store."""
    rows: int
    files: int
    new: bool
    """False: the export was up to date and is as it was."""


def default_target(store: Store) -> str:
    """``STORE-compacted`` beside a local store, in the current folder for one in object storage."""
    root = store.location if store.is_local else store.location.rpartition("/")[2]
    return f"{root}-compacted"


def compact(store: Store, target: str | None = None) -> Export:
    """Export `store` to the local folder `target`.

    Raises:
        StoreError: the store is empty or a file of it broken, or `target` cannot be written, lies in the store, or is
            anything but empty or an untouched export of this store. Then `target` is as it was.
    """
    out = Path(os.path.abspath(os.path.expanduser(target or default_target(store))))
    _check_apart(store, out)
    sources = {kind: sorted(store.names(kind)) for kind in store.kinds()}
    if not sources:
        raise StoreError(f"{store.location}: the store is empty")
    older = _older(store, out)
    stamps = {kind: store.stamp(kind) for kind in sources}
    if older is not None and older.get("stamps") == stamps:
        return _export(out, older, new=False)
    made = {
        "store": store.location,
        "memexp": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": 0,
        "files": {},
        "sources": sources,
        "stamps": stamps,
    }
    with explained(f"write {out}"), _hidden_beside(out) as folder:
        for kind, names in sources.items():
            _write_kind(store, kind, names, folder, made)
        with open(folder / EXPORT, "w", encoding="utf-8") as file:
            json.dump(made, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync(folder)
        _publish(folder, out)
    return _export(out, made, new=True)


def _export(out: Path, made: dict[str, Any], new: bool) -> Export:
    sources = sum(len(names) for names in made["sources"].values())
    return Export(str(out), sources, made["rows"], len(made["files"]), new)


# ---------------------------------------------------------------------------------------------------------
# Where it goes


def _check_apart(store: Store, out: Path) -> None:
    if not store.is_local:
        return
    real, root = out.resolve(), Path(store.location).resolve()
    if real.is_relative_to(root) or root.is_relative_to(real):
        raise StoreError(f"{out}: an export is kept outside of the store {store.location}; name another --out")


def _older(store: Store, out: Path) -> dict[str, Any] | None:
    """What an older export of `store` says of itself, or None where `out` is free."""
    with explained(f"read {out}"):
        if not out.exists() or (out.is_dir() and not any(out.iterdir())):
            return None
        found = _manifest(out)
        files = {path.relative_to(out).as_posix(): path.stat().st_size for path in out.rglob("*") if path.is_file()}
    files.pop(EXPORT, None)
    if found is None:
        raise StoreError(f"{out}: exists and is no export; empty it or name another --out")
    if found["store"] != store.location:
        raise StoreError(f"{out}: is an export of {found['store']}; delete it or name another --out")
    if strange := sorted(files.items() ^ found["files"].items()):
        raise StoreError(f"{out}: {strange[0][0]} is not as it was exported; delete the export or name another --out")
    return found


def _manifest(out: Path) -> dict[str, Any] | None:
    try:
        found = json.loads((out / EXPORT).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    whole = isinstance(found, dict) and {"store", "rows", "files", "sources"} <= found.keys()
    return found if whole else None


@contextmanager
def _hidden_beside(out: Path) -> Iterator[Path]:
    """A new folder in the file system of `out`; what is in it afterwards is deleted."""
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.compacting-"
    for left_over in out.parent.glob(f"{prefix}*"):
        if time.time() - left_over.stat().st_mtime > STALE:
            shutil.rmtree(left_over, ignore_errors=True)
    folder = out.parent / f"{prefix}{uuid.uuid4().hex}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _publish(folder: Path, out: Path) -> None:
    """Give `folder` the name `out`; an older export takes the name of `folder`."""
    try:
        os.rename(folder, out)  # onto nothing or an empty folder
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
        if not _exchanged(folder, out):
            aside = folder.with_name(f"{folder.name}-older")
            os.rename(out, aside)
            try:
                os.rename(folder, out)
            except BaseException:
                os.rename(aside, out)
                raise
            os.rename(aside, folder)
    sync(out.parent)


def _exchanged(one: Path, other: Path) -> bool:
    """Let two folders change names in one step; False where system or file system cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0


# ---------------------------------------------------------------------------------------------------------
# The rows


def _write_kind(store: Store, kind: str, names: Sequence[str], folder: Path, made: dict[str, Any]) -> None:
    """Write all rows of `kind` and enter the files in `made`. Every file of the store is read twice: for its columns
    and rank in the order, and for its rows."""
    schemas: list[pa.Schema] = []
    order: list[tuple[list[tuple[int, Any]], str]] = []
    told: dict[bytes, bytes] = {}
    for name, table in zip(names, counted(_read(store, kind, names), f"of {kind} looked at", len(names)), strict=True):
        if not any(table.schema.equals(known) for known in schemas):
            schemas.append(table.schema)
        if METADATA in (table.schema.metadata or {}):
            told = {METADATA: table.schema.metadata[METADATA]}
        order.append((_rank(table), name))
    schema = store.unified(kind, schemas)
    ordered = [name for _, name in sorted(order)]
    tables = counted(_read(store, kind, ordered), f"of {kind} exported", len(names))
    # A name of its own for each content: a reader that meets two exports never mixes them.
    writer = _Writer(folder / kind, f"{kind}-{identity(made['stamps'])}", schema.with_metadata(told or None))
    for group in _groups(with_columns(table, schema) for table in tables):
        writer.write(group)
        made["rows"] += group.num_rows
    made["files"] |= {f"{kind}/{path.name}": path.stat().st_size for path in writer.close()}


def _read(store: Store, kind: str, names: Sequence[str]) -> Iterator[pa.Table]:
    """Tables in the order of `names`, a few at a time."""
    left = iter(names)
    with ThreadPoolExecutor(THREADS) as pool:
        while some := list(islice(left, READ_AT_ONCE)):
            yield from pool.map(lambda name: store.read(kind, name), some)


def _rank(table: pa.Table) -> list[tuple[int, Any]]:
    """Where a file comes in the order: by its first row; columns that it has not, and NULL, come first."""
    first = table.slice(0, 1)
    values = [first[name][0].as_py() if name in first.column_names and first.num_rows else None for name in SORTED_BY]
    return [_comparable(value) for value in values]


def _comparable(value: Any) -> tuple[int, Any]:
    """A key that any two values of a column have an order by, also if their files disagree on its type."""
    if value is None:
        return 0, 0
    return (1, value) if isinstance(value, int | float) else (2, str(value))


def _groups(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
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
        folder.mkdir()
        self.folder, self.stem, self.schema = folder, stem, schema
        self.paths: list[Path] = []
        self.open: pq.ParquetWriter | None = None

    def write(self, group: pa.Table) -> None:
        if self.open is None:
            self.paths.append(self.folder / f"{self.stem}-{len(self.paths):03d}.parquet")
            self.open = pq.ParquetWriter(
                self.paths[-1], self.schema, compression="zstd", use_dictionary=True, write_page_checksum=True
            )
        self.open.write_table(group, row_group_size=max(1, group.num_rows))
        if self.paths[-1].stat().st_size >= FILE_BYTES:
            self.close()

    def close(self) -> list[Path]:
        """End the file and make it durable; all paths so far."""
        if self.open is not None:
            self.open.close()
            self.open = None
            for path in (self.paths[-1], self.folder):
                sync(path)
        return self.paths
