"""Means by block: what is left when blocks are reset and studied again, or when what they learned is taken away.

Zhang, Li & Wu 2024 (arXiv 2409.14057), sections 4 and 5. Beside the blocks >= k of the paper stand both controls: the
blocks < k instead, and nothing reset at all, as a line across; so do the model after its first study and before it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from memexp.figures.cells import cells
from memexp.figures.curves_chart import Axis, curves
from memexp.figures.figure import Figure, Row
from memexp.figures.gathered import Gathered, Result
from memexp.figures.layout import Layout, Line, chance_line
from memexp.figures.measures import Measure
from memexp.figures.order import AFTERWARDS
from memexp.figures.panels import Sheet, chance_of, over_what, vertical
from memexp.figures.varied import comparable, dimensions, matching

__all__ = ["ablation_figure", "forgetting_figure"]

UPPER, LOWER = "blocks ≥ k reset", "blocks < k reset (control)"
AGAIN, FIRST, BEFORE = "nothing reset, studied again (control)", "first study", "before study"
ABLATED = {"upper": "without blocks ≥ k", "lower": "without blocks < k (control)", "none": "all blocks"}
CONTROL: Line = ("for comparison, without k", (6, 6))
WHAT = "what"
"""The column that says which of these a row is."""


def forgetting_figure(found: Gathered, kind: str, measure: Measure) -> Figure | None:
    """Means by forgetting layer; None where no blocks were reset."""
    everything = [one for one in found.results(kind) if not any(map(one.settings.get, AFTERWARDS))]
    sides = [one for one in everything if one.settings.get("forget_side") in ("upper", "lower")]
    reset = [one for one in sides if one.settings.get("exposures") != 0]
    if len({one.settings.get("forget_layer") for one in reset}) < 2:
        return None
    names = [name for name in dimensions(reset, ["forget_layer", "forget_side"]) if name != "exposures"]
    others = [one for one in everything if one not in sides] + _unstudied(sides)
    controls = comparable(others, reset, ["exposures", "restudy_exposures", "forget_side", "forget_layer"])
    called = {"upper": UPPER, "lower": LOWER}
    return _profile(
        found, kind, measure, ("forgetting", "by forgetting layer k", "forget_layer"), names, reset,
        [(_control(one), one) for one in controls], lambda one: called[one.settings["forget_side"]],
    )  # fmt: skip


def _unstudied(results: Sequence[Result]) -> list[Result]:
    """Those without study, which are the same for every layer: of one layer."""
    found = [one for one in results if one.unstudied]
    first = [found[0].settings.get(name) for name in ("forget_side", "forget_layer")] if found else []
    return [one for one in found if [one.settings.get(name) for name in ("forget_side", "forget_layer")] == first]


def ablation_figure(found: Gathered, kind: str, measure: Measure) -> Figure | None:
    """Means by ablated layer; None where nothing was ablated."""
    everything = found.results(kind)
    ablated = [one for one in everything if one.settings.get("ablated_side") in ("upper", "lower")]
    if len({one.settings.get("ablated_layer") for one in ablated}) < 2:
        return None
    names = dimensions(ablated, ["ablated_layer", "ablated_side"])
    whole = [one for one in everything if one.settings.get("ablated_side") == "none"]
    return _profile(
        found, kind, measure, ("ablation", "without what blocks learned", "ablated_layer"), names, ablated,
        [(ABLATED["none"], one) for one in whole], lambda one: ABLATED[one.settings["ablated_side"]],
    )  # fmt: skip


def _control(result: Result) -> str:
    if result.settings.get("forget_side") == "none":
        return AGAIN
    return BEFORE if result.unstudied else FIRST


def _profile(
    found: Gathered,
    kind: str,
    measure: Measure,
    called: tuple[str, str, str],
    names: Sequence[str],
    results: Sequence[Result],
    controls: Sequence[tuple[str, Result]],
    what: Callable[[Result], str],
) -> Figure | None:
    """Curves over the column `called[2]`, and lines across for the controls."""
    family, title, x = called
    marked = [replace(one, settings=one.settings | {WHAT: what(one)}) for one in results]
    points = cells(found, kind, measure.name, marked, [*names, WHAT, x])
    own = [replace(one, settings=one.settings | {WHAT: name}) for name, one in controls]
    across = cells(found, kind, measure.name, own, [*names, WHAT])
    if not points:
        return None
    groups = dict.fromkeys(tuple(point.at[name] for name in names) for point in points)
    placed = [
        (point, dict(zip(names, group, strict=True)) | {WHAT: point.at[WHAT]})
        for point in across
        for group in matching([point.at[name] for name in names], groups)
    ]
    layout = Layout.of([WHAT, *names], [point.at for point in points] + [at for _, at in placed], WHAT)
    layout = layout.also(CONTROL if placed else None, chance_line(chance_of(measure)))
    sheet = Sheet([*names, WHAT], layout)
    rows = [sheet.row(point, **{x: point.at[x]}) for point in points]
    rows += [sheet.row(point, at, **{x: None}) | {"_rule": True, "_dash": CONTROL[0]} for point, at in placed]
    rows.sort(key=lambda row: -1 if row[x] is None else row[x])
    ticks = tuple(sorted({float(row[x]) for row in rows if row[x] is not None}))

    def draw(inside: list[Row], data: str) -> dict[str, Any]:
        axis = Axis(x, f"{x.replace('_', ' ')} k (block)", ticks=ticks if len(ticks) < 20 else (), places=ticks)
        ruled = any(row["_rule"] for row in inside)
        chart = curves(axis, vertical(measure), layout, sheet.tooltip(x), chance_of(measure), rules=ruled, data=data)
        return {x: chart}

    short = measure.title.partition(" (")[0].capitalize()
    note = over_what([*points, *across])
    return sheet.figure(f"{family}-{kind}-{measure.name}", f"{short} {title}", "", note, rows, draw, [x])
