"""A store in a bucket of S3 or Google Cloud Storage: files are put on the condition that there is none."""

from __future__ import annotations

import io
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import AlreadyExistsError
from obstore.store import GCSStore, S3Store

from memexp.errors import StoreError
from memexp.store.medium import PROBE

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = ["Bucket"]

CHUNK = 1 << 20
"""Bytes of one request when a large object is read as a stream."""


class Bucket:
    """A `memexp.store.medium.Medium`: a prefix of an S3 or Google Cloud Storage bucket."""

    def __init__(self, location: str) -> None:
        self.scheme, _, self.base = location.partition("://")
        # A first listing tells a missing bucket, which later looks like a missing object, and fails soon.
        next(iter(obstore.list(self._connect(retries=2))), None)
        self.store = self._connect(retries=8)

    def _connect(self, retries: int) -> S3Store | GCSStore:
        bucket, _, prefix = self.base.partition("/")
        client: ClientConfig = {"allow_http": True, "connect_timeout": "5s", "timeout": "5m"}
        retry: RetryConfig = {"max_retries": retries, "retry_timeout": timedelta(minutes=1)}
        if self.scheme == "gs":
            return GCSStore(bucket, prefix=prefix or None, client_options=client, retry_config=retry)
        s3: S3Config = {"disable_bulk_delete": True}  # which not every S3-compatible storage knows
        return S3Store(bucket, prefix=prefix or None, config=s3, client_options=client, retry_config=retry)

    def create(self, key: str, data: bytes) -> bool:
        for _ in range(3):
            try:
                obstore.put(self.store, key, data, mode="create", use_multipart=False)
                return True
            except AlreadyExistsError:
                # S3 may answer writers that meet with "conflict", and need not have taken either file.
                with suppress(FileNotFoundError):
                    self.size(key)
                    return False
        raise StoreError(f"cannot write {self.scheme}://{self.base}/{key}: it is refused, yet not there")

    def replace(self, key: str, data: bytes) -> None:
        obstore.put(self.store, key, data, use_multipart=False)

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        if stop is None:
            return obstore.get(self.store, key).bytes().to_bytes()
        return obstore.get_range(self.store, key, start=start, end=stop).to_bytes()

    @contextmanager
    def stream(self, key: str, mode: Literal["rb", "wb"]) -> Iterator[IO[bytes]]:
        if mode == "rb":
            yield io.BufferedReader(_Ranges(self.store, key), CHUNK)
            return
        with tempfile.TemporaryDirectory(prefix="memexp-") as folder:
            file = Path(folder) / "file"
            with open(file, "wb") as stream:
                yield stream
            obstore.put(self.store, key, file)

    def size(self, key: str) -> int:
        return obstore.head(self.store, key)["size"]

    def delete(self, key: str) -> None:
        obstore.delete(self.store, key)

    def folders(self) -> list[str]:
        return list(obstore.list_with_delimiter(self.store)["common_prefixes"])

    def walk(self, folder: str) -> Iterator[str]:
        for page in obstore.list(self.store, folder):
            yield from (entry["path"] for entry in page)

    def stamps(self, folder: str) -> Iterator[tuple[str, str]]:
        for page in obstore.list(self.store, folder):
            yield from ((entry["path"], f"{entry['e_tag']} {entry['last_modified']}") for entry in page)

    def check(self) -> None:
        probe = f".probe-{uuid.uuid4().hex}"
        overwritten = self.create(probe, PROBE) and self.create(probe, PROBE)
        self.delete(probe)
        if overwritten:
            message = f"{self.scheme}://{self.base}: this storage does not know If-None-Match"
            raise StoreError(f"{message} and would overwrite results; keep the store elsewhere")

    def filesystem(self) -> tuple[Any, str]:
        import pyarrow.fs

        if self.scheme == "gs":
            return pyarrow.fs.GcsFileSystem(retry_time_limit=timedelta(minutes=1)), self.base
        endpoint = urlsplit(os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or "https:")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or "us-east-1"
        options = {"endpoint_override": endpoint.netloc or None, "scheme": endpoint.scheme, "region": region}
        return pyarrow.fs.S3FileSystem(connect_timeout=5, request_timeout=60, **options), self.base


class _Ranges(io.RawIOBase):
    """An object as a file, read range by range."""

    def __init__(self, store: S3Store | GCSStore, key: str) -> None:
        self.file = obstore.open_reader(store, key)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readinto(self, buffer: Any) -> int:
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
