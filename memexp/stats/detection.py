"""Recognition as signal detection: d' of a forced choice, and the area under the curve of old against new.

    two_afc(target_nll, foil_nll)                # TwoAFC(share=.84, dprime=1.41, ties=0, ...)
    recognition(rows, by=["model", "exposures"])  # an Arrow table with intervals

These are two measures with two names. In a forced choice (2AFC) every target is judged against its own foil; d' =
sqrt(2) z(PC) (Macmillan & Creelman 2005, chapter 7). The area under the curve (AUC) is the share of *all* target × foil
pairs of a list, judged by one model, in which the target has the lower NLL: a judgement of old or new, item by item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.special import ndtri

from memexp.errors import SpecError
from memexp.stats.clusters import Group
from memexp.stats.means import beside, groups_of, means
from memexp.stats.tables import Codes, Floats, Names, arrow, as_array, codes, column, numbers, units_of

__all__ = ["TwoAFC", "auc", "dprime", "recognition", "share_above", "two_afc"]

TEXTS = ("target", "foil")
"""Columns that say which pairs are of identical texts."""


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
    """Pairs whose target and foil are the same text; None where texts are not given."""
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
    if not (n >= 1 and 0 <= correct <= n):
        raise SpecError(f"dprime: takes 0 <= correct <= n and n >= 1, got {correct} of {n}")
    return float(_dprime(np.array([correct / n]), np.array([n]))[0])


def two_afc(target_nll: Any, foil_nll: Any, *, targets: Any = None, foils: Any = None) -> TwoAFC:
    """Share, d' and ties of pairs; arguments have shape (pairs,), `targets` and `foils` are texts."""
    target, foil = numbers(target_nll, "target_nll"), numbers(foil_nll, "foil_nll")
    if len(target) != len(foil):
        raise SpecError(f"two_afc: {len(target)} targets, but {len(foil)} foils")
    same = None if targets is None or foils is None else _same(as_array(targets), as_array(foils))
    [row] = _told(target, foil, Group.one(len(target)), same).to_pylist()
    return TwoAFC(**row)


def auc(target_nll: Any, foil_nll: Any) -> float | None:
    """Share of all target × foil pairs in which the target has the lower NLL, a tie counting one half.

    Shapes (targets,) and (foils,), of one model; NULL and NaN are left out. None where nothing is left of either.
    """
    target, foil = numbers(target_nll, "target_nll"), numbers(foil_nll, "foil_nll")
    target, foil = target[~np.isnan(target)], foil[~np.isnan(foil)]
    return float(share_above(target, foil).mean()) if len(target) and len(foil) else None


def recognition(
    table: Any,
    by: Sequence[str] = (),
    *,
    target: str = "target_nll",
    foil: str = "foil_nll",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
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
    rows = arrow(table)
    group, keys = groups_of(rows, by)
    units = units_of(rows, items, seeds, lists, by)
    targets, foils = (numbers(column(rows, name), name) for name in (target, foil))
    texts = [rows.column(name) for name in TEXTS if name in rows.column_names]
    told = _told(targets, foils, group, _same(*texts) if len(texts) == 2 else None)
    absent = np.isnan(targets) | np.isnan(foils)
    models = codes([part for part in (group.codes, units.seeds, units.lists) if part is not None], rows.num_rows)
    areas = _areas(targets, foils, models, ~absent)
    halves = _correct(targets, foils, 0.5)
    strict, half, area = (
        means(values, group, units, over, level) for values in (_correct(targets, foils, 0), halves, areas)
    )
    found = {name: told[name] for name in ("share", "share_ties_half", "dprime")}
    for name, part in (("share", strict), ("dprime", half), ("auc", area)):
        for side in ("low", "high"):
            bound = np.clip(numbers(part[side], side), 0, 1)
            bound = _dprime(bound, told["n"].to_numpy()) if name == "dprime" else bound
            found[f"{name}_{side}"] = pa.array(bound, from_pandas=True)
    found |= {"auc": area["mean"], **{name: told[name] for name in ("n", "missing", "ties", "identical")}}
    found |= {name: strict[name] for name in ("items", "seeds", "lists", "over", "reason", "level")}
    return beside(keys, pa.table({name: found[name] for name in ORDER}))


ORDER = """share share_low share_high share_ties_half dprime dprime_low dprime_high auc auc_low auc_high
    n missing ties identical items seeds lists over reason level""".split()
"""The columns of `recognition`."""


def _dprime(share: Floats, n: Any) -> Floats:
    """From shares with ties half; NaN where there is no share."""
    found: Floats = math.sqrt(2) * ndtri((share * n + 0.5) / (n + 1))
    return found


def _correct(target: Floats, foil: Floats, tie: float) -> Floats:
    """1 for a target below its foil, `tie` for an equal one, else 0; NaN where one is missing."""
    found = np.where(target < foil, 1.0, np.where(target == foil, tie, 0.0))
    return np.where(np.isnan(target) | np.isnan(foil), np.nan, found)


def _told(target: Floats, foil: Floats, group: Group, same: NDArray[np.bool_] | None) -> pa.Table:
    """A row of `TwoAFC`'s fields for each group."""

    def count(which: NDArray[np.bool_]) -> Codes:
        return np.bincount(group.codes[which], minlength=group.count).astype(np.int64)

    there = ~np.isnan(target) & ~np.isnan(foil)
    n, ties, below = count(there), count(target == foil), count(target < foil)
    with np.errstate(invalid="ignore"):
        share, half = below / n, (below + ties / 2) / n
    identical = pa.nulls(group.count, pa.int64()) if same is None else pa.array(count(same))
    columns = {"n": pa.array(n), "missing": pa.array(count(~there)), "ties": pa.array(ties), "identical": identical}
    for name, values in (("share", share), ("share_ties_half", half), ("dprime", _dprime(half, n))):
        columns[name] = pa.array(values, from_pandas=True)
    return pa.table(columns)


def _same(targets: Any, foils: Any) -> NDArray[np.bool_]:
    """Which pairs are of equal texts."""
    found: NDArray[np.bool_] = pc.fill_null(pc.equal(targets, foils), False).to_numpy(zero_copy_only=False)
    return found


def share_above(values: Floats, others: Floats) -> Floats:
    """Of each value the share of `others` that are above it, equal ones counting one half."""
    ordered = np.sort(others)
    below, up_to = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    return 1 - (below + up_to) / (2 * len(ordered))


def _areas(target: Floats, foil: Floats, models: Codes, there: NDArray[np.bool_]) -> Floats:
    """For each row what its target and its foil contribute to the AUC of its model, of which it is the mean.

    target's share + foil's share - AUC: their spread over items is that of DeLong et al. (1988), for pairs.
    """
    found = np.full(len(target), np.nan)
    rows = np.flatnonzero(there)
    rows = rows[np.argsort(models[rows], kind="stable")]
    for part in np.split(rows, np.flatnonzero(np.diff(models[rows])) + 1) if len(rows) else ():
        of_targets = share_above(target[part], foil[part])
        of_foils = 1 - share_above(foil[part], target[part])
        found[part] = of_targets + of_foils - of_targets.mean()
    return found
