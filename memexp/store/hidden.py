"""Files beside the results of a store, in hidden folders: heartbeats, snapshots.

store.put_text(".running/sweep.json", "{}")
with store.open(".snapshots/0123456789abcdef/1-2/data", "wb") as stream: ...
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Literal, cast

from memexp.errors import StoreError, writable
from memexp.store.bucket import Bucket
from memexp.store.folder import TEMPORARY, Folder
from memexp.store.medium import Medium, explained

__all__ = ["EXPORT", "HiddenFiles"]

EXPORT = "export.json"
"""What the folder of an export has in it besides kinds: where it comes from (compact.py)."""


class HiddenFiles:
    """The part of a `memexp.store.Store` that holds no results."""

    location: str
    """Absolute path, or URL without a trailing slash."""
    is_local: bool
    """Whether it is a path of this machine, so that other nodes may not see it."""

    @functools.cached_property
    def _medium(self) -> Medium:
        with explained(f"open store {self.location}"):
            return Folder(self.location) if self.is_local else Bucket(self.location)

    @contextmanager
    def without_trace(self) -> Iterator[None]:
        """Where the context is left and no file is in a store whose folder was made in it, the folder goes as well."""
        try:
            yield
        finally:
            if self.is_local:
                cast(Folder, self._medium).vacate()

    def is_export(self) -> bool:
        """Whether this is an export (compact.py), which has the rows but not the files of its store."""
        with explained(f"read {self.location}"), suppress(FileNotFoundError):
            self._medium.size(EXPORT)
            return True
        return False

    def check_no_export(self) -> None:
        """Raise `StoreError` if this is an export."""
        if self.is_export():
            raise StoreError(f"{self.location} is an export, for query and verify only; name the store it was made of")

    def put_text(self, path: str, text: str) -> None:
        """Write or replace a side file such as ``.running/<name>.json``; readers see the old text or the new."""
        with explained(f"write {self.location}/{path}"):
            self._medium.replace(_side(path), writable(text).encode())

    def get_text(self, path: str) -> str | None:
        """The text of a side file, or None where there is none; what in it is no UTF-8 is a mark."""
        with explained(f"read {self.location}/{path}"), suppress(FileNotFoundError):
            return self._medium.read(_side(path)).decode(errors="replace")
        return None

    def list_text(self, prefix: str) -> list[str]:
        """The paths of side files that begin with `prefix`, such as ``.running/``, sorted."""
        folder = _side(f"{prefix.rpartition('/')[0] or prefix}/any").removesuffix("/any")
        with explained(f"list {self.location}/{prefix}"):
            return sorted(path for path in self._medium.walk(folder) if path.startswith(prefix))

    @contextmanager
    def open(self, path: str, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
        """A large side file as a stream, to be read in any order or written from the beginning to the end.

        While it is written it may be seen in part: another side file says afterwards that it is whole.
        """
        doing = "read" if mode == "rb" else "write"
        with explained(f"{doing} {self.location}/{path}"), self._medium.stream(_side(path), mode) as stream:
            yield stream

    def size(self, path: str) -> int | None:
        """Bytes of a side file, or None where there is none."""
        with explained(f"read {self.location}/{path}"), suppress(FileNotFoundError):
            return self._medium.size(_side(path))
        return None

    def delete(self, path: str) -> None:
        """Remove a side file if it is there."""
        with explained(f"delete {self.location}/{path}"), suppress(FileNotFoundError):
            self._medium.delete(_side(path))


def _side(path: str) -> str:
    parts = path.split("/")
    if len(parts) < 2 or parts[0][:1] != "." or any(part in ("", ".", "..", TEMPORARY) for part in parts):
        raise StoreError(f"{path!r} cannot be a side file: use a hidden folder, as in '.running/name.json'")
    return path
