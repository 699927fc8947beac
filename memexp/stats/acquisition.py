"""What injections of a text add to the log-probability of its spans, and how much of it is left: rows of
`memexp.Spans`.

    effectivity(rows, by=["model", "depth"])       # what each exposure added
    retainability(rows, by=["model", "depth"])     # what is left t steps after the best, in percent

Chang et al. 2024 (arXiv 2406.11813), section 3: the log-probability of a span is best some steps after an injection,
not at once, so that both measures look for the best within a window of steps. Rows have to lie along a trajectory:
several numbers of exposures, 0 among them, and several retention intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from memexp.errors import SpecError
from memexp.stats.clusters import Group, check_level
from memexp.stats.means import beside, groups_of, means
from memexp.stats.retained import STUDY
from memexp.stats.tables import (
    Codes,
    Floats,
    Names,
    Units,
    arrow,
    codes,
    column,
    names_of,
    numbers,
    units_of,
    unstudied,
    values_of,
)

__all__ = ["effectivity", "retainability"]

SPAN = ("task", "item", "depth", "span")
"""Columns that tell spans apart, as far as rows have them."""
WINDOW = 50
"""Steps within which the best is looked for, as published."""


@dataclass(frozen=True)
class _Trajectories:
    """Rows of spans, and which of them are one span of one model."""

    values: Floats
    """NaN where nothing was measured."""
    steps: Codes
    """Since the last exposure."""
    exposures: Codes
    span: Codes
    """One span of one group, seed and list, whatever was studied how often."""
    untrained: Codes
    """The same where settings of study say nothing, nor the seed of its order."""
    units: Units
    keys: pa.Table
    """The columns of groups, row by row."""

    def best(self, exposures: int, window: int) -> dict[int, int]:
        """Of each span the row with the greatest value within `window` steps of the last exposure, of several the
        first."""
        there = (self.exposures == exposures) & (self.steps <= window) & ~np.isnan(self.values)
        rows = np.flatnonzero(there)
        order = rows[np.lexsort((self.steps[rows], -self.values[rows]))]
        found: dict[int, int] = {}
        for row in order.tolist():
            found.setdefault(int(self.span[row]), row)
        return found

    def before(self, exposures: int, gap: int) -> dict[int, float]:
        """Of each span the mean just before the next exposure: `gap` steps after the last, or before study."""
        there = (self.exposures == exposures) & ~np.isnan(self.values)
        if exposures:
            there &= self.steps == gap
        of = self.span if exposures else self.untrained
        found: dict[int, list[float]] = {}
        for row in np.flatnonzero(there).tolist():
            found.setdefault(int(of[row]), []).append(float(self.values[row]))
        return {span: float(np.mean(each)) for span, each in found.items()}

    def start(self, row: int, before: dict[int, float], exposures: int) -> float:
        """What `before` has of a row's span; NaN where it has nothing."""
        return before.get(int((self.span if exposures else self.untrained)[row]), np.nan)


