"""Streams: text of any size, read window by window where it is trained on.

The driver resolves a `TextStream` or `HubStream` once: identity, number of texts, and where in the files which text is.
What is resolved is small and travels with the trials; the texts do not.

    stream = resolve_stream(TextStream("news/*.parquet"))
    Windows(stream)(7)          # texts 7 * WINDOW to 8 * WINDOW
"""

from __future__ import annotations

import glob
import itertools
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from memexp.errors import DataError
from memexp.identity import identity
from memexp.sources.cache import recall_answer, remember_answer
from memexp.sources.formats import hub_refusal, looked_in
from memexp.sources.hub import hub_dataset, resolve_commit
from memexp.sources.parts import WINDOW, Part, first_row, part_of
from memexp.sources.pinned import file_digest
from memexp.sources.texts import Texts, check_no_field, guess_field, text_of
from memexp.spec import HubStream, TextStream

__all__ = ["FileStream", "HubTexts", "Stream", "Windows", "resolve_stream", "shared_texts"]


@dataclass(frozen=True)
class Stream(ABC):
    """A resolved stream. Travels to the trials."""

    id: str
    """Identity: of files their content in order and the field; of a hub dataset its commit, subset, split and field."""
    name: str
    """What the rows call it; for a hub dataset with the commit."""
    count: int | None
    """Number of texts, blank ones included; None where only reading to the end could tell."""
    blank: int = field(default=0, kw_only=True)
    """How many of the first window's texts are blank."""

    @property
    @abstractmethod
    def is_local(self) -> bool:
        """Whether reading all of it costs no more than reading files."""

    @abstractmethod
    def check_here(self) -> None:
        """Raise DataError where this node has not got the files, or others than the driver saw."""

    @abstractmethod
    def texts(self, start: int) -> Iterator[str]:
        """The texts from number `start` on, counting from 0. Raises DataError that names file and row."""


@dataclass(frozen=True)
class FileStream(Stream):
    """A stream of local files."""

    parts: tuple[Part, ...]
    """Its files, in order."""
    field: str | None
    """The column that holds the text; None where all files are lines of text."""

    @property
    def is_local(self) -> bool:
        return True

    def check_here(self) -> None:
        for part in self.parts:
            part.check_here()

    def texts(self, start: int) -> Iterator[str]:
        for part in self.parts:
            if start < part.count:
                yield from part.texts(self.field, start)
            start = max(0, start - part.count)


@dataclass(frozen=True)
class HubTexts(Stream):
    """A stream of a hub dataset, or of a local folder in its format."""

    source: HubStream
    """What was asked for, a folder by its absolute path."""
    commit: str | None
    """The commit it is read at; None for a local folder."""
    digest: str | None
    """One hash over the files of a local folder."""
    field: str
    """The column that holds the text."""

    @property
    def is_local(self) -> bool:
        return self.commit is None

    def check_here(self) -> None:
        if self.commit is None and _folder_digest(Path(self.source.dataset)) != self.digest:
            raise DataError(f"{self.name}: this node has no folder with the files that the sweep was planned with")

    def texts(self, start: int) -> Iterator[str]:
        rows = _hub_rows(self.source, self.commit, start, self.field)
        for number, row in enumerate(rows, start=start + 1):
            yield text_of(f"{self.name}, row {number}", row, self.field, blank=True)


class Windows:
    """Random access to a stream by windows of `WINDOW` texts, cheap where one window follows the other."""

    def __init__(self, stream: Stream) -> None:
        """Raises DataError where this node has not got the stream's files."""
        stream.check_here()
        self.stream = stream
        self._next = 0
        self._texts = stream.texts(0)

    def __call__(self, number: int) -> list[str]:
        """The texts of a window, counting from 0: fewer than `WINDOW` at the end of the stream, none behind it."""
        if number != self._next:
            self._texts = self.stream.texts(number * WINDOW)
        self._next = -1  # what fails half-way is begun anew
        found = list(itertools.islice(self._texts, WINDOW))
        self._next = number + 1
        return found


def resolve_stream(source: TextStream | HubStream) -> Stream:
    """Pin a stream, and look at its first window.

    Raises:
        DataError: a file is missing or broken, there are no texts, or the first ones are blank or none.
    """
    stream = _of_files(source) if isinstance(source, TextStream) else _of_hub(source)
    first = Windows(stream)(0)
    if not first:
        raise DataError(f"{stream.name}: the corpus is empty")
    blank = sum(not text.strip() for text in first)
    if blank == len(first):
        raise DataError(f"{stream.name}: all of the first {blank} texts are blank")
    count = len(first) if stream.count is None and len(first) < WINDOW else stream.count
    return replace(stream, count=count, blank=blank)


