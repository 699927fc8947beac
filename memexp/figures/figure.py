"""A figure: panels that share their colours, each an altair chart over the figure's points.

    figure.chart(width=240)      # all panels as one altair chart, with its legend
    figure.panels[0].chart       # one of them, without

A page draws the panels one by one, each as wide as there is room, and puts the legend into words.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt

from memexp.figures import style
from memexp.figures.cells import ALL
from memexp.figures.curves_chart import Drawn

__all__ = ["Figure", "Panel"]

Row = dict[str, Any]


@dataclass(frozen=True)
class Panel:
    """One drawing of a figure."""

    title: str
    """What all its points agree in; empty where a figure has one panel."""
    rows: list[Row]
    """What is drawn: a row for each mark."""
    charts: Mapping[str, Drawn]
    """By the name of what is on the horizontal axis; the first is shown unless another is asked for."""
    data: str = "points"
    """What the charts call the rows, which they do not hold."""
    height: int = 240
    """Pixels on a page."""


@dataclass(frozen=True)
class Figure:
    """What answers one question to a store."""

    name: str
    """Its family: exposures, retention ..."""
    title: str
    caption: str
    """What is shown, over what means and intervals are, and the n."""
    panels: Sequence[Panel]
    legend: Sequence[tuple[str, str, str]] = ()
    """A line for each colour: what it stands for, the colour, the shape."""
    legend_title: str = ""
    dashes: Sequence[tuple[str, Sequence[int]]] = ()
    """A line for each way of dashing: what it stands for, and its lengths."""
    columns: Sequence[str] = ()
    """What tells its points apart, for a table of them."""
    numbers: list[Row] = field(default_factory=list)
    """The rows of that table."""
    note: str = ""
    """The part of the caption that no image is without: the n, and what intervals generalise over."""

    def chart(
        self, width: float = 300, height: float = 220, columns: int = 3, letters: int | None = None
    ) -> alt.TopLevelMixin:
        """All panels side by side, each `width` and `height` pixels, with data and legend, to be shown or saved.

        Points are those over all seeds. Below stands the note, in lines of so many `letters`, by default as wide as the
        panels; of 0 there is none.
        """
        parts = []
        for panel in self.panels:
            named = {"title": panel.title} if panel.title else {}
            parts.append(next(iter(panel.charts.values())).properties(width=width, height=height, **named))
        single = len(parts) == 1 and not self.panels[0].title
        whole: Any = parts[0] if single else alt.concat(*parts, columns=columns)
        if letters is None:
            letters = style.letters(width * min(columns, len(parts)), 11)
        if letters and self.note:
            lines = textwrap.wrap(self.note.replace(" %", "\N{NO-BREAK SPACE}%"), letters)
            whole = whole.properties(title=alt.Title(lines, style="note", orient="bottom"))
        whole.datasets = {
            panel.data: [row for row in panel.rows if row.get("seed", "") in ("", ALL)] for panel in self.panels
        }
        drawn: alt.TopLevelMixin = whole.configure(**style.config(ink=style.INK, font="sans-serif"))
        return drawn
