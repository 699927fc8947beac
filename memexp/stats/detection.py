"""Recognition as signal detection: d' of a forced choice, and the area under the curve of old against new.

    two_afc(target_nll, foil_nll)                # TwoAFC(share=.84, dprime=1.41, ties=0, ...)
    recognition(rows, by=["model", "exposures"])  # an Arrow table with intervals

These are two measures with two names. In a forced choice (2AFC) every target is judged against its own foil; d' =
sqrt(2) z(PC) (Macmillan & Creelman 2005, chapter 7). The area under the curve (AUC) is the share of *all* target × foil
pairs of a list, judged by one model, in which the target has the lower NLL: a judgement of old or new, item by item.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

__all__ = ["TwoAFC", "auc", "dprime", "recognition", "two_afc"]


@dataclass(frozen=True)
class TwoAFC:
    """What a forced choice over pairs comes to."""

    n: int
    """Pairs with both numbers."""
    missing: int
    """Pairs without."""
    ties: int
    """Pairs of equal NLL."""
    identical: int | None
    """Of `ties`, those whose target and foil are the same text; None where texts are not given."""
    share: float | None
    """Share with a target strictly below its foil, as published: a tie counts as wrong."""
    share_ties_half: float | None
    """The same where a tie counts one half."""
    dprime: float | None
    """sqrt(2) z(PC), PC = (k + 1/2) / (n + 1), k with ties half: finite for all and for none."""


def dprime(correct: float, n: int) -> float:
    """d' of 2AFC: sqrt(2) z(PC) with PC = (correct + 1/2) / (n + 1), which is finite for none and for all.

    Args:
        correct: pairs told apart; a tie counts one half.
        n: pairs.

    Raises:
        SpecError: not 0 <= correct <= n, or no pairs.
    """
    raise NotImplementedError


def two_afc(target_nll: Any, foil_nll: Any, *, targets: Any = None, foils: Any = None) -> TwoAFC:
    """Share, d' and ties of pairs; arguments have shape (pairs,), `targets` and `foils` are texts."""
    raise NotImplementedError


def auc(target_nll: Any, foil_nll: Any) -> float | None:
    """Share of all target × foil pairs in which the target has the lower NLL, a tie counting one half.

    Shapes (targets,) and (foils,), of one model; NULL and NaN are left out. None where nothing is left of either.
    """
    raise NotImplementedError


def recognition(
    table: Any,
    by: Sequence[str] = (),
    *,
    target: str = "target_nll",
    foil: str = "foil_nll",
    over: str | None = None,
    level: float = 0.95,
    items: str | Sequence[str] | None = None,
    seeds: str | Sequence[str] | None = None,
    lists: str | Sequence[str] | None = None,
) -> pa.Table:
    """Share, d' and AUC of each group of rows of kind `recognition`, with intervals.

    Targets are compared with foils of the same model only: AUC is the mean over seeds and lists of each one's own. The
    interval of d' is that of the share with ties half, transformed; it and d' itself have `dprime`'s correction.

    Args:
        table, by, over, level, items, seeds, lists: as for `summary`.
        target, foil: columns of mean token NLLs.

    Returns:
        One row per group: the columns of `by`, then share, share_low, share_high, share_ties_half, dprime, dprime_low,
        dprime_high, auc, auc_low, auc_high, n, missing, ties, identical, items, seeds, lists, over, reason, level.
    """
    raise NotImplementedError
