"""The best learning rate and batch size per model, as papers report them, beside an estimate that is not in-sample.

best(rows, "target_nll < foil_nll", by=["model", "experiment", "exposures"])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from memexp.errors import SpecError
from memexp.stats.clusters import Group
from memexp.stats.means import beside, groups_of, means
from memexp.stats.tables import Codes, Floats, Names, Units, arrow, codes, dense, rows_of_each, units_of, values_of

__all__ = ["best"]

IN_SAMPLE = "in-sample"


def best(
    table: Any,
    value: Any,
    by: Sequence[str] = ("model",),
    *,
    grid: Sequence[str] = ("lr", "batch_size"),
    smallest: bool = False,
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """The point of `grid` with the best mean, for each group, as Orhan 2023 (arXiv 2303.17557) reports it.

    The mean of what was chosen for being best is too good: `mean` is in-sample, as the papers have it. `left_out` is
    not: each replication (list; where there is one list, seed) in turn is left out, the best point is chosen on the
    others, and its mean taken on the one left out.

    Args:
        table, value, by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        grid: columns whose combinations are chosen between.
        smallest: whether the smallest mean is best, as of a loss.

    Returns:
        One row per group: `by`; `grid`, the best point (of equal ones the first in the order of `grid`); mean, low,
        high, n, missing, items, seeds, lists, over, reason, level; chosen (``in-sample``), points (how many were
        measured), tied (how many others have the same mean); edge (where in the grid the best has no neighbour:
        ``smallest lr, largest batch_size``; NULL for nowhere); left_out (NULL with one replication), replications.

    Raises:
        SpecError: as `summary`, or a column is in `by` and in `grid`.
    """
    rows = arrow(table)
    by, grid = ([part] if isinstance(part, str) else list(part) for part in (by, grid))
    if twice := sorted({*by} & {*grid}):
        raise SpecError(f"best: {', '.join(twice)} cannot be in by and be chosen")
    values, units = values_of(rows, value), units_of(rows, items, seeds, lists, [*by, *grid])
    there = ~np.isnan(values)
    points, keys = groups_of(rows, [*by, *grid])
    groups = codes([keys[name] for name in by], keys.num_rows)
    order = pc.sort_indices(keys, sort_keys=[(name, "ascending") for name in grid]).to_numpy() if grid else [0]
    sign = -1 if smallest else 1
    sums, counts = (np.bincount(points.codes[there], of, points.count) for of in (values[there], None))
    with np.errstate(invalid="ignore"):
        mean = np.nan_to_num(sums / counts * sign, nan=-np.inf)
    where = rows_of_each(np.where(there, points.codes, -1), points.count)
    chosen = []
    for group in dict.fromkeys(groups.tolist()):
        of_group = np.array([point for point in order if groups[point] == group])
        here = np.concatenate([where[point] for point in of_group])
        left_out, replications = _left_out(values[here] * sign, points.codes[here], units.take(here))
        left_out = None if left_out is None else left_out * sign
        at = int(of_group[np.argmax(mean[of_group])])
        tied, measured = int((mean[of_group] == mean[at]).sum()) - 1, int(np.isfinite(mean[of_group]).sum())
        edge = _edge(keys.take(of_group), keys.slice(at, 1), grid)
        chosen.append(_Chosen(at, measured, tied, edge, left_out, replications))
    at_best = [one.at for one in chosen]
    found = _of_best(at_best, values, points, units, over, level)
    return beside(keys.take(at_best), beside(found.drop_columns(["error", "df"]), _table(chosen)))


def _of_best(
    at_best: Sequence[int], values: Floats, points: Group, units: Units, over: str | None, level: float
) -> pa.Table:
    """The means of the chosen points: intervals of all others would be made for nothing."""
    place = np.full(points.count, -1)
    place[at_best] = np.arange(len(at_best))
    of = place[points.codes]
    here = np.flatnonzero(of >= 0)
    return means(values[here], Group(of[here], len(at_best)), units.take(here), over, level)


@dataclass(frozen=True)
class _Chosen:
    """The best point of a group."""

    at: int
    points: int
    tied: int
    edge: str | None
    left_out: float | None
    replications: int


def _table(chosen: Sequence[_Chosen]) -> pa.Table:
    kinds = {"points": pa.int64(), "tied": pa.int64(), "edge": pa.string(), "left_out": pa.float64()}
    kinds["replications"] = pa.int64()
    columns = {"chosen": pa.array([IN_SAMPLE] * len(chosen), pa.string())}
    return pa.table(
        columns | {name: pa.array([getattr(one, name) for one in chosen], kind) for name, kind in kinds.items()}
    )


def _left_out(values: Floats, points: Codes, units: Units) -> tuple[float | None, int]:
    """The mean of what is best (largest) on all replications but one on that one, over all, and how many there are."""
    replication = next((of for of in (units.lists, units.seeds) if of is not None and len(of) and np.ptp(of) > 0), None)
    if replication is None:
        return None, min(len(values), 1)
    (point, _), (part, _) = dense(points), dense(replication)
    shape = point.max() + 1, part.max() + 1
    cell = point * shape[1] + part
    sums = np.bincount(cell, values, minlength=shape[0] * shape[1]).reshape(shape)
    counts = np.bincount(cell, minlength=shape[0] * shape[1]).reshape(shape)
    means = []
    for out in range(shape[1]):
        rest = counts.sum(1) - counts[:, out]
        may = (rest > 0) & (counts[:, out] > 0)  # chosen on others, and measured on this one
        if may.any():
            of_rest = np.where(may, (sums.sum(1) - sums[:, out]) / np.maximum(rest, 1), -np.inf)
            at = int(np.argmax(of_rest))
            means.append(sums[at, out] / counts[at, out])
    return (float(np.mean(means)) if means else None), shape[1]


def _edge(points: pa.Table, one: pa.Table, grid: Sequence[str]) -> str | None:
    """Where in the grid a point has no neighbour."""
    said = []
    for name in grid:
        values = pc.unique(points[name]).drop_null()
        kind = values.type
        if len(values) > 1 and (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            ends = pc.min_max(values).as_py()
            at = one[name][0].as_py()
            said += [f"{end} {name}" for end, of in (("smallest", "min"), ("largest", "max")) if ends[of] == at]
    return ", ".join(said) or None
