"""Retention: what is left, after interference, of what study gained."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import stdtrit

from memexp.stats.clusters import Group, spread
from memexp.stats.differences import difference_of
from memexp.stats.means import beside, groups_of, means
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
    values_of,
)

__all__ = ["retention"]

STUDY = (
    *("lr", "batch_size", "schedule", "warmup_steps", "warmup_ratio", "dropout", "weight_decay", "clip_norm"),
    *("optimizer", "momentum", "presentation", "presentation_gap", "presentation_factor", "presentation_beside"),
    *("presentation_steps", "times", "variants", "further_batches"),
)
"""Settings that say nothing of a model that has not studied."""


def retention(
    table: Any,
    value: Any,
    by: Sequence[str] = ("model",),
    *,
    steps: str = "retention_steps",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """Mean by retention interval, and as a share of what study gained: (m_t - m_0) / (m_study - m_0).

    m_0 is the untrained model's (exposures 0), m_study the mean right after study (steps NULL or 0), of the same group;
    settings of study say nothing at 0 exposures, nor those of interference before it. Where study's gain is not told
    from 0 there is nothing to be retained, and `retained` is NULL. Compare conditions whose m_study is about equal.

    Args:
        table, value, by, over, level, items, seeds, lists: as for `memexp.stats.summary`.
        steps, exposures: columns of these; conditions of different exposures are different groups.

    Returns:
        One row per group and interval, in order of `steps` (0: right after study): `by`, `exposures`, `steps`; mean,
        low, high, n, missing, items, seeds, lists, over, reason, level; untrained (m_0), studied (m_study), gained,
        gained_low, gained_high; retained, retained_low, retained_high (whose interval counts the errors of all three).
    """
    rows = arrow(table)
    by = [by] if isinstance(by, str) else list(by)
    told = [*(name for name in by if name not in (steps, exposures)), exposures]
    interval = np.nan_to_num(numbers(column(rows, steps), steps))
    seen = numbers(column(rows, exposures), exposures)
    where = {name: rows[name] for name in told} | {steps: pa.array(interval.astype(np.int64))}
    group, keys = groups_of(pa.table(where), [*told, steps])
    values, units = values_of(rows, value), units_of(rows, items, seeds, lists, [*told, steps])
    found = means(values, group, units, over, level)
    studied = [name for name in told if not name.startswith("interference_")]
    before = codes([rows[name] for name in studied if name not in (*STUDY, exposures)], rows.num_rows)
    after = codes([rows[name] for name in studied], rows.num_rows)
    there = ~np.isnan(values)
    untrained = rows_of_each(np.where(there & unstudied(rows, exposures), before, -1), int(before.max(initial=-1)) + 1)
    right_after = there & (seen > 0) & (interval == 0)
    studied_rows = rows_of_each(np.where(right_after, after, -1), int(after.max(initial=-1)) + 1)
    result = []
    for mine in rows_of_each(group.codes, group.count):
        parts = untrained[before[mine[0]]], studied_rows[after[mine[0]]], mine[there[mine]]
        result.append(_gain(values, units, parts, over, level))
    ratios = pa.table({name: pa.array([one.get(name) for one in result], pa.float64()) for name in GAIN})
    answer = beside(keys, beside(found.drop_columns(["error", "df"]), ratios))
    kept = pc.greater(keys[exposures], 0)
    order = [(name, "ascending") for name in (*told, steps) if not pa.types.is_nested(keys[name].type)]
    return answer.filter(kept).sort_by(order)


GAIN = """untrained studied gained gained_low gained_high retained retained_low retained_high""".split()


def _gain(
    values: Floats, units: Units, parts: tuple[Codes, Codes, Codes], over: str | None, level: float
) -> dict[str, float | None]:
    """What study gained, and the share of it that is left; `parts`: untrained, right after study, now."""
    m = [float(values[part].mean()) if len(part) else None for part in parts]
    found: dict[str, float | None] = {"untrained": m[0], "studied": m[1]}
    if m[0] is None or m[1] is None:
        return found
    rows, side = np.concatenate([parts[1], parts[0]]), np.repeat([0, 1], [len(parts[1]), len(parts[0])])
    gain = difference_of(values[rows], side, units.take(rows), over, level)
    found |= {"gained": gain.difference, "gained_low": gain.low, "gained_high": gain.high}
    if m[2] is None or gain.low is None or gain.high is None or gain.low <= 0 <= gain.high:
        return found
    share = (m[2] - m[0]) / (m[1] - m[0])
    found["retained"] = share
    low, high = _bounds(values, units, parts, share, m[1] - m[0], over, level)
    return found | {"retained_low": low, "retained_high": high}


def _bounds(
    values: Floats,
    units: Units,
    parts: tuple[Codes, Codes, Codes],
    share: float,
    gain: float,
    over: str | None,
    level: float,
) -> tuple[float | None, float | None]:
    """The interval of the share, by what each row of the three means adds to its error (the delta method)."""
    weights = (-(1 - share) / gain, -share / gain, 1 / gain)
    influence = [weight * (values[at] - values[at].mean()) / len(at) for weight, at in zip(weights, parts, strict=True)]
    every = np.concatenate(parts)
    about = spread(np.concatenate(influence), Group.one(len(every)), units.take(every), over)
    if np.isnan(about.error[0]):
        return None, None
    half = float(stdtrit(about.df[0], (1 + level) / 2) * about.error[0])
    return share - half, share + half
