"""Where the bytes of a store are: a folder, or a bucket of S3 or Google Cloud Storage.

Both create a file once, whole or not at all, and both raise what their medium raises (FileNotFoundError among it);
`explained` makes it a line. Keys are paths relative to the place.
"""

from __future__ import annotations

import errno
import io
import os
import re
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import obstore
import pyarrow as pa
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import GCSStore, S3Store

from memexp.errors import StoreError, one_line

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config

__all__ = ["TEMPORARY", "Bucket", "Folder", "explained", "sync"]

TEMPORARY = ".tmp"
"""Folder of files being written. Beside the kinds, not in them: polars refuses a folder that holds anything else."""
STALE = 24 * 3600
"""Age in seconds at which the writer of a temporary is dead for certain; a live one needs it for a moment."""
PROBE = bytes(1 << 16)
CHUNK = 1 << 20
"""Bytes of one request when a large object is read as a stream."""


class Folder:
    """A folder in a file system that has hard links."""

    def __init__(self, root: str) -> None:
        self.root = Path(root)

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
        self._make(temporary.parent)
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            yield temporary
        finally:
            with suppress(OSError):  # replace has moved it; if it stays for another reason, it harms nobody
                temporary.unlink()

    def _make(self, folder: Path) -> None:
        """Like ``mkdir -p``, but the new folders survive a power cut."""
        if not folder.is_dir():
            self._make(folder.parent)
            folder.mkdir(exist_ok=True)
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

    def walk(self, folder: str) -> Iterator[str]:
        def fail(error: OSError) -> None:
            if not isinstance(error, FileNotFoundError):
                raise error

        for where, _, names in os.walk(self.root / folder, onerror=fail):
            inside = Path(where).relative_to(self.root).as_posix()
            yield from (f"{inside}/{name}" for name in names)

    def stamps(self, folder: str) -> Iterator[tuple[str, str]]:
        for key in self.walk(folder):
            found = (self.root / key).stat()
            yield key, f"{found.st_size} {found.st_mtime_ns} {found.st_ino}"

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


class Bucket:
    """A prefix of an S3 or Google Cloud Storage bucket."""

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


def sync(path: Path) -> None:
    """Make the new names in a folder, or the bytes of a file, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what a medium raises into one line that says what could not be done and why."""
    try:
        yield
    except (OSError, BaseError, pa.ArrowException) as error:
        raise StoreError(f"cannot {doing}: {_reason(error)}") from error


_ERRNO = {
    errno.ENOENT: "no such file",
    errno.ENOSPC: "no space left",
    errno.EDQUOT: "disk quota exceeded",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EEXIST: "a file stands where a folder should be",
    errno.ENOTDIR: "a file stands where a folder should be",
}
_ANSWERS = {
    "NoSuchBucket": "no such bucket",
    # Without credentials both ask the machine they run on, which outside their clouds has no answer.
    "/latest/api/token|/latest/meta-data": "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "/computeMetadata/": "no credentials; set GOOGLE_APPLICATION_CREDENTIALS",
    "InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|401 Unauth": "the credentials are refused",
    "AccessDenied|403 Forbidden": "permission denied",
    "redirect|AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "error sending request|timed out": "no connection; check the network and AWS_ENDPOINT_URL",
    "404 Not Found": "no such file",
}


def _reason(error: Exception) -> str:
    """The cause in a few words: object storage answers with pages of XML."""
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno) or os.strerror(error.errno)
    text = str(error).split("Debug source")[0]
    found = (reason for pattern, reason in _ANSWERS.items() if re.search(pattern, text))
    return next(found, one_line(text, 200))