def shared_texts(stream: Stream, lists: Sequence[Texts]) -> list[int]:
    """How many different texts of each list are in a stream too: read to its end once, and remembered.

    Raises DataError, as training on it would.
    """
    questions = [["shared texts", stream.id, texts.id] for texts in lists]
    answers = [recall_answer(question) for question in questions]
    wanted: dict[str, set[int]] = {}
    for place, texts in enumerate(lists):
        for text in texts.items if answers[place] is None else ():
            wanted.setdefault(text, set()).add(place)
    if wanted:
        found = Counter(place for text in wanted.keys() & stream.texts(0) for place in wanted[text])
        for place, question in enumerate(questions):
            if answers[place] is None:
                answers[place] = found[place]
                remember_answer(question, found[place])
    return [int(answer) for answer in answers if answer is not None]


# ---------------------------------------------------------------------------------------------------------
# Files


def _of_files(source: TextStream) -> FileStream:
    parts = tuple(part_of(path) for pattern in source.files for path in _matching(pattern))
    field = source.field
    if all(part.kind == "text" for part in parts):
        check_no_field(parts[0].path, field)
    for part in parts if field is None else ():
        if part.kind != "text" and (row := first_row(part)) is not None:
            field = guess_field(part.path, row)
            break
    # Of a part the kind counts too: the same bytes as lines of text are other texts than as lines of JSON.
    key = {"files": [[part.kind, part.digest] for part in parts], "field": field, "window": WINDOW}
    count = sum(part.count for part in parts)
    return FileStream(identity({"stream": key}), source.name, count, parts, field)


def _matching(pattern: str) -> list[Path]:
    """The files that a pattern names, in the order of their names."""
    path = os.path.expanduser(pattern)
    if os.path.exists(path) or not glob.has_magic(path):
        return [Path(path)]
    found = sorted(glob.glob(path, recursive=True))
    if not found:
        raise DataError(f"{pattern}: no file matches{looked_in(Path(path))}")
    return [Path(one) for one in found]


# ---------------------------------------------------------------------------------------------------------
# Datasets


def _of_hub(source: HubStream) -> HubTexts:
    commit = resolve_commit(source.dataset, source.revision, "dataset")
    name = source.name if commit is None else f"{source.name}@{commit}"
    digest = None
    key: dict[str, Any] = {"hub": source.dataset, "commit": commit}
    if commit is None:  # a folder: its content counts and not its path
        folder = Path(source.dataset).expanduser().resolve()
        source, digest = replace(source, dataset=str(folder)), _folder_digest(folder)
        key = {"folder": digest}
    field = source.field
    if field is None:
        row = next(_hub_rows(source, commit, 0), None)
        if row is None:
            raise DataError(f"{name}: the corpus is empty")
        field = guess_field(name, row)
    key |= {"subset": source.subset, "split": source.split, "field": field, "window": WINDOW}
    count = None if commit is None else _told_count(source, commit)
    return HubTexts(identity({"stream": key}), name, count, source, commit, digest, field)


def _open(source: HubStream, commit: str | None) -> Any:
    """The dataset as `datasets` streams it. Raises DataError."""
    import datasets

    dataset, revision = hub_dataset(source.dataset, commit)
    try:
        return datasets.load_dataset(dataset, source.subset, split=source.split, revision=revision, streaming=True)
    except Exception as error:  # whatever the readers of all formats raise
        raise hub_refusal(f"HubStream {source.name!r}", error) from error


def _hub_rows(source: HubStream, commit: str | None, start: int, field: str | None = None) -> Iterator[dict[str, Any]]:
    """The rows from number `start` on, of the columns of `field` only where it is given."""
    dataset = _open(source, commit)
    if field is not None and field in (dataset.column_names or ()):
        dataset = dataset.select_columns([field])
    rows = iter(dataset.skip(start) if start else dataset)
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # whatever the readers of all formats raise
            raise hub_refusal(f"HubStream {source.name!r}", error) from error
        yield row


def _told_count(source: HubStream, commit: str) -> int | None:
    """The number of rows as the dataset's card tells it."""
    splits = _open(source, commit).info.splits
    return (splits[source.split].num_examples or None) if splits and source.split in splits else None


def _folder_digest(folder: Path) -> str | None:
    """One hash over the names and contents of all files; None where there is no such folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return identity([[str(file.relative_to(folder)), file_digest(file)] for file in files]) if files else None
