"""What a store asks of where its bytes are, a folder or a bucket, and what their errors mean in a line.

Keys are paths relative to the store: ``recognition/<name>.parquet``. A medium raises what its libraries raise
(`FileNotFoundError` for a key that is not there, whatever it is made of); `explained` makes that a `StoreError`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, Protocol

import pyarrow as pa
from obstore.exceptions import BaseError

from memexp.errors import StoreError, one_line

__all__ = ["PROBE", "Listed", "Medium", "explained", "reason"]

PROBE = bytes(1 << 16)
"""What `Medium.check` writes."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A file in a listing."""

    key: str
    size: int
    """Bytes."""
    stamp: str
    """Changes when the file is made anew."""


class Medium(Protocol):
    """A folder (`memexp.store.folder.Folder`) or a bucket (`memexp.store.bucket.Bucket`)."""

    def create(self, key: str, data: bytes) -> bool:
        """Write a file durably, whole or not at all. False, and nothing changed, where the key was taken.

        Raises StoreError where the medium cannot refuse a second writer.
        """

    def replace(self, key: str, data: bytes) -> None:
        """Write a file, or put another in its place; readers see the old or the new one."""

    def read(self, key: str, start: int = 0, stop: int | None = None) -> bytes:
        """The bytes of a file from `start` up to `stop`, by default all. Raises FileNotFoundError."""

    def stream(self, key: str, mode: Literal["rb", "wb"]) -> AbstractContextManager[IO[bytes]]:
        """A large file to be read in any order, or to be written from the beginning to the end.

        One that is being written may be seen in part. Reading raises FileNotFoundError.
        """

    def size(self, key: str) -> int:
        """Bytes of a file. Raises FileNotFoundError."""

    def delete(self, key: str) -> None:
        """Remove a file, and the folders it leaves empty. Raises FileNotFoundError, but in a bucket may not."""

    def folders(self) -> list[str]:
        """The names of the folders at the top, in any order; none where the store is not there yet."""

    def walk(self, folder: str, begin: str = "") -> Iterator[str]:
        """The keys of all files in a folder and in those within, in any order; none where it is not there.

        `begin`: of those only whose key begins so, as far as that saves anything: there may be others.
        """

    def listed(self, folder: str, begin: str = "") -> Iterator[Listed]:
        """The same, each with what a listing tells."""

    def check(self) -> None:
        """Write and remove a file, and tidy up what killed writers left.

        Raises StoreError where a second file of a name would overwrite the first.
        """

    def filesystem(self) -> tuple[Any, str]:
        """A `pyarrow.fs.FileSystem` that reads the same files, and the path of the store in it."""


@contextmanager
def explained(doing: str) -> Iterator[None]:
    """Turn what a medium raises into one line that says what could not be done and why."""
    try:
        yield
    except (OSError, BaseError, pa.ArrowException) as error:
        raise StoreError(f"cannot {doing}: {reason(error)}") from error


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
    "status code: 503": "503 Slow Down: the object storage asks for fewer requests",
    "status code: 429": "429 Too Many Requests: the object storage asks for fewer requests",
    "status code: 5\\d\\d|<Code>InternalError</Code>": "the object storage has trouble of its own (an error 5xx)",
    "NoSuchBucket": "no such bucket",
    # Without credentials both ask the machine they run on, which outside their clouds has no answer.
    "/latest/api/token|/latest/meta-data": "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "/computeMetadata/": "no credentials; set GOOGLE_APPLICATION_CREDENTIALS",
    "InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|401 Unauth": "the credentials are refused",
    "AccessDenied|403 Forbidden": "permission denied",
    "redirect|AuthorizationHeaderMalformed": "the bucket is in another region; set AWS_REGION",
    "error sending request|timed out|HTTP error": "no connection; check the network and AWS_ENDPOINT_URL",
    "404 Not Found": "no such file",
}


def reason(error: Exception) -> str:
    """The cause in a few words: object storage answers with pages of XML."""
    if isinstance(error, OSError) and error.errno is not None:
        return _ERRNO.get(error.errno) or os.strerror(error.errno)
    text = str(error).split("Debug source")[0]
    found = (meaning for pattern, meaning in _ANSWERS.items() if re.search(pattern, text))
    return next(found, one_line(text, 200))
