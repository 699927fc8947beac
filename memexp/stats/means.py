"""Means with intervals that say what they generalise over: items, seeds, lists, or both.

    mean_interval(correct, items=item, seeds=seed)
    # Mean(mean=.84, low=.80, high=.88, n=1800, items=600, seeds=3, lists=None, over='items and seeds', ...)

Items are crossed with seeds (every seed meets the same items) and nested in lists (every list has its own). The
variance over both is that of two-way clustering, V_items + V_seeds - V_residual (Cameron, Gelbach & Miller 2011), never
below either; where there are several lists, they take the place of the items. The interval is t with the smaller number
of clusters less one as its degrees of freedom. No percentile bootstrap, which over 3, 4 and 10 clusters covers .75, .81
and .91 where it promises .95.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = ["OVER", "Mean", "mean_interval", "summary"]

OVER = ("items", "seeds", "lists", "both")
"""What an interval may be asked to generalise over. ``both``: items and seeds; lists and seeds where there are several
lists; lists alone where seeds are not known."""
FEWEST = 3
"""Clusters below which nothing is said of others like them: points only."""


@dataclass(frozen=True)
class Mean:
    """A mean with its interval, its n, and what the interval is about."""

    mean: float | None
    """None where nothing was measured."""
    low: float | None
    """None where there is no interval: `reason` says why."""
    high: float | None
    n: int
    """Values: rows that are neither NULL nor NaN."""
    missing: int
    """Rows that are."""
    items: int | None
    """Different items; those of two lists are different. None where they are not known, as below."""
    seeds: int | None
    lists: int | None
    over: str
    """What the interval generalises over: ``items``, ``seeds``, ``lists``, ``items and seeds``, ``lists and seeds``."""
    reason: str | None
    """Why there is no interval, or none over more."""
    error: float | None
    """The standard error that the interval is made of."""
    df: float | None
    """Degrees of freedom of its t."""
    level: float


def mean_interval(
    values: Any,
    *,
    items: Any = None,
    seeds: Any = None,
    lists: Any = None,
    over: str | None = None,
    level: float = 0.95,
) -> Mean:
    """The mean of `values` with its interval.

    Args:
        values: numbers or booleans, shape (rows,); NULL and NaN are left out and counted.
        items: which item each row is about, shape (rows,), of any type; None where every row is an item of its own.
        seeds: under which seed; None where that is not known.
        lists: in which list the item is; None where there is one.
        over: one of `OVER`; None for the widest that the rows allow: both, or items where seeds and lists are too few.
        level: coverage of the interval.

    Raises:
        SpecError: `over` or `level` is none, or the columns differ in length.
    """
    raise NotImplementedError


def summary(
    table: Any,
    value: Any,
    by: Sequence[str] = (),
    *,
    over: str | None = None,
    level: float = 0.95,
    items: str | Sequence[str] | None = None,
    seeds: str | Sequence[str] | None = None,
    lists: str | Sequence[str] | None = None,
) -> pa.Table:
    """`mean_interval` for each group of rows.

    Args:
        table: Arrow, pandas, polars, or anything with the Arrow C stream interface (a DuckDB relation).
        value: a column; ``"a < b"``, ``"a <= b"`` or ``"a - b"`` of two columns; or an array of shape (rows,).
        by: columns that make the groups; NULL is a group. None, and all rows are one.
        over, level: as for `mean_interval`.
        items, seeds, lists: the column that tells them, or several that tell them together. By default those of
            memexp's rows that the table has, without what is in `by`: ``item``; ``seed``, ``init_seed``, ``lora_seed``,
            ``pretrain_seed``; ``corpus_id`` (or ``corpus``) and ``replication``. Columns that are all NULL say nothing.
            A condition and its counterbalanced twin share their items: no list is taken from a corpus there.
            ``()`` for none.

    Returns:
        One row per group, in the order of first appearance: the columns of `by`, then mean, low, high, n, missing,
        items, seeds, lists, over, reason, error, df, level (see `Mean`).

    Raises:
        SpecError: a column is not there (the message names those that are), or not of numbers.
    """
    raise NotImplementedError
