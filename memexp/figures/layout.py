"""Which of what varies has colours, which has dashes, and which has a panel for each of its values.

plan = Layout.of(["model", "lr", "batch_size"], results)
plan.colour, plan.panels, plan.dash      # "model", ("lr",), "batch_size"
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from memexp.figures.style import DASHES, palette, shapes
from memexp.figures.varied import text

__all__ = ["Layout"]

MOST_PANELS = 9


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

    @property
    def dash_legend(self) -> list[tuple[str, Sequence[int]]]:
        """A line for each way of dashing: what it stands for, and Vega's lengths."""
        name = self.dash.replace("_", " ")
        return [(f"{name} {value}", dash) for value, dash in zip(self.dashes, DASHES, strict=False)] if name else []

    def panel(self, row: dict[str, Any]) -> str:
        """The title of the panel that a row is in."""
        return ", ".join(f"{name.replace('_', ' ')} {text(row.get(name))}" for name in self.panels)


def _values(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The values of a column, numbers in their order and others in that of the rows, without NULL."""
    found = list(dict.fromkeys(row[name] for row in rows if row.get(name) is not None))
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
    return sorted(found) if numbers else found
