"""Differences between two conditions, paired where they share items, and Holm's correction for many of them.

difference(correct_a, correct_b, items=item, seeds=seed)   # a - b: Difference(difference=.02, low=..., p=..., ...)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import ndtr, stdtr, stdtrit

from memexp.errors import SpecError
from memexp.stats.clusters import SAME, Group, check_level, count, spread
from memexp.stats.tables import Codes, Floats, Units, as_array, codes, numbers

__all__ = ["Difference", "difference", "difference_of", "holm", "mcnemar"]

MCNEMAR, CHOICES, PAIRED, UNPAIRED = "McNemar, exact", "Agresti-Caffo", "t, paired", "t"


@dataclass(frozen=True)
class Difference:
    """A difference of two means, a - b, with its interval."""

    difference: float | None
    low: float | None
    """None where there is no interval: `reason` says why."""
    high: float | None
    p: float | None
    """Of no difference, two-sided, by `test`; None where there is no interval."""
    test: str
    """``McNemar, exact``: choices, one row for each shared item. ``Agresti-Caffo``: choices, one row for each item,
    none shared. ``t, paired`` and ``t``: anything else, with shared items and without."""
    mean_a: float | None
    mean_b: float | None
    n_a: int
    """Values; of paired ones those that were paired."""
    n_b: int
    items: int
    """The smaller number of both sides, as of seeds and lists: what decides on an interval."""
    seeds: int | None
    lists: int | None
    shared_items: int
    """Items that both have. Where there are any, the others are left out."""
    over: str
    reason: str | None
    center: float | None
    """Middle of the interval: the difference; of choices a little nearer to 0, which keeps the interval honest where
    all or none are right."""
    error: float | None
    """The standard error that the interval is made of."""
    df: float | None
    """Degrees of freedom of its t; infinite for choices."""
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

    Choices of single items have McNemar's exact p and the interval of Agresti & Min (2005), or unpaired that of Agresti
    & Caffo (2000). Anything else has t over the clusters that `over` names.

    Args:
        a, b: numbers or booleans, shapes (rows,) and (rows of b,).
        items, seeds, lists, over, level: as for `memexp.stats.mean_interval`.
        items_b, seeds_b, lists_b: the same of `b`.

    Raises:
        SpecError: as `mean_interval`.
    """
    of_a, of_b = numbers(a, "a"), numbers(b, "b")
    if items_b is None and seeds_b is None and lists_b is None:
        if len(of_a) != len(of_b):
            raise SpecError(f"difference: {len(of_a)} values and {len(of_b)} are no pairs; say of which items b is")
        items = np.arange(len(of_a)) if items is None else items
        items_b, seeds_b, lists_b = items, seeds, lists
    rows = len(of_a) + len(of_b)
    item = np.arange(rows) if items is None or items_b is None else codes([_joined(items, items_b)], rows)
    seed, of_list = (
        None if one is None or other is None else codes([_joined(one, other)], rows)
        for one, other in ((seeds, seeds_b), (lists, lists_b))
    )
    item = item if of_list is None else codes([of_list, item], rows)
    side = np.repeat([0, 1], [len(of_a), len(of_b)])
    return difference_of(np.concatenate([of_a, of_b]), side, Units(item, seed, of_list), over, level)


def _joined(one: Any, other: Any) -> pa.ChunkedArray:
    """What both sides have, in one column."""
    parts = [as_array(part) for part in (one, other)]
    try:
        return pa.chunked_array([chunk for part in parts for chunk in getattr(part, "chunks", [part])])
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise SpecError(f"difference: items, seeds or lists of both sides differ in kind: {error}") from error


def difference_of(values: Floats, side: Codes, units: Units, over: str | None, level: float) -> Difference:
    """The difference of rows of side 0 less those of side 1, all of shape (rows,)."""
    check_level(over, level)
    there = ~np.isnan(values)
    values, side, units = values[there], side[there], units.take(there)
    shared = np.intersect1d(units.items[side == 0], units.items[side == 1])
    if len(shared):
        kept = np.isin(units.items, shared)
        values, side, units = values[kept], side[kept], units.take(kept)
    n = np.bincount(side, minlength=2)
    mean = [float(values[side == at].mean()) if n[at] else None for at in (0, 1)]
    found = _NOTHING
    if mean[0] is not None and mean[1] is not None:
        found = _compared(values, side, units, (mean[0], mean[1]), over, bool(len(shared)))
    low, high = _interval(found, level, choices=bool(np.isin(values, (0, 1)).all()))
    counts = {kind: None if of is None else int(count(Group(side, 2), of).min()) for kind, of in vars(units).items()}
    return Difference(
        difference=None if mean[0] is None or mean[1] is None else mean[0] - mean[1],
        low=low,
        high=high,
        p=found.p,
        test=found.test,
        mean_a=mean[0],
        mean_b=mean[1],
        n_a=int(n[0]),
        n_b=int(n[1]),
        items=counts["items"] or 0,
        seeds=counts["seeds"],
        lists=counts["lists"],
        shared_items=len(shared),
        over=found.over,
        reason=found.reason,
        center=found.center,
        error=found.error,
        df=found.df,
        level=level,
    )


