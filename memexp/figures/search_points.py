"""Searches: the value of every suggestion in order, and the best so far; against each numeric setting as well."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import pyarrow as pa

from memexp.errors import MemexpError
from memexp.figures.curves_chart import Axis, Drawn, coloured
from memexp.figures.figure import Figure, Panel, Row
from memexp.figures.layout import Layout
from memexp.figures.varied import text
from memexp.store import Store
from memexp.store.known import known_rows
from memexp.store.query import Metric
from memexp.store.threads import threaded
from memexp.wording import amount, noun

__all__ = ["search_figure"]

FIRST = "suggestion"
BEST, POINT = "best so far", "suggestion"


def search_figure(store: Store, sweep: str | None = None) -> Figure | None:
    """The searches of a sweep, or all that a store has; None where there are none with a value.

    Raises StoreError for a file that cannot be read.
    """
    searches: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in sorted(known_rows(store, "searches"), key=lambda row: row["suggested"]):
        if sweep is None or row["sweep"] == sweep:
            searches.setdefault((row["sweep"], row["search"]), []).append(row)
    layout = Layout("what", (POINT, BEST), (), "", ())
    panels, numbers, lacking = [], [], 0
    for number, ((_, name), rows) in enumerate(searches.items()):
        last = [row for row in rows if row["search_id"] == rows[-1]["search_id"]]
        points = _points(store, last)
        lacking += len({row["suggestion"] for row in last}) - len(points)
        if points:
            drawn = [*points, *_best(points, last[0]["mode"])]
            panels.append(Panel(name, drawn, _charts(points, layout, f"points {number}"), f"points {number}"))
            numbers += [{"search": name} | point for point in points]
    if not panels:
        return None
    said = "Each point is one suggestion; the line is the best value so far, as the search saw it: chosen in-sample."
    if lacking:
        have = noun(lacking, "has", "have")
        said += f" {amount(lacking, 'suggestion')} {have} no value: stopped, diverged, failed or not tried yet."
    columns = ["search", FIRST, *dict.fromkeys(name for row in numbers for name in row["_settings"])]
    return Figure("searches", "Searches", said, panels, layout.legend, "", (), columns, numbers, said)


def _points(store: Store, rows: Sequence[dict[str, Any]]) -> list[Row]:
    """The suggestions that have a value, in order: that of their last condition."""
    lasts: dict[int, dict[str, Any]] = {}
    for row in rows:
        if row["suggestion"] not in lasts or (row["stop"] or 0) > (lasts[row["suggestion"]]["stop"] or 0):
            lasts[row["suggestion"]] = row
    values = threaded(lambda row: _value(store, row), list(lasts.values()))
    found = []
    for row, (value, items) in zip(lasts.values(), values, strict=True):
        if value is None:
            continue
        settings = json.loads(row["point"])
        said = ", ".join(f"{name} {text(setting)}" for name, setting in settings.items())
        found.append(
            {name: setting for name, setting in settings.items()}
            | {FIRST: row["suggestion"], "seed": "", "_y": round(value, 6), "_mean": f"{value:.4g}", "_n": f"{items:,}"}
            | {"_interval": "none", "_what": POINT, "_colour": POINT, "_said": said, "_settings": list(settings)}
        )
    return sorted(found, key=lambda row: int(row[FIRST]))


def _value(store: Store, row: dict[str, Any]) -> tuple[float | None, int]:
    """The metric of a condition, and the number of its rows; None where it is not there or is no number."""
    tables: dict[str, list[pa.Table]] = {}
    try:
        for result in row["results"]:
            kind, _, name = result.partition("/")
            if not store.exists(kind, name):
                return None, 0
            tables.setdefault(kind, []).append(store.read(kind, name))
        whole = {kind: pa.concat_tables(few, promote_options="permissive") for kind, few in tables.items()}
        return Metric(row["metric"]).of(whole), sum(table.num_rows for table in whole.values())
    except MemexpError:
        return None, 0


def _best(points: Sequence[Row], mode: str) -> list[Row]:
    """A point of the line for every suggestion."""
    choose = max if mode == "max" else min
    best, found = points[0]["_y"], []
    for point in points:
        best = choose(best, point["_y"])
        found.append(point | {"_y": best, "_what": BEST, "_colour": BEST})
    return found


def _charts(points: Sequence[Row], layout: Layout, data: str) -> dict[str, Drawn]:
    """Against the number of the suggestion with the best so far; against each setting that is a number."""
    settings = [name for name in points[0]["_settings"] if all(_is_number(point.get(name)) for point in points)]
    y = alt.Y("_y:Q", title="value of the metric", scale=alt.Scale(zero=False))
    said = [alt.Tooltip(f"{column}:N", title=called) for column, called in (("_said", "point"), ("_mean", "value"))]
    base = coloured(data, layout).encode(
        y=y, tooltip=[alt.Tooltip(f"{FIRST}:N"), *said, alt.Tooltip("_n:N", title="n")]
    )
    dots = base.transform_filter(f"datum._what == '{POINT}'").mark_point()
    line = base.transform_filter(f"datum._what == '{BEST}'").mark_line(interpolate="step-after")
    charts = {}
    for name in (FIRST, *settings):
        values = [float(point[name]) for point in points]
        wide = min(values) > 0 and max(values) > 20 * min(values)
        title = f"{name.replace('_', ' ')} (number)" if name == FIRST else name.replace("_", " ")
        x = Axis(name, title, "log" if wide else "linear", whole=name == FIRST).encoding()
        charts[name] = alt.layer(*([line.encode(x=x)] if name == FIRST else []), dots.encode(x=x))
    return charts


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
