"""Results as create-once Parquet files, ``STORE/<kind>/<name>.parquet``, in a local folder or in object storage.

The file is the commit: it appears whole or not at all and is never overwritten. So any number of writers may race
or die, and any tool that reads Parquet may look at any time:

    store = Store("results")  # or s3://bucket/prefix, gs://bucket/prefix
    store.check_writable()
    written = store.commit("recognition", name, table)  # False: somebody was first, and that file stands
    table = store.scan("recognition")

On object storage the usual environment variables hold endpoint and credentials: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID,
AWS_SECRET_ACCESS_KEY, AWS_REGION; GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.errors import StoreError, one_line
from memexp.identity import identity
from memexp.store.hidden import HiddenFiles
from memexp.store.medium import explained
from memexp.store.unified import unified, with_columns

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["EXPORT", "Problem", "Store", "Verification", "default_store", "option_for"]

T = TypeVar("T")
R = TypeVar("R")

SUFFIX = ".parquet"
EXPORT = "export.json"
"""What the folder of an export has in it besides kinds: where it comes from (compact.py)."""
THREADS = 16
"""Files read at a time."""


@dataclass(frozen=True)
class Problem:
    """A file that is not what it should be."""

    kind: str
    name: str
    message: str


@dataclass(frozen=True)
class Verification:
    """What `Store.verify` found; `rows` counts those of good files."""

    files: int
    rows: int
    problems: tuple[Problem, ...]


class Store(HiddenFiles):
    """Create-once Parquet files in one place. Making the object touches nothing; it pickles as its location."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        """`location`: a path, ``file://``, ``s3://bucket/prefix`` or ``gs://bucket/prefix``; else raises StoreError."""
        text = os.fspath(location)
        scheme, separator, rest = text.partition("://")
        parts = [part for part in rest.split("/") if part]
        if not text or (separator and (scheme not in ("file", "s3", "gs") or not parts)):
            raise StoreError(f"store {text!r}: give a path, s3://bucket/prefix or gs://bucket/prefix")
        self.is_local = not separator or scheme == "file"
        if any(mark in text for mark in "*?["):
            raise StoreError(f"store {text!r}: readers would take '*', '?' or '[' for a pattern; name it otherwise")
        if self.is_local:
            self.location = os.path.abspath(unquote(rest) if separator else os.path.expanduser(text))
        else:
            self.location = f"{scheme}://{'/'.join(parts)}"
        if columns := [part for part in self.location.split("/") if "=" in part]:
            raise StoreError(
                f"store {self.location!r}: DuckDB and others would take the folder {columns[0]!r} for a column and its "
                "value in every row; put the store elsewhere"
            )

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.location,)

    def __repr__(self) -> str:
        return f"Store({self.location!r})"

    def path(self, kind: str, name: str = "*") -> str:
        """Path or URL of a file, or the glob over all files of `kind`."""
        return f"{self.location}/{_plain(kind)}/{name if name == '*' else _plain(name)}{SUFFIX}"

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """Write `table` durably under a new name. False, and nothing changed, if the name was taken.

        Equal tables (schema metadata included) give equal bytes. On object storage False may also mean that our own
        first attempt arrived and only its answer was lost.

        Raises:
            StoreError: it cannot be written (full, read-only, no permission, no hard links); no part of it is visible.
        """
        path, key = self.path(kind, name), _key(kind, name)
        if len(set(table.column_names)) < table.num_columns:
            raise StoreError(f"cannot write {path}: two columns have the same name")
        sink = pa.BufferOutputStream()
        # Chunks with dictionaries of their own would show in the bytes; page checksums let verify find flipped bits.
        pq.write_table(table.combine_chunks(), sink, compression="zstd", use_dictionary=True, write_page_checksum=True)
        with explained(f"write {path}"):
            return self._medium.create(key, sink.getvalue().to_pybytes())

    def exists(self, kind: str, name: str) -> bool:
        """Whether the name is taken, also by a broken file: it is not missing, and `check_whole` tells."""
        with explained(f"read {self.path(kind, name)}"), suppress(FileNotFoundError):
            self._medium.size(_key(kind, name))
            return True
        return False

    def names(self, kind: str, prefix: str = "") -> set[str]:
        """Names that begin with `prefix`, without ``.parquet``; as with `exists`, contents are not looked at."""
        wanted = re.compile(rf"{re.escape(_plain(kind))}/({re.escape(prefix)}[^/]*){re.escape(SUFFIX)}")
        with explained(f"list {self.path(kind)}"):
            found = [match[1] for match in map(wanted.fullmatch, self._medium.walk(kind)) if match]
        return {name for name in found if not name.startswith(".")}

    def stamp(self, kind: str) -> str:
        """One hash over the files of `kind` as they are: another once one is added, or made anew under its old name."""
        with explained(f"list {self.path(kind)}"):
            return identity(sorted(map(list, self._medium.stamps(_plain(kind)))))

    def kinds(self) -> list[str]:
        """The kinds that have at least one file, sorted."""
        with explained(f"list store {self.location}"):
            folders = [folder for folder in self._medium.folders() if _NAME.fullmatch(folder)]
        return sorted(kind for kind in folders if self.names(kind))

    def read(self, kind: str, name: str) -> pa.Table:
        """One file. Raises `StoreError` naming it when it is missing, truncated or otherwise broken."""
        with self._opened(kind, name) as file:
            return file.read(use_threads=False)

    def schema(self, kind: str, name: str) -> pa.Schema:
        """Columns and metadata of one file; of a local one only its end is read. Raises `StoreError` as `read` does."""
        if not self.is_local:
            with self._opened(kind, name) as file:
                return file.schema_arrow
        path = self.path(kind, name)
        with explained(f"read {path}"):
            return pq.read_schema(path)

    @contextmanager
    def _opened(self, kind: str, name: str) -> Iterator[pq.ParquetFile]:
        path = self.path(kind, name)
        with explained(f"read {path}"):
            data = self._medium.read(_key(kind, name))
        try:
            with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise StoreError(f"cannot read {path}: {_broken(one_line(error, 160))}") from error

    def scan(self, kind: str) -> pa.Table | None:
        """All files of `kind` as one table in the order of their names, or None where there are none.

        Columns are matched by name as by DuckDB's union_by_name: absent ones are NULL, types that differ are widened
        (truth value to number, integer to float, else to string). Files are fetched whole, one request each; `dataset`
        reads selectively.
        """
        names = sorted(self.names(kind))
        if not names:
            return None
        tables = _threaded(lambda name: self.read(kind, name), names)
        schema = self.unified(kind, (table.schema for table in tables))
        return pa.concat_tables([with_columns(table, schema) for table in tables]).combine_chunks()

    def dataset(self, kind: str) -> ds.Dataset | None:
        """All files of `kind` as a lazy `pyarrow.dataset` with the columns of `scan`, or None where there are none."""
        import pyarrow.dataset as ds  # slow to import, and needed here only

        names = sorted(self.names(kind))
        if not names:
            return None
        parquet = ds.ParquetFileFormat()
        with explained(f"read {self.path(kind)}"):
            filesystem, base = self._medium.filesystem()
            paths = [f"{base}/{_key(kind, name)}" for name in names]
            schemas = _threaded(lambda path: parquet.inspect(path, filesystem), paths)
            return ds.dataset(paths, self.unified(kind, schemas, exact=True), format=parquet, filesystem=filesystem)

    def unified(self, kind: str, schemas: Iterable[pa.Schema], exact: bool = False) -> pa.Schema:
        """The columns of `scan` for files with these. Raises StoreError where one has a list for another's scalar.

        Names that differ in case are one column, as to SQL, unless they are taken `exact`; it has the first spelling.
        """
        return unified(f"read {self.path(kind)}", schemas, exact)

    def check_writable(self) -> None:
        """Create the store if need be, then write and remove a probe, so that what is wrong is known before any work.

        Raises:
            StoreError: it is read-only, full, forbidden or unreachable, cannot refuse a second commit, or is an export.
        """
        self.check_no_export()
        with explained(f"write to store {self.location}"):
            self._medium.check()

    def check_no_export(self) -> None:
        """Raise `StoreError` if this is an export (compact.py), which has the rows but not the files of its store."""
        with explained(f"read {self.location}"), suppress(FileNotFoundError):
            self._medium.size(EXPORT)
            raise StoreError(f"{self.location} is an export, for query and verify only; name the store it was made of")

    def check_whole(self, kind: str, names: Iterable[str]) -> None:
        """Raise `StoreError` for the first of `names` that is missing or cut off; reads a dozen bytes of each file."""

        def check(name: str) -> None:
            path, key = self.path(kind, name), _key(kind, name)
            with explained(f"read {path}"):
                size = self._medium.size(key)
                head, tail = (self._medium.read(key, at, at + 8) if size >= 12 else b"" for at in (0, size - 8))
            if head[:4] != b"PAR1" or tail[4:] != b"PAR1" or not 0 < int.from_bytes(tail[:4], "little") <= size - 12:
                raise StoreError(f"cannot read {path}: {_broken(f'{size} bytes, cut off or not Parquet')}")

        _threaded(check, names)

    def verify(self, check: Callable[[str, pa.Schema], str | None] | None = None) -> Verification:
        """Read every file to its last page. `check(kind, schema)` returns a complaint about the columns, or None."""

        def rows(file: tuple[str, str]) -> int | Problem:
            try:
                with self._opened(*file) as opened:
                    for group in range(opened.num_row_groups):  # one at a time: those of an export are large
                        opened.read_row_group(group, use_threads=False)
            except StoreError as error:
                return Problem(*file, str(error).removeprefix(f"cannot read {self.path(*file)}: "))
            complaint = check(file[0], opened.schema_arrow) if check else None
            return Problem(*file, complaint) if complaint else int(opened.metadata.num_rows)

        found = _threaded(rows, [(kind, name) for kind in self.kinds() for name in sorted(self.names(kind))])
        problems = tuple(item for item in found if isinstance(item, Problem))
        return Verification(len(found), sum(item for item in found if isinstance(item, int)), problems)


