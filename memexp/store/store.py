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

import functools
import os
import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.errors import StoreError
from memexp.store.damage import broken, named, plain
from memexp.store.hidden import HiddenFiles
from memexp.store.medium import Listed, explained
from memexp.store.seal import check_seal, sealed
from memexp.store.threads import threaded
from memexp.store.unified import unified, with_columns
from memexp.store.whole import Whole

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["Problem", "Store", "Verification", "default_store", "option_for"]

SUFFIX = ".parquet"


Check = Callable[[str, pa.Schema], str | None]
"""What is wrong with the columns of a file of a kind, in the eyes of whoever asks."""


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
        if "\\" in self.location:
            raise StoreError(
                f"store {self.location!r}: DuckDB would take '\\' for '/' and find nothing; name it otherwise"
            )
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
        data = sealed(table)
        with explained(f"write {path}"):
            return self._medium.create(key, data)

    def exists(self, kind: str, name: str) -> bool:
        """Whether the name is taken, also by a broken file: it is not missing, and `check_whole` tells."""
        with explained(f"read {self.path(kind, name)}"), suppress(FileNotFoundError):
            self._medium.size(_key(kind, name))
            return True
        return False

    def names(self, kind: str, prefix: str = "") -> set[str]:
        """Names that begin with `prefix`, without ``.parquet``; as with `exists`, contents are not looked at."""
        begin = f"{_plain(kind)}/{prefix}"
        with explained(f"list {self.path(kind)}"):
            return {name for key in self._medium.walk(kind, begin if prefix else "") if (name := _name(begin, key))}

    def listed(self, kind: str, prefix: str = "") -> dict[str, Listed]:
        """What a listing tells of the files of `kind` whose names begin with `prefix`, by name."""
        begin = f"{_plain(kind)}/{prefix}"
        with explained(f"list {self.path(kind)}"):
            found = self._medium.listed(kind, begin if prefix else "")
            return {name: file for file in found if (name := _name(begin, file.key))}

    def kinds(self) -> list[str]:
        """The kinds that have at least one file, sorted."""
        with explained(f"list store {self.location}"):
            folders = [folder for folder in self._medium.folders() if _NAME.fullmatch(folder)]
            return sorted(
                folder for folder in folders if any(_name(f"{folder}/", key) for key in self._medium.walk(folder))
            )

    def read(self, kind: str, name: str, wanted: Callable[[str], bool] | None = None) -> pa.Table:
        """One file, or its columns that are `wanted`. Raises `StoreError` naming it when it is missing or broken."""
        with self._opened(kind, name) as file:
            columns = None if wanted is None else [column for column in file.schema_arrow.names if wanted(column)]
            return file.read(columns, use_threads=False)

    def schema(self, kind: str, name: str) -> pa.Schema:
        """Columns and metadata of one file; of a local one only its end is read. Raises `StoreError` as `read` does."""
        if not self.is_local:
            with self._opened(kind, name) as file:
                return file.schema_arrow
        path = self.path(kind, name)
        with explained(f"read {path}"), named(path):
            return plain(path, pq.read_schema(path))

    @contextmanager
    def _opened(self, kind: str, name: str) -> Iterator[pq.ParquetFile]:
        path = self.path(kind, name)
        with explained(f"read {path}"):
            data = self._medium.read(_key(kind, name))
        with named(path):
            check_seal(data)
            with pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True) as file:
                plain(path, file.schema_arrow)
                yield file

    def scan(self, kind: str) -> pa.Table | None:
        """All files of `kind` as one table in the order of their names, or None where there are none.

        Columns are matched by name as by DuckDB's union_by_name: absent ones are NULL, types that differ are widened
        (truth value to number, integer to float, else to string). Files are fetched whole, one request each; `dataset`
        reads selectively.
        """
        names = sorted(self.names(kind))
        if not names:
            return None
        tables = threaded(lambda name: self.read(kind, name), names)
        schema = self.unified(kind, (table.schema for table in tables))
        return pa.concat_tables([with_columns(table, schema) for table in tables]).combine_chunks()

    def dataset(self, kind: str) -> ds.Dataset | None:
        """All files of `kind` as a lazy `pyarrow.dataset` with the columns of `scan`, or None where there are none."""
        found = self.datasets(kind)
        if not found:
            return None
        schema = self.unified(kind, (one.schema for one in found), exact=True)
        fragments = [fragment for one in found for fragment in one.get_fragments()]
        return type(found[0])(fragments, schema, found[0].format, found[0].filesystem)

    def datasets(self, kind: str, names: Iterable[str] | None = None) -> list[ds.FileSystemDataset]:
        """Files of `kind`, by default all, as lazy datasets: one for those with the same columns, as they stand."""
        import pyarrow.dataset as ds  # slow to import, and needed here only

        chosen = sorted(self.names(kind) if names is None else names)
        # On a disk it costs more to fetch what lies between two columns than to ask twice.
        options = ds.ParquetFragmentScanOptions(pre_buffer=not self.is_local, page_checksum_verification=True)
        parquet = ds.ParquetFileFormat(default_fragment_scan_options=options)
        with explained(f"read {self.path(kind)}"):
            filesystem, base = self._medium.filesystem()
            files = [parquet.make_fragment(f"{base}/{_key(kind, name)}", filesystem) for name in chosen]
            known: set[pa.Schema] = set()
            schemas = threaded(lambda file: _columns(self, kind, file, known), files)
            same: dict[pa.Schema, list[ds.Fragment]] = {}
            for file, schema in zip(files, schemas, strict=True):
                same.setdefault(schema, []).append(file)
            return [ds.FileSystemDataset(few, schema, parquet, filesystem) for schema, few in same.items()]

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

    def check_whole(self, kind: str, names: Iterable[str], listed: Mapping[str, Listed] | None = None) -> None:
        """Raise `StoreError` for the first of `names` that is missing or cut off; see `memexp.store.whole`.

        `listed`: what `listed` has just told.
        """
        listed = self.listed(kind) if listed is None else listed
        wanted = sorted(names)
        for name in wanted:
            if name not in listed:
                raise StoreError(f"cannot read {self.path(kind, name)}: no such file")
        with explained(f"read {self.path(kind)}"):
            found = self._whole.broken([listed[name] for name in wanted])
        for key, detail in found.items():
            raise StoreError(f"cannot read {self.location}/{key}: {broken(detail)}")

    def remove(self, kind: str, name: str) -> None:
        """Remove a result that somebody has asked to be removed; it may be gone already. Nothing else removes any."""
        with explained(f"delete {self.path(kind, name)}"), suppress(FileNotFoundError):
            self._medium.delete(_key(kind, name))

    @functools.cached_property
    def _whole(self) -> Whole:
        return Whole(self._medium, self.location, self.is_local)

    def verify(self, check: Check | None = None) -> Verification:
        """Read every file to its last page. `check(kind, schema)` returns a complaint about the columns, or None."""
        files = [(kind, name) for kind in self.kinds() for name in sorted(self.names(kind))]
        found = threaded(lambda file: _verified(self, *file, check), files)
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


