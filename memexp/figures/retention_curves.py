"""Means against the retention interval, on a logarithmic axis, with curves of forgetting (Orhan 2023, section 4).

The place of 0 steps, right after study, is left of 1. Lines are a power law and an exponential, both with a floor,
fitted by `memexp.stats.fit_curve`; where there are too few intervals for them, points are joined.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import pyarrow as pa

from memexp.figures.cells import ALL, Cell, cells, item_rows
from memexp.figures.construction import by_construction
from memexp.figures.curves_chart import Axis, Drawn, coloured, curves, dashed
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import BEFORE, Layout, Line, chance_line
from memexp.figures.measures import Measure
from memexp.figures.panels import Sheet, chance_of, over_what, vertical
from memexp.figures.varied import comparable, dimensions, matching, text
from memexp.stats import Fit, fit_curve

__all__ = ["AT_ZERO", "X", "interval_axis", "retention_figure"]

X = "retention_steps"
TITLE = "retention interval (optimizer steps since study)"
AT_ZERO = 0.5
"""Where 0 steps are drawn."""
FITTED: Mapping[str, Line] = {
    "power": ("power law with a floor", (1, 0)),
    "exponential": ("exponential with a floor", (5, 3)),
}
FEWEST = 5
"""Retention intervals that a curve of three parameters is fitted to."""
RESAMPLES, MOST_RESAMPLED = 200, 500_000
"""For the intervals of its parameters, of at most so many rows."""
MOST_TOLD = 4
"""Lines whose rates a caption has room for."""


def retention_figure(found: Gathered, kind: str, measure: Measure, by: str | None = None) -> Figure | None:
    """The figure of one measure; None where retention intervals do not vary. `by`: as for `exposure_figure`."""
    everything = found.results(kind)
    results = [one for one in everything if X in one.settings and one.settings.get("exposures") != 0]
    if len({one.settings[X] for one in results}) < 2:
        return None
    names = dimensions(results, [X])
    points = cells(found, kind, measure.name, results, [*names, X])
    if not points:
        return None
    untrained = comparable(filter(_is_untrained, everything), results, ["exposures", X])
    before = cells(found, kind, measure.name, untrained, names)
    fits = {line: _fits(found, kind, measure.name, few) for line, few in _lines(points, names).items()}
    layout = Layout.of(names, [point.at for point in points], by).also(*(FITTED.values() if any(fits.values()) else ()))
    sheet = Sheet(names, layout.also(BEFORE if before else None, chance_line(chance_of(measure))))
    rows = [_row(sheet, point, point.at[X]) for point in points]
    across = {"_rule": True, "_dash": BEFORE[0]}
    rows += [_row(sheet, point, 0, at) | across for point, at in _across(before, points, names)]
    rows.sort(key=lambda row: float(row["_t"]))
    fitted = [row for line, few in fits.items() for fit in few for row in _drawn(sheet, line, fit, rows)]
    return sheet.figure(
        f"retention-{kind}-{measure.name}",
        f"{measure.title.partition(' (')[0].capitalize()} by retention interval",
        _said(fits, names),
        f"{over_what(points)} {by_construction(found, kind, measure, before)}".strip(),
        rows + fitted,
        lambda inside, data: {X: _chart(sheet, measure, inside, data)},
        [X],
    )


def _is_untrained(result: Result) -> bool:
    return result.unstudied and not result.settings.get(X) and "forget_side" not in result.settings


def _row(sheet: Sheet, point: Cell, steps: int, at: dict[str, Any] | None = None) -> Row:
    return sheet.row(point, at, **{X: steps}, _t=max(steps, AT_ZERO), _fit="")


def _across(before: Sequence[Cell], points: Sequence[Cell], names: Sequence[str]) -> list[tuple[Cell, dict[str, Any]]]:
    """The untrained models' means with the lines that they belong to: they have no exposures."""
    by = [name for name in names if name != "exposures"]
    lines = dict.fromkeys(tuple(point.at[name] for name in by) for point in points)
    return [
        (point, dict(zip(by, line, strict=True)))
        for point in before
        for line in matching([point.at.get(name) for name in by], lines)
    ]


def _lines(points: Sequence[Cell], names: Sequence[str]) -> dict[tuple[Any, ...], list[Cell]]:
    """Means over all seeds by line."""
    found: dict[tuple[Any, ...], list[Cell]] = {}
    for point in points:
        if point.seed == ALL:
            found.setdefault(tuple(point.at[name] for name in names), []).append(point)
    return found


