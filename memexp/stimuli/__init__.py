"""Study lists that ship with memexp: `ShippedText("sentences-targets")` in a sweep, `load_list(...)` for the texts.

Five lists of 240 English sentences of 12 to 30 words, written for this project; item i of each belongs to target i:

- ``sentences-targets`` and ``sentences-foils``: on other subjects, of like length and register. A coin decided which of
  a pair became the target, so what an untrained model prefers about one of the lists is chance.
- ``sentences-paraphrases``: the targets in other words.
- ``sentences-synonyms``: the targets with one word replaced by a synonym.
- ``sentences-interference``: unrelated sentences, for training after study.
"""

from __future__ import annotations

import json
from importlib.resources import files

from memexp.errors import DataError

__all__ = ["load_list", "shipped_lists"]

_SUFFIX = ".jsonl"


def shipped_lists() -> list[str]:
    """Names of the lists that ship with memexp, sorted."""
    names = (entry.name for entry in files(__name__).iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def load_list(name: str) -> list[str]:
    """Sentences of a shipped list, in order; item i of a foil list belongs to item i of its target list.

    Raises:
        DataError: no list has this name; the message names those there are.
    """
    known = shipped_lists()
    if name not in known:  # also keeps a name with / or .. from reaching the file system
        raise DataError(f"{name}: no shipped list has this name; there are {', '.join(known)}")
    lines = (files(__name__) / f"{name}{_SUFFIX}").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["sent"]) for line in lines]
