"""Curves: points with intervals, joined by lines, over one horizontal axis. The one way in which figures draw them.

Rows have ``_y``, ``_low`` and ``_high`` (both ``_y`` where there is no interval), ``_line`` (what a line joins),
``_colour``, ``_dash``, ``_rule`` and the columns of the horizontal axes and of the tooltip.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from memexp.figures.layout import Layout
from memexp.figures.style import DASHES, palette, shapes

__all__ = ["Axis", "Drawn", "coloured", "curves"]

Drawn = alt.LayerChart | alt.FacetChart
"""What `altair.layer` gives."""


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

    def encoding(self, channel: type[alt.X] | type[alt.Y] = alt.X) -> Any:
        """For altair."""
        settings: dict[str, Any] = {"type": self.scale, "nice": not (self.domain or self.ticks)}
        if self.scale == "linear":
            settings["zero"] = False
        if self.scale == "symlog":
            positive = [tick for tick in self.ticks if tick > 0]
            settings["constant"] = min(positive, default=1)
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
        return channel(f"{self.column}:Q", scale=alt.Scale(**settings), axis=alt.Axis(**axis))


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
    if chance is not None:
        layers.append(_chance(chance))
    level = coloured(data, layout).encode(y=y.encoding(alt.Y), detail="_line:N")
    base = level.encode(x=x.encoding()).transform_filter(f"!datum._rule && ({only})")
    if joined:
        layers.append(base.mark_line(clip=True).encode(**_dashes(layout)))
    says = [alt.Tooltip(f"{column}:N", title=title) for column, title in tooltip]
    if points:
        bars = base.mark_rule(opacity=0.75, clip=True)
        layers.append(bars.encode(y=alt.Y("_low:Q", title=y.title), y2="_high:Q"))
        shape = {}
        if layout.legend:
            domain = list(layout.colours)
            scale = alt.Scale(domain=domain, range=shapes(domain))
            shape["shape"] = alt.Shape("_colour:N", scale=scale, title=layout.colour.replace("_", " "))
        dots = base.mark_point()
        layers.append(dots.encode(tooltip=says, **shape))
    if rules:
        across = level.transform_filter("datum._rule").mark_rule(strokeDash=[3, 3], opacity=0.8)
        layers.append(across.encode(tooltip=says))
    return alt.layer(*layers)


def _chance(value: float) -> alt.Chart:
    rule = alt.Chart(alt.InlineData(values=[{"chance": value}])).mark_rule(strokeDash=[1, 3])
    drawn: alt.Chart = rule.encode(y="chance:Q", tooltip=[alt.Tooltip("chance:Q", title="chance")])
    return drawn


def _dashes(layout: Layout) -> dict[str, Any]:
    if not layout.dash:
        return {}
    scale = alt.Scale(domain=list(layout.dashes), range=[list(one) for one in DASHES[: len(layout.dashes)]])
    return {"strokeDash": alt.StrokeDash("_dash:N", scale=scale, title=layout.dash.replace("_", " "))}


def coloured(data: str, layout: Layout) -> alt.Chart:
    """A chart of rows that are called `data`, in the colours of the layout."""
    chart = alt.Chart(alt.NamedData(data))
    if not layout.legend:
        return chart.encode(color=alt.value(palette([""])[0]))
    domain = list(layout.colours)
    scale = alt.Scale(domain=domain, range=palette(domain))
    return chart.encode(color=alt.Color("_colour:N", scale=scale, title=layout.colour.replace("_", " ")))
