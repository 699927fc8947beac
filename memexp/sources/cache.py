"""A per-user cache of answers that are slow to find again: digests of model files, parameter counts.

Entries are small JSON files under ``$XDG_CACHE_HOME/memexp`` (``~/.cache/memexp``), named by the hash of everything the
answer depends on, so nothing is ever stale; removing the folder is always safe.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from memexp.identity import identity, parsed

__all__ = ["file_question", "recall_answer", "remember_answer"]


def _file(question: Any) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "memexp" / f"{identity(question)}.json"


def recall_answer(question: Any) -> Any | None:
    """The remembered answer to a JSON-like question, or None."""
    try:
        return parsed(_file(question).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def remember_answer(question: Any, answer: Any) -> None:
    """Remember a JSON-like answer. A cache that cannot be written only costs time, so that is no error."""
    file = _file(question)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False, encoding="utf-8") as handle:
            json.dump(answer, handle)
        os.replace(handle.name, file)


def file_question(what: str, file: Path) -> list[Any]:
    """A question about a file's content, which is another one as soon as the file is written to or replaced."""
    stat = file.stat()
    return [what, str(file.resolve()), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]
