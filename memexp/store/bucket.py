"""A store in a bucket of S3 or Google Cloud Storage: files are put on the condition that there is none."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import GCSStore, S3Store

from memexp.errors import StoreError
from memexp.store.medium import PROBE, Listed
from memexp.store.patience import patience_with, seconds

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = ["Bucket"]

CHUNK = 1 << 20
"""Bytes of one request when a large object is read as a stream."""
WHOLE = 1 << 28
"""Bytes of a file that is sent in one request at most."""
PAGE = 1000
"""Names of one request of a listing: as many as S3 gives."""


class Bucket:
    """A `memexp.store.medium.Medium`: a prefix of an S3 or Google Cloud Storage bucket."""

    def __init__(self, location: str) -> None:
        self.scheme, _, self.base = location.partition("://")
        self.patience = patience_with(location)
        self.store = self._connect(retries=0)
        # A first listing tells a missing bucket, which later looks like a missing object.
        self.patience.asked(lambda: next(iter(obstore.list(self.store)), None), at_once=True)

    def _connect(self, retries: int) -> S3Store | GCSStore:
        bucket, _, prefix = self.base.partition("/")
        timeout = timedelta(seconds=min(150.0, max(2.0, seconds() / 4)))  # what hangs is asked again, too
        client: ClientConfig = {"allow_http": True, "connect_timeout": "5s", "timeout": timeout}
        retry: RetryConfig = {"max_retries": retries, "retry_timeout": timedelta(minutes=3)}
        if self.scheme == "gs":
            return GCSStore(bucket, prefix=prefix or None, client_options=client, retry_config=retry)
        for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
            endpoint = os.environ.get(name, "https://")
            if not endpoint.startswith(("http://", "https://")):  # over which the library would panic
                raise StoreError(
                    f"{name} is {endpoint!r}, which is no http:// or https:// address: unset it or mend it"
                )
        s3: S3Config = {"disable_bulk_delete": True}  # which not every S3-compatible storage knows
        return S3Store(bucket, prefix=prefix or None, config=s3, client_options=client, retry_config=retry)

    def create(self, key: str, data: bytes) -> bool:
        lost: list[BaseError] = []  # failures after which our own file may be there
        for _ in range(3):
            try:
                self.patience.asked(lambda: self._put_new(key, data, lost))
                return True
            except AlreadyExistsError:
                # S3 may answer writers that meet with "conflict", and need not have taken either file.
                with suppress(FileNotFoundError):
                    if lost:
                        return self.read(key) == data
                    self.size(key)
                    return False
        raise StoreError(f"cannot write {self.scheme}://{self.base}/{key}: it is refused, yet not there")

    def _put_new(self, key: str, data: bytes, lost: list[BaseError]) -> None:
        try:
            obstore.put(self.store, key, data, mode="create", use_multipart=False)
        except GenericError as error:
            lost.append(error)
            raise

    def replace(self, key: str, data: bytes) -> None:
        self.patience.asked(lambda: obstore.put(self.store, key, data, use_multipart=False))

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is None:
            return self.patience.asked(lambda: obstore.get(self.store, key).bytes().to_bytes())
        return self.patience.asked(lambda: obstore.get_range(self.store, key, start=start, end=stop).to_bytes())

    @contextmanager
    def stream(self, key: str, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
        if mode == "rb":
            yield io.BufferedReader(_Ranges(self, key), CHUNK)
            return
        with tempfile.TemporaryDirectory(prefix="memexp-") as folder:
            file = Path(folder) / "file"
            with open(file, "wb") as stream:
                yield stream
            # In one request where it can be: of one in parts that is killed on the way the parts stay, listed nowhere.
            # A part of many that fails is sent again by itself; only then all of them.
            parts = file.stat().st_size > WHOLE
            store = self._connect(retries=8) if parts else self.store
            self.patience.asked(lambda: obstore.put(store, key, file, use_multipart=parts))

    def size(self, key: str) -> int:
        return self.patience.asked(lambda: obstore.head(self.store, key)["size"])

    def delete(self, key: str) -> None:
        self.patience.asked(lambda: obstore.delete(self.store, key))

    def folders(self) -> list[str]:
        return list(self.patience.asked(lambda: obstore.list_with_delimiter(self.store)["common_prefixes"]))

    def walk(self, folder: str, begin: str = "") -> Iterator[str]:
        return (entry["path"] for entry in self._beginning(folder, begin))

    def listed(self, folder: str, begin: str = "") -> Iterator[Listed]:
        for entry in self._beginning(folder, begin):
            yield Listed(entry["path"], entry["size"], f"{entry['e_tag']} {entry['last_modified']}")

    def _beginning(self, folder: str, begin: str) -> Iterator[ObjectMeta]:
        for entry in self._entries(folder, begin or None):
            if begin and not entry["path"].startswith(begin) and entry["path"] > begin:
                return  # names come in order, from the first after `begin`
            yield entry

    def _entries(self, folder: str, last: str | None = None) -> Iterator[ObjectMeta]:
        """What comes after `last`, page by page: where one fails, the listing begins again after the last name."""
        pages: Iterator[Sequence[ObjectMeta]] | None = None

        def page() -> Sequence[ObjectMeta] | None:
            nonlocal pages
            try:
                pages = pages or iter(obstore.list(self.store, folder, offset=last, chunk_size=PAGE))
                return next(pages, None)
            except Exception:  # raised again: of a listing that failed nothing more can be asked
                pages = None
                raise

        while found := self.patience.asked(page):
            yield from found
            last = found[-1]["path"]

    def check(self) -> None:
        probe = f".probe-{uuid.uuid4().hex}"
        # Of other bytes, as one that is there and has our own may be ours.
        overwritten = self.create(probe, PROBE) and self.create(probe, PROBE[1:])
        with suppress(FileNotFoundError):  # deleted by a request whose answer was lost
            self.delete(probe)
        if overwritten:
            message = f"{self.scheme}://{self.base}: this storage does not know If-None-Match"
            raise StoreError(f"{message} and would overwrite results; keep the store elsewhere")

    def filesystem(self) -> tuple[Any, str]:
        from pyarrow.fs import PyFileSystem

        from memexp.store.arrow_files import ArrowFiles  # which imports pyarrow.fs: slow, and rarely needed

        return PyFileSystem(ArrowFiles(self.read, self.base)), self.base


class _Ranges(io.RawIOBase):
    """An object as a file, read range by range."""

    def __init__(self, bucket: Bucket, key: str) -> None:
        self.bucket, self.key = bucket, key
        self.length, self.at = bucket.size(key), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.at, os.SEEK_END: self.length}[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readall(self) -> bytes:
        return b"" if self.at >= self.length else self._read(self.length)

    def _read(self, end: int) -> bytes:
        data = self.bucket.read(self.key, self.at, end)
        self.at += len(data)
        return data

    def readinto(self, buffer: Any) -> int:
        end = min(self.at + len(buffer), self.length)
        data = self._read(end) if self.at < end else b""
        buffer[: len(data)] = data
        return len(data)