def _fits(found: Gathered, kind: str, measure: str, points: Sequence[Cell]) -> list[Fit]:
    """Both curves through the means of one line, with intervals from resampled items and seeds."""
    if len({point.at[X] for point in points}) < FEWEST:
        return []
    rows = item_rows(found, kind, measure, [point.results for point in points])
    steps = pa.array([point.at[X] for point in points]).take(rows.column("cell"))
    known = [None if one.null_count == rows.num_rows else one for one in map(rows.column, ("item", "seed", "list"))]
    resamples = RESAMPLES if rows.num_rows <= MOST_RESAMPLED else 0
    return fit_curve(
        steps, rows.column("value"), items=known[0], seeds=known[1], lists=known[2], curves=tuple(FITTED),
        resamples=resamples,
    )  # fmt: skip


def _drawn(sheet: Sheet, line: tuple[Any, ...], fit: Fit, rows: Sequence[Row]) -> list[Row]:
    """The curve, as points close together."""
    at = dict(zip(sheet.names, line, strict=True))
    last = max(float(row["_t"]) for row in rows)
    steps = [10 ** (math.log10(last) * part / 60) for part in range(61)]
    colour = text(at.get(sheet.layout.colour)) if sheet.layout.colour else ""
    common = {name: text(at[name]) for name in sheet.names} | {"seed": ALL, "_colour": colour, "_rule": False}
    common |= {"_panel": sheet.layout.panel(at), "_line": f"{fit.curve} {line}", "_fit": fit.curve}
    common |= {"_dash": FITTED[fit.curve][0], "_mark": sheet.mark(at)}
    values = [float(value) for value in fit.at(steps)]
    return [
        common | {"_t": round(t, 4), "_y": round(value, 6)}
        for t, value in zip(steps, values, strict=True)
        if math.isfinite(value)
    ]


def interval_axis(rows: Sequence[Row]) -> Axis:
    """The horizontal axis, for rows that have their place on it in ``_t``."""
    last = max(row["_t"] for row in rows)
    ticks = (AT_ZERO, *(10.0**power for power in range(math.floor(math.log10(max(last, 1))) + 1)))
    places = tuple(sorted({row["_t"] for row in rows if "_n" in row}))
    return Axis("_t", TITLE, "log", ticks, domain=(AT_ZERO, max(last, 2)), zero_label="0", places=places)


def _chart(sheet: Sheet, measure: Measure, rows: Sequence[Row], data: str) -> Drawn:
    x = interval_axis(rows)
    y, ruled = vertical(measure), any(row["_rule"] for row in rows)
    fitted = any(row["_fit"] for row in rows)
    chart = curves(
        x, y, sheet.layout, sheet.tooltip(X), chance_of(measure), rules=ruled, data=data, joined=not fitted,
        only="!datum._fit",
    )  # fmt: skip
    if not fitted:
        return chart
    lines = x.place(coloured(data, sheet.layout).transform_filter("datum._fit && !datum._published"))
    drawn = lines.mark_line(clip=True).encode(y=y.encoding(alt.Y), detail="_line:N", **dashed(sheet.layout))
    return alt.layer(chart, drawn)


def _said(fits: Mapping[tuple[Any, ...], Sequence[Fit]], names: Sequence[str]) -> str:
    """What the curves say."""
    parts = []
    chosen = {line: fit for line, few in fits.items() for fit in few if fit.chosen}
    if chosen:
        power = sum(fit.curve == "power" for fit in chosen.values())
        parts.append(f"By error on intervals left out the power law is closer for {power} of {len(chosen)} lines.")
    if len(chosen) <= MOST_TOLD:
        parts += [f"{_called(line, names)}{_rate(fit)}." for line, fit in chosen.items()]
    return " ".join(parts)


def _called(line: tuple[Any, ...], names: Sequence[str]) -> str:
    said = ", ".join(f"{name.replace('_', ' ')} {text(value)}" for name, value in zip(names, line, strict=True))
    return f"For {said} its " if said else "Its "


def _rate(fit: Fit) -> str:
    """How fast it forgets, with its interval."""
    what, unit = ("exponent", "") if fit.curve == "power" else ("time constant", " steps")
    low, high = fit.low["c"], fit.high["c"]
    interval = f" ({low:.3g} to {high:.3g})" if low is not None and high is not None else ""
    return f"{what} {fit.parameters['c']:.3g}{unit}{interval}"
