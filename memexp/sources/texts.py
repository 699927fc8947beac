"""Corpora: from a file, a hub dataset, a shipped list or one given in Python to a list of texts.

Everything that can be wrong with a corpus is found here, in the driver, before anything is trained; what is read
travels with the trials, so no worker ever needs the file.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from memexp.errors import DataError
from memexp.identity import texts_identity
from memexp.sources.hub import hub_dataset, resolve_commit
from memexp.spec import HubText, InlineText, ShippedText, TextFile
from memexp.stimuli import load_list

__all__ = ["Texts", "read_texts"]

_DEFAULT_FIELDS = ("sent", "text")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Texts:
    """A corpus that has been read."""

    id: str
    """Hash of the texts in order; not of the container they came in."""
    name: str
    """What the rows call it; for a hub dataset with the commit it was read at."""
    items: tuple[str, ...]
    """The texts; an item is known by its index, since real lists hold duplicates."""


def read_texts(corpus: object) -> Texts:
    """Read a `TextFile`, `HubText`, `ShippedText` or `InlineText`.

    Raises:
        DataError: the source is missing, empty or broken; the message names file and line, or the item.
    """
    if isinstance(corpus, TextFile):
        name, items = corpus.name, _read_file(Path(corpus.path).expanduser(), corpus.field)
    elif isinstance(corpus, HubText):
        name, items = _read_hub(corpus)
    elif isinstance(corpus, ShippedText):
        name, items = corpus.name, load_list(corpus.list_name)
        if corpus.first is not None and corpus.first > len(items):
            raise DataError(f"{name}: the list has only {len(items)} texts")
        items = items[: corpus.first]
    elif isinstance(corpus, InlineText):
        name, items = corpus.name, list(corpus.texts)
        for place, text in enumerate(items):
            _check_text(f"{name}, texts[{place}]:", text)
    else:
        raise TypeError(f"{corpus!r} is not a corpus")
    if not items:
        raise DataError(f"{name}: the corpus is empty")
    return Texts(id=texts_identity(items), name=name, items=tuple(items))


def _read_file(path: Path, field: str | None) -> list[str]:
    readers = {".jsonl": _read_json_lines, ".json": _read_json_lines, ".csv": _read_csv, ".parquet": _read_parquet}
    suffix = path.suffix.lower()
    if suffix not in readers and suffix != ".txt":
        raise DataError(
            f"{path}: a corpus is a .jsonl, .json, .csv, .txt or .parquet file (a hub dataset is HubText(...))"
        )
    if not path.is_file():
        raise DataError(f"{path}: {'is not a file' if path.exists() else 'no such file'}")
    try:
        if suffix == ".txt":
            return _read_lines(path)
        return readers[suffix](path, field)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or ' '.join(str(error).split())}") from error


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines, each decoded on its own so that a wrong byte is reported with its line."""
    with path.open("rb") as handle:
        for number, raw in enumerate(handle, start=1):
            try:
                yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{path}, line {number}: not UTF-8 (byte {error.start + 1} is 0x{raw[error.start]:02x})"
                ) from None


def _read_lines(path: Path) -> list[str]:
    """One text a line. A blank line within would shift everything after it against a list matched by index."""
    lines = [(number, line.strip()) for number, line in _lines(path)]
    while lines and not lines[-1][1]:
        lines.pop()
    for number, line in lines:
        if not line:
            raise DataError(f"{path}, line {number}: is empty")
    return [line for _, line in lines]


def _read_json_lines(path: Path, field: str | None) -> list[str]:
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path}, line {number}: broken JSON: {error.msg} at column {error.colno}") from None
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: expected one JSON object a line, got {type(row).__name__}")
        rows.append((number, row))
    return _column(path, "line", rows, field)


def _read_csv(path: Path, field: str | None) -> list[str]:
    reader = csv.DictReader((line for _, line in _lines(path)), strict=True)
    rows: list[tuple[int, dict[str, Any]]] = []
    try:
        names = reader.fieldnames or []
        if len(names) == 1 and (";" in names[0] or "\t" in names[0]):
            raise DataError(f"{path}, line 1: columns are separated by ',', and this header has none: {names[0]!r}")
        for row in reader:
            if None in row:  # an unquoted comma would cut the text short
                raise DataError(f"{path}, line {reader.line_num}: more values than columns; quote texts with commas")
            rows.append((reader.line_num, row))
    except csv.Error as error:  # line_num is that of the last good row
        raise DataError(f"{path}, line {reader.line_num + 1}: broken CSV: {error}") from None
    return _column(path, "line", rows, field)


def _read_parquet(path: Path, field: str | None) -> list[str]:
    try:
        table = pq.read_table(path)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{path}: not a whole Parquet file: {str(error).splitlines()[0]}") from None
    return _column(path, "row", list(enumerate(table.to_pylist(), start=1)), field)


def _read_hub(corpus: HubText) -> tuple[str, list[str]]:
    import datasets

    commit = resolve_commit(corpus.dataset, corpus.revision, "dataset")
    source, revision = hub_dataset(corpus.dataset, commit)
    # Without the hub a copy prepared by an earlier load may be all there is, and nothing tells of which commit.
    name = f"{corpus.name}@{commit}" if commit and (revision or source != corpus.dataset) else corpus.name
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(source, corpus.subset, split=corpus.split, revision=revision)
    except Exception as error:  # whatever the readers of all formats raise; the cause says more than the wrapper
        raise DataError(f"HubText {corpus.name!r}: {' '.join(str(error.__cause__ or error).split())[:300]}") from error
    return name, _column(corpus.name, "row", list(enumerate(rows, start=1)), corpus.field)


def _column(source: object, unit: str, rows: Sequence[tuple[int, dict[str, Any]]], field: str | None) -> list[str]:
    """The texts in `field` of numbered rows. Raises DataError naming the first row that has none."""
    if not rows:
        return []
    field = field or _guess_field(source, rows[0][1])
    texts = []
    for number, row in rows:
        text = row.get(field)
        if not isinstance(text, str):
            has = ", ".join(str(key) for key in row)
            known = f"field {field!r} is {'empty' if text is None else 'no string'}"
            problem = known if field in row else f"no field {field!r} (it has {has})"
            raise DataError(f"{source}, {unit} {number}: {problem}")
        _check_text(f"{source}, {unit} {number}: field {field!r}", text)
        texts.append(text)
    return texts


def _check_text(where: str, text: str) -> None:
    """Raise a DataError that begins with `where` for a text that cannot be studied."""
    if not text.strip():
        raise DataError(f"{where} is empty")
    if not text.isascii() and _LONE_SURROGATE.search(text):  # JSON can write one; no file or tokenizer takes it
        raise DataError(f"{where} holds half of a surrogate pair")


def _guess_field(source: object, row: dict[str, Any]) -> str:
    for name in _DEFAULT_FIELDS:
        if name in row:
            return name
    strings = [name for name, value in row.items() if isinstance(value, str)]
    if len(strings) == 1:
        return strings[0]
    has = ", ".join(str(key) for key in row) or "nothing"
    raise DataError(f"{source}: no field 'sent' or 'text' (it has {has}); name one with field=...")
