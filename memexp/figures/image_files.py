"""Figures as files for a paper: PNG, SVG or PDF, as wide as they will be printed.

    save(figure, Path("retention.pdf"), width=8.5)

A pixel of Vega is a point of print (1/72 inch), so that text has the size it says. Panels are drawn, measured, and
drawn again narrower or wider until the whole, with axes and legend, has the width that was asked for.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from memexp.errors import SpecError, StoreError
from memexp.figures import style
from memexp.figures.figure import Figure

__all__ = ["FORMATS", "save"]

FORMATS = (".png", ".svg", ".pdf")
POINTS = 72 / 2.54
"""In a centimetre."""
DPI = 300
"""Of PNG files."""
TEXT = 8
"""Points: what journals ask of text in figures."""
BELOW = {"layout": {"bottom": {"anchor": "start", "direction": "vertical", "margin": 0}}}
"""Where legends are: below one another."""
TALLEST = 6.5
"""Centimetres that a panel is high unless asked for."""
NARROW = 4.0
"""Centimetres below which axes and labels have no room."""


def save(figure: Figure, path: Path, width: float = 8.5, height: float | None = None, *, note: bool = True) -> None:
    """Write a figure; the suffix of `path` says as what.

    Args:
        figure: what is drawn.
        path: the file, which is replaced.
        width: of the whole, in centimetres.
        height: of each panel, in centimetres; by default two thirds of its width, 6.5 at most.
        note: whether n and what intervals are over stand below.

    Raises:
        SpecError: the suffix is of no format, or the width leaves no room.
        StoreError: the file cannot be written.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise SpecError(f"{path}: name it .png, .svg or .pdf")
    if not width >= NARROW:
        raise SpecError(f"--width: {width:g} cm leave no room for a figure; give at least {NARROW:g}")
    svg = _fitted(figure, width * POINTS, None if height is None else height * POINTS, note)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(_converted(svg, suffix))
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise StoreError(f"cannot write {path}: {error.strerror or error}") from error


def _fitted(figure: Figure, width: float, height: float | None, note: bool) -> str:
    """SVG of this width, in points."""
    columns = min(len(figure.panels), max(1, int(width // 150)))
    panel = width / columns - 60
    letters = style.letters(width, TEXT - 1) if note else 0
    least, most = 80.0, TALLEST * POINTS
    svg = ""
    for _ in range(4):
        tall = height or min(max(panel * 2 / 3, least), most)
        svg = _svg(figure, figure.chart(panel, tall, columns, letters), width)
        over = _width(svg) - width
        if abs(over) < 0.5:
            break
        panel = max(panel - over / columns, 30)
    return svg


def _svg(figure: Figure, chart: Any, width: float) -> str:
    import vl_convert

    spec = chart.to_dict() | {"config": style.config(TEXT, ink=style.INK, font="sans-serif"), "background": "white"}
    longest = max((len(name) for name, *_ in (*figure.legend, *figure.dashes)), default=1)
    # A symbol and the space around it, and letters about half as wide as high.
    columns = max(1, min(3, int(width / (35 + longest * TEXT / 2))))
    spec["config"]["legend"] |= {"orient": "bottom", "columns": columns, "labelLimit": width - 40, "offset": 8} | BELOW
    return vl_convert.vegalite_to_svg(spec)


def _width(svg: str) -> float:
    found = re.search(r'<svg[^>]*?\swidth="([\d.]+)"', svg)
    if found is None:
        raise SpecError("vl-convert made an SVG without a width")
    return float(found[1])


def _converted(svg: str, suffix: str) -> bytes:
    import vl_convert

    if suffix == ".pdf":
        return bytes(vl_convert.svg_to_pdf(svg))
    if suffix == ".png":
        return bytes(vl_convert.svg_to_png(svg, scale=DPI / 72, ppi=72))
    # In print a pixel is what the reader's program takes it for; points are points.
    return re.sub(
        r'(<svg[^>]*?\s)width="([\d.]+)" height="([\d.]+)"', r'\1width="\2pt" height="\3pt"', svg, count=1
    ).encode()
