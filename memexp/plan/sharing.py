"""How many trials of one worker are on a GPU at a time, where one by itself leaves it idle: `Resources.share`.

forest = shared(forest, asks, inspections, executor)

A step of a small model takes the host longer than the GPU: as many trials as have something to do meanwhile compute
side by side, each in a process and with a share of the memory of its own. Lanes do more where there are some.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Protocol

from memexp.plan.devices import DEVICES
from memexp.plan.forest import Ask, Forest
from memexp.plan.inspection import Inspection
from memexp.plan.memory import needed
from memexp.plan.outlay import load_of, occupied
from memexp.spec import Resources

__all__ = ["Machine", "shared"]

MOST = 4
"""Trials on a GPU at most: their kernels take turns, and each has CUDA's context and libraries for itself."""
ROOM = 0.95
"""The share of a GPU's memory that trials may plan with."""


class Machine(Protocol):
    """Where trials are executed; see `memexp.driver.work.Executor`."""

    def slots(self, resources: Resources) -> int: ...

    def device(self, resources: Resources) -> str: ...

    def gpu_memory(self, resources: Resources) -> int: ...


def shared(forest: Forest, asks: Collection[Ask], inspections: Mapping[str, Inspection], machine: Machine) -> Forest:
    """`forest` with a share of a GPU for the trials that want one and leave a whole one idle.

    Args:
        forest: what is to be executed.
        asks: what of it.
        inspections: what models are like, by their identity.
        machine: where it is executed.
    """
    below: dict[str, set[str]] = {}
    for ask in asks:
        base, *rest = forest.path(ask.stage)
        below.setdefault(base.id, set()).update(stage.id for stage in rest[:1])
    found = {
        base: _share(forest, base, len(trees), inspections[forest.base(base).model.id], machine)
        for base, trees in below.items()
        if forest.resources[base].share
    }
    return dataclasses.replace(forest, resources={**forest.resources, **found}) if found else forest


def _share(forest: Forest, base: str, trees: int, inspection: Inspection, machine: Machine) -> Resources:
    """What trials of a base hold: a whole GPU, half of one, or a quarter."""
    stage, whole = forest.base(base), forest.resources[base]
    memory = ROOM * machine.gpu_memory(whole)
    if whole.most_lanes > 1 or not memory:
        return whole
    busy = occupied(forest, base, inspection, DEVICES[machine.device(whole)])
    takes = needed(inspection, stage.method, stage.dtype, whole, load_of(forest, base)).worker
    best, count = whole, 2
    while count <= MOST and count * busy <= 1 and count * takes <= memory:
        least = dataclasses.replace(whole, gpus=1 / count)
        # Where there are no more trees than places, or no CPUs for more, a GPU of its own is the faster one.
        if trees <= machine.slots(best) or machine.slots(least) <= machine.slots(best):
            break
        best, count = least, 2 * count
    return best
