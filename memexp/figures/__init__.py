"""Figures of what a store holds, as altair charts: aggregated by DuckDB first, drawn in one style.

    for figure in figures_of(store, "quickstart"):
        figure.chart(width=300)

- `gathered`: results and their sums, read once. `measures`: what can be drawn of a kind. `varied`, `cells`: the points.
- `layout`, `style`, `curves_chart`, `figure`: how points become marks.
- `exposure_curves` and its like: a family of figures each.

Reads the store and changes nothing; knows neither torch nor Ray. The reports and the command line import it.
"""

from __future__ import annotations

from memexp.figures.effort import Effort
from memexp.figures.exposure_curves import exposure_figure
from memexp.figures.figure import Figure, Panel
from memexp.figures.gathered import gathered
from memexp.store import Store

__all__ = ["Figure", "Panel", "figures_of"]


def figures_of(store: Store, sweep: str | None = None) -> list[Figure]:
    """All figures that the results of a sweep, or of a whole store, allow."""
    found = []
    with gathered(store, sweep) as rows:
        effort = Effort.of_store(store)
        for kind in rows.kinds:
            for measure in list(rows.measures(kind).values())[:1]:
                figure = exposure_figure(rows, kind, measure, effort)
                if figure is not None:
                    found.append(figure)
    return found
