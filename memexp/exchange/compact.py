"""An export of a store in few large files, for questions about many conditions at once.

    memexp compact --store results               # writes results-compacted
    memexp query --store results-compacted "SELECT model, exposures, avg(f1) FROM qa GROUP BY ALL"

The export is itself a store, for reading: a folder for each kind, rows as they were, in each file the columns of all,
sorted by model, exposures, learning rate and so on. Nothing in the store is changed. `export.json` beside the kinds
lists the store's files that are in it, and its own. With `--incremental` only what is new since is read: files are
added, each sorted in itself and with the columns of what it was made of.

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
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from memexp import __version__
from memexp.errors import StoreError
from memexp.exchange.exported import Part, differing, rank, read_in_order, told, written
from memexp.exchange.incremental import ReplacedError, extended
from memexp.identity import identity, parsed
from memexp.report.progress import counted
from memexp.store import EXPORT, Store
from memexp.store.folder import STALE, sync
from memexp.store.medium import explained
from memexp.store.unified import with_columns

__all__ = ["Export", "compact", "default_target"]

TRIES = 5
"""How often an export is begun again that others replaced while it was extended."""


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


def compact(store: Store, target: str | None = None, incremental: bool = False) -> Export:
    """Export `store` to the local folder `target`.

    Args:
        store: what is exported.
        target: where to, by default `default_target`.
        incremental: keep of an older export what is still in the store, and read only what is new (incremental.py).

    Raises:
        StoreError: the store is empty or a file of it broken, or `target` cannot be written, lies in the store, or is
            anything but empty or an untouched export of this store. Then `target` is as it was.
    """
    out = Path(os.path.abspath(os.path.expanduser(target or default_target(store))))
    _check_apart(store, out)
    for _ in range(TRIES):
        with suppress(ReplacedError):
            return _compact(store, out, incremental)
    raise StoreError(f"{out}: others replace this export all the time; try again")


def _compact(store: Store, out: Path, incremental: bool) -> Export:
    listed = {kind: store.listed(kind) for kind in store.kinds()}
    if not listed:
        raise StoreError(f"{store.location}: the store is empty")
    older = _older(store, out)
    stamps = {
        kind: identity(sorted([file.key, file.stamp] for file in files.values())) for kind, files in listed.items()
    }
    if older is not None and older.get("stamps") == stamps:
        return _export(out, older, new=False)
    with explained(f"write {out}"), _hidden_beside(out) as folder:
        parts = []
        for kind, files in listed.items():
            sources = {name: file.stamp for name, file in files.items()}
            if incremental:
                parts += extended(store, kind, sources, _parts(older, kind), out, folder)
            else:
                # A name of its own for each content: a reader that meets two exports never mixes them.
                parts.append(_whole_kind(store, kind, sources, f"{kind}-{identity(stamps)}", folder))
        made = _told(store, parts, stamps)
        with open(folder / EXPORT, "w", encoding="utf-8") as file:
            json.dump(made, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        sync(folder)
        _publish(folder, out)
    return _export(out, made, new=True)


def _told(store: Store, parts: Sequence[Part], stamps: dict[str, str]) -> dict[str, Any]:
    """What an export says of itself."""
    sources: dict[str, list[str]] = {}
    for part in parts:
        sources.setdefault(part.kind, []).extend(part.sources)
    return {
        "store": store.location,
        "memexp": __version__,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": sum(part.rows for part in parts),
        "files": {path: size for part in parts for path, size in part.files.items()},
        "sources": {kind: sorted(names) for kind, names in sources.items()},
        "stamps": stamps,
        "parts": [asdict(part) for part in parts],
    }


def _parts(older: dict[str, Any] | None, kind: str) -> list[Part]:
    """Those of an older export; none of one that memexp made before it knew of parts."""
    return [Part(**part) for part in (older or {}).get("parts", []) if part["kind"] == kind]


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
        found = parsed((out / EXPORT).read_text(encoding="utf-8"))
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


def _whole_kind(store: Store, kind: str, sources: dict[str, str], stem: str, folder: Path) -> Part:
    """Write all rows of `kind`. Every file of the store is read twice: for its columns and rank, and for its rows."""
    names = sorted(sources)
    schemas: list[pa.Schema] = []
    order: list[tuple[list[tuple[int, Any]], str]] = []
    tables = counted(read_in_order(store, kind, names), f"of {kind} looked at", len(names))
    for name, table in zip(names, tables, strict=True):
        differing(schemas, [table.schema])
        order.append((rank(table), name))
    schema = store.unified(kind, schemas)
    ordered = [name for _, name in sorted(order)]
    tables = counted(read_in_order(store, kind, ordered), f"of {kind} exported", len(names))
    same = (with_columns(table, schema) for table in tables)
    return written(folder, kind, stem, same, schema.with_metadata(told(schemas)), sources)
