"""Means against exposures, updates or tokens: how much study does a memory take? (Orhan 2023, figures 2 and 4)

The model before study is a point of every curve, at 0, and a dashed line across: what a mean is to be compared with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memexp.figures.cells import ALL, Cell, cells
from memexp.figures.curves_chart import Axis, curves
from memexp.figures.effort import Effort
from memexp.figures.figure import Figure, Panel, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout
from memexp.figures.measures import Measure
from memexp.figures.varied import dimensions, matching, text

__all__ = ["exposure_figure"]

X = "exposures"
TITLES = {
    "exposures": "exposures (passes over the study list)",
    "updates": "updates (optimizer steps of study)",
    "tokens": "tokens (predicted in study)",
}


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
    layout = Layout.of(names, [point.at for point in points if point.at[X]], by)
    rows = _with_baselines([_row(point, names, layout, effort) for point in points], names, layout)
    axes = [x, *(name for name in TITLES if name != x)]
    shown = [name for name in axes if name == X or all(row[name] is not None for row in rows)]
    chance = measure.chance if isinstance(measure.chance, float) else None
    ruled = any(row["_rule"] for row in rows)
    panels = []
    for number, title in enumerate(dict.fromkeys(row["_panel"] for row in rows)):
        inside, data = [row for row in rows if row["_panel"] == title], f"points {number}"
        charts = {
            name: curves(
                _axis(name, inside), vertical(measure), layout, _tooltip(names), chance, rules=ruled, data=data
            )
            for name in shown
        }
        panels.append(Panel(title, inside, charts, data))
    numbers = [row for row in rows if row["seed"] == ALL and not row["_rule"]]
    return Figure(
        f"{X}-{kind}-{measure.name}",
        f"{measure.title.partition(' (')[0].capitalize()} by exposures",
        caption(points, "The dashed line is the model before study."),
        panels,
        layout.legend,
        layout.colour.replace("_", " "),
        [*names, X],
        numbers,
    )


def _studied_only(result: Result) -> bool:
    """Whether nothing came after study."""
    settings = result.settings
    return X in settings and "forget_side" not in settings and not settings.get("retention_steps")


def _row(point: Cell, names: Sequence[str], layout: Layout, effort: Effort) -> Row:
    settings = point.results[0].settings
    updates, tokens = effort.of(settings.get("stage_id")) if point.at[X] else (0, 0)
    row: Row = {name: text(point.at[name]) for name in names}
    row |= {X: point.at[X], "updates": updates, "tokens": tokens, "seed": point.seed, "_at": dict(point.at)}
    return row | measured(point)


def measured(point: Cell) -> Row:
    """What every mark has: the mean, its interval, and what is said of both."""
    interval = f"{point.low:.3g} to {point.high:.3g}" if point.low is not None and point.high is not None else ""
    about = f"95 % interval over {point.over}" if interval else ""
    return {
        "_y": round(point.mean, 6),
        "_low": round(point.mean if point.low is None else point.low, 6),
        "_high": round(point.mean if point.high is None else point.high, 6),
        "_mean": f"{point.mean:.3g}",
        "_interval": f"{interval} ({about})" if interval else point.reason or "none",
        "_n": point.counted,
        "_rule": False,
    }


def _with_baselines(rows: Sequence[Row], names: Sequence[str], layout: Layout) -> list[Row]:
    """Every line with its point at no exposures, of which there may be one for many lines, and a rule there."""

    def line(row: Row) -> tuple[Any, ...]:
        return tuple(row["_at"].get(name) for name in names)

    lines = dict.fromkeys((line(row), row["seed"]) for row in rows if row[X])
    found: list[Row] = []
    for row in rows:
        if row[X]:
            found.append(_placed(row, row["_at"], layout))
            continue
        seeds = {seed for _, seed in lines} if row["seed"] == ALL else {row["seed"]}
        met = matching(line(row), dict.fromkeys(group for group, seed in lines if seed in seeds))
        for group in met or [line(row)]:
            at = dict(zip(names, group, strict=True))
            own = row | {name: text(at[name]) for name in names}
            found += [_placed(own, at, layout), _placed(own | {"_rule": True}, at, layout)]
    return found


def _placed(row: Row, at: dict[str, Any], layout: Layout) -> Row:
    own = {name: value for name, value in row.items() if name != "_at"}
    line = " ".join(text(at[name]) for name in at if name != X)
    colour = text(at.get(layout.colour)) if layout.colour else ""
    dash = text(at.get(layout.dash)) if layout.dash else ""
    return own | {"_line": f"{line} {row['seed']}", "_colour": colour, "_dash": dash, "_panel": layout.panel(at)}


def _axis(name: str, rows: Sequence[Row]) -> Axis:
    values = tuple(sorted({row[name] for row in rows}))
    wide = values[-1] > 8 * max(min((value for value in values if value > 0), default=1), 1)
    return Axis(name, TITLES[name], "symlog" if wide or len(values) > 3 else "linear", values)


def vertical(measure: Measure) -> Axis:
    """The vertical axis of a measure: of a share from 0 to 1."""
    return Axis("_y", measure.title, domain=(0.0, 1.0) if measure.share else None)


def _tooltip(names: Sequence[str]) -> list[tuple[str, str]]:
    own = [(name, name.replace("_", " ")) for name in (*names, X)]
    return [*own, ("_mean", "mean"), ("_interval", "interval"), ("_n", "n"), ("seed", "seed")]


def caption(points: Sequence[Cell], more: str = "") -> str:
    """What means and intervals are over, with n."""
    whole = [point for point in points if point.seed == ALL]
    counts = list(dict.fromkeys(point.counted for point in whole))
    n = f"n = {counts[0]} in each point" if len(counts) == 1 else f"n from {_least(whole)} to {_most(whole)}"
    overs = list(dict.fromkeys(point.over for point in whole if point.low is not None))
    if overs:
        said = f"Bars are 95 % intervals over {' or '.join(overs)}."
    else:
        reasons = list(dict.fromkeys(point.reason for point in whole if point.reason))
        said = f"No intervals: {reasons[0]}." if reasons else "No intervals."
    return f"{n}. {said} {more}".strip()


def _least(points: Sequence[Cell]) -> str:
    return min(points, key=lambda point: point.n).counted


def _most(points: Sequence[Cell]) -> str:
    return max(points, key=lambda point: point.n).counted
