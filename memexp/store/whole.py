"""Which files of a store are whole, from what a listing tells of them and the ends of those that nobody has looked at.

whole = Whole(medium, "s3://bucket/results")
whole.broken(files)    # {"recall/a.parquet": "3 bytes, cut off or not Parquet"}

A file that was found whole is looked at again only once it has been made anew. In object storage, which takes an object
whole or not at all, one command looks at `MOST` ends at most, and what it saw is remembered on this machine, under
``~/.cache/memexp``: the next command looks at others. What is remembered may be lost without harm.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from memexp.identity import identity
from memexp.store.medium import Listed, Medium
from memexp.store.threads import threaded

__all__ = ["MOST", "Whole"]

MOST = 2_000
"""Ends of objects that one command looks at: a request each."""
LEAST = 12
"""Bytes of the smallest file of Parquet."""


class Whole:
    """What is known of the files of one store."""

    def __init__(self, medium: Medium, location: str, is_local: bool) -> None:
        self.medium, self.is_local = medium, is_local
        self.left = MOST
        """Ends that may still be looked at; in a folder all are."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        self.memory = home / "memexp" / f"whole-{identity(location)}.txt"
        self.seen: set[str] = set() if is_local else self._remembered()

    def broken(self, files: Sequence[Listed]) -> dict[str, str]:
        """What is wrong with those of `files` that are not whole, by their key."""
        found = {file.key: _cut_off(file.size) for file in files if file.size < LEAST}
        new = [(file, token) for file in files if (token := self._token(file)) not in self.seen]
        new = [(file, token) for file, token in new if file.key not in found]
        if not self.is_local:
            new = new[: self.left]
            self.left -= len(new)
        good = threaded(lambda item: self._ends_well(item[0]), new)
        found |= {file.key: _cut_off(file.size) for (file, _), well in zip(new, good, strict=True) if not well}
        self._remember([token for (_, token), well in zip(new, good, strict=True) if well])
        return found

    def _token(self, file: Listed) -> str:
        return f"{file.key} {file.stamp}" if self.is_local else identity([file.key, file.stamp])

    def _ends_well(self, file: Listed) -> bool:
        tail = self.medium.read(file.key, file.size - 8, file.size)
        # Of an object the end is enough: it costs a request.
        head = self.medium.read(file.key, 0, 4) if self.is_local else b"PAR1"
        footer = int.from_bytes(tail[:4], "little")
        return head == b"PAR1" and tail[4:] == b"PAR1" and 0 < footer <= file.size - LEAST

    def _remembered(self) -> set[str]:
        with contextlib.suppress(OSError):
            return set(self.memory.read_text(encoding="ascii", errors="replace").split())
        return set()

    def _remember(self, tokens: Iterable[str]) -> None:
        new = set(tokens) - self.seen
        self.seen |= new
        if not new or self.is_local:
            return
        with contextlib.suppress(OSError):  # then they are looked at again
            self.memory.parent.mkdir(parents=True, exist_ok=True)
            with open(self.memory, "a", encoding="ascii") as file:
                file.write("".join(f"{token}\n" for token in sorted(new)))


def _cut_off(size: int) -> str:
    return f"{size} bytes, cut off or not Parquet"
