"""The order in which people read settings and results: small models first, numbers by their value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["AFTERWARDS", "FIRST", "in_order"]

FIRST = (
    *("model", "method", "lr", "batch_size", "experiment", "text", "lora_r", "lora_targets", "schedule", "dtype"),
    *("task", "metric", "relation", "forget_side", "forget_layer", "restudy_exposures", "exposures"),
    *("unlearn_loss", "unlearn_steps", "unlearn_lr"),
    *("retention_steps", "interference_lr", "interference_batch_size", "interference_optimizer"),
    *("pretrain_steps", "pretrain_lr", "pretrain_batch_size"),
)
"""Settings and common labels in the order of their importance to a reader; all other labels come behind."""
AFTERWARDS = ("unlearn_steps", "retention_steps")
"""Steps of what may come after study."""
_WORDS = ("tiny", "small", "base", "medium", "large", "xl")
_LETTERS = ("s", "m", "l")


def in_order(settings: Mapping[str, Any]) -> tuple[Any, ...]:
    """A key that sorts results as people would: small models first, numbers by their value."""
    values = [settings.get(name) for name in (*FIRST, "replication", "corpus", "seed")]
    return (_size(str(values[0])), *(_sortable(value) for value in values))


def _sortable(value: Any) -> tuple[int, float, str]:
    if value is None:
        return 0, 0.0, ""
    return (1, float(value), "") if isinstance(value, int | float) else (2, 0.0, str(value))


def _size(name: str) -> tuple[str, float]:
    """The family of a model and its size, as far as its name tells: 1.3b, 560m, 1b7; or words: large, tiny-s."""
    words = re.split(r"[-_/ ]", name.lower())
    for word in words:
        told = re.fullmatch(r"(\d+(?:\.\d+)?)([bm])(\d*)", word)
        if told:
            size = float(f"{told[1]}.{told[3]}" if told[3] else told[1])
            return words[-2] if len(words) > 1 else "", size * (1000 if told[2] == "b" else 1)
    ranks = [_WORDS.index(word) + 1 for word in words if word in _WORDS]
    within = _LETTERS.index(words[-1]) / 10 if words[-1] in _LETTERS else 0.0  # tiny-s, tiny-m, tiny-l
    return words[0], (ranks[0] + 0.5 if ranks else 2.0) + within