def default_store() -> str:
    """Where results go unless ``--store`` says otherwise: MEMEXP_STORE, else ``results`` in the current folder."""
    return os.environ.get("MEMEXP_STORE") or "results"


def option_for(store: Store) -> str:
    """What a command that is to be typed here needs to find `store`: ``--store ... ``, or nothing for the default."""
    with suppress(StoreError):  # of a MEMEXP_STORE that cannot be a store
        if Store(default_store()).location == store.location:
            return ""
    return f"--store {shlex.quote(store.location)} "


# ---------------------------------------------------------------------------------------------------------
# Small parts

_NAME = re.compile(r"[^./\\*?\[\]\x00-\x1f][^/\\*?\[\]\x00-\x1f]*")


def _plain(name: str) -> str:
    """`name`, if it can be a kind or a file name everywhere. Raises `StoreError` otherwise."""
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} cannot name a kind or a file: no '/', no '*', '?' or '[', no '.' in front")
    return name


def _key(kind: str, name: str) -> str:
    return f"{_plain(kind)}/{_plain(name)}{SUFFIX}"


def _threaded(work: Callable[[T], R], items: Iterable[T]) -> list[R]:
    """Results in the order of `items`; raises what the first failing one of them raised."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, items))


def _broken(detail: str) -> str:
    return f"broken ({detail}); delete it and start the sweep again"
