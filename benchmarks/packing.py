"""How busy the published grid keeps 1 to 64 devices: its trials as a sweep packs them, on simulated nodes.

    spans(forest, 64)            # seconds: of the simulation, and the lower bound

Nothing is trained. A trial takes what the plan says (`memexp.plan.outlay`), times a factor of its model where the plan
is taken to be wrong; it holds all its devices on one node, and begins in order of the list, as soon as there is room.
A process that has another base model loads its own first, a group of workers always does.
"""

from __future__ import annotations

import heapq
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from benchmarks.published_grid import conditions, made_lists
from benchmarks.published_models import CONFIGS
from memexp import Model, Resources, Sweep
from memexp.plan import Forest, Trial, apart, bundle, lengths
from memexp.plan.inspection import Inspection, sizes
from memexp.plan.outlay import DISK, GROUP, WARM, Times

__all__ = ["DEVICE", "DEVICES", "WORKERS", "Simulated", "forest_of", "measured", "spans"]

DEVICE = "a100"
DEVICES = (1, 2, 4, 8, 16, 32, 64)
NODE = 8
"""Devices of a node, or as many as there are."""
WORKERS: Mapping[str, int] = {
    "EleutherAI/gpt-j-6b": 2,
    "facebook/opt-6.7b": 2,
    "facebook/opt-13b": 4,
    "bigscience/bloom-7b1": 2,
}
"""Devices that the largest models take, as PUBLISHED_GRID.md has them; all others take one."""
COLD = 3.0
"""Seconds to begin with another base model, beside reading it."""
WRONG = 2.0
"""Factor by which a model may take longer, or less long, than the plan says, where that is simulated."""


@dataclass
class Simulated:
    """A packing, and what came of it."""

    trials: int
    bound: float
    """Seconds if no device were ever idle and nothing had to start; or the longest trajectory's, if that is longer."""
    span: float
    """Seconds until the last trial ends."""


def forest_of(models: Sequence[str]) -> Forest:
    """The published grid of these models, on the devices that they take."""

    def resources(model: Model) -> Resources:
        return Resources(workers=WORKERS.get(model.name, 1), gpus=1)

    with tempfile.TemporaryDirectory(prefix="memexp-packing-") as scratch:
        grid = conditions(made_lists(Path(scratch)), models)
        return Sweep(name="published-grid", conditions=tuple(grid), resources=resources).grow()


def spans(forest: Forest, devices: int, factors: Callable[[], float] = lambda: 1.0) -> Simulated:
    """The grid on so many devices, less the models that need more; `factors`: how wrong the plan is of each model."""
    node = min(devices, NODE)
    nodes = devices // node
    asks = [ask for ask in forest.asks if forest.resources[forest.base(ask.stage).id].workers <= node]
    inspections = sizes([forest.base(base).model for base in forest.resources])
    with mock.patch.object(lengths, "bytes_per_token", lambda *_: None):  # as in `published_grid.plans`
        times = Times(inspections, lambda _: DEVICE)
        trials = bundle(forest, asks, lambda one: nodes * (node // one.workers), times)
        wrong = {base: factors() for base in forest.resources}
        seconds = [wrong[trial.base.id] * times.seconds(trial) for trial in trials]
        trees = [tree for trial in trials for tree in apart(trial)]
        longest = max(wrong[tree.base.id] * times.seconds(tree) for tree in trees)
    work = sum(each * trial.resources.workers for each, trial in zip(seconds, trials, strict=True))
    cluster = _Cluster([node] * nodes, inspections)
    return Simulated(len(trials), max(work / devices, longest), cluster.execute(trials, seconds))


@dataclass
class _Cluster:
    """Nodes with devices that are free, and processes that have a base model and nothing to do."""

    free: list[int]
    inspections: Mapping[str, Inspection]
    running: list[tuple[float, int, int]] = field(default_factory=list)
    """When each trial ends that is under way, which it is, and on which node."""

    def __post_init__(self) -> None:
        self.warm: list[Counter[str]] = [Counter() for _ in self.free]

    def execute(self, trials: Sequence[Trial], seconds: Sequence[float]) -> float:
        """When the last of them has ended."""
        assert {trial.phase for trial in trials} == {0}  # of the published grid nothing waits for anything
        now, waiting = 0.0, list(range(len(trials)))
        while waiting or self.running:
            waiting = [number for number in waiting if not self._begins(trials[number], number, now, seconds[number])]
            now, number, node = heapq.heappop(self.running)
            self.free[node] += trials[number].resources.workers
            if trials[number].resources.workers == 1:
                self.warm[node][trials[number].base.id] += 1
        return now

    def _begins(self, trial: Trial, number: int, now: float, seconds: float) -> bool:
        base, workers = trial.base.id, trial.resources.workers
        room = [node for node, free in enumerate(self.free) if free >= workers]
        if not room:
            return False
        node = next((one for one in room if self.warm[one][base]), room[0])
        loading = 4 * self.inspections[trial.base.model.id].parameters / DISK
        start = GROUP + loading if workers > 1 else WARM if self.warm[node][base] else COLD + loading
        if workers == 1 and self.warm[node][base]:
            self.warm[node][base] -= 1
        self.free[node] -= workers
        heapq.heappush(self.running, (now + start + seconds, number, node))
        return True


def measured() -> dict[str, Any]:
    """Of all numbers of devices the makespan over the lower bound: as planned, and where plans are wrong."""
    forest = forest_of(list(CONFIGS))
    series: dict[str, list[float]] = {}
    ratios: dict[int, list[float]] = {}
    for devices in DEVICES:
        drawn = random.Random(devices)
        right = spans(forest, devices)
        wrong = [spans(forest, devices, lambda drawn=drawn: WRONG ** drawn.uniform(-1, 1)) for _ in range(5)]
        series[f"{devices} devices: hours, lower bound, trials"] = [right.span / 3600, right.bound / 3600, right.trials]
        ratios[devices] = [right.span / right.bound]
        series[f"{devices} devices: makespan / bound where plans are wrong by up to {WRONG:g} times, five draws"] = [
            one.span / one.bound for one in wrong
        ]
    return {"unit": "hours, and ratios as named", "series": series, "ratios": ratios}
