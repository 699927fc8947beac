"""Anticipatory recovery: does a model get better at a text again before it meets it again?

    recovery(rows, by=["model"])        # rows of recognition at every stop of texts that come round in a fixed order

Yang et al. 2024 (arXiv 2403.09613): with l_after the loss of a document right after its turn, l_max the highest loss
until its next one and l_before the one right before it, recovery is (l_max - l_before) / (l_max - l_after). Losses are
means over documents, by the steps since they were met.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from memexp.stats.clusters import Group, check_level
from memexp.stats.means import beside, groups_of, means
from memexp.stats.tables import Codes, Floats, Names, Units, arrow, codes, column, numbers, rows_of_each, units_of

__all__ = ["recovery"]

PARTS = ("after", "highest", "before", "recovery")


def recovery(
    table: Any,
    by: Sequence[str] = ("model",),
    *,
    value: str = "target_nll",
    exposures: str = "item_exposures",
    since: str = "steps_since",
    level: float = 0.95,
    seeds: Names = None,
) -> pa.Table:
    """Recovery of each group after each number of exposures, with an interval over seeds.

    Args:
        table: rows that say of each text how often it was met and how long ago; those of texts that were never met, and
            of exposures and seeds in which not all texts were seen at the same lags, are left out.
        by: as for `memexp.stats.summary`.
        value: column of the loss.
        exposures, since: columns of how often a text was met, and of steps since then.
        level, seeds: as for `memexp.stats.summary`.

    Returns:
        One row per group and number of exposures: `by` and `exposures`; after, highest, before, means over seeds;
        recovery, low, high, the share of what was forgotten that came back; n, seeds, over, reason, level; missing,
        seeds that were left out. Recovery is NULL where nothing was forgotten.

    Raises:
        SpecError: a column is missing, or `level` is none.
    """
    check_level(None, level)
    rows = arrow(table)
    met = numbers(column(rows, exposures), exposures) > 0
    rows = rows.filter(pa.array(met))
    losses, ago = numbers(column(rows, value), value), numbers(column(rows, since), since)
    group, keys = groups_of(rows, [*([by] if isinstance(by, str) else by), exposures])
    units = units_of(rows, None, seeds, (), by)
    found = [_by_seed(mine, losses, ago, units) for mine in rows_of_each(group.codes, group.count)]
    drawn = np.zeros(rows.num_rows, np.int64) if units.seeds is None else units.seeds
    there = [len(np.unique(drawn[mine])) for mine in rows_of_each(group.codes, group.count)]
    whole = [at for at, each in enumerate(found) if each]
    keys = keys.take(pa.array(whole, pa.int64()))
    parts = np.array([numbers_ for at in whole for numbers_ in found[at]]).reshape(-1, len(PARTS))
    of_group = Group(np.repeat(np.arange(len(whole)), [len(found[at]) for at in whole]), len(whole))
    of_seed = codes([np.concatenate([np.arange(len(found[at])) for at in whole])], len(parts)) if whole else None
    apart = Units(np.arange(len(parts)), of_seed, None)
    told = means(parts[:, 3], of_group, apart, "seeds", level)
    told = told.rename_columns([{"mean": "recovery"}.get(name, name) for name in told.column_names])
    sums = [np.bincount(of_group.codes, parts[:, at], of_group.count) for at in range(3)]
    counts = np.maximum(1, np.bincount(of_group.codes, minlength=of_group.count))
    first = pa.table({name: pa.array(sums[at] / counts) for at, name in enumerate(PARTS[:3])})
    missing = pa.table({"missing": pa.array([there[at] - len(found[at]) for at in whole], pa.int64())})
    kept = [
        name
        for name in ("recovery", "low", "high", "n", "seeds", "over", "reason", "level")
        if name in told.column_names
    ]
    return beside(beside(beside(keys, first), told.select(kept)), missing)


def _by_seed(rows: Codes, losses: Floats, ago: Floats, units: Units) -> list[tuple[float, float, float, float]]:
    """Of each seed after, highest, before and recovery; of none whose texts were not all seen at the same lags."""
    seeds = np.zeros(len(rows), np.int64) if units.seeds is None else units.seeds[rows]
    found = []
    for seed in np.unique(seeds):
        mine = rows[seeds == seed]
        when, at, counts = np.unique(ago[mine], return_inverse=True, return_counts=True)
        if len(when) < 3 or counts.min() < counts.max() or np.isnan(losses[mine]).any():
            continue
        curve = np.bincount(at, losses[mine]) / counts
        after, highest, before = float(curve[0]), float(curve.max()), float(curve[-1])
        forgotten = highest - after
        found.append((after, highest, before, (highest - before) / forgotten if forgotten > 0 else np.nan))
    return found
