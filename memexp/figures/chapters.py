"""Which figures a sweep has: those of every family that its results have something for.

for chapter in chapters(store):
    print(chapter.sweep, [figure.name for figure in chapter.figures])
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from memexp.figures.best_cells import best_figure
from memexp.figures.block_profiles import ablation_figure, forgetting_figure
from memexp.figures.effort import Effort
from memexp.figures.exposure_curves import exposure_figure
from memexp.figures.fact_scores import by_name, fact_figure
from memexp.figures.figure import Figure
from memexp.figures.gained_curves import gained_figure
from memexp.figures.gathered import Gathered, Result, gathered, ids_of
from memexp.figures.loss_curves import loss_figure
from memexp.figures.measures import CHANCE, PARTS, Measure, by_importance
from memexp.figures.retention_curves import retention_figure
from memexp.figures.search_points import search_figure
from memexp.store import Store
from memexp.store.known import known_rows
from memexp.store.manifests import latest_manifests

__all__ = ["Chapter", "chapters", "measured_figures"]

SHOWN = {"recognition": 1, "recall": 1, "qa": 1, "ratios": 2}
"""How many measures of a kind a page shows; of others the first."""


Ids = tuple[str, str, str]
"""Stage, probe and condition: what the name of a result's file has."""


@dataclass
class Chapter:
    """One sweep of a store, or what belongs to none."""

    sweep: str | None
    figures: list[Figure] = field(default_factory=list)
    more: str = ""
    """What `beside` made of its results."""


def chapters(store: Store, sweep: str | None = None, beside: Callable[[Gathered], str] | None = None) -> list[Chapter]:
    """A chapter for each sweep that a store has, the last started first, and one for results that belong to none.

    Args:
        store: where the results are.
        sweep: only this one.
        beside: is asked for something more of each, while its rows can be read.

    Raises:
        StoreError: there is no such sweep, or a file cannot be read.
    """
    manifests = latest_manifests(store)
    tried: dict[str, set[Ids]] = {}
    for row in known_rows(store, "searches"):
        files = (file.partition("/")[2].split("-") for file in row["results"])
        tried.setdefault(row["sweep"], set()).update((a, b, c) for a, b, c in (ids for ids in files if len(ids) == 3))
    started = {name: rows[0]["started"] for name, rows in manifests.items() if rows}
    order = sorted(manifests, key=lambda name: started[name], reverse=True)
    wanted: list[str | None] = [*order, *(name for name in tried if name not in manifests)]
    if sweep is not None:
        wanted = [sweep]
    found = []
    with gathered(store, sweep if sweep in manifests or sweep not in tried else None) as rows:
        effort = Effort.of_store(store)
        its = {name: {(row["stage_id"], row["probe_id"], row["condition_id"]) for row in manifests.get(name or "", [])}
               for name in wanted}  # fmt: skip
        for name in wanted:
            part = rows.only(_among(its[name] | tried.get(name or "", set())))
            chapter = Chapter(name, [*_of_results(rows.only(_among(its[name])), effort)])
            for figure in (search_figure(store, name), loss_figure(store, part, effort)):
                chapter.figures += [figure] if figure is not None else []
            chapter.more = beside(part) if beside is not None else ""
            found.append(chapter)
        if sweep is None:
            listed = _among(set().union(*its.values(), *tried.values()))
            part = rows.only(lambda one: not listed(one))
            rest = Chapter(None, [*_of_results(part, effort)], beside(part) if beside is not None else "")
            found += [rest] if rest.figures or not found else []
    return found


def _among(ids: set[Ids]) -> Callable[[Result], bool]:
    return lambda one: ids_of(one.settings) in ids


def _of_results(rows: Gathered, effort: Effort) -> Iterator[Figure]:
    for kind in by_importance(rows.kinds):
        if rows.results(kind):
            measures = [one for one in rows.measures(kind).values() if one.name != CHANCE]
            for measure in measures[: SHOWN.get(kind, 1)]:
                yield from measured_figures(rows, kind, measure, effort)


def measured_figures(rows: Gathered, kind: str, measure: Measure, effort: Effort) -> Iterator[Figure]:
    """All figures of one measure."""
    found = [fact_figure(rows, kind, measure)]
    retention = retention_figure(rows, kind, measure)
    studied = {one.settings.get("exposures") for one in rows.results(kind)}
    if not PARTS.get(kind) and (retention is None or len(studied) > 2):
        found.append(exposure_figure(rows, kind, measure, effort))
    found += [
        retention,
        gained_figure(rows, kind, measure) if retention is not None else None,
        forgetting_figure(rows, kind, measure),
        ablation_figure(rows, kind, measure),
        best_figure(rows, kind, measure),
    ]
    drawn = [figure for figure in found if figure is not None]
    if not drawn:  # nothing varies that has a figure of its own
        plain = by_name(rows, kind, measure, rows.results(kind), "model", "model", f"{kind.capitalize()}", "means")
        drawn += [plain] if plain is not None else []
    yield from drawn
