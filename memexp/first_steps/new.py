"""``memexp new NAME``: a sweep to begin with, and the sentences that it studies.

print_new("mine")           # writes mine.py and mine.csv into the current folder
print_new("sweeps/mine")    # into sweeps/, which has to be there
"""

from __future__ import annotations

import contextlib
import shlex
from importlib.resources import files
from pathlib import Path

from memexp.errors import SpecError

__all__ = ["print_new", "write_new"]

LONGEST = 100
"""Characters of a name: it becomes that of the sweep, too, with which names of files in the store begin."""


def print_new(name: str) -> int:
    """Write a sweep and say what to do with it; see `write_new` for what it raises."""
    script, texts = write_new(name)
    at = shlex.quote(str(script))
    print(f"{script}: a sweep, with comments on what to change")
    print(f"{texts}: its sentences, a target and a foil a line")
    print(f"next: memexp run {at} --local")
    return 0


def write_new(name: str) -> tuple[Path, Path]:
    """Write ``NAME.py`` and ``NAME.csv``, relative to the current folder; `name` may end in ``.py``.

    Raises:
        SpecError: the name cannot be one, its folder is not there, or one of the files is: then none is written.
    """
    folder, stem = Path(name).expanduser().parent, Path(name).name.removesuffix(".py")
    if not stem or not stem[0].isalnum() or not _plain(stem) or len(stem) > LONGEST:
        raise SpecError(
            f"{name!r} cannot name a sweep: at most {LONGEST} letters, digits, '_' and '-', after a folder if you like"
        )
    if not folder.is_dir():
        raise SpecError(f"there is no folder {folder}; make it first, or give the name alone")
    targets = {folder / f"{stem}{suffix}": _template(suffix, stem) for suffix in (".py", ".csv")}
    for path in targets:
        if path.exists() or path.is_symlink():
            raise SpecError(f"{path} is there already and stays as it is; give another name")
    made: list[Path] = []
    try:
        for path, text in targets.items():
            with path.open("x", encoding="utf-8") as file:
                made.append(path)
                file.write(text)
    except OSError as error:
        for path in made:
            with contextlib.suppress(OSError):
                path.unlink()
        raise SpecError(f"cannot write {error.filename or folder}: {error.strerror}") from error
    script, texts = targets
    return script, texts


def _plain(stem: str) -> bool:
    return stem.isascii() and all(letter.isalnum() or letter in "_-" for letter in stem)


def _template(suffix: str, stem: str) -> str:
    """What ships for files with this suffix; ``.txt`` instead of ``.py``, as it is no module of memexp's own."""
    shipped = {".py": "new_sweep.txt", ".csv": "new_sweep.csv"}[suffix]
    return files("memexp.first_steps").joinpath(shipped).read_text(encoding="utf-8").replace("NAME", stem)
