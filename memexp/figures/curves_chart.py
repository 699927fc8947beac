"""Curves: points with intervals, joined by lines, over one horizontal axis. The one way in which figures draw them.

Rows have ``_y``, ``_low`` and ``_high`` (both ``_y`` where there is no interval), ``_line`` (what a line joins),
``_colour``, ``_dash``, ``_rule``, ``_dodge`` and the columns of the horizontal axes and of the tooltip.

What several lines have at one place stands side by side there, with its interval and its line: by ``_dodge``, a little
of the axis at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from memexp.figures.layout import Layout, chance_line
from memexp.figures.style import INK, palette, shapes

__all__ = ["WIDEST", "Axis", "Drawn", "coloured", "curves", "dashed"]

MOVED = "_x"
Drawn = alt.LayerChart | alt.FacetChart
"""What `altair.layer` gives."""
WIDEST = 3.0
"""Steps between the first and the last of the marks that stand side by side."""
STEP = 0.026
"""Of an axis, at most: at half the way to the next place the steps end."""
PADDING = 9
"""Pixels at the ends of an axis, for marks that stand beside their place."""


@dataclass(frozen=True)
class Axis:
    """What a chart measures along one side."""

    column: str
    title: str
    """With its unit in brackets."""
    scale: str = "linear"
    """linear, log or symlog (which has a place for 0)."""
    ticks: tuple[float, ...] = ()
    """Where there are labels; empty where Vega decides."""
    domain: tuple[float, float] | None = None
    whole: bool = False
    """Whether only whole numbers have labels."""
    zero_label: str = ""
    """What a tick below 1 of a log axis is called: the place of 0, which a logarithm has none for."""
    places: tuple[float, ...] = ()
    """Where marks are that may stand side by side."""

    def encoding(self, channel: type[alt.X] | type[alt.Y] = alt.X) -> Any:
        """For altair."""
        settings: dict[str, Any] = {"type": self.scale, "nice": not (self.domain or self.ticks)}
        if self.scale == "linear":
            settings["zero"] = False
        if self.scale == "symlog":
            settings["constant"] = self._constant
        if self._moved:
            settings["padding"] = PADDING
        if self.domain:
            settings["domain"] = list(self.domain)
        axis: dict[str, Any] = {"title": self.title, "tickCount": 6}
        if self.whole:
            axis |= {"tickMinStep": 1, "format": "~s"}
        if self.ticks:
            axis["values"] = list(self.ticks)
        if self.ticks and not self.zero_label:
            axis["format"] = "~s" if max(self.ticks) >= 10_000 else "~r"
        if self.zero_label:
            axis["labelExpr"] = f"datum.value < 1 ? '{self.zero_label}' : datum.label"
        column = MOVED if self._moved else self.column
        return channel(f"{column}:Q", scale=alt.Scale(**settings), axis=alt.Axis(**axis))

    def place(self, chart: alt.Chart) -> alt.Chart:
        """A chart with its marks along this axis, side by side where they would hide each other."""
        if self._moved:
            chart = chart.transform_calculate(**{MOVED: self._moved})
        return chart.encode(x=self.encoding())

    @property
    def _constant(self) -> float:
        return min((tick for tick in self.ticks if tick > 0), default=1)

    @property
    def _moved(self) -> str:
        """Vega's expression for where a mark is drawn; empty where none may be moved."""
        even: Callable[[float], float] = {
            "linear": lambda value: value,
            "log": math.log,
            "symlog": lambda value: math.log1p(value / self._constant),
        }[self.scale]
        places = sorted({even(place) for place in self.places})
        if len(places) < 2:
            return ""
        gap = min(after - before for before, after in itertools.pairwise(places))
        step = f"datum._dodge * {min(STEP * (places[-1] - places[0]), gap / 2 / WIDEST):.6g}"
        own, constant = f"datum['{self.column}']", f"{self._constant:.6g}"
        if self.scale == "linear":
            return f"{own} + {step}"
        if self.scale == "log":
            return f"{own} * exp({step})"
        # A symmetric logarithm: marks of 0 go either way.
        return f"{own} > 0 ? ({own} + {constant}) * exp({step}) - {constant} : {constant} * {step}"


def curves(
    x: Axis,
    y: Axis,
    layout: Layout,
    tooltip: Sequence[tuple[str, str]],
    chance: float | None = None,
    points: bool = True,
    rules: bool = False,
    data: str = "points",
    joined: bool = True,
    only: str = "true",
) -> Drawn:
    """A chart of rows that are called `data`.

    Args:
        x, y: the axes.
        layout: what colours and dashes stand for.
        tooltip: columns with what they are called.
        chance: where guessing is drawn.
        points: whether there are points, with intervals, on the lines.
        rules: whether some rows are lines across, those with ``_rule``.
        data: what the rows are called.
        joined: whether points are joined by lines.
        only: Vega's expression for the rows that are drawn.
    """
    layers: list[alt.Chart] = []
    level = coloured(data, layout).encode(y=y.encoding(alt.Y), detail="_line:N")
    base = x.place(level.transform_filter(f"!datum._rule && ({only})"))
    if joined:
        layers.append(base.mark_line(clip=True).encode(**(dashed(layout) if layout.dash else {})))
    says = [alt.Tooltip(f"{column}:N", title=title) for column, title in tooltip]
    if points:
        bars = base.mark_rule(opacity=0.75, clip=True)
        layers.append(bars.encode(y=alt.Y("_low:Q", title=y.title), y2="_high:Q"))
    if chance is not None:
        layers.append(_chance(chance, layout))
    if points:
        shape = {}
        if layout.legend:
            domain = list(layout.colours)
            scale = alt.Scale(domain=domain, range=shapes(domain))
            shape["shape"] = alt.Shape("_colour:N", scale=scale, title=layout.colour.replace("_", " "))
        dots = base.mark_point()
        layers.append(dots.encode(tooltip=says, **shape))
    if rules:
        across = level.transform_filter("datum._rule").mark_rule(opacity=0.8)
        layers.append(across.encode(tooltip=says, **dashed(layout)))
    return alt.layer(*layers)


def _chance(value: float, layout: Layout) -> alt.Chart:
    line = chance_line(value)
    rows = [{"chance": value, "_dash": line[0] if line else ""}]
    says = [alt.Tooltip("chance:Q", title="chance")]
    drawn: alt.Chart = alt.Chart(alt.InlineData(values=rows)).mark_rule()
    return drawn.encode(y="chance:Q", tooltip=says, **dashed(layout))


def dashed(layout: Layout) -> dict[str, Any]:
    """The encoding of ``_dash``, with a legend of all lines that are not drawn through."""
    names, lengths = zip(*layout.dash_legend, strict=True)
    scale = alt.Scale(domain=list(names), range=[list(one) for one in lengths])
    legend = alt.Legend(
        title=None, symbolType="stroke", symbolSize=400, symbolStrokeColor=INK, symbolOpacity=1, rowPadding=0
    )
    return {"strokeDash": alt.StrokeDash("_dash:N", scale=scale, legend=legend)}


def coloured(data: str, layout: Layout) -> alt.Chart:
    """A chart of rows that are called `data`, in the colours of the layout."""
    chart = alt.Chart(alt.NamedData(data))
    if not layout.legend:
        return chart.encode(color=alt.value(palette([""])[0]))
    domain = list(layout.colours)
    scale = alt.Scale(domain=domain, range=palette(domain))
    return chart.encode(color=alt.Color("_colour:N", scale=scale, title=layout.colour.replace("_", " ")))
