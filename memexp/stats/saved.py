"""Savings: steps of restudy that a model is spared by what it has met before, against one that never met it.

    savings(rows, by=["model", "retention_steps"])     # an Arrow table: saved, low, high, savings ...

Ebbinghaus's (1885) share of work saved: of the steps that the first time takes, those that the second does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import stdtrit

from memexp.errors import SpecError
from memexp.stats.clusters import Group, check_level, spread
from memexp.stats.differences import difference_of
from memexp.stats.means import beside, groups_of
from memexp.stats.retained import STUDY
from memexp.stats.tables import (
    Codes,
    Floats,
    Names,
    Units,
    arrow,
    codes,
    column,
    numbers,
    rows_of_each,
    units_of,
    unstudied,
)

__all__ = ["savings"]


def savings(
    table: Any,
    by: Sequence[str] = ("model",),
    *,
    baseline: Any = None,
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """Mean steps to the criterion of a model that never saw the texts, less those of one that did, item by item.

    A text that did not meet the criterion counts with the most steps that there were: such means are lower bounds, and
    `unmet` says how many texts they have. ``by=["model", "item"]`` gives a row for each item.

    Args:
        table: rows of kind ``savings``.
        by: as for `memexp.stats.summary`.
        baseline: rows of the model that never saw them, which are paired with those that agree in `by`, but for
            settings of study. None for the rows of 0 exposures in `table`.
        exposures: column of their number; each is a group of its own.
        over, level, items, seeds, lists: as for `memexp.stats.summary`.

    Returns:
        One row per group: `by` and `exposures`; saved (steps), low, high, p; never and steps, the two means; savings
        (saved as a share of never), savings_low, savings_high; unmet and unmet_never, shares of texts; n, items, seeds,
        over, reason, level. Without rows of the baseline `saved` is NULL.

    Raises:
        SpecError: a column is missing, `over` or `level` is none, or the rows have several criteria or most steps.
    """
    check_level(over, level)
    rows = arrow(table)
    never = unstudied(rows, exposures)
    if baseline is not None:
        others = arrow(baseline)
        rows = pa.concat_tables([rows, others], promote_options="permissive")
        never = np.arange(rows.num_rows) >= rows.num_rows - others.num_rows
    _check_alike(rows)
    named = [by] if isinstance(by, str) else list(by)
    told = [*(name for name in named if name != exposures), exposures]
    values, unmet = _steps(rows)
    group, keys = groups_of(rows, told)
    units = units_of(rows, items, seeds, lists, [name for name in told if name not in ("task", "item")])
    alike = codes([column(rows, name) for name in told if name not in (*STUDY, exposures)], rows.num_rows)
    before = rows_of_each(np.where(never, alike, -1), int(alike.max(initial=-1)) + 1)
    found, kept = [], []
    for mine in rows_of_each(group.codes, group.count):
        after = mine[~never[mine]]
        if len(after):
            found.append(_saved(values, unmet, units, before[alike[after[0]]], after, over, level))
            kept.append(int(group.codes[after[0]]))
    return beside(keys.take(pa.array(kept, pa.int64())), pa.Table.from_pylist(found, schema=SCHEMA))


SCHEMA = pa.schema(
    [
        *((name, pa.float64()) for name in "saved low high p never steps savings savings_low savings_high".split()),
        *((name, pa.float64()) for name in ("unmet", "unmet_never")),
        *((name, pa.int64()) for name in ("n", "items", "seeds")),
        *((name, pa.string()) for name in ("over", "reason")),
        ("level", pa.float64()),
    ]
)


def _check_alike(rows: pa.Table) -> None:
    """Steps to one criterion are not compared with steps to another, nor lower bounds with others."""
    if "diverged" in rows.column_names and (lost := int(numbers(rows["diverged"], "diverged").sum())):
        raise SpecError(
            f"diverged: restudy of {lost} rows did, which says nothing; leave them away, or give a smaller lr"
        )
    for name in ("criterion", "most"):
        different = sorted(set(column(rows, name).to_pylist()))
        if len(different) > 1:
            shown = ", ".join(f"{one:g}" for one in different[:3])
            raise SpecError(f"{name}: rows of several are together ({shown}); filter the rows of one")


def _steps(rows: pa.Table) -> tuple[Floats, Floats]:
    """Steps of each row, the most where the criterion was not met, and whether it was not; NaN where nothing was
    measured."""
    steps, most = (numbers(column(rows, name), name) for name in ("steps", "most"))
    there = ~np.isnan(numbers(column(rows, "nll_before"), "nll_before"))
    unmet = np.isnan(steps)
    return np.where(there, np.where(unmet, most, steps), np.nan), np.where(there, unmet, np.nan).astype(np.float64)


def _saved(
    values: Floats, unmet: Floats, units: Units, never: Codes, after: Codes, over: str | None, level: float
) -> dict[str, Any]:
    """The columns of one group, of the rows `never` and `after`."""
    every, side = np.concatenate([never, after]), np.repeat([0, 1], [len(never), len(after)])
    told = ~np.isnan(values[every])
    shared = np.intersect1d(*(units.items[every[told & (side == at)]] for at in (0, 1)))
    told &= np.isin(units.items[every], shared) if len(shared) else True  # as `difference_of` pairs them
    every, side = every[told], side[told]
    of = units.take(every)
    one = difference_of(values[every], side, of, over, level)
    found: dict[str, Any] = {"saved": one.difference, "low": one.low, "high": one.high, "p": one.p}
    found |= {"never": one.mean_a, "steps": one.mean_b, "n": one.n_b, "items": one.items, "seeds": one.seeds}
    found |= {"over": one.over, "reason": one.reason, "level": level}
    for name, at in (("unmet_never", 0), ("unmet", 1)):
        found[name] = float(unmet[every[side == at]].mean()) if (side == at).any() else None
    if one.difference is not None and one.mean_a:
        found["savings"] = one.difference / one.mean_a
        found |= _share(values[every], side, of, one.mean_a, over, level)
    return found


def _share(values: Floats, side: Codes, units: Units, never: float, over: str | None, level: float) -> dict[str, Any]:
    """The interval of 1 - steps / never, by what each row adds to its error (the delta method)."""
    means = np.array([values[side == at].mean() for at in (0, 1)])
    weights = np.array([means[1] / never**2, -1 / never])
    influence = weights[side] * (values - means[side]) / np.bincount(side)[side]
    about = spread(influence, Group.one(len(values)), units, over)
    if np.isnan(about.error[0]):
        return {}
    half = float(stdtrit(about.df[0], (1 + level) / 2) * about.error[0])
    share = 1 - means[1] / never
    return {"savings_low": float(share - half), "savings_high": float(share + half)}
