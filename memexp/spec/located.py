"""Where a class was written, for errors about what a user wrote."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import CodeType

__all__ = ["codes", "located", "written_by_user"]


def located(cls: type) -> str:
    """``Mine (sweep.py, line 12)``; also of a class that came to a worker without its file, then by its methods."""
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        first = min(codes(cls), key=lambda code: code.co_firstlineno, default=None)
        if first is None:
            return cls.__name__
        file, line = first.co_filename, first.co_firstlineno
    return f"{cls.__name__} ({Path(file or '?').name}, line {line})"


def codes(cls: type) -> list[CodeType]:
    """The methods of a class as far as they were written in it, and not made by a decorator."""
    own = [value for value in vars(cls).values() if inspect.isfunction(value) and value.__module__ == cls.__module__]
    made = [value.__code__ for value in own if value.__name__ != "__init__"]  # which `@spec` wraps
    return [code for code in made if code.co_filename != "<string>"]  # of which a dataclass makes methods


def written_by_user(cls: type) -> bool:
    """Whether a class does not come with memexp."""
    return cls.__module__.partition(".")[0] != "memexp"
