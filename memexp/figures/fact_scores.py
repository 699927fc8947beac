"""Scores by test: what can a model do with what it has read? (Zhang, Li & Wu 2024, section 3), with chance lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memexp.figures.cells import Cell, cells
from memexp.figures.curves_chart import Axis
from memexp.figures.dots_chart import dots, tall
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout
from memexp.figures.measures import CHANCE, Measure
from memexp.figures.order import AFTERWARDS
from memexp.figures.panels import Sheet, over_what
from memexp.figures.varied import dimensions, text

__all__ = ["by_name", "fact_figure"]

TITLES = {"task": "test", "relation": "relation", "metric": "metric"}


def fact_figure(found: Gathered, kind: str, measure: Measure) -> Figure | None:
    """Means by test; None where a kind has no tests, or blocks were reset or ablated."""
    everything = found.results(kind)
    if any(one.settings.get("forget_side") in ("upper", "lower") for one in everything):
        return None
    results = [one for one in everything if _plain(one)]
    names = next((name for name in TITLES if any(name in one.settings for one in results)), None)
    if names is None or any("ablated_side" in one.settings for one in results):
        return None
    title = measure.title.partition(" (")[0].capitalize()
    return by_name(found, kind, measure, results, names, TITLES[names], f"{title} by {TITLES[names]}", "facts")


def by_name(
    found: Gathered,
    kind: str,
    measure: Measure,
    results: Sequence[Result],
    names: str,
    axis: str,
    title: str,
    family: str,
) -> Figure | None:
    """Dots for each value of the column `names`, coloured by exposures where these vary."""
    by = dimensions(results, [names])
    points = cells(found, kind, measure.name, results, [*by, names])
    if not points:
        return None
    colour = "exposures" if "exposures" in by else None
    layout = Layout.of(by, [point.at for point in points], colour)
    sheet = Sheet(by, layout)
    order = list(dict.fromkeys(text(point.at[names]) for point in points))
    rows = [
        sheet.row(point, None, **{names: text(point.at[names])}, _chance=_chance(measure, point)) for point in points
    ]
    guessed = any(row["_chance"] is not None for row in rows)
    value = Axis("_y", measure.title, domain=(0.0, 1.0) if measure.share else None)

    def draw(inside: list[Row], data: str) -> dict[str, Any]:
        return {names: dots(names, axis, order, value, layout, sheet.tooltip(names), guessed, data)}

    note = f"Grey ticks: chance. {over_what(points)}" if guessed else over_what(points)
    return sheet.figure(
        f"{family}-{kind}-{measure.name}", title, "", note, rows, draw, [names], tall(len(order), layout)
    )


def _plain(result: Result) -> bool:
    return "forget_side" not in result.settings and not any(map(result.settings.get, AFTERWARDS))


def _chance(measure: Measure, point: Cell) -> float | None:
    """What guessing comes to, over the items of a point."""
    if measure.chance is None or isinstance(measure.chance, float):
        return measure.chance
    sums = [one.sums[CHANCE] for one in point.results if CHANCE in one.sums]
    count = sum(number for _, number in sums)
    return round(sum(total for total, _ in sums) / count, 6) if count else None
