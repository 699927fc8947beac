"""Where a class was written, for errors about what a user wrote."""

from __future__ import annotations

import inspect
from pathlib import Path

__all__ = ["located", "written_by_user"]


def located(cls: type) -> str:
    """``Mine (sweep.py, line 12)``; also of a class that came to a worker without its file, then by its methods."""
    try:
        file, line = inspect.getsourcefile(cls), inspect.getsourcelines(cls)[1]
    except (OSError, TypeError):
        codes = [value.__code__ for value in vars(cls).values() if inspect.isfunction(value)]
        own = [code for code in codes if code.co_name != "__init__"]  # that one is a decorator's
        if not own:
            return cls.__name__
        first = min(own, key=lambda code: code.co_firstlineno)
        file, line = first.co_filename, first.co_firstlineno
    return f"{cls.__name__} ({Path(file or '?').name}, line {line})"


def written_by_user(cls: type) -> bool:
    """Whether a class does not come with memexp."""
    return cls.__module__.partition(".")[0] != "memexp"
