"""Figures of Orhan 2023 (arXiv 2303.17557) from one's own results, with the published means beside them.

`RECOGNITION` and `RETENTION` are means of 4 replications over the author's files per run
(github.com/eminorhan/llm-memory), recognition at the best of 3 learning rates and 3 batch sizes, chosen in-sample.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import altair as alt

from memexp.figures.cells import cells
from memexp.figures.curves_chart import Axis, Drawn, coloured, curves
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout
from memexp.figures.measures import Measure
from memexp.figures.order import AFTERWARDS
from memexp.figures.panels import Sheet, over_what, vertical
from memexp.figures.retention_curves import retention_figure
from memexp.figures.varied import dimensions, split

__all__ = ["RECOGNITION", "RETENTION", "experiments_figure", "retention_beside"]

RECOGNITION: Mapping[str, Sequence[float]] = {
    "gpt2": (0.936, 0.840, 0.881, 0.888, 0.935, 0.997),
    "gpt2-medium": (0.980, 0.930, 0.928, 0.930, 0.966, 0.999),
    "gpt2-large": (0.990, 0.969, 0.942, 0.974, 0.997, 1.0),
    "gpt2-xl": (0.993, 0.983, 0.957, 0.946, 0.998, 1.0),
    "EleutherAI/gpt-j-6b": (0.996, 0.985, 0.973, 0.951, 1.0, 1.0),
    "facebook/opt-13b": (0.981, 0.968, 0.942, 0.862, 1.0, 1.0),
}
"""Share of pairs told apart after one exposure, by model, in experiments 1 to 6."""
RETENTION: Mapping[int, Mapping[int, float]] = {
    1: {1: 0.998, 100: 0.995, 1000: 0.989, 10_000: 0.957, 100_000: 0.961},
    3: {1: 0.997, 100: 0.982, 1000: 0.964, 10_000: 0.920, 100_000: 0.860},
}
"""The same of GPT-J after 3 exposures and so many steps of interference, by experiment."""
EXPERIMENTS = tuple(map(float, range(1, 7)))
RETAINED_BY = "EleutherAI/gpt-j-6b"


def experiments_figure(found: Gathered, measure: Measure) -> Figure | None:
    """Recognition by experiment after one exposure, a line a model; None where no result says its experiment."""
    results = [one for one in found.results("recognition") if _after_one(one)]
    best = [one for group in split(results, ["model", "experiment"]).values() for one in _best(group, measure)]
    points = cells(found, "recognition", measure.name, best, ["model", "experiment"])
    if not points:
        return None
    layout = Layout.of(["model"], [point.at for point in points])
    sheet = Sheet(["model"], layout)
    rows = [sheet.row(point, experiment=int(point.at["experiment"]), _published=False) for point in points]
    models = {point.at["model"] for point in points}
    rows += [
        _published(model, layout, experiment=number, _y=value)
        for model, values in RECOGNITION.items()
        for number, value in enumerate(values, start=1)
        if model in models
    ]
    x = Axis("experiment", "experiment (number in the paper)", ticks=EXPERIMENTS, domain=(0.8, 6.2), places=EXPERIMENTS)
    return sheet.figure(
        "published-recognition",
        "Recognition by experiment (Orhan 2023)",
        "",
        f"After one exposure, at the best of the grid, chosen in-sample. {_CROSSES} {over_what(points)}",
        rows,
        lambda inside, data: {"experiment": _beside(x, measure, sheet, inside, data)},
        ["experiment"],
    )


_CROSSES = "Crosses: as published."


def _after_one(result: Result) -> bool:
    settings = result.settings
    return settings.get("exposures") == 1 and "experiment" in settings and not any(map(settings.get, AFTERWARDS))


def _best(results: Sequence[Result], measure: Measure) -> list[Result]:
    """Those of the grid point with the best mean."""
    grid = split(results, dimensions(results, ["model", "experiment"]))

    def mean(group: Sequence[Result]) -> float:
        sums = [one.sums[measure.name] for one in group if measure.name in one.sums]
        count = sum(number for _, number in sums)
        return sum(total for total, _ in sums) / count if count else float("-inf")

    return max(grid.values(), key=mean)


def _published(model: str, layout: Layout, **more: Any) -> Row:
    row: Row = {"model": model, "seed": "", "_rule": False, "_published": True, "_panel": "", "_fit": ""}
    row |= {"_mark": Sheet(["model"], layout).mark({"model": model})}
    return row | {"_colour": model if layout.colour else "", "_line": f"published {model}"} | more


def _beside(x: Axis, measure: Measure, sheet: Sheet, rows: Sequence[Row], data: str) -> Drawn:
    """The points, and crosses for what was published."""
    y = vertical(measure)
    own = curves(x, y, sheet.layout, sheet.tooltip("experiment"), None, data=data, only="!datum._published")
    if not any(row["_published"] for row in rows):
        return own
    crosses = x.place(coloured(data, sheet.layout).transform_filter("datum._published"))
    marks = crosses.mark_text(text="×", fontWeight="bold").encode(y=y.encoding(alt.Y))
    return alt.layer(own, marks)


def retention_beside(found: Gathered, measure: Measure) -> Figure | None:
    """Retention, with the published means of GPT-J as crosses in its panels; None where intervals do not vary."""
    figure = retention_figure(found, "recognition", measure)
    if figure is None:
        return None
    ours = [one for one in found.results("recognition") if one.settings.get("model") == RETAINED_BY]
    studied = {one.settings.get("experiment") for one in ours if one.settings.get("retention_steps")}
    panels = []
    for panel in figure.panels:
        inside = {row.get("experiment") for row in panel.rows}  # a row has it where it varies
        known = [number for number in RETENTION if number in studied and inside & {str(number), None}]
        rows: list[Row] = [
            {"_t": steps, "_y": value, "seed": "", "_published": True, "_rule": False, "_fit": "published"}
            for number in known
            for steps, value in RETENTION[number].items()
        ]
        base = alt.Chart(alt.NamedData(panel.data)).transform_filter("datum._published")
        marks = base.mark_text(text="×", fontWeight="bold")
        crosses = marks.encode(x=alt.X("_t:Q"), y=alt.Y("_y:Q"), color=alt.value("#555555"))
        charts = {name: alt.layer(chart, crosses) for name, chart in panel.charts.items()} if rows else panel.charts
        panels.append(replace(panel, rows=[*panel.rows, *rows], charts=charts))
    caption, note = (f"{said} {_CROSSES}" for said in (figure.caption, figure.note))
    return replace(figure, panels=panels, caption=caption, note=note)
