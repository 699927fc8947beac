"""From points to a figure: the rows that charts draw, their panels, and what the caption says of means and intervals.

sheet = Sheet(names, Layout.of(names, ats))
rows = [sheet.row(point) for point in points]
note = over_what(points)
figure = sheet.figure("exposures-recall", title, said, note, rows, lambda rows, data: {"exposures": chart}, [])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from memexp.figures.cells import ALL, Cell
from memexp.figures.curves_chart import WIDEST, Axis, Drawn
from memexp.figures.figure import Figure, Panel, Row
from memexp.figures.layout import Layout
from memexp.figures.measures import Measure
from memexp.figures.varied import text

__all__ = ["Sheet", "chance_of", "over_what", "vertical"]

Draw = Callable[[list[Row], str], Mapping[str, Drawn]]
"""Charts of rows that are called so, by the name of their horizontal axis."""


@dataclass(frozen=True)
class Sheet:
    """What tells the points of a figure apart, and how that is shown."""

    names: Sequence[str]
    layout: Layout

    def row(self, point: Cell, at: Mapping[str, Any] | None = None, **more: Any) -> Row:
        """What is drawn of a point; `at`: the place that it has instead of its own, `more`: further columns."""
        at = point.at if at is None else at
        layout = self.layout
        interval = f"{point.low:.3g} to {point.high:.3g}" if point.low is not None and point.high is not None else ""
        return {
            **{name: text(at.get(name)) for name in self.names},
            "seed": point.seed,
            "_y": round(point.mean, 6),
            "_low": round(point.mean if point.low is None else point.low, 6),
            "_high": round(point.mean if point.high is None else point.high, 6),
            "_mean": f"{point.mean:.3g}",
            "_interval": f"{interval} (95 %, over {point.over})" if interval else point.reason or "none",
            "_n": point.counted,
            "_rule": False,
            "_line": " ".join([*(text(at.get(name)) for name in self.names), point.seed]),
            "_colour": text(at.get(layout.colour)) if layout.colour else "",
            "_dash": layout.dashed(dict(at)),
            "_mark": self.mark(at),
            "_panel": layout.panel(dict(at)),
            **more,
        }

    def mark(self, at: Mapping[str, Any]) -> int:
        """A number for what looks the same, in the order of the legend: marks of one place stand side by side."""
        layout = self.layout
        colour, dash = text(at.get(layout.colour)), text(at.get(layout.dash))
        own = layout.colours.index(colour) if colour in layout.colours else len(layout.colours)
        return own * (len(layout.dashes) + 1) + (layout.dashes.index(dash) if dash in layout.dashes else 0)

    def tooltip(self, *more: str) -> list[tuple[str, str]]:
        """What is said at a point: where it stands (`more`: also in these columns), its mean, interval and n."""
        own = [(name, name.replace("_", " ")) for name in (*self.names, *more)]
        return [*own, ("_mean", "mean"), ("_interval", "interval"), ("_n", "n"), ("seed", "seed")]

    def figure(
        self,
        name: str,
        title: str,
        said: str,
        note: str,
        rows: Sequence[Row],
        draw: Draw,
        more: Sequence[str],
        height: int = 240,
    ) -> Figure:
        """The figure of `rows`.

        Args:
            name, title: its own.
            said, note: its caption; an image has the second part alone.
            rows: what is drawn.
            draw: makes the charts of a panel.
            more: columns that the table of numbers has besides those that tell points apart.
            height: of a panel.
        """
        panels = []
        for number, heading in enumerate(dict.fromkeys(row["_panel"] for row in rows)):
            inside, data = _side_by_side([row for row in rows if row["_panel"] == heading]), f"points {number}"
            panels.append(Panel(heading, inside, draw(inside, data), data, height))
        numbers = [row for row in rows if row["seed"] == ALL and "_mean" in row and not row["_rule"]]
        layout = self.layout
        called = layout.colour.replace("_", " ")
        columns = [*self.names, *more]
        caption = f"{said} {note}".strip()
        return Figure(name, title, caption, panels, layout.legend, called, layout.dash_legend, columns, numbers, note)


def _side_by_side(rows: Sequence[Row]) -> list[Row]:
    """The same with ``_dodge`` instead of ``_mark``: how far beside its place a mark is drawn, `WIDEST` at most."""
    marks = sorted({row["_mark"] for row in rows if "_mark" in row and not row["_rule"]})
    step = min(1.0, WIDEST / max(1, len(marks) - 1))
    places = {mark: round((at - (len(marks) - 1) / 2) * step, 4) for at, mark in enumerate(marks)}
    return [
        {name: value for name, value in row.items() if name != "_mark"} | {"_dodge": places.get(row.get("_mark"), 0)}
        for row in rows
    ]


def vertical(measure: Measure) -> Axis:
    """The vertical axis of a measure: of a share from 0 to 1."""
    return Axis("_y", measure.title, domain=(0.0, 1.0) if measure.share else None)


def chance_of(measure: Measure) -> float | None:
    """What guessing comes to, where it is one number."""
    return measure.chance if isinstance(measure.chance, float) else None


def over_what(points: Sequence[Cell]) -> str:
    """What means and intervals are over, with n."""
    whole = [point for point in points if point.seed == ALL]
    counts = list(dict.fromkeys(point.counted for point in whole))
    least = min(whole, key=lambda point: point.n).counted
    most = max(whole, key=lambda point: point.n).counted
    n = f"n = {counts[0]} at each point" if len(counts) == 1 else f"n at a point: from {least} to {most}"
    overs = sorted(dict.fromkeys(point.over for point in whole if point.low is not None), key=len, reverse=True)
    some = [point for point in whole if point.low is not None] or whole
    reasons = list(dict.fromkeys(point.reason for point in some if point.reason))
    if overs:
        said = f"Bars are 95 % intervals over {', at some points over '.join(overs)}"
        said += f" ({reasons[0]})." if reasons else "."
    else:
        said = f"No intervals: {reasons[0]}." if reasons else "No intervals."
    return f"{n}. {said}"
