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

    Of models on CPUs those only whose files say that they are `LARGE`.
    """
    found = [
        (forest, forest.stages[base])
        for forest, base in bases
        if forest.resources[base].gpus or (parameters_from_headers(forest.stages[base].model) or 0) >= LARGE
    ]
    inspected = sizes([stage.model for _, stage in found])
    told = []
    for forest, stage in found:
        resources = forest.resources[stage.id]
        need = needed(inspected[stage.model.id], stage.method, stage.dtype, resources, load_of(forest, stage.id))
        what = f"model {stage.model.name!r} ({type(stage.method).__name__.lower()}, {stage.dtype})"
        told.append(Peak(what, resources, need.worker, need.copies + need.host_process))
    return told
