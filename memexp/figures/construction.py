"""Whether a mean is what it is by construction: where every item is asked both ways round, an untrained model gets 1/2.

    by_construction(found, "recognition", measure, points)    # "0.5 before study is by construction: ..."

A condition and its counterbalanced twin ask for the same pairs with target and foil exchanged. A model that studied
neither prefers one of the two, whatever it is called, so that it is right in exactly one of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from memexp.figures.cells import ALL, Cell, item_rows
from memexp.figures.gathered import Gathered
from memexp.figures.measures import Measure
from memexp.stats.tables import TWINS

__all__ = ["by_construction"]

HALF = 0.5


def by_construction(found: Gathered, kind: str, measure: Measure, points: Sequence[Cell]) -> str:
    """A sentence where the items of all points of the untrained model were asked both ways round; else empty."""
    whole = [point for point in points if point.seed == ALL]
    if not whole or not measure.share or measure.chance != HALF or any(point.mean != HALF for point in whole):
        return ""
    rows = item_rows(found, kind, measure.name, [point.results for point in whole], [TWINS])
    rows = rows.set_column(
        rows.column_names.index(TWINS), TWINS, pc.fill_null(rows.column(TWINS).cast(pa.bool_()), False)
    )
    item = ["cell", "list", "item"]
    ways = rows.group_by([*item, TWINS]).aggregate([("value", "mean")])
    both = ways.group_by(item).aggregate([("value_mean", "sum"), (TWINS, "count")])
    asked_twice = pc.all(pc.equal(both.column(f"{TWINS}_count"), 2)).as_py()
    if not asked_twice or not pc.all(pc.equal(both.column("value_mean_sum"), 1)).as_py():
        return ""
    return f"{HALF} before study is by construction: in half of the conditions targets and foils change places."
