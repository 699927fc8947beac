"""How figures look: colours that the colour-blind tell apart, axes, points, lines and what is said at a point.

The colours are those of Okabe & Ito (2008, "Color Universal Design"), without yellow and black, which vanish on white
and on black paper; beyond six, shapes repeat them. Text and axes have the colour of the text around them, so that one
drawing serves a light page, a dark one and paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["COLOURS", "DASHES", "INK", "SHAPES", "config", "letters", "palette", "shapes"]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross")
DASHES = ((1, 0), (6, 3), (2, 2), (8, 3, 2, 3))
INK = "#222222"
"""Of what is no page."""
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


def palette(values: Sequence[Any]) -> list[str]:
    """A colour for each value."""
    return [COLOURS[at % len(COLOURS)] for at in range(len(values))]


def shapes(values: Sequence[Any]) -> list[str]:
    """A shape for each value: where colours repeat, shapes have changed."""
    return [SHAPES[(at + at // len(COLOURS)) % len(SHAPES)] for at in range(len(values))]


def letters(width: float, size: float) -> int:
    """How many letters of a font without serifs have room: a little more than half its size each, on average."""
    return max(20, int(width / (0.54 * size)))


def config(size: float = 12, ink: str = "currentColor", font: str = FONT) -> dict[str, Any]:
    """Vega-Lite's configuration, of a font of `size` pixels and text and axes in the colour `ink`."""
    scale = size / 12
    words = {"labelColor": ink, "titleColor": ink, "labelFontSize": size - 1, "titleFontSize": size}
    return {
        "font": font,
        "background": "transparent",
        "view": {"stroke": None},
        "axis": words
        | {
            "titleFontWeight": "normal",
            "domainColor": ink,
            "domainOpacity": 0.45,
            "tickColor": ink,
            "tickOpacity": 0.45,
            "gridColor": ink,
            "gridOpacity": 0.12,
            "labelOverlap": "greedy",
            "labelSeparation": 4,
            "labelFlush": False,
            "titlePadding": 8,
        },
        "legend": words
        | {
            "titleFontWeight": "normal",
            "symbolSize": 70 * scale**2,
            "symbolStrokeWidth": 1.5 * scale,
            "labelLimit": 220,
        },
        "title": {"color": ink, "fontSize": size, "fontWeight": 600, "anchor": "start", "offset": 8},
        "style": {"note": {"fill": ink, "fontSize": size - 1, "fontWeight": "normal"}},
        "text": {"color": ink, "fontSize": size - 1},
        "point": {"size": 46 * scale**2, "filled": True, "opacity": 1},
        "line": {"strokeWidth": 1.8 * scale},
        "rule": {"color": ink, "strokeWidth": 1.3 * scale},
    }
