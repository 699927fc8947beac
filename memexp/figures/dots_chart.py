"""Dots: a mean with its interval for each name in a column, the names down the side.

Rows are those of `curves_chart`, with the column of names; ``_chance`` is what guessing comes to, where that is known.
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from memexp.figures.curves_chart import Axis, Drawn, coloured
from memexp.figures.layout import Layout
from memexp.figures.style import shapes

__all__ = ["dots", "tall"]


def tall(names: int, layout: Layout) -> int:
    """Pixels that the dots of so many names take on a page."""
    return max(80, names * (22 + 16 * max(1, len(layout.colours))))


def dots(
    names: str,
    title: str,
    order: Sequence[str],
    value: Axis,
    layout: Layout,
    tooltip: Sequence[tuple[str, str]],
    chance: bool,
    data: str,
) -> Drawn:
    """A chart of rows that are called `data`.

    Args:
        names: the column of names, `title` of its axis, in this `order`.
        value: the horizontal axis.
        layout: what colours stand for; dots of different colours stand above one another.
        tooltip: columns with what they are called.
        chance: whether some rows have ``_chance``, for a tick there.
    """
    axis = alt.Axis(labelLimit=190, title=title, grid=True)
    y = alt.Y(f"{names}:N", sort=list(order), axis=axis, scale=alt.Scale(paddingInner=0.3))
    base = coloured(data, layout).encode(y=y)
    shape = {}
    if layout.legend:
        offset = alt.YOffset("_colour:N", sort=list(layout.colours), scale=alt.Scale(paddingOuter=0.4))
        base = base.encode(yOffset=offset)
        domain = list(layout.colours)
        scale = alt.Scale(domain=domain, range=shapes(domain))
        shape["shape"] = alt.Shape("_colour:N", scale=scale, title=layout.colour.replace("_", " "))
    says = [alt.Tooltip(f"{column}:N", title=called) for column, called in tooltip]
    layers = []
    if chance:
        ticks = alt.Chart(alt.NamedData(data)).transform_filter("isValid(datum._chance)")
        ticks = ticks.mark_tick(thickness=2, opacity=0.55)
        layers.append(ticks.encode(y=y, x=alt.X("_chance:Q"), color=alt.value("gray")))
    horizontal = value.encoding()
    layers.append(base.mark_rule(clip=True).encode(x=alt.X("_low:Q", title=value.title), x2="_high:Q"))
    layers.append(base.mark_point().encode(x=horizontal, tooltip=says, **shape))
    return alt.layer(*layers)
