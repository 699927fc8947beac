"""Which snapshots a store has: trajectories that core/checkpoint.py saved, where, and what each says of itself.

.snapshots/<trajectory>/<step>.json            the mark: what the snapshot belongs to, its files, their sizes and sums
.snapshots/<trajectory>/<step>-<random>/...    its files, which count for nothing before the mark lists them

found = find(store)
found.of("0123456789abcdef", first=1, last=1000)    # the newest first
read_mark(store, mark, plan)                        # a Snapshot, or Unfit is raised: training begins earlier
discard(store, "0123456789abcdef")

Nothing here is trusted: a mark has its own sum, and what does not read or belongs to something else is `Unfit`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Annotated, Literal, Protocol

from pydantic import BaseModel, ConfigDict, NonNegativeInt, StringConstraints

from memexp.errors import MemexpError, StoreError, StoreGoneError, one_line
from memexp.identity import NUMERICS
from memexp.store.threads import THREADS, threaded

__all__ = [
    "FOLDER",
    "File",
    "Form",
    "Mark",
    "Marks",
    "SideFiles",
    "Snapshot",
    "Unfit",
    "discard",
    "find",
    "forget_older",
    "is_whole",
    "mark_text",
    "read_mark",
    "said_by",
]

FOLDER = ".snapshots"
LONGEST = 1 << 24
"""Bytes of a mark at most: whatever is longer is none, and is not read."""


class SideFiles(Protocol):
    """Files beside the records, in hidden folders; `memexp.store.Store` has them."""

    def open(self, path: str, mode: Literal["rb", "wb"]) -> AbstractContextManager[IO[bytes]]:
        """A large file as a stream."""

    def size(self, path: str) -> int | None:
        """Bytes of a file, None where there is none."""

    def put_text(self, path: str, text: str) -> None:
        """Write a small file, whole or not at all."""

    def get_text(self, path: str) -> str | None:
        """A small file, None where there is none."""

    def list_text(self, prefix: str) -> list[str]:
        """Paths of the files that begin so."""

    def delete(self, path: str) -> None:
        """Remove a file if it is there."""


class Unfit(MemexpError):
    """A snapshot that cannot be taken up, and why. Training begins at an older one, or at the beginning."""


@dataclass(frozen=True)
class Mark:
    """A snapshot that was saved whole."""

    trajectory: str
    """Identity of the trajectory: of the stage, or what all stops of one line share."""
    step: int
    """Steps of it that were made."""

    @property
    def path(self) -> str:
        """The file that says the snapshot is whole."""
        return f"{FOLDER}/{self.trajectory}/{self.step:09d}.json"


@dataclass(frozen=True)
class Marks:
    """The snapshots that were found."""

    found: frozenset[Mark] = frozenset()
    trajectories: frozenset[str] = frozenset()
    """Those that have files, of half snapshots too."""
    fault: str | None = None
    """Why none could be looked for."""

    def of(self, trajectory: str, first: int, last: int) -> list[Mark]:
        """Those of a trajectory after its steps `first` to `last`, the newest first."""
        found = [mark for mark in self.found if mark.trajectory == trajectory and first <= mark.step <= last]
        return sorted(found, key=lambda mark: -mark.step)

    def without(self, mark: Mark) -> Marks:
        """The others."""
        return dataclasses.replace(self, found=self.found - {mark})


def find(store: SideFiles, of: Collection[str] | None = None) -> Marks:
    """The snapshots of some trajectories, or all there are; none, with the reason, where they cannot be listed.

    Raises StoreGoneError, as all here that reads does: of an outage no snapshot is at fault.
    """
    # Of a few each by itself: a listing of all takes the longer the more are kept.
    prefixes = [f"{FOLDER}/"] if of is None or len(of) > THREADS else [f"{FOLDER}/{one}/" for one in sorted(of)]
    try:
        paths = [path for found in threaded(store.list_text, prefixes) for path in found]
    except StoreGoneError:
        raise
    except StoreError as error:
        return Marks(fault=one_line(error))
    marks = [re.fullmatch(rf"{re.escape(FOLDER)}/([^/]+)/([0-9]{{9,18}})\.json", path) for path in paths]
    return Marks(
        frozenset(Mark(match[1], int(match[2])) for match in marks if match),
        frozenset(path.split("/")[1] for path in paths if path.count("/") > 1),
    )


def discard(store: SideFiles, trajectory: str) -> None:
    """Remove the snapshots of a trajectory, half ones too. What cannot be removed is in nobody's way."""
    with contextlib.suppress(StoreError):
        _delete(store, store.list_text(f"{FOLDER}/{trajectory}/"))


