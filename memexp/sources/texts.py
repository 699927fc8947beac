"""Corpora: from a file, a hub dataset, a shipped list or one given in Python to a list of texts.

Questions and facts are read here too: each is a text then, the JSON object of its columns.

Everything that can be wrong with a corpus is found here, in the driver, before anything is trained; what is read
travels with the trials, so no worker ever needs the file.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memexp.errors import DataError, near_first
from memexp.identity import texts_identity
from memexp.sources.formats import check_blank, check_file, check_text, file_rows, hub_rows, lines
from memexp.sources.items import read_items
from memexp.spec import (
    HubItems,
    HubStream,
    HubText,
    InlineItems,
    InlineText,
    ItemFile,
    ShippedText,
    TextFile,
    TextStream,
)
from memexp.stimuli import load_list

__all__ = ["Texts", "check_no_field", "guess_field", "read_texts", "text_of"]

_DEFAULT_FIELDS = ("sent", "text")


@dataclass(frozen=True)
class Texts:
    """A corpus that has been read."""

    id: str
    """Hash of the texts in order; not of the container they came in."""
    name: str
    """What the rows call it; for a hub dataset with the commit it was read at."""
    items: tuple[str, ...]
    """The texts; an item is known by its index, since real lists hold duplicates."""

    @property
    def count(self) -> int:
        """Number of texts."""
        return len(self.items)

    @functools.cached_property
    def repeated(self) -> int:
        """Number of texts that have come before."""
        return len(self.items) - len(set(self.items))


def read_texts(corpus: object) -> Texts:
    """Read a `TextFile`, `HubText`, `ShippedText` or `InlineText`, or an `ItemFile`, `HubItems` or `InlineItems`.

    Raises:
        DataError: the source is missing, empty or broken; the message names file and line, or the item.
    """
    if isinstance(corpus, TextFile):
        name, items = corpus.name, _read_file(Path(corpus.path).expanduser(), corpus.field)
    elif isinstance(corpus, HubText):
        name, rows = hub_rows(corpus)
        items = _column(corpus.name, "row", rows, corpus.field)
    elif isinstance(corpus, ShippedText):
        name, items = corpus.name, load_list(corpus.list_name)
        if corpus.first is not None and corpus.first > len(items):
            raise DataError(f"{name}: the list has only {len(items)} texts")
        items = items[: corpus.first]
    elif isinstance(corpus, InlineText):
        name, items = corpus.name, list(corpus.texts)
        for place, text in enumerate(items):
            check_text(f"{name}, texts[{place}]:", text)
    elif isinstance(corpus, ItemFile | HubItems | InlineItems):
        name, items = read_items(corpus)
    elif isinstance(corpus, TextStream | HubStream):  # in a field of a probe of the user's own
        raise DataError(f"{corpus.name}: a stream is for interference and pretraining; here the whole list is needed")
    else:
        raise TypeError(f"{corpus!r} is not a corpus")
    if not items:
        raise DataError(f"{name}: the corpus is empty")
    return Texts(id=texts_identity(items), name=name, items=tuple(items))


def _read_file(path: Path, field: str | None) -> list[str]:
    suffix = path.suffix.lower()
    if suffix not in (".jsonl", ".json", ".csv", ".txt", ".parquet"):
        raise DataError(
            f"{path}: a corpus is a .jsonl, .json, .csv, .txt or .parquet file (a hub dataset is HubText(...))"
        )
    check_file(path)
    if suffix == ".txt":
        check_no_field(path, field)
        return _read_lines(path)
    unit, rows = file_rows(path)
    return _column(path, unit, rows, field)


def _read_lines(path: Path) -> list[str]:
    """One text a line."""
    found = [(number, line.strip()) for number, line in lines(path)]
    check_blank(path, found)
    return [line for _, line in found if line]


def _column(source: object, unit: str, rows: Sequence[tuple[int, dict[str, Any]]], field: str | None) -> list[str]:
    """The texts in `field` of numbered rows. Raises DataError naming the first row that has none."""
    if not rows:
        return []
    field = field or guess_field(source, rows[0][1])
    return [text_of(f"{source}, {unit} {number}", row, field) for number, row in rows]


def check_no_field(path: object, field: str | None) -> None:
    """Raise DataError where a column is named of a file that has none."""
    if field is not None:
        raise DataError(f"{path}: has lines of text and no field {field!r}")


def text_of(where: str, row: dict[str, Any], field: str, blank: bool = False) -> str:
    """The text in `field` of a row. Raises a DataError that begins with `where`; `blank` allows an empty text."""
    text = row.get(field)
    if not isinstance(text, str):
        has = ", ".join(near_first(field, map(str, row)))
        known = f"field {field!r} is {'empty' if text is None else 'no string'}"
        problem = known if field in row else f"no field {field!r} (it has {has})"
        raise DataError(f"{where}: {problem}")
    check_text(f"{where}: field {field!r}", text, blank)
    return text


def guess_field(source: object, row: dict[str, Any]) -> str:
    """The column that holds the text, from a row with all columns. Raises DataError where none is the obvious one."""
    for name in _DEFAULT_FIELDS:
        if name in row:
            return name
    strings = [name for name, value in row.items() if isinstance(value, str)]
    if len(strings) == 1:
        return strings[0]
    has = ", ".join(str(key) for key in row) or "nothing"
    raise DataError(f"{source}: no field 'sent' or 'text' (it has {has}); name one with field=...")