def _columns(store: Store, kind: str, file: ds.Fragment, known: set[pa.Schema]) -> pa.Schema:
    """The columns of `file`, which are checked unless they are `known`."""
    path = store.path(kind, file.path.rpartition("/")[2].removesuffix(SUFFIX))
    with explained(f"read {path}"), named(path, store.is_local):
        schema = file.physical_schema.remove_metadata()
        try:
            new = schema not in known
        except TypeError:  # no hash: of a type of others' code, which is refused below
            new = True
        if new:
            known.add(plain(path, schema))
        return schema


def _verified(
    store: Store, kind: str, name: str, check: Callable[[str, pa.Schema], str | None] | None
) -> int | Problem:
    try:
        with store._opened(kind, name) as opened:
            for group in range(opened.num_row_groups):  # one at a time: those of an export are large
                opened.read_row_group(group, use_threads=False).validate(full=True)  # also that texts are text
    except StoreError as error:
        return Problem(kind, name, str(error).removeprefix(f"cannot read {store.path(kind, name)}: "))
    complaint = check(kind, opened.schema_arrow) if check else None
    return Problem(kind, name, complaint) if complaint else int(opened.metadata.num_rows)


def _name(begin: str, key: str) -> str | None:
    """The name of a file, None where its key does not begin with kind and prefix or it is none of the store's files."""
    if not key.startswith(begin) or not key.endswith(SUFFIX):
        return None
    name = key.partition("/")[2].removesuffix(SUFFIX)
    return None if "/" in name or name.startswith(".") or not name else name
