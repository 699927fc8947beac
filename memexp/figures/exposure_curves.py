"""Means against exposures, updates or tokens: how much study does a memory take? (Orhan 2023, figures 2 and 4)

The model before study is a point of every curve, at 0, and a dashed line across: what a mean is to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memexp.figures.cells import Cell, cells
from memexp.figures.construction import by_construction
from memexp.figures.curves_chart import Axis, curves
from memexp.figures.effort import Effort
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import BEFORE, Layout, chance_line
from memexp.figures.measures import Measure
from memexp.figures.order import AFTERWARDS
from memexp.figures.panels import Sheet, chance_of, over_what, vertical
from memexp.figures.varied import dimensions, matching

__all__ = ["exposure_figure"]

X = "exposures"
TITLES = {
    "exposures": "exposures (passes over the study list)",
    "updates": "updates (optimizer steps of study)",
    "tokens": "tokens (predicted in study)",
}
"""Of the horizontal axes there are."""


def exposure_figure(
    found: Gathered, kind: str, measure: Measure, effort: Effort, by: str | None = None, x: str = X
) -> Figure | None:
    """The figure of one measure; None where exposures do not vary.

    Args:
        found: the results.
        kind, measure: what is drawn.
        effort: updates and tokens of stages.
        by: what has colours, by default the model.
        x: what is on the horizontal axis first: exposures, updates or tokens.
    """
    results = [result for result in found.results(kind) if _studied_only(result)]
    if len({result.settings[X] for result in results}) < 2:
        return None
    names = dimensions(results, [X])
    points = cells(found, kind, measure.name, results, [*names, X])
    if not points:
        return None
    before, chance = [point for point in points if not point.at[X]], chance_of(measure)
    layout = Layout.of(names, [point.at for point in points if point.at[X]], by)
    sheet = Sheet(names, layout.also(BEFORE if before else None, chance_line(chance)))
    rows = [row for point, at in _on_lines(points, names) for row in _rows(sheet, point, at, effort)]
    rows.sort(key=lambda row: row[X])
    axes = [x, *(name for name in TITLES if name != x)]
    shown = [name for name in axes if name == X or all(row[name] is not None for row in rows)]
    says = sheet.tooltip(X)

    def draw(inside: list[Row], data: str) -> dict[str, Any]:
        y = vertical(measure)
        return {
            name: curves(_axis(name, inside), y, sheet.layout, says, chance, rules=bool(before), data=data)
            for name in shown
        }

    short = measure.title.partition(" (")[0]
    note = f"{over_what(points)} {by_construction(found, kind, measure, before)}".strip()
    return sheet.figure(f"{X}-{kind}-{measure.name}", f"{short.capitalize()} by exposures", "", note, rows, draw, [X])


def _studied_only(result: Result) -> bool:
    """Whether nothing came after study."""
    settings = result.settings
    return X in settings and "forget_side" not in settings and not any(map(settings.get, AFTERWARDS))


def _on_lines(points: Sequence[Cell], names: Sequence[str]) -> list[tuple[Cell, dict[str, Any]]]:
    """Each point with its place; the one at no exposures, of which there may be one for many lines, on all of them."""

    def line(point: Cell) -> tuple[Any, ...]:
        return tuple(point.at.get(name) for name in names)

    lines = dict.fromkeys(line(point) for point in points if point.at[X])
    placed: list[tuple[Cell, dict[str, Any]]] = []
    for point in points:
        groups = [line(point)] if point.at[X] else matching(line(point), lines) or [line(point)]
        placed += [(point, dict(zip(names, group, strict=True)) | {X: point.at[X]}) for group in groups]
    return placed


def _rows(sheet: Sheet, point: Cell, at: dict[str, Any], effort: Effort) -> list[Row]:
    """A point, and for the model before study a line across as well."""
    updates, tokens = effort.of(point.results[0].settings.get("stage_id")) if at[X] else (0, 0)
    row = sheet.row(point, at, **{X: at[X]}, updates=updates, tokens=tokens)
    return [row] if at[X] else [row, row | {"_rule": True, "_dash": BEFORE[0]}]


def _axis(name: str, rows: Sequence[Row]) -> Axis:
    values = tuple(sorted({row[name] for row in rows}))
    wide = values[-1] > 8 * max(min((value for value in values if value > 0), default=1), 1)
    return Axis(name, TITLES[name], "symlog" if wide or len(values) > 3 else "linear", values, places=values)