def forget_older(store: SideFiles, newest: Mark) -> None:
    """Remove what a newer snapshot has made useless; not what is being written, which has no mark yet.

    Old marks are not read: what is wrong with them is of no interest any more.
    """
    with contextlib.suppress(StoreError):
        paths = store.list_text(f"{FOLDER}/{newest.trajectory}/")
        numbers = [re.fullmatch(r"([0-9]{9,18})(\.json|-.*)", path.split("/")[2]) for path in paths]
        old = {match[1] for match in numbers if match and match[2] == ".json" and int(match[1]) < newest.step}
        _delete(store, [path for path, match in zip(paths, numbers, strict=True) if match and match[1] in old])


def _delete(store: SideFiles, paths: list[str]) -> None:
    # Marks first: whoever is killed in between leaves nothing that looks whole.
    for path in sorted(paths, key=lambda path: not path.endswith(".json") or path.count("/") > 2):
        with contextlib.suppress(StoreError):
            store.delete(path)


# ---------------------------------------------------------------------------------------------------------
# What a mark says


class Form(BaseModel):
    """JSON of a fixed form: exactly these fields, of exactly these types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class File(Form):
    """A file as it was written."""

    size: NonNegativeInt
    """Bytes."""
    crc32: NonNegativeInt
    """Its CRC-32."""


class Snapshot(Form):
    """What a mark says of its snapshot."""

    format: Literal[1]
    trajectory: str
    """As of the mark; one copied to another trajectory's name is not that trajectory's."""
    step: NonNegativeInt
    plan: str
    """Identity of the stage that the trajectory begins after."""
    numerics: int
    """`memexp.identity.NUMERICS` of the code that made it."""
    workers: int
    """Ranks that wrote it."""
    folder: Annotated[str, StringConstraints(pattern=r"^[0-9]{9,18}-[0-9a-f]{32}$")]
    """Where its files are, beside the mark."""
    files: dict[Annotated[str, StringConstraints(pattern=r"^[0-9a-z-]+\.(json|safetensors)$")], File]

    def path(self, file: str) -> str:
        """One of its files in the store."""
        return f"{FOLDER}/{self.trajectory}/{self.folder}/{file}"


_TEXT = re.compile(r'\{"sum":"([0-9a-f]{64})","snapshot":(\{.*\})\}\n', re.DOTALL)


def mark_text(snapshot: Snapshot) -> str:
    """What is in the file of a mark: the snapshot, after the SHA-256 of just these characters."""
    body = snapshot.model_dump_json()
    return f'{{"sum":"{hashlib.sha256(body.encode()).hexdigest()}","snapshot":{body}}}\n'


def read_mark(store: SideFiles, mark: Mark, plan: str) -> Snapshot | None:
    """What a mark says, if it belongs where it is and to what `plan` says; None where it is gone.

    Raises:
        Unfit: it does not read, is not what was written, or belongs to something else.
    """
    try:
        size = store.size(mark.path)
        if size is not None and not 0 < size <= LONGEST:  # 0: also what would block whoever reads it
            raise Unfit(f"its mark has {size} bytes")
        text = None if size is None else store.get_text(mark.path)
    except StoreGoneError:
        raise
    except (StoreError, ValueError) as error:
        raise Unfit(f"its mark cannot be read: {one_line(error)}") from error
    if text is None:
        return None
    snapshot = _parsed(text)
    belongs = (snapshot.trajectory, snapshot.step, snapshot.plan, snapshot.numerics)
    wanted = (mark.trajectory, mark.step, plan, NUMERICS)
    names = ("trajectory", "step", "plan", "numerics")
    if wrong := [f"{name} {a}, not {b}" for name, a, b in zip(names, belongs, wanted, strict=True) if a != b]:
        raise Unfit(f"its mark is of {', '.join(wrong)}")
    return snapshot


def said_by(store: SideFiles, mark: Mark) -> Snapshot | None:
    """What a mark says, whatever it belongs to; None where it is gone or does not read."""
    try:
        text = store.get_text(mark.path)
        return None if text is None else _parsed(text)
    except Unfit:
        return None


def _parsed(text: str) -> Snapshot:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise Unfit("its mark is not of this version of memexp, or not whole")
    if hashlib.sha256(match[2].encode()).hexdigest() != match[1]:
        raise Unfit("its mark is not what was written: its sum is wrong")
    try:
        return Snapshot.model_validate_json(match[2])
    except ValueError as error:
        raise Unfit(f"its mark is not of this version of memexp: {one_line(error)}") from error


def is_whole(store: SideFiles, mark: Mark, plan: str) -> bool:
    """Whether a snapshot is there and belongs to `plan`, with files of the right length. Reads its mark only."""
    try:
        snapshot = read_mark(store, mark, plan)
        return snapshot is not None and all(
            store.size(snapshot.path(name)) == file.size for name, file in snapshot.files.items()
        )
    except StoreGoneError:
        raise
    except (Unfit, StoreError):
        return False