def effectivity(
    table: Any,
    value: Any = "per_token",
    by: Sequence[str] = ("model", "depth"),
    *,
    window: int = WINDOW,
    gap: int = 0,
    steps: str = "retention_steps",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """What an exposure adds: the best value within `window` steps after it, less the value just before it.

    Chang et al. 2024, section 3, for every exposure with rows of one exposure fewer; their code measures only the best
    after the last injection against the value before the first.

    Args:
        table, value, by, over, level, items, seeds, lists: as for `memexp.stats.summary`; spans are matched by their
            item, depth and number, and by seed and list.
        window: steps after the exposure within which the best is looked for.
        gap: steps between exposures: what was just before one is measured so long after the one before it.
        steps, exposures: columns of these.

    Returns:
        One row per group and exposure, from the first on: `by`, `exposures`; effectivity, low, high, n (spans),
        missing, items, seeds, lists, over, reason, level.

    Raises:
        SpecError: a column is missing, or `window`, `gap`, `over` or `level` is none.
    """
    told = _told(by, steps, exposures)
    on = _trajectories(table, value, told, window, gap, steps, exposures, over, level, items, seeds, lists)
    rows: list[int] = []
    gained: list[float] = []
    for exposure in sorted(set(on.exposures.tolist()) - {0}):
        before = on.before(exposure - 1, gap)
        for row in on.best(exposure, window).values():
            rows.append(row)
            gained.append(float(on.values[row]) - on.start(row, before, exposure - 1))
    return _means(on, np.array(rows, np.int64), np.array(gained), {}, [*told, exposures], "effectivity", over, level)


def retainability(
    table: Any,
    value: Any = "per_token",
    by: Sequence[str] = ("model", "depth"),
    *,
    window: int = WINDOW,
    outliers: float | None = None,
    steps: str = "retention_steps",
    exposures: str = "exposures",
    over: str | None = None,
    level: float = 0.95,
    items: Names = None,
    seeds: Names = None,
    lists: Names = None,
) -> pa.Table:
    """What is left t steps after a span's best: 100 (l_t - l_0) / (l_best - l_0), in percent.

    Chang et al. 2024, section 3: l_0 is the value before the first exposure, l_best the best within `window` steps of
    the last, from which t counts, span by span. They fit b - a log10 t to it: ``fit_curve(t, retainability,
    curves=["log"])``, whose floor is b, and which is 0 at t = 10^(b / a).

    Args:
        table, value, by, over, level, items, seeds, lists: as for `effectivity`.
        window: steps after the last exposure within which the best is looked for; 0 takes what was right after it.
        outliers: leave out values that are so many interquartile ranges below the first quartile or above the third of
            their group and t: the published code does, with 1.5. None for none.
        steps, exposures: columns of these; conditions of different exposures are different groups.

    Returns:
        One row per group and t above 0: `by`, `exposures`, t; retainability, low, high, n (spans), missing (spans that
        gained nothing, and outliers), items, seeds, lists, over, reason, level.

    Raises:
        SpecError: as `effectivity`.
    """
    told = _told(by, steps, exposures)
    if outliers is not None and not outliers > 0:
        raise SpecError(f"outliers: must be above 0, or None, got {outliers}")
    on = _trajectories(table, value, told, window, 0, steps, exposures, over, level, items, seeds, lists)
    before = on.before(0, 0)
    rows: list[int] = []
    left: list[float] = []
    since: list[int] = []
    for exposure in sorted(set(on.exposures.tolist()) - {0}):
        best = on.best(exposure, window)
        for row in np.flatnonzero(on.exposures == exposure).tolist():
            top = best.get(int(on.span[row]))
            if top is None or on.steps[row] <= on.steps[top]:
                continue
            start = on.start(row, before, 0)
            gain = float(on.values[top]) - start
            rows.append(row)
            left.append(100 * (float(on.values[row]) - start) / gain if gain > 0 else np.nan)
            since.append(int(on.steps[row] - on.steps[top]))
    chosen, found, t = np.array(rows, np.int64), np.array(left), {"t": pa.array(since, pa.int64())}
    if outliers is not None:
        where = codes([*on.keys.take(chosen).columns, t["t"]], len(chosen))
        found = _without_outliers(found, where, outliers)
    return _means(on, chosen, found, t, [*told, exposures, "t"], "retainability", over, level)


def _told(by: Sequence[str], steps: str, exposures: str) -> list[str]:
    """The columns of groups without those that are told apart anyway."""
    return [name for name in ([by] if isinstance(by, str) else by) if name not in (steps, exposures)]


def _trajectories(
    table: Any,
    value: Any,
    told: Sequence[str],
    window: int,
    gap: int,
    steps: str,
    exposures: str,
    over: str | None,
    level: float,
    items: Names,
    seeds: Names,
    lists: Names,
) -> _Trajectories:
    check_level(over, level)
    if min(window, gap) < 0:
        raise SpecError(f"window and gap: must be 0 or more, got {window} and {gap}")
    rows = arrow(table)
    some = numbers(column(rows, exposures), exposures) > 0
    rows = rows.filter(pa.array(some | unstudied(rows, exposures)))  # what saw a part of the first is neither
    since = np.nan_to_num(numbers(column(rows, steps), steps)).astype(np.int64)
    seen = numbers(column(rows, exposures), exposures).astype(np.int64)
    apart = [*told, steps, exposures]
    units = units_of(rows, items, seeds, lists, apart)
    own = [rows[name] for name in SPAN if name in rows.column_names]
    own += [pa.array(part) for part in (units.items, units.lists) if part is not None]
    drawn = names_of(rows, items, seeds, lists, apart)["seeds"]
    span, untrained = (
        codes([*(column(rows, name) for name in (*told, *drawn) if name not in without), *own], rows.num_rows)
        for without in ((), (*STUDY, "seed"))
    )
    keys = rows.select([*told, exposures])
    return _Trajectories(values_of(rows, value), since, seen, span, untrained, units, keys)


def _without_outliers(values: Floats, where: Codes, ranges: float) -> Floats:
    """NaN for what is so many interquartile ranges outside the quartiles of its like (Tukey's fences)."""
    found = values.copy()
    for one in range(int(where.max(initial=-1)) + 1):
        mine = np.flatnonzero((where == one) & ~np.isnan(values))
        if len(mine):
            low, high = np.percentile(values[mine], [25, 75])
            outside = (values[mine] < low - ranges * (high - low)) | (values[mine] > high + ranges * (high - low))
            found[mine[outside]] = np.nan
    return found


def _means(
    on: _Trajectories,
    rows: Codes,
    values: Floats,
    more: dict[str, pa.Array],
    by: Sequence[str],
    name: str,
    over: str | None,
    level: float,
) -> pa.Table:
    """The mean of what was found of some rows, called `name`, for each group of them."""
    table = on.keys.take(rows)
    for column_name, data in more.items():
        table = table.append_column(column_name, data)
    group, keys = groups_of(table, by)
    found = means(values, Group(group.codes, group.count), on.units.take(rows), over, level)
    found = found.drop_columns(["error", "df"]).rename_columns({"mean": name})
    answer = beside(keys, found)
    return answer.sort_by([(one, "ascending") for one in by if not pa.types.is_nested(keys[one].type)])
