"""Two sets of rows, condition by condition: which differ, which are equivalent, and what was too little to tell.

compare(rows_a, rows_b, "target_nll < foil_nll", by=["model", "lr"])
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from scipy.special import stdtr, stdtrit

from memexp.errors import SpecError
from memexp.stats.clusters import check_level
from memexp.stats.differences import Difference, difference_of, holm
from memexp.stats.means import beside, groups_of
from memexp.stats.tables import (
    SEEDS,
    TWINS,
    Codes,
    Floats,
    Names,
    Units,
    arrow,
    codes,
    column,
    names_of,
    rows_of_each,
    units_of,
    values_of,
)

__all__ = ["compare"]

DIFFERS, EQUIVALENT, UNDECIDED = "differs", "equivalent", "undecided"
LISTS = ("replication", "corpus", TWINS)
"""Beside columns of seeds those that by default make no condition."""
PROBED = ("task", "ablated_side", "ablated_layer", "metric", "prefix_tokens", "member")
"""Columns of which rows of different values are different measurements, also within one condition."""
TEXT = "target"
"""The column that says whether items of the same number are the same, where both tables have it."""


def compare(
    a: Any,
    b: Any,
    value: str,
    by: Sequence[str] | None = None,
    *,
    margin: float = 0.02,
    over: str | None = None,
    level: float = 0.95,
    power: float = 0.8,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """The difference a - b of every condition that both have, with a verdict.

    ``differs``: p, by Holm's correction over conditions, is below 1 - level. ``equivalent``: the difference is within
    `margin`, by two one-sided tests (TOST), Holm's correction as well. ``undecided`` otherwise, with the smallest
    difference that would have been found with probability `power`: a large p is no sign that there is no difference.

    Args:
        a, b: tables, as for `memexp.stats.summary`.
        value: a column, or two, as for `summary`.
        by: columns that make a condition; by default all that both have, that vary in either and that are the same in
            all rows of a ``condition_id``, without those of items, seeds and lists; tasks, ablated blocks and metrics;
            and settings of probes where a condition has several.
        margin: of equivalence, in units of `value`: 2 points of a share.
        over: as for `mean_interval`: None for the widest that both sides of a condition allow.
        power: with which a difference of size `detectable` would have been found.
        items, seeds, lists: as for `summary`. Items are shared where their number, their list and, where both tables
            have a column ``target``, their text are the same.

    Returns:
        One row per condition that both have, in the order of `a`: `by`; verdict; difference, low, high; mean_a, mean_b;
        n_a, n_b, items, shared_items, seeds, lists; test, p, p_holm, p_equivalent (Holm's, of TOST); detectable (the
        smallest difference that would have been found; NULL unless undecided); over, reason, margin, level, power (see
        `Difference`). The schema's metadata tell how many conditions only one side has: ``only_a``, ``only_b``.

    Raises:
        SpecError: a column is not there, or no condition is in both.
    """
    check_level(over, level)
    if margin <= 0 or not 0 < power < 1:
        raise SpecError(f"compare: margin must be above 0 and power between 0 and 1, got {margin} and {power}")
    rows, side, values = _joined(arrow(a), arrow(b), value, by)
    named = names_of(rows, items, seeds, lists, by or ())
    by = _conditions(rows, side, {name for part in named.values() for name in part}) if by is None else list(by)
    group, keys = groups_of(rows, by)
    units = _told_apart(rows, side, units_of(rows, named["items"], named["seeds"], named["lists"]))
    have = [np.unique(group.codes[side == at]) for at in (0, 1)]
    both = np.intersect1d(have[0], have[1])
    if not len(both):
        raise SpecError(f"compare: no condition is in both (conditions: {', '.join(by) or 'one'})")
    where = rows_of_each(group.codes, group.count)
    found = [difference_of(values[of], side[of], units.take(of), over, level) for of in map(where.__getitem__, both)]
    only = {f"only_{name}": str(len(np.setdiff1d(of, both))) for name, of in zip("ab", have, strict=True)}
    return beside(keys.take(both), _table(found, margin, power)).replace_schema_metadata(only)


def _joined(a: pa.Table, b: pa.Table, value: str, by: Sequence[str] | None) -> tuple[pa.Table, Codes, Floats]:
    """The rows of both in the columns that both have, the side of each row, and its value."""
    values = np.concatenate([values_of(table, value) for table in (a, b)])
    for table, name in ((table, name) for table in (a, b) for name in by or ()):
        column(table, name)
    names = [name for name in a.column_names if name in b.column_names]
    parts = [table.select(names).replace_schema_metadata() for table in (a, b)]
    try:
        rows = pa.concat_tables(parts, promote_options="permissive")
    except pa.ArrowException as error:
        raise SpecError(f"compare: the tables have columns of one name and different types: {error}") from error
    return rows, np.repeat([0, 1], [a.num_rows, b.num_rows]), values


def _conditions(rows: pa.Table, side: Codes, units: set[str]) -> list[str]:
    """Columns that vary on a side and are the same in all rows of a condition."""
    if "condition_id" not in rows.column_names:
        return []
    condition = codes([rows.column("condition_id")], rows.num_rows)
    one = np.zeros(int(condition.max(initial=-1)) + 1, np.int64)
    one[condition] = np.arange(rows.num_rows)  # some row of each condition
    found = []
    for name in rows.column_names:
        if (name in units and name not in PROBED) or name in (*SEEDS, *LISTS, "probe_settings") or name.endswith("_id"):
            continue
        if pa.types.is_nested(rows.schema.field(name).type):
            continue
        value = codes([rows.column(name)], rows.num_rows)
        told = np.ones(rows.num_rows, bool)
        if _said_by_others(name):
            told = rows.column(name).is_valid().to_numpy()
        varies = any(len(np.unique(value[told & (side == at)])) > 1 for at in (0, 1))
        if varies and (name in PROBED or (value == value[one][condition]).all()):
            found.append(name)
    if {"probe_id", "probe_settings"} <= {*rows.column_names}:  # probes of one condition are no replications
        told = codes([condition, *(rows.column(name) for name in PROBED if name in found)], rows.num_rows)
        probe = codes([told, rows.column("probe_id")], rows.num_rows)
        found += ["probe_settings"] if probe.max(initial=-1) > told.max(initial=-1) else []
    return found


def _said_by_others(name: str) -> bool:
    """Whether another column says whether it is there at all: ``method``, ``forget_side`` or a number of steps."""
    parts = ("lora_", "interference_", "pretrain_", "unlearn_")
    said = name in ("forget_layer", "restudy_exposures") or name.startswith(parts)
    return said and name not in ("pretrain_steps", "unlearn_steps")


def _told_apart(rows: pa.Table, side: Codes, units: Units) -> Units:
    """The units with items apart that have the same number on both sides, but other texts."""
    if TEXT not in rows.column_names:
        return units
    text = codes([rows.column(TEXT)], rows.num_rows)
    width = int(text.max(initial=0)) + 1
    of_a, of_b = (np.unique((units.items * width + text)[side == at]) for at in (0, 1))
    other = np.unique(np.setxor1d(of_a, of_b) // width)
    apart = np.isin(units.items, other) & (side == 1)
    return Units(np.where(apart, units.items + units.items.max(initial=0) + 1, units.items), units.seeds, units.lists)


def _table(found: Sequence[Difference], margin: float, power: float) -> pa.Table:
    """Verdicts and figures, a row for each condition."""
    level = found[0].level
    p = holm([one.p for one in found])
    equivalent = holm([_outside(one, margin) for one in found])
    verdicts = [
        DIFFERS if p[at] < 1 - level else EQUIVALENT if equivalent[at] < 1 - level else UNDECIDED
        for at in range(len(found))
    ]
    steps = _steps([one.p for one in found])
    detectable = [
        _detectable(one, (1 - level) / step, power) if verdict == UNDECIDED else None
        for one, step, verdict in zip(found, steps, verdicts, strict=True)
    ]
    columns: dict[str, Any] = {"verdict": pa.array(verdicts, pa.string())}
    for name, kind in FIELDS.items():
        columns[name] = pa.array([getattr(one, name) for one in found], kind)
    columns |= {"p_holm": pa.array(p, from_pandas=True), "p_equivalent": pa.array(equivalent, from_pandas=True)}
    columns |= {"detectable": pa.array(detectable, pa.float64())}
    columns |= {name: pa.array([of] * len(found), pa.float64()) for name, of in (("margin", margin), ("power", power))}
    return pa.table({name: columns[name] for name in ORDER})


ORDER = """verdict difference low high mean_a mean_b n_a n_b items shared_items seeds lists test p p_holm p_equivalent
    detectable over reason margin level power""".split()
FIELDS = {
    **dict.fromkeys(("difference", "low", "high", "mean_a", "mean_b", "p", "level"), pa.float64()),
    **dict.fromkeys(("n_a", "n_b", "items", "shared_items", "seeds", "lists"), pa.int64()),
    **dict.fromkeys(("test", "over", "reason"), pa.string()),
}
"""What is taken from a `Difference`."""


def _outside(one: Difference, margin: float) -> float | None:
    """p of a difference at least as large as `margin`: the larger one of two one-sided tests (Schuirmann 1987)."""
    if one.center is None or one.error is None or one.df is None:
        return None
    if not one.error:
        return float(abs(one.center) >= margin)
    return float(stdtr(one.df, -(margin - abs(one.center)) / one.error))


def _steps(p: Sequence[float | None]) -> list[int]:
    """How many comparisons Holm's correction takes each for: all for the smallest p, one fewer for the next."""
    there = sorted((one, at) for at, one in enumerate(p) if one is not None)
    steps = dict.fromkeys(range(len(p)), len(there) or 1)
    steps |= {at: len(there) - rank for rank, (_, at) in enumerate(there)}
    return list(steps.values())


def _detectable(one: Difference, alpha: float, power: float) -> float | None:
    """The smallest difference that would have had p below `alpha` with probability `power`."""
    if one.error is None or one.df is None:
        return None
    return float((stdtrit(one.df, 1 - alpha / 2) + stdtrit(one.df, power)) * one.error)
