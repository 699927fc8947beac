"""Which of what varies has colours, which has dashes, and which has a panel for each of its values.

plan = Layout.of(["model", "lr", "batch_size"], results)
plan.colour, plan.panels, plan.dash      # "model", ("lr",), "batch_size"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from memexp.figures.style import DASHES, palette, shapes
from memexp.figures.varied import text

__all__ = ["BEFORE", "Layout", "Line", "chance_line"]

MOST_PANELS = 9
Line = tuple[str, Sequence[int]]
"""A way of dashing: what it stands for, and Vega's lengths."""
BEFORE: Line = ("before study (0 exposures)", (6, 6))
"""The model that everything is compared with."""


def chance_line(value: float | None) -> Line | None:
    """What guessing comes to; its dots fall into the gaps of `BEFORE`, which it often lies under."""
    return None if value is None else (f"chance ({value:g})", (1, 3))


@dataclass(frozen=True)
class Layout:
    """How values become marks."""

    colour: str
    """What has colours and shapes; "" where nothing varies."""
    colours: tuple[str, ...]
    """Its values, in the order of the legend."""
    panels: tuple[str, ...]
    dash: str
    dashes: tuple[str, ...]
    more: tuple[Line, ...] = ()
    """Lines that are no condition's: chance, a baseline, a fit."""

    @classmethod
    def of(cls, names: Sequence[str], rows: Iterable[dict[str, Any]], colour: str | None = None) -> Layout:
        """The layout for rows that differ in `names`; of these `colour` has colours, by default the first."""
        rows = list(rows)
        values = {name: _values(rows, name) for name in names}
        colour = colour if colour is not None else next(iter(names), "")
        panels: list[str] = []
        count = 1
        for name in names:
            if name != colour and count * len(values[name]) <= MOST_PANELS:
                panels.append(name)
                count *= len(values[name])
        left = [n for n in names if n != colour and n not in panels and len(values[n]) <= len(DASHES)]
        dash = left[0] if left else ""
        known = tuple(map(text, values.get(colour, [])))
        return cls(colour, known, tuple(panels), dash, tuple(map(text, values.get(dash, []))))

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """A line for each colour: what it stands for, the colour, the shape."""
        if not self.colour or len(self.colours) < 2:
            return []
        return list(zip(self.colours, palette(self.colours), shapes(self.colours), strict=True))

    def also(self, *lines: Line | None) -> Layout:
        """The same with more `lines`; None is none."""
        return replace(self, more=(*self.more, *(line for line in lines if line is not None)))

    @property
    def dash_legend(self) -> list[Line]:
        """Every way of dashing."""
        values = [f"{self.dash.replace('_', ' ')} {value}" for value in self.dashes] if self.dash else []
        return [*zip(values, DASHES, strict=False), *self.more]

    def dashed(self, row: dict[str, Any]) -> str:
        """What the line of a row is called in `dash_legend`; empty where dashes stand for nothing."""
        return f"{self.dash.replace('_', ' ')} {text(row.get(self.dash))}" if self.dash else ""

    def panel(self, row: dict[str, Any]) -> str:
        """The title of the panel that a row is in."""
        return ", ".join(f"{name.replace('_', ' ')} {text(row.get(name))}" for name in self.panels)


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The values of a column, numbers in their order and others in that of the rows, without NULL."""
    found = list(dict.fromkeys(row[name] for row in rows if row.get(name) is not None))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    return sorted(found) if numbers else found
