"""Sweep scripts, executed for the sweep that they describe.

sweep = load("sweeps/quickstart.py", ["--lr", "1e-3"])
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.errors import MemexpError, SpecError
from memexp.script import OWN_OPTIONS, loading

if TYPE_CHECKING:
    from memexp.sweep import Sweep

__all__ = ["load"]


class _Arguments(list[str]):
    """``sys.argv`` of a script, which tells whether the script looked beyond its own name."""

    heeded = False

    def __getitem__(self, key: Any) -> Any:
        self.heeded |= key not in (0, -len(self))
        return super().__getitem__(key)

    def __iter__(self) -> Iterator[str]:
        self.heeded = True
        return super().__iter__()


def load(path: str, arguments: Sequence[str]) -> Sweep:
    """Execute a sweep script and return its attribute ``sweep``.

    Raises:
        SpecError: there is no such script, it fails (the message names the line), or it holds no sweep.
    """
    from memexp.sweep import Sweep  # which takes a second to import

    file = Path(path)
    if not file.is_file():
        raise SpecError(f"{path}: no such sweep script" + ("" if file.is_absolute() else f" in {Path.cwd()}"))
    for argument in arguments:  # a script with run_options() would take them, and nobody would heed them
        if argument.partition("=")[0] in OWN_OPTIONS:
            raise SpecError(f"{argument} is an option of memexp's own: give it before {path}")
    spec = importlib.util.spec_from_file_location(f"memexp_sweep_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.argv = given = _Arguments([path, *arguments])
    sys.path.insert(0, str(file.resolve().parent))
    try:
        with loading(path):
            spec.loader.exec_module(module)
    except SyntaxError as error:
        raise SpecError(f"{error.filename or path}, line {error.lineno}: {error.msg}") from error
    except Exception as error:  # the script is the user's and may raise anything; what it raised is told with its line
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == spec.origin]
        kind = "" if isinstance(error, MemexpError) else f"{type(error).__name__}: "
        message = " ".join(str(error).split())
        raise SpecError(f"{path}, line {lines[-1] if lines else '?'}: {kind}{message}") from error
    if arguments and not given.heeded:
        raise SpecError(f"{path}: takes no arguments (it never looks at sys.argv), got {' '.join(arguments)}")
    sweep = getattr(module, "sweep", None)
    if not isinstance(sweep, Sweep):
        raise SpecError(f"{path}: has no module attribute `sweep` that is a memexp.Sweep")
    return sweep
