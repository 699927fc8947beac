"""What travels with a sweep to a cluster that executes it: the folder of its script, tried out before it leaves.

with packed(Path("my_project"), "sweeps/mine.py") as luggage:
    ...                      # luggage.folder is a copy, and the current folder meanwhile
    luggage.check(sweep)     # what the script made there
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memexp.errors import SpecError
from memexp.spec import ItemFile, TextFile, TextStream

__all__ = ["Luggage", "packed"]

MOST = 200_000_000
"""Bytes that travel at most: what is larger belongs where every node sees it."""
LEFT = ("__pycache__", "node_modules")
"""Folders that are left, beside hidden ones, environments of Python and stores."""


@dataclass(frozen=True)
class Luggage:
    """A copy of what travels."""

    origin: Path
    """Of what it is a copy."""
    folder: Path
    script: Path
    """Below `folder`."""

    def check(self, conditions: Any) -> None:
        """Raise SpecError where `conditions` read a file that stays here, or that is not in the copy."""
        for path in sorted(set(_files(conditions))):
            at = Path(path)
            if at.is_absolute() and not at.is_relative_to(self.folder):
                raise SpecError(f"{path}: stays on this machine; what travels is {self.origin}: name it from there")
            if not (self.folder / at).exists():
                there = (self.origin / at).exists()
                why = "is in what is left behind (hidden, or a store)" if there else f"is not in {self.origin}"
                raise SpecError(f"{path}: {why}; --dir names another folder that travels")


@contextlib.contextmanager
def packed(folder: Path, script: str) -> Iterator[Luggage]:
    """A copy of `folder`, which is the current folder while the context lasts.

    Left behind are hidden files, environments of Python, caches and stores.

    Raises:
        SpecError: the script is not in it, or it is larger than `MOST`.
    """
    folder, at = folder.resolve(), Path(script).resolve()
    if not at.is_file():
        raise SpecError(f"{script}: no such sweep script" + ("" if Path(script).is_absolute() else f" in {Path.cwd()}"))
    if not at.is_relative_to(folder):
        raise SpecError(f"{script}: is not in {folder}, which travels; --dir names another folder")
    files = list(_of(folder))
    sizes = {path: path.stat().st_size for path in files}
    if sum(sizes.values()) > MOST:
        largest = max(sizes, key=lambda path: sizes[path])
        raise SpecError(
            f"{folder} has {sum(sizes.values()) / 1e6:.0f} MB, and at most {MOST / 1e6:.0f} travel (the largest file: "
            f"{largest.relative_to(folder)}); --dir names a smaller folder"
        )
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="memexp-luggage-") as copy:
        own = Path(copy).resolve()
        for path in files:
            target = own / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        os.chdir(own)
        try:
            yield Luggage(folder, own, own / at.relative_to(folder))
        finally:
            os.chdir(before)


def _of(folder: Path) -> Iterator[Path]:
    """The files that travel."""
    for at, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if _travels(Path(at, name)))
        for name in sorted(names):
            path = Path(at, name)
            if not name.startswith(".") and path.is_file():  # no socket, no link that leads nowhere
                yield path


def _travels(folder: Path) -> bool:
    hidden = folder.name.startswith(".") or folder.name in LEFT
    is_store = (folder / "stages").is_dir() and (folder / "sweeps").is_dir()
    return not (hidden or is_store or (folder / "pyvenv.cfg").exists())


def _files(described: Any) -> Iterator[str]:
    """The files that corpora in `described` name; patterns by the folder they begin with."""
    if isinstance(described, TextFile | ItemFile):
        yield str(described.path)
    elif isinstance(described, TextStream):
        for file in described.files:
            name = str(file)
            yield str(Path(name).parent) if set(name) & set("*?[") else name
    elif isinstance(described, tuple | list):
        for one in described:
            yield from _files(one)
    elif dataclasses.is_dataclass(described):
        for field in dataclasses.fields(described):
            yield from _files(getattr(described, field.name))
