"""What the trials to come take of memory at their peak, for whoever executes them to compare with what there is.

peaks((forest, base) for base in forest.resources)
"""

from __future__ import annotations

from collections.abc import Iterable

from memexp.plan import Forest
from memexp.plan.inspection import sizes
from memexp.plan.memory import needed
from memexp.plan.outlay import load_of
from memexp.plan.room import Peak
from memexp.sources import parameters_from_headers

__all__ = ["LARGE", "peaks"]

LARGE = 100_000_000
"""Parameters from which on a model on CPUs is looked at before a run: to ask what it takes costs seconds."""


def peaks(bases: Iterable[tuple[Forest, str]]) -> list[Peak]:
    """Of each of these bases, in its forest, as `memexp plan` tells it.

    Of models on CPUs those only that are `LARGE`, by their files or, where these do not say, by their inspection.
    """
    found = [(forest, forest.stages[base]) for forest, base in bases]
    counts = {stage.model.id: parameters_from_headers(stage.model) for _, stage in found}
    found = [
        (forest, stage)
        for forest, stage in found
        if forest.resources[stage.id].gpus or (count := counts[stage.model.id]) is None or count >= LARGE
    ]
    inspected = sizes([stage.model for _, stage in found])
    told = []
    for forest, stage in found:
        resources, inspection = forest.resources[stage.id], inspected[stage.model.id]
        if not resources.gpus and inspection.parameters < LARGE:
            continue
        need = needed(inspection, stage.method, stage.dtype, resources, load_of(forest, stage.id))
        what = f"model {stage.model.name!r} ({type(stage.method).__name__.lower()}, {stage.dtype})"
        told.append(Peak(what, resources, need.worker, need.copies + need.host_process))
    return told
