"""`memexp plot`: one figure of a store as a file.

path = draw_file(store, "retention", sweep=None, x=None, y="recognition", by="model", out=None, width="8.5cm")
"""

from __future__ import annotations

import re
from pathlib import Path

from memexp.errors import SpecError
from memexp.figures.effort import Effort
from memexp.figures.gathered import gathered
from memexp.figures.image_files import save
from memexp.figures.own import plotted
from memexp.figures.search_points import search_figure
from memexp.store import Store

__all__ = ["draw_file"]


def draw_file(
    store: Store,
    kind: str,
    *,
    sweep: str | None = None,
    x: str | None = None,
    y: str | None = None,
    by: str | None = None,
    out: str | None = None,
    width: str = "8.5cm",
    note: bool = True,
) -> Path:
    """Draw a figure of a store, or of one of its sweeps, and say where it is.

    Args:
        store: where the results are.
        kind: of `memexp.figures.own.FAMILIES`, or searches.
        sweep: only this one.
        x, y, by: as for `memexp.figures.plot`.
        out: the file, by default ``KIND.pdf`` in the current folder.
        width: centimetres, such as ``8.5cm``.
        note: whether n and what intervals are over stand below.

    Raises:
        SpecError: a column is not there, nothing varies, or the file or width is none.
        StoreError: the store cannot be read, or the file not be written.
    """
    number = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:cm)?\s*", width)
    if number is None:
        raise SpecError(f"--width: give centimetres, such as 8.5cm, not {width!r}")
    path = Path(out or f"{kind}.pdf")
    if kind == "searches":
        figure = search_figure(store, sweep)
        if figure is None:
            raise SpecError("nothing to draw: there are no searches whose suggestions have a value")
    else:
        with gathered(store, sweep) as found:
            figure = plotted(found, kind, x, y, by, Effort.of_store(store))
    save(figure, path, float(number[1]), note=note)
    return path.absolute()
