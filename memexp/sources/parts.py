"""One local file of a stream: hashed and indexed once, then read from any text on without what lies before it.

part = part_of(Path("news.jsonl.gz"))
texts = part.texts("text", start=1_000_000)
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, cast

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.code_columns import code_column
from memexp.errors import DataError, near_first, one_line
from memexp.sources.cache import file_question, recall_answer, remember_answer
from memexp.sources.formats import check_file, check_text, decoded, json_row
from memexp.sources.pinned import file_digest
from memexp.sources.texts import text_of

__all__ = ["WINDOW", "Part", "first_row", "part_of"]

WINDOW = 4_096
"""Texts that are read, shuffled and held at a time. Part of every stream's identity, since the order depends on it."""

_KINDS: dict[str, Literal["text", "json", "parquet"]] = {
    ".txt": "text",
    ".jsonl": "json",
    ".json": "json",
    ".parquet": "parquet",
}
_BUFFER = 1 << 20
_BATCH = 1_024


@dataclass(frozen=True)
class Part:
    """A file, as the driver saw it."""

    path: str
    """Absolute."""
    kind: Literal["text", "json", "parquet"]
    """How it is read."""
    size: int
    """Bytes on disk."""
    digest: str
    """SHA-256 of the content; of a ``.gz`` of what is compressed."""
    count: int
    """Number of texts."""
    offsets: tuple[int, ...]
    """Of a file of lines: where in it the first line is, and every `WINDOW`-th from there."""

    def check_here(self) -> None:
        """Raise DataError where this node has no such file, or another one by now."""
        try:
            size = Path(self.path).stat().st_size
        except OSError:
            raise DataError(
                f"{self.path}: not on this node; a stream's files must be where every node sees them"
            ) from None
        if size != self.size:
            raise DataError(
                f"{self.path}: has {size} bytes on this node, and had {self.size} when the sweep was planned"
            )
        if part_of(Path(self.path)).digest != self.digest:
            raise DataError(f"{self.path}: has another content on this node than when the sweep was planned")

    def texts(self, field: str | None, start: int) -> Iterator[str]:
        """The texts from number `start` on, counting from 0. Raises DataError that names file and row."""
        return self._of_rows(field, start) if self.kind == "parquet" else self._of_lines(field, start)

    def _of_lines(self, field: str | None, start: int) -> Iterator[str]:
        with _explained(self.path), _opened(Path(self.path)) as handle:
            handle.seek(self.offsets[start // WINDOW])
            raws = itertools.islice(handle, start % WINDOW, None)
            for number, line in decoded(Path(self.path), raws, start + 1):
                where, line = f"{self.path}, line {number}", line.strip()
                if self.kind == "text" or not line:
                    check_text(where, line, blank=True)
                    yield line
                else:
                    yield text_of(where, json_row(where, line), field or "", blank=True)

    def _of_rows(self, field: str | None, start: int) -> Iterator[str]:
        with _explained(self.path), _parquet(self.path) as file:
            if field not in file.schema_arrow.names:
                has = ", ".join(near_first(str(field), file.schema_arrow.names))
                raise DataError(f"{self.path}: no field {field!r} (it has {has})")
            first, group = start, 0
            while first >= file.metadata.row_group(group).num_rows:
                first -= file.metadata.row_group(group).num_rows
                group += 1
            groups = range(group, file.num_row_groups)
            number = start - first
            for batch in file.iter_batches(_BATCH, row_groups=groups, columns=[field], use_threads=False):
                if number + batch.num_rows > start:
                    for text in batch.column(0).slice(max(0, start - number)).to_pylist():
                        start += 1
                        yield text_of(f"{self.path}, row {start}", {str(field): text}, str(field), blank=True)
                number += batch.num_rows


def part_of(path: Path) -> Part:
    """Hash and index a file, or remember what was found when it was last read as it is now.

    Raises:
        DataError: there is no such file, it is not whole, or it is of no kind that streams.
    """
    suffix = Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix
    kind = _KINDS.get(suffix.lower())
    if kind is None or (kind == "parquet" and suffix != path.suffix):
        raise DataError(f"{path}: a stream is of .parquet, .jsonl, .json or .txt files, the last three also as .gz")
    check_file(path)
    path = path.resolve()
    size = path.stat().st_size
    with _explained(str(path)):
        if kind == "parquet":
            with _parquet(str(path)) as file:
                return Part(str(path), kind, size, file_digest(path), file.metadata.num_rows, ())
        digest, count, offsets = _indexed(path)
        return Part(str(path), kind, size, digest, count, tuple(offsets))


def first_row(part: Part) -> dict[str, Any] | None:
    """A row with all columns of a file that has columns, its values strings where the columns are; None if empty."""
    if part.kind == "parquet":
        with _explained(part.path), _parquet(part.path) as file:
            return {field.name: "" if _is_text(field.type) else None for field in file.schema_arrow}
    with _explained(part.path), _opened(Path(part.path)) as handle:
        for number, line in decoded(Path(part.path), handle, 1):
            if line.strip():
                return json_row(f"{part.path}, line {number}", line)
    return None


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _indexed(path: Path) -> tuple[str, int, list[int]]:
    """Digest of the lines of a file, their number, and where every `WINDOW`-th begins."""
    question = file_question(f"lines by {WINDOW}", path)
    answer = recall_answer(question)
    if answer is None:
        digest, offsets, at, count = hashlib.sha256(), [0], 0, 0
        with _opened(path) as handle:
            for line in handle:
                digest.update(line)
                at, count = at + len(line), count + 1
                if count % WINDOW == 0:
                    offsets.append(at)
        answer = [digest.hexdigest(), count, offsets]
        remember_answer(question, answer)
    digest_, count_, offsets_ = answer
    return digest_, count_, offsets_


def _opened(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.suffix.lower() == ".gz" else path.open("rb")


def _parquet(path: str) -> pq.ParquetFile:
    """Buffered: a row group is read page by page and not as a whole."""
    file = pq.ParquetFile(path, buffer_size=_BUFFER, pre_buffer=False)
    if column := code_column(file.schema_arrow):
        file.close()
        raise DataError(f"{path}: {column}")
    return file


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn what a medium or format raises into a line."""
    try:
        yield
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {one_line(error)}") from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: not a whole .gz file: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error
