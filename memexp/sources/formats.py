"""Rows of named columns from a local file or a hub dataset, numbered so that an error can say where it is.

unit, rows = file_rows(Path("questions.jsonl"))     # "line", [(1, {"question": ...}), ...]
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import itertools
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.code_columns import code_column
from memexp.errors import DataError, one_line
from memexp.identity import parsed
from memexp.sources.hub import hub_dataset, resolve_commit
from memexp.spec import HubItems, HubText

__all__ = [
    "NumberedRow",
    "check_blank",
    "check_file",
    "check_text",
    "decoded",
    "file_rows",
    "hub_refusal",
    "hub_rows",
    "json_row",
    "lines",
]

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

NumberedRow = tuple[int, dict[str, Any]]
"""Counted from 1, by lines of the file where it has lines."""


def check_file(path: Path) -> None:
    """Raise a DataError unless `path` is a file."""
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: is not a file")
    if not path.is_file():
        raise DataError(f"{path}: no such file{looked_in(path)}")


def looked_in(path: Path) -> str:
    """Where a file that is not there was looked for, and where the sweep script is, if that is another folder."""
    if path.is_absolute():
        return ""
    where, script = Path.cwd(), Path(sys.argv[0]).absolute()  # of a script that memexp loads as of one by itself
    said = f" in {where}"
    if script.suffix == ".py" and script.is_file() and script.parent != where:
        said += f"; the script is in {script.parent}"
        if (script.parent / path).is_file():
            said += f", and there is one: give Path(__file__).parent / {str(path)!r}"
    return said


def check_text(where: str, text: str, blank: bool = False) -> None:
    """Raise a DataError that begins with `where` for a text that cannot be studied; `blank` allows an empty one."""
    if not blank and not text.strip():
        raise DataError(f"{where} is empty")
    if not text.isascii() and _LONE_SURROGATE.search(text):  # JSON can write one; no file or tokenizer takes it
        raise DataError(f"{where} holds half of a surrogate pair")


def file_rows(path: Path) -> tuple[str, list[NumberedRow]]:
    """What the rows of a ``.jsonl``, ``.json``, ``.csv`` or ``.parquet`` file are counted in, and the rows.

    Raises DataError where the file cannot be read; the message names file and line.
    """
    try:
        if path.suffix.lower() == ".json" and _holds_a_list(path):
            return "entry", _json_list(path)
        unit, read = _READERS[path.suffix.lower()]
        return unit, read(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or one_line(error)}") from error


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file."""
    with path.open("rb") as handle:
        yield from decoded(path, handle, 1)


def decoded(path: Path, raws: Iterable[bytes], first: int) -> Iterator[tuple[int, str]]:
    """Lines numbered from `first`, each decoded on its own so that a wrong byte is reported with its line."""
    for number, raw in enumerate(raws, start=first):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise DataError(
                f"{path}, line {number}: not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x})"
            ) from None


def check_blank(path: Path, numbered: Sequence[tuple[int, Any]]) -> None:
    """Raise a DataError for an empty line, unless nothing follows: it may be a text that is missing.

    Skipped, it would shift everything after it against a list matched by index.
    """
    last = max((number for number, line in numbered if line), default=0)
    for number, line in numbered:
        if not line and number < last:
            raise DataError(f"{path}, line {number}: is empty")


def _json_lines(path: Path) -> list[NumberedRow]:
    rows: list[NumberedRow] = []
    for number, line in lines(path):
        if not line.strip():
            continue
        rows.append((number, json_row(f"{path}, line {number}", line)))
    return rows


def _holds_a_list(path: Path) -> bool:
    """Whether a file begins as one list, and not with an object a line."""
    with path.open("rb") as handle:
        stripped = (line.removeprefix(codecs.BOM_UTF8).lstrip() for line in handle)
        return next(filter(None, stripped), b"").startswith(b"[")


