"""Measures of unlearning: TOFU's (Maini et al. 2024, arXiv 2401.06121) of rows of `TruthRatio`.

    forget_quality(unlearned, retained)                        # ForgetQuality(d=.12, p=.48, n=400, n_retained=400)
    model_utility(retain=rows, authors=others, facts=more)     # Utility(utility=.61, parts={...}, missing=())

As in locuslab/tofu, aggregate_eval_stat.py. Rows are of one condition each: a test over the same question under several
seeds would take it for several questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from memexp.errors import SpecError
from memexp.stats.tables import Floats, arrow, codes, column, numbers

__all__ = ["ForgetQuality", "Utility", "forget_quality", "model_utility"]

PROBABILITIES = {"retain": "probability", "authors": "normalised", "facts": "normalised"}
"""Of each list of questions the column that its probability is: of those about the real world it is a choice."""


@dataclass(frozen=True)
class ForgetQuality:
    """A two-sided test of Kolmogorov and Smirnov."""

    d: float | None
    """The largest distance of the two distribution functions, 0 to 1; None where either side has no values."""
    p: float | None
    """Of no difference: TOFU's forget quality, high where the model cannot be told from one that never studied the
    list. With few questions it is high whatever the model has kept, so look at `d` and `n` as well."""
    n: int
    """Questions of the model that unlearned."""
    n_retained: int
    """And of the one that it is compared with."""


@dataclass(frozen=True)
class Utility:
    """What a model can still do."""

    utility: float | None
    """Harmonic mean of `parts`, 0 where one is 0; None without any."""
    parts: Mapping[str, float]
    """By name (``retain probability``, ``retain rouge``, ``retain truth`` ...), each a mean over questions, 0 to 1."""
    missing: tuple[str, ...]
    """Of the nine parts those that the mean is without: it is then another measure, not to be compared with theirs."""


def forget_quality(unlearned: Any, retained: Any, *, value: str = "truth_ratio") -> ForgetQuality:
    """Whether the truth ratios of a list that was to be forgotten are those of a model that never studied it.

    Ratios of wrong over right or of right over wrong, as the published code has them, give the same answer.

    Args:
        unlearned, retained: rows of kind ``truth_ratio`` of one condition each, of the list that was to be forgotten,
            or arrays of truth ratios, shapes (items,) and (items of the other,); NULL and NaN are left out.
        value: the column.

    Raises:
        SpecError: an item is there several times, as in rows of several conditions.
    """
    one, other = (_of(given, value, name) for given, name in ((unlearned, "unlearned"), (retained, "retained")))
    if not len(one) or not len(other):
        return ForgetQuality(None, None, len(one), len(other))
    from scipy.stats import ks_2samp  # a second, for a test

    found = ks_2samp(one, other)
    return ForgetQuality(float(found.statistic), float(found.pvalue), len(one), len(other))


def model_utility(*, retain: Any = None, authors: Any = None, facts: Any = None) -> Utility:
    """Harmonic mean of the probability, ROUGE-L recall and truth (the mean of how far the truth ratio is below 1, at
    least 0) of three lists of questions, nine numbers.

    Args:
        retain: rows of kind ``truth_ratio`` of one condition, of what was studied and is to be kept.
        authors, facts: of real authors and of the world, whose probability is normalised over the answers.

    Raises:
        SpecError: a column is not there, or an item is there several times, as in rows of several conditions.
    """
    parts, missing = dict[str, float](), list[str]()
    for name, rows in (("retain", retain), ("authors", authors), ("facts", facts)):
        for part in ("probability", "rouge", "truth"):
            values = _part(rows, name, part)
            if len(values):
                parts[f"{name} {part}"] = float(values.mean())
            else:
                missing.append(f"{name} {part}")
    return Utility(_harmonic(list(parts.values())), parts, tuple(missing))


def _part(rows: Any, name: str, part: str) -> Floats:
    """The values of one of the nine; none where they are missing."""
    if rows is None:
        return np.empty(0)
    if part == "truth":
        return np.maximum(0, 1 - _of(rows, "truth_ratio", name))
    return _of(rows, PROBABILITIES[name] if part == "probability" else "rougeL_recall", name)


def _harmonic(parts: list[float]) -> float | None:
    if not parts:
        return None
    return 0.0 if min(parts) <= 0 else len(parts) / sum(1 / part for part in parts)


def _of(given: Any, value: str, name: str) -> Floats:
    """Values of one condition's rows, or of an array, without NaN."""
    if isinstance(given, np.ndarray | list | tuple):
        found = numbers(given, name)
        return found[~np.isnan(found)]
    rows = arrow(given)
    items = [column(rows, one) for one in ("task", "item") if one in rows.column_names]
    each = codes(items, rows.num_rows) if items else np.arange(rows.num_rows)
    if len(each) and np.bincount(each).max() > 1:
        raise SpecError(f"{name}: an item is there several times; give the rows of one condition and one list")
    found = numbers(column(rows, value), value)
    return found[~np.isnan(found)]
