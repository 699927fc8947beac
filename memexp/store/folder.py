"""A store in a folder: files appear by hard link, so that none is seen in part or overwritten."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from memexp.errors import StoreError
from memexp.store.medium import PROBE, Listed

__all__ = ["STALE", "TEMPORARY", "Folder", "sync"]

TEMPORARY = ".tmp"
"""Folder of files being written. Beside the kinds, not in them: polars refuses a folder that holds anything else."""
STALE = 24 * 3600
"""Age in seconds at which the writer of a temporary is dead for certain; a live one needs it for a moment."""


class Folder:
    """A `memexp.store.medium.Medium`: a folder in a file system that has hard links."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)
        self._made: list[Path] = []
        """Folders that were not there before, each after the one it is in."""

    def vacate(self) -> None:
        """Remove what folders were made, the store's own among them, where no file came to be in any."""
        if self.root in self._made and next(self.walk(""), None) is None:
            for folder in reversed(self._made):
                with suppress(OSError):  # not empty: another writer's
                    folder.rmdir()
            self._made.clear()

    def create(self, key: str, data: bytes) -> bool:
        final = self.root / key
        self._make(final.parent)
        with self._temporary(data) as temporary:
            try:
                os.link(temporary, final)  # fails if the name is taken, where rename would overwrite
            except FileExistsError:
                # NFS may repeat a request whose answer was lost and then refuse our own link.
                return os.path.samefile(temporary, final)
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK):
                    raise
                message = f"{final.parent} cannot make hard links, which creating a file once needs"
                raise StoreError(f"{message}; keep the store on a local disk, NFS or object storage") from error
        sync(final.parent)
        return True

    def replace(self, key: str, data: bytes) -> None:
        self._make((self.root / key).parent)
        with self._temporary(data) as temporary:
            os.replace(temporary, self.root / key)

    @contextmanager
    def _temporary(self, data: bytes) -> Iterator[Path]:
        """A durable file with `data`, gone afterwards in any case."""
        temporary = self.root / TEMPORARY / uuid.uuid4().hex
        try:
            with self._opened(temporary) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):  # replace has moved it; if it stays for another reason, it harms nobody
                temporary.unlink()

    def _opened(self, temporary: Path) -> IO[bytes]:
        """A new file; its folder may have been another writer's, who takes an empty store away again (`vacate`)."""
        for _ in range(9):
            with suppress(FileNotFoundError):
                self._make(temporary.parent)
                return open(temporary, "xb")
        return open(temporary, "xb")

    def _make(self, folder: Path) -> None:
        """Like ``mkdir -p``, but the new folders survive a power cut."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
            self._made.append(folder)
            sync(folder.parent)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        with open(self.root / key, "rb") as file:
            file.seek(start)
            return file.read(-1 if stop is None else stop - start)

    @contextmanager
    def stream(self, key: str, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
        if mode == "wb":
            self._make((self.root / key).parent)
        with open(self.root / key, mode) as file:
            yield file
        if mode == "wb":
            sync(self.root / key)
            sync((self.root / key).parent)

    def size(self, key: str) -> int:
        return (self.root / key).stat().st_size

    def delete(self, key: str) -> None:
        (self.root / key).unlink()
        # Nothing is left of what lay in folders of its own.
        with suppress(OSError):  # not empty yet
            for folder in list(Path(key).parents)[:-2]:
                (self.root / folder).rmdir()

    def folders(self) -> list[str]:
        return [path.name for path in self.root.iterdir() if path.is_dir()] if self.root.exists() else []

    def walk(self, folder: str, begin: str = "") -> Iterator[str]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        for where, _, names in os.walk(self.root / folder, onerror=fail):
            inside = Path(where).relative_to(self.root).as_posix()
            yield from (f"{inside}/{name}" for name in names)

    def listed(self, folder: str, begin: str = "") -> Iterator[Listed]:
        root = os.fspath(self.root)
        for key in self.walk(folder):
            if not key.startswith(begin):
                continue
            found = os.stat(f"{root}/{key}")
            yield Listed(key, found.st_size, f"{found.st_size} {found.st_mtime_ns} {found.st_ino}")

    def check(self) -> None:
        self._make(self.root)
        probe = f".probe-{uuid.uuid4().hex}"
        self.create(probe, PROBE)
        self.delete(probe)
        for left_over in self.root.glob(f"{TEMPORARY}/*"):
            with suppress(FileNotFoundError):  # others may be tidying up too
                if time.time() - left_over.stat().st_mtime > STALE:
                    left_over.unlink()

    def filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import LocalFileSystem

        return LocalFileSystem(), str(self.root)


def sync(path: Path) -> None:
    """Make the new names in a folder, or the bytes of a file, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