def _json_list(path: Path) -> list[NumberedRow]:
    """Objects, or texts, which get the column ``text``."""
    entries = _parsed(f"{path}", "".join(line for _, line in lines(path)), whole=True)
    rows: list[NumberedRow] = []
    for number, entry in enumerate(entries, start=1):
        row = {"text": entry} if isinstance(entry, str) else entry
        if not isinstance(row, dict):
            raise DataError(f"{path}, entry {number}: expected an object or a text, got {type(row).__name__}")
        rows.append((number, row))
    return rows


def json_row(where: str, line: str) -> dict[str, Any]:
    """The object that a line of JSON holds. Raises a DataError that begins with `where`."""
    row = _parsed(where, line)
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected one JSON object a line, got {type(row).__name__}")
    return row


def _parsed(where: str, text: str, whole: bool = False) -> Any:
    """What JSON holds: that of one line, or the whole of a file, whose errors name the line."""
    try:
        return parsed(text)
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if whole else ""
        raise DataError(f"{where}{line}: broken JSON: {error.msg} at column {error.colno}") from None
    except ValueError as error:
        raise DataError(f"{where}: JSON that cannot be read: {one_line(error)}") from None


def _csv(path: Path) -> list[NumberedRow]:
    reader, whole = csv.reader((line for _, line in lines(path)), strict=True), 0
    try:
        names = next(reader, [])
        whole = reader.line_num
        if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
            raise DataError(f"{path}, line 1: columns are separated by ',', and this header has none: {names[0]!r}")
        found: list[tuple[int, list[str]]] = []
        for values in reader:
            if len(values) > len(names):  # an unquoted comma would cut the text short
                raise DataError(f"{path}, line {reader.line_num}: more values than columns; quote texts with commas")
            whole = reader.line_num
            found.append((whole, values))
    except csv.Error as error:
        raise DataError(f"{path}, line {whole + 1}: broken CSV: {error}") from None
    if len(names) == 1:  # of several columns not even an empty text leaves a line blank
        check_blank(path, found)
    return [(number, dict(itertools.zip_longest(names, values))) for number, values in found if values]


def _parquet(path: Path) -> list[NumberedRow]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {one_line(error)}") from None
    if column := code_column(table.schema):
        raise DataError(f"{path}: {column}")
    return list(enumerate(table.to_pylist(), start=1))


_READERS: dict[str, tuple[str, Callable[[Path], list[NumberedRow]]]] = {
    ".jsonl": ("line", _json_lines),
    ".json": ("line", _json_lines),
    ".csv": ("line", _csv),
    ".parquet": ("row", _parquet),
}


def hub_rows(source: HubText | HubItems) -> tuple[str, list[NumberedRow]]:
    """A dataset's name, with the commit it was read at where that is known, and its rows.

    Raises DataError where there is no such dataset, subset (the message lists those there are) or split.
    """
    import datasets

    commit = resolve_commit(source.dataset, source.revision, "dataset")
    dataset, revision = hub_dataset(source.dataset, commit)
    # Without the hub a copy prepared by an earlier load may be all there is, and nothing tells of which commit.
    name = f"{source.name}@{commit}" if commit and (revision or dataset != source.dataset) else source.name
    dataset = os.path.expanduser(dataset)
    datasets.disable_progress_bars()
    # What `datasets` keeps of a folder goes by its last name and its card: an edited file, or another folder of the
    # same name, would get the rows of before.
    with tempfile.TemporaryDirectory() if commit is None else contextlib.nullcontext() as cache:
        try:
            found = datasets.load_dataset(
                dataset, source.subset, split=source.split, revision=revision, cache_dir=cache
            )
            rows = list(enumerate(found, start=1))
        except Exception as error:  # whatever the readers of all formats raise
            raise hub_refusal(f"{type(source).__name__} {source.name!r}", error) from error
    return name, rows


def hub_refusal(where: str, error: Exception) -> DataError:
    """A line for what `datasets` raised: the cause says more than its wrapper."""
    told = one_line(error.__cause__ or error, 500).replace("BuilderConfig", "subset")
    return DataError(f"{where}: {told}")
