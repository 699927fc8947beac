"""Losses of training by step, as means over the trajectories of equal settings, thinned by DuckDB."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from memexp.figures.curves_chart import Axis, Drawn, curves
from memexp.figures.effort import Effort
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered
from memexp.figures.layout import Layout
from memexp.figures.panels import Sheet
from memexp.figures.varied import text
from memexp.store import Store
from memexp.store.closed import closed, give
from memexp.wording import noun

__all__ = ["loss_figure"]

POINTS = 80
"""Of a line."""
MOST_LINES = 60
BY = ("model", "method", "lr", "batch_size", "text", "experiment")
"""Settings of results that tell lines apart."""
PARTS = ("pretrain", "study", "filler", "forget", "restudy", "then", "unlearn", "interference")


def loss_figure(store: Store, found: Gathered, effort: Effort) -> Figure | None:
    """The losses on the way to the results that there are; None where ``training/`` has none.

    Raises StoreError for a file that cannot be read.
    """
    datasets = store.datasets("training") if "training" in store.kinds() else []
    stages = _stages(found, effort)
    if not datasets or not stages:
        return None
    names = [name for name in BY if len({of.get(name) for of in stages.values()} - {None}) > 1] or ["model"]
    lines: dict[tuple[Any, ...], int] = {}
    keys = [lines.setdefault(tuple(of.get(name) for name in names), len(lines)) for of in stages.values()]
    with closed() as connection:
        rows = give(connection, "training", datasets)
        connection.register("wanted", pa.table({"stage_id": list(stages), "line": keys}))
        drawn = connection.execute(_sql(rows)).fetchall()
    groups = list(lines)[:MOST_LINES]
    ats = [dict(zip(names, group, strict=True)) for group in groups]
    layout = Layout.of(["part", *names], [at | {"part": part} for at in ats for *_, part in drawn], "model")
    layout = layout if layout.colour in names else Layout.of(["part", *names], ats, names[0])
    sheet = Sheet(names, layout)
    points = [
        _row(sheet, ats[line] | {"part": part}, step, loss, count)
        for line, step, loss, count, part in drawn
        if line < len(groups)
    ]
    points.sort(key=lambda row: (PARTS.index(row["part"]), row["step"]))
    if not points:
        return None
    left = len(lines) - len(groups)
    said = "Mean NLL of the batches (nats per token) before each step, over all trajectories of equal settings."
    said += f" {left} more {noun(left, 'line is', 'lines are')} not drawn." if left else ""
    figure = sheet.figure("losses", "Losses of training", "", said, points, lambda few, data: _chart(sheet, data), [])
    figure.numbers.clear()
    return figure


def _stages(found: Gathered, effort: Effort) -> dict[str, dict[str, Any]]:
    """The stages on the way to the results, each with the settings of the first result that it leads to."""
    stages: dict[str, dict[str, Any]] = {}
    for kind in found.kinds:
        for result in found.results(kind):
            for stage in effort.path(result.settings.get("stage_id")):
                stages.setdefault(stage, result.settings)
    return stages


def _sql(rows: str) -> str:
    """The mean loss by line, part of training and bin of steps, with the number of trajectories' steps in it."""
    return f"""
        WITH own AS (SELECT line, kind, step, loss FROM {rows} JOIN wanted USING (stage_id) WHERE isfinite(loss)),
             ends AS (SELECT kind, greatest(1, ceil(max(step) / {POINTS}))::BIGINT AS width FROM own GROUP BY kind)
        SELECT line, (((step - 1) // width) * width + (width + 1) / 2)::double AS place, avg(loss), count(*), kind
        FROM own JOIN ends USING (kind) GROUP BY line, place, kind ORDER BY ALL
    """


def _row(sheet: Sheet, at: dict[str, Any], step: float, loss: float, count: int) -> Row:
    return {
        **{name: text(at.get(name)) for name in sheet.names},
        **{"part": at["part"], "step": step, "seed": "", "_y": round(loss, 5), "_low": round(loss, 5)},
        **{"_high": round(loss, 5), "_mean": f"{loss:.3g}", "_n": f"{count:,}", "_interval": "none", "_rule": False},
        "_line": " ".join(text(at.get(name)) for name in sheet.names),
        "_colour": text(at.get(sheet.layout.colour)) if sheet.layout.colour else "",
        "_dash": sheet.layout.dashed(at),
        "_panel": sheet.layout.panel(at) or at["part"],
    }


def _chart(sheet: Sheet, data: str) -> dict[str, Drawn]:
    x = Axis("step", "step (optimizer steps since the part began)", whole=True)
    y = Axis("_y", "loss (nats per token)")
    says: Sequence[tuple[str, str]] = [*((name, name.replace("_", " ")) for name in sheet.names), ("step", "step")]
    return {"step": curves(x, y, sheet.layout, [*says, ("_mean", "loss"), ("_n", "batches")], points=False, data=data)}
