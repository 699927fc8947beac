"""Differences between two conditions, paired where they share items, and Holm's correction for many of them.

difference(correct_a, correct_b, items=item, seeds=seed)   # a - b: Difference(difference=.02, low=..., p=..., ...)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Difference", "difference", "holm", "mcnemar"]


@dataclass(frozen=True)
class Difference:
    """A difference of two means, a - b, with its interval."""

    difference: float | None
    low: float | None
    """None where there is no interval: `reason` says why."""
    high: float | None
    p: float | None
    """Of no difference, two-sided, by `test`."""
    test: str
    """``McNemar, exact``, ``t, paired`` or ``t``."""
    mean_a: float | None
    mean_b: float | None
    n_a: int
    """Values; of paired ones those that were paired."""
    n_b: int
    items: int | None
    """Items of both together; those that are shared count once."""
    seeds: int | None
    """The smaller number of both sides, as of lists: what decides on an interval."""
    lists: int | None
    shared_items: int | None
    """Items that both have. Where there are any, the others are left out."""
    over: str
    reason: str | None
    error: float | None
    df: float | None
    level: float


def difference(
    a: Any,
    b: Any,
    *,
    items: Any = None,
    seeds: Any = None,
    lists: Any = None,
    items_b: Any = None,
    seeds_b: Any = None,
    lists_b: Any = None,
    over: str | None = None,
    level: float = 0.95,
) -> Difference:
    """The mean of `a` less the mean of `b`.

    Without the arguments ending in ``_b`` row i of `b` belongs to the item, seed and list of row i of `a`. With them
    the rows of `b` have their own, and what has the same item (and list) on both sides is paired; so are seeds.

    Args:
        a, b: numbers or booleans, shapes (rows,) and (rows of b,).
        items, seeds, lists, over, level: as for `memexp.stats.mean_interval`.
        items_b, seeds_b, lists_b: the same of `b`.

    Raises:
        SpecError: as `mean_interval`.
    """
    raise NotImplementedError


def mcnemar(a: Any, b: Any) -> float:
    """Exact McNemar p, two-sided, of paired choices: of the items that differ, is one half right in `a`?

    Shapes (items,), booleans or 0 and 1. 1 where no item differs.
    """
    raise NotImplementedError


def holm(p: Sequence[float | None]) -> NDArray[np.float64]:
    """Holm's (1979) adjusted p of several comparisons, shape (comparisons,); None and NaN are NaN and do not count."""
    raise NotImplementedError
