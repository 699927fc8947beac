"""Two sets of rows, condition by condition: which differ, which are equivalent, and what was too little to tell.

compare(rows_a, rows_b, "target_nll < foil_nll", by=["model", "lr"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

__all__ = ["compare"]


def compare(
    a: Any,
    b: Any,
    value: Any,
    by: Sequence[str] | None = None,
    *,
    margin: float = 0.02,
    over: str | None = None,
    level: float = 0.95,
    power: float = 0.8,
    items: str | Sequence[str] | None = None,
    seeds: str | Sequence[str] | None = None,
    lists: str | Sequence[str] | None = None,
) -> pa.Table:
    """The difference a - b of every condition that both have, with a verdict.

    ``differs``: p, by Holm's correction over conditions, is below 1 - level. ``equivalent``: the difference is within
    `margin`, by two one-sided tests (TOST), Holm's correction as well. ``undecided`` otherwise, with the smallest
    difference that would have been found with probability `power`: a large p is no sign that there is no difference.

    Args:
        a, b: tables, as for `memexp.stats.summary`.
        value: a column, or two, as for `summary`.
        by: columns that make a condition; by default all that both have, that vary in either and that are the same in
            all rows of a ``condition_id``, without those of items, seeds and lists.
        margin: of equivalence, in units of `value`: 2 points of a share.
        over: as for `mean_interval`: None for the widest that both sides of a condition allow.
        items, seeds, lists: as for `summary`. Items are shared where their number, their list and, where there are
            texts, their text are the same.

    Returns:
        One row per condition that both have, in the order of `a`: `by`; verdict; difference, low, high; mean_a, mean_b;
        n_a, n_b, items, shared_items, seeds, lists; test, p, p_holm, p_equivalent (Holm's, of TOST); detectable (the
        smallest difference that would have been found; NULL unless undecided); over, reason, margin, level, power. The
        schema's metadata tell how many conditions only one side has: ``only_a``, ``only_b``.

    Raises:
        SpecError: a column is not there, or no condition is in both.
    """
    raise NotImplementedError