@dataclass(frozen=True)
class _Compared:
    """What a difference is compared with."""

    test: str
    over: str = ""
    reason: str | None = None
    center: float | None = None
    error: float | None = None
    df: float | None = None
    p: float | None = None


_NOTHING = _Compared(UNPAIRED, reason="nothing was measured on one side")


def _compared(
    values: Floats, side: Codes, units: Units, mean: tuple[float, float], over: str | None, paired: bool
) -> _Compared:
    n = np.bincount(side, minlength=2)
    influence = np.array([1, -1])[side] * (values - np.array(mean)[side]) / n[side]
    found = spread(influence, Group.one(len(values)), units, over, Group(side, 2))
    test, said = PAIRED if paired else UNPAIRED, (found.over[0], found.reason[0])
    if np.isnan(found.error[0]):
        return _Compared(test, *said)
    if found.single[0] and np.isin(values, (0, 1)).all():
        return _choices(values, side, units, paired, said)
    center, error, df = mean[0] - mean[1], float(found.error[0]), float(found.df[0])
    if error <= SAME * max(1, *map(abs, mean)):
        return _without_variation(values, units, paired, said[0], center)
    return _Compared(test, *said, center, error, df, float(2 * stdtr(df, -abs(center) / error)))


def _without_variation(values: Floats, units: Units, paired: bool, over: str, center: float) -> _Compared:
    """Of a difference that every cluster has alike. No choice that differs, of few items, is no proof of equality."""
    reason = f"no variation over {over}"
    if not paired:
        return _Compared(UNPAIRED, over, reason)
    if abs(center) > SAME:
        return _Compared(PAIRED, over, reason, center, 0.0, math.inf, 0.0)
    if np.isin(values, (0, 1)).all():  # as `_choices` has it where no item differs
        return _Compared(MCNEMAR, "items", reason, 0.0, 1 / (len(np.unique(units.items)) + 2), math.inf, 1.0)
    return _Compared(PAIRED, over, reason, 0.0, 0.0, math.inf, 1.0)


def _choices(values: Floats, side: Codes, units: Units, paired: bool, said: tuple[str, str | None]) -> _Compared:
    """Of choices that have one row for each item, or several that are equal."""
    first = [np.unique(np.where(side == at, units.items, -1), return_index=True) for at in (0, 1)]
    a, b = (values[rows[items >= 0]] for items, rows in first)  # in the order of the items, on both sides
    if paired:
        n, better, worse = len(a) + 2, (a > b).sum() + 0.5, (a < b).sum() + 0.5
        center, error = float(better - worse) / n, math.sqrt(better + worse - (better - worse) ** 2 / n) / n
        return _Compared(MCNEMAR, *said, center, error, math.inf, mcnemar(a, b))
    share = [(part.sum() + 1) / (len(part) + 2) for part in (a, b)]
    error = math.sqrt(sum(of * (1 - of) / (len(part) + 2) for of, part in zip(share, (a, b), strict=True)))
    center = float(share[0] - share[1])
    return _Compared(CHOICES, *said, center, error, math.inf, float(2 * ndtr(-abs(center) / error)))


def _interval(found: _Compared, level: float, choices: bool) -> tuple[float | None, float | None]:
    if found.center is None or found.error is None:
        return None, None
    half = stdtrit(found.df, (1 + level) / 2) * found.error
    low, high = float(found.center - half), float(found.center + half)
    return (max(low, -1.0), min(high, 1.0)) if choices else (low, high)


def mcnemar(a: Any, b: Any) -> float:
    """Exact McNemar p, two-sided, of paired choices: of the items that differ, is one half right in `a`?

    Shapes (items,), booleans or 0 and 1; a pair with a NULL is left out. 1 where no item differs.
    """
    one, other = numbers(a, "a"), numbers(b, "b")
    if len(one) != len(other):
        raise SpecError(f"mcnemar: {len(one)} choices and {len(other)} are no pairs")
    if not np.isin([*one[~np.isnan(one)], *other[~np.isnan(other)]], (0, 1)).all():
        raise SpecError("mcnemar: takes choices, true or false; of scores take difference()")
    better, worse = int((one > other).sum()), int((one < other).sum())
    from scipy.stats import binomtest  # a second, for an exact test

    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def holm(p: Sequence[float | None]) -> Floats:
    """Holm's (1979) adjusted p of several comparisons, shape (comparisons,); None and NaN are NaN and do not count."""
    given = np.array([np.nan if one is None else one for one in p], np.float64)
    order = np.argsort(given)  # NaN last
    count = int((~np.isnan(given)).sum())
    factors = np.maximum(count - np.arange(len(given)), 1)
    adjusted = np.full(len(given), np.nan)
    adjusted[order[:count]] = np.minimum(np.maximum.accumulate((given[order] * factors)[:count]), 1)
    return adjusted
