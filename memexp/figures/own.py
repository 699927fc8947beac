"""A figure of one's own: any measure against any setting, from a store or from a table of rows.

figure = plotted(found, "retention", x="retention_steps", y="recognition", by="model")
chart = plot(rows, "recognition", x="exposures", by="model")     # an altair chart
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import altair as alt

from memexp.errors import SpecError
from memexp.figures.best_cells import best_figure
from memexp.figures.block_profiles import ablation_figure, forgetting_figure
from memexp.figures.cells import cells
from memexp.figures.curves_chart import Axis, curves
from memexp.figures.effort import Effort
from memexp.figures.exposure_curves import TITLES, exposure_figure
from memexp.figures.fact_scores import by_name, fact_figure
from memexp.figures.figure import Figure, Row
from memexp.figures.gained_curves import gained_figure
from memexp.figures.gathered import Gathered, gathered_rows
from memexp.figures.layout import Layout, chance_line
from memexp.figures.measures import Measure, by_importance
from memexp.figures.panels import Sheet, chance_of, over_what, vertical
from memexp.figures.retention_curves import retention_figure
from memexp.figures.varied import dimensions
from memexp.stats.tables import arrow

__all__ = ["FAMILIES", "plot", "plotted"]

Make = Callable[[Gathered, str, Measure], Figure | None]
FAMILIES: dict[str, str] = {
    "exposures": "exposures",
    "retention": "retention_steps",
    "gained": "retention_steps",
    "forgetting": "forget_layer",
    "ablation": "ablated_layer",
    "facts": "task",
    "best": "model",
}
"""The kinds of figures of measures, and what each has on its horizontal axis."""


def plot(
    table: Any, kind: str | None = None, *, x: str | None = None, y: str | None = None, by: str | None = None
) -> alt.TopLevelMixin:
    """A chart of rows: of a store, as Arrow, pandas or polars.

    Args:
        table: rows of one kind, with memexp's columns.
        kind: of figure (see `FAMILIES`), or None for that which `x` is of, exposures by default.
        x: a setting or label; by default that of the kind.
        y: a measure (recognition, recall, qa ...) or any column of numbers.
        by: what has colours, by default the model.

    Raises:
        SpecError: a column is not there, or there is nothing to draw.
    """
    rows = arrow(table)
    family = kind or next((name for name, column in FAMILIES.items() if column == x), "exposures")
    with gathered_rows(_kind_of(rows.column_names, y), rows) as found:
        return plotted(found, family, x, y, by).chart()


_TOLD_BY: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("recognition", ("target_nll",)),
    ("recall", ("completion_rouge2",)),
    ("ablation", ("ablated_side",)),
    ("prefix_offset", ("offset_tokens",)),
    ("quantized", ("group_size",)),
    ("savings", ("nll_before",)),
    ("truth_ratio", ("truth_ratio",)),
    ("continuation", ("reference", "rougeL")),
    ("extraction", ("prefix_tokens",)),
    ("membership", ("min_k_plus",)),
    ("exposure", ("canary",)),
    ("spans", ("depth", "per_token")),
    ("capacity", ("bits_before",)),
    ("base_forgetting", ("base_entropy",)),
    ("priming", ("keyword",)),
    ("ratios", ("log_comparison_ratio",)),
    ("lm_eval", ("log_likelihoods", "metric")),
    ("choice", ("log_likelihoods",)),
    ("qa", ("prediction",)),
)
"""Columns by which the rows of a kind are known: the first of these kinds that has all of them."""


def _kind_of(columns: Collection[str], y: str | None) -> str:
    """Which kind rows with these columns are of."""
    return next((kind for kind, told in _TOLD_BY if set(told) <= set(columns)), y or "rows")


def plotted(
    found: Gathered,
    family: str,
    x: str | None = None,
    y: str | None = None,
    by: str | None = None,
    effort: Effort | None = None,
) -> Figure:
    """The figure that is asked for.

    Args:
        found: the rows.
        family: one of `FAMILIES`.
        x, y, by: as for `plot`.
        effort: updates and tokens of stages, for an `x` of these.

    Raises:
        SpecError: a column is not there, or there is nothing to draw.
    """
    if family not in FAMILIES:
        raise SpecError(f"{family!r} is no kind of figure; there are {', '.join(FAMILIES)}")
    first, *others = _measures(found, y, family)
    _check(found, first[0], x, by)
    column = x or FAMILIES[family]
    for kind, measure in [first, *others]:
        figure = _made(found, family, kind, measure, column, by, effort or Effort({}))
        if figure is not None:
            return figure
    raise SpecError(f"nothing to draw: in the rows of {first[0]} {column} does not vary")


def _made(
    found: Gathered, family: str, kind: str, measure: Measure, x: str, by: str | None, effort: Effort
) -> Figure | None:
    if family == "exposures" and x in TITLES:
        return exposure_figure(found, kind, measure, effort, by, x)
    if x == FAMILIES[family]:
        makers: dict[str, Make] = {
            "retention": lambda rows, of, what: retention_figure(rows, of, what, by),
            "gained": lambda rows, of, what: gained_figure(rows, of, what, by),
            "forgetting": forgetting_figure,
            "ablation": ablation_figure,
            "facts": fact_figure,
            "best": best_figure,
        }
        return makers[family](found, kind, measure)
    return _against(found, kind, measure, x, by)


def _against(found: Gathered, kind: str, measure: Measure, x: str, by: str | None) -> Figure | None:
    """Any measure against any setting: a line of points where it is of numbers, else dots."""
    results = [one for one in found.results(kind) if x in one.settings]
    values = {one.settings[x] for one in results}
    if not values:
        return None
    title = f"{measure.title.partition(' (')[0].capitalize()} by {x.replace('_', ' ')}"
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return by_name(found, kind, measure, results, x, x.replace("_", " "), title, "own")
    names = dimensions(results, [x])
    points = cells(found, kind, measure.name, results, [*names, x])
    if not points:
        return None
    chance = chance_of(measure)
    sheet = Sheet(names, Layout.of(names, [point.at for point in points], by).also(chance_line(chance)))
    rows = sorted((sheet.row(point, **{x: point.at[x]}) for point in points), key=lambda row: float(row[x]))
    positive = min(values) > 0 and max(values) >= 20 * min(values)
    axis = Axis(x, x.replace("_", " "), "log" if positive else "linear", places=tuple(map(float, values)))

    def draw(inside: list[Row], data: str) -> dict[str, Any]:
        return {x: curves(axis, vertical(measure), sheet.layout, sheet.tooltip(x), chance, data=data)}

    return sheet.figure(f"own-{kind}-{measure.name}", title, "", over_what(points), rows, draw, [x])


def _measures(found: Gathered, y: str | None, family: str) -> list[tuple[str, Measure]]:
    """The kind and measure that `y` is; where it is None all there are, those that the family is about first."""
    named: dict[str, tuple[str, Measure]] = {}
    for kind in by_importance(found.kinds):
        for name, one in found.measures(kind).items():
            named.setdefault(name, (kind, one))
    if not named:
        raise SpecError("there are no results to draw")
    if y is None:
        wanted = {"ablation": ["ablation"], "facts": ["qa", "choice"]}.get(family, ["recognition", "recall"])
        return [named[name] for name in dict.fromkeys([*wanted, *named]) if name in named]
    if y in named:
        return [named[y]]
    for kind in found.kinds:
        if y in found.columns(kind) and (measure := found.add(kind, y)) is not None:
            return [(kind, measure)]
    raise SpecError(f"--y {y}: there is no such measure; there are {', '.join(named)}, and columns of numbers")


def _check(found: Gathered, kind: str, x: str | None, by: str | None) -> None:
    have = {name for one in found.results(kind) for name in one.settings} | {"updates", "tokens"}
    for option, name in (("--x", x), ("--by", by)):
        if name is not None and name not in have:
            raise SpecError(f"{option} {name}: {kind} has no such column; it has {', '.join(sorted(have))}")
