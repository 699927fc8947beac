"""The best learning rate and batch size of each model, as papers report them, beside what is not chosen in-sample.

Chosen in-sample is the grid point with the best mean over all replications: too good, since noise chose as well. Left
out: for each replication the point that is best on the others, as it does on this one (`memexp.stats.best`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memexp.errors import SpecError
from memexp.figures.cells import ALL, Cell, item_rows
from memexp.figures.curves_chart import Axis
from memexp.figures.dots_chart import dots, tall
from memexp.figures.figure import Figure, Panel, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout
from memexp.figures.measures import Measure
from memexp.figures.order import AFTERWARDS, in_order
from memexp.figures.panels import over_what
from memexp.figures.varied import dimensions, split, text
from memexp.stats import best

__all__ = ["best_figure"]

GRID = ("lr", "batch_size")
IN_SAMPLE, LEFT_OUT = "chosen in-sample", "replication left out"
AT_EDGE = "chosen in-sample, at the grid's edge"
"""The best has no neighbour on one side: a wider grid may have a better one."""


def best_figure(found: Gathered, kind: str, measure: Measure) -> Figure | None:
    """The best of the grid by model; None where no grid was gone through."""
    results = [one for one in found.results(kind) if _studied(one)]
    grid = [name for name in GRID if len({one.settings.get(name) for one in results}) > 1]
    names = [name for name in dimensions(results) if name not in GRID] if grid else []
    if not grid:
        return None
    if "model" not in names:
        names = ["model", *names]
    try:
        rows = _best(found, kind, measure, results, grid, names)
    except SpecError:
        return None
    if not rows:
        return None
    return _figure(kind, measure, names, grid, rows)


def _studied(result: Result) -> bool:
    settings = result.settings
    return bool(settings.get("exposures")) and "forget_side" not in settings and not any(map(settings.get, AFTERWARDS))


def _best(
    found: Gathered, kind: str, measure: Measure, results: Sequence[Result], grid: Sequence[str], names: Sequence[str]
) -> list[dict[str, Any]]:
    groups = split(results, names)
    table = item_rows(found, kind, measure.name, list(groups.values()), grid)
    lists = "list" if table.column("list").null_count < table.num_rows else ()
    told = best(table, "value", ["cell"], grid=grid, seeds="seed", lists=lists, items="item").to_pylist()
    points = [row | dict(zip(names, list(groups)[row["cell"]], strict=True)) for row in told]
    return sorted(points, key=lambda row: (in_order({n: row[n] for n in names if n != "model"}), in_order(row)))


def _figure(
    kind: str, measure: Measure, names: Sequence[str], grid: Sequence[str], found: Sequence[dict[str, Any]]
) -> Figure | None:
    there = {one for row in found for one in (AT_EDGE if row.get("edge") else IN_SAMPLE, LEFT_OUT)}
    whats = tuple(what for what in (IN_SAMPLE, AT_EDGE, LEFT_OUT) if what in there)
    layout = Layout("what", whats, tuple(name for name in names if name != "model")[:2], "", ())
    rows = [drawn for row in found for drawn in _rows(row, names, grid, layout)]
    value = Axis("_y", measure.title)
    models = list(dict.fromkeys(row["model"] for row in rows))
    tooltip = [(name, name.replace("_", " ")) for name in (*names, "what", "point")]
    tooltip += [("_mean", "mean"), ("_interval", "interval"), ("_n", "n")]
    title = f"Best {' and '.join(name.replace('_', ' ') for name in grid)} by model: {measure.title.partition(' (')[0]}"
    panels = []
    for number, heading in enumerate(dict.fromkeys(row["_panel"] for row in rows)):
        inside, data = [row for row in rows if row["_panel"] == heading], f"points {number}"
        panels.append(
            Panel(
                heading,
                inside,
                {"model": dots("model", "model", models, value, layout, tooltip, False, data)},
                data,
                tall(len(models), layout),
            )
        )
    left = any(row["what"] == LEFT_OUT for row in rows)
    said = "The best of the grid is chosen in-sample, as papers report it, which flatters it. "
    said += "Left out: chosen on the other replications." if left else "With one replication nothing can be left out."
    if AT_EDGE in whats:
        said += " At the grid's edge: nothing smaller, or nothing larger, was tried that may be better."
    note = over_what([_cell(row) for row in found])
    columns = [*names, "what", "point"]
    name, caption = f"best-{kind}-{measure.name}", f"{said} {note}"
    return Figure(name, title, caption, panels, layout.legend, "", (), columns, rows, note)


def _cell(row: dict[str, Any]) -> Cell:
    """A best point, for what is said of n and intervals."""
    counts: dict[str, Any] = {name: row[name] or 0 for name in ("items", "seeds", "lists")}
    told = row["low"], row["high"], row["over"] or "", row["reason"] or ""
    return Cell({}, ALL, row["mean"], row["n"], (), *told, **counts)


def _rows(row: dict[str, Any], names: Sequence[str], grid: Sequence[str], layout: Layout) -> list[Row]:
    """The best point of one group in-sample, and with each replication left out."""
    said = ", ".join(f"{name} {text(row[name])}" for name in grid)
    edge = f" (at the grid's edge: {row['edge']})" if row.get("edge") else ""
    common = {name: text(row[name]) for name in names} | {"point": said + edge, "seed": ALL, "_rule": False}
    common |= {"_n": f"{row['n']:,}", "_panel": layout.panel(row), "_chance": None, "lr": text(row.get("lr"))}
    own = [(AT_EDGE if row.get("edge") else IN_SAMPLE, row["mean"], row.get("low"), row.get("high"))]
    if row.get("left_out") is not None:
        own.append((LEFT_OUT, row["left_out"], None, None))
    rows: list[Row] = []
    for what, mean, low, high in own:
        interval = f"{low:.3g} to {high:.3g}" if low is not None and high is not None else row.get("reason") or ""
        rows.append(
            common
            | {"what": what, "_colour": what, "_y": mean, "_low": mean if low is None else low}
            | {"_high": mean if high is None else high, "_mean": f"{mean:.3g}", "_interval": interval or "none"}
        )
    return rows
