"""The best learning rate and batch size per model, as papers report them, beside an estimate that is not in-sample."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["best"]


def best(
    table: Any,
    value: Any,
    by: Sequence[str] = ("model",),
    *,
    grid: Sequence[str] = ("lr", "batch_size"),
    smallest: bool = False,
    over: str | None = None,
    level: float = 0.95,
    items: str | Sequence[str] | None = None,
    seeds: str | Sequence[str] | None = None,
    lists: str | Sequence[str] | None = None,
) -> pa.Table:
    """The point of `grid` with the best mean, for each group.

    The mean of what was chosen for being best is too good: `mean` is in-sample, as the papers have it. `left_out` is
    not: each replication (list; where there is one list, seed) in turn is left out, the best point is chosen on the
    others, and its mean taken on the one left out.

    Args:
        table, value, by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        grid: columns whose combinations are chosen between; those that a group does not vary are only told.
        smallest: whether the smallest mean is best, as of a loss.

    Returns:
        One row per group: `by`; `grid`, the best point (of equal ones the first in its order); mean, low, high, n,
        missing, items, seeds, lists, over, reason, level; chosen (``in-sample``), points (of the grid), tied (points of
        the same mean, beside it); edge (columns in which the best is the smallest or largest of several, such as
        ``lr, batch_size``; NULL for none); left_out (NULL with one replication), replications.
    """
    raise NotImplementedError
