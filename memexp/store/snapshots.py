"""Which snapshots a store has: trajectories that core/checkpoint.py saved, and where.

.snapshots/<trajectory>/<step>.json            the mark: its files, in full; without it they count for nothing
.snapshots/<trajectory>/<step>-<random>/...    what torch.distributed.checkpoint wrote

find(store).of("0123456789abcdef", first=1, last=1000)    # the newest first
discard(store, "0123456789abcdef")
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Literal, Protocol

__all__ = ["FOLDER", "Mark", "Marks", "SideFiles", "discard", "find"]

FOLDER = ".snapshots"


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

    def of(self, trajectory: str, first: int, last: int) -> list[Mark]:
        """Those of a trajectory after its steps `first` to `last`, the newest first."""
        found = [mark for mark in self.found if mark.trajectory == trajectory and first <= mark.step <= last]
        return sorted(found, key=lambda mark: -mark.step)


def find(store: SideFiles) -> Marks:
    """All snapshots there are."""
    paths = store.list_text(f"{FOLDER}/")
    marks = [re.fullmatch(rf"{re.escape(FOLDER)}/([^/]+)/(\d+)\.json", path) for path in paths]
    return Marks(
        frozenset(Mark(match[1], int(match[2])) for match in marks if match),
        frozenset(path.split("/")[1] for path in paths),
    )


def discard(store: SideFiles, trajectory: str) -> None:
    """Remove the snapshots of a trajectory, half ones too."""
    # Marks first: whoever is killed in between leaves nothing that looks whole.
    for path in sorted(store.list_text(f"{FOLDER}/{trajectory}/"), key=lambda path: not path.endswith(".json")):
        store.delete(path)
