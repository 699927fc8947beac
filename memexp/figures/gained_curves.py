"""What is left, by retention interval, of what study gained: (m - before study) / (right after study - before study).

Two conditions that learned unequally well are not compared by their means; by these they are, where study gained
something at all: see `memexp.stats.retention`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memexp.errors import SpecError
from memexp.figures.cells import ALL, Cell, item_rows
from memexp.figures.curves_chart import Axis, Drawn, curves
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout
from memexp.figures.measures import Measure
from memexp.figures.panels import Sheet, over_what
from memexp.figures.retention_curves import AT_ZERO, X, interval_axis
from memexp.figures.varied import dimensions
from memexp.stats import retention

__all__ = ["gained_figure"]

TITLE = "what is left of the gain (share)"


def gained_figure(found: Gathered, kind: str, measure: Measure, by: str | None = None) -> Figure | None:
    """The figure of one measure; None where retention intervals do not vary, or study's gain is not told from 0.

    `by`: as for `exposure_figure`.
    """
    everything = [one for one in found.results(kind) if "forget_side" not in one.settings]
    after = [one for one in everything if one.settings.get(X) and one.settings.get("exposures") != 0]
    if not after:
        return None
    names = dimensions(after, [X])
    points = _points(found, kind, measure, [one for one in everything if not _without_study(one)], names)
    if len({point.at[X] for point in points}) < 2:
        return None
    sheet = Sheet(names, Layout.of(names, [point.at for point in points], by))
    rows = [sheet.row(point, **{X: point.at[X]}, _t=max(point.at[X], AT_ZERO)) for point in points]
    rows.sort(key=lambda row: float(row["_t"]))
    said = "The share of what study gained over the untrained model; intervals count the errors of all three means."
    return sheet.figure(
        f"gained-{kind}-{measure.name}",
        f"{measure.title.partition(' (')[0].capitalize()} by retention interval, of what study gained",
        said,
        over_what(points),
        rows,
        lambda inside, data: {X: _chart(sheet, inside, data)},
        [X],
    )


def _without_study(one: Result) -> bool:
    """Whether interference came without study: that is no retention."""
    return one.unstudied and bool(one.settings.get(X))


def _points(
    found: Gathered, kind: str, measure: Measure, results: Sequence[Result], names: Sequence[str]
) -> list[Cell]:
    columns = [*dict.fromkeys([*names, "exposures", X])]
    rows = item_rows(found, kind, measure.name, [results], columns)
    lists = "list" if rows.column("list").null_count < rows.num_rows else ()
    by = [name for name in names if name != "exposures"]
    try:
        told = retention(rows, "value", by, items="item", seeds="seed", lists=lists).to_pylist()
    except SpecError:
        return []
    return [_point(row, names) for row in told if row["retained"] is not None]


def _point(row: dict[str, Any], names: Sequence[str]) -> Cell:
    counts = {name: row[name] or 0 for name in ("items", "seeds", "lists")}
    return Cell(
        {name: row[name] for name in (*names, X)},
        ALL,
        row["retained"],
        row["n"],
        (),
        row["retained_low"],
        row["retained_high"],
        row["over"] or "",
        row["reason"] or "",
        **counts,
    )


def _chart(sheet: Sheet, rows: Sequence[Row], data: str) -> Drawn:
    return curves(interval_axis(rows), Axis("_y", TITLE), sheet.layout, sheet.tooltip(X), data=data)
