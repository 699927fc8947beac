"""Figures of what a store holds, as altair charts: aggregated by DuckDB first, drawn in one style.

    for chapter in chapters(store):
        for figure in chapter.figures:
            figure.chart(width=300)

- `gathered`: results and their sums, read once. `measures`: what can be drawn of a kind. `varied`, `cells`,
  `construction`: the points.
- `layout`, `style`, `curves_chart`, `dots_chart`, `panels`, `figure`: how points become marks.
- `exposure_curves`, `retention_curves`, `block_profiles`, `fact_scores`, `search_points`, `loss_curves`, `best_cells`:
  a family of figures each. `chapters`: which of them a sweep has. `own`: one that is asked for.
- `image_files`: as files for a paper.

Reads the store and changes nothing; knows neither torch nor Ray. The reports and the command line import it.
"""

from __future__ import annotations

from memexp.figures.chapters import Chapter, chapters
from memexp.figures.figure import Figure, Panel
from memexp.figures.own import plot

__all__ = ["Chapter", "Figure", "Panel", "chapters", "plot"]
