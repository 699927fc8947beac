"""Which trials share a GPU: those that leave it idle, fit beside each other, and are enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from memexp import Condition, LoRA, Resources
from memexp.driver.work import _shares
from memexp.errors import SpecError
from memexp.plan import Forest, bundle, grow
from memexp.plan.devices import DEVICES
from memexp.plan.inspection import Inspection
from memexp.plan.memory import needed
from memexp.plan.outlay import load_of, occupied
from memexp.plan.sharing import shared

SMALL = Inspection(parameters=10**7, linear=10**6, context=None, blocks=12)
SHARE = Resources(gpus=1, share=True)
Trajectory = Callable[[float], list[Condition]]


@dataclass
class Machine:
    """GPUs, and CPUs for so many trials."""

    gpus: int = 2
    cpus: int = 16
    memory: int = 80 * 10**9

    def slots(self, resources: Resources) -> int:
        return min(int(self.gpus / resources.gpus), int(self.cpus / resources.cpus))

    def device(self, resources: Resources) -> str:
        return "h100"

    def gpu_memory(self, resources: Resources) -> int:
        return self.memory


@pytest.fixture
def forest(trajectory: Trajectory) -> Forest:
    """Eight trees of one base."""
    return grow([one for lr in range(1, 9) for one in trajectory(lr * 1e-4)], SHARE)


def share(forest: Forest, machine: Machine, inspection: Inspection = SMALL) -> float:
    """What a trial holds of a GPU."""
    [base] = forest.resources
    inspections = {forest.base(base).model.id: inspection}
    [found] = shared(forest, forest.asks, inspections, machine).resources.values()
    return found.gpus


def with_resources(forest: Forest, resources: Resources) -> Forest:
    return dataclasses.replace(forest, resources=dict.fromkeys(forest.resources, resources))


def test_a_small_model_has_a_quarter_and_its_trials_know_it(forest: Forest) -> None:
    machine = Machine()
    assert share(forest, machine) == 0.25
    [base] = forest.resources
    found = shared(forest, forest.asks, {forest.base(base).model.id: SMALL}, machine)
    assert {trial.resources.gpus for trial in bundle(found, found.asks, machine.slots)} == {0.25}
    assert forest.resources[base].gpus == 1, "the plan is as it was"
    [line] = _shares(found)
    assert line.endswith("(full, float32): 4 trials share a GPU") and not list(_shares(forest))
    assert found.stages == forest.stages and found.asks == forest.asks


def test_a_gpu_that_is_not_idle_is_not_shared(forest: Forest) -> None:
    [base] = forest.resources
    device = DEVICES["h100"]
    assert occupied(forest, base, SMALL, device) < 1 / 4
    large = dataclasses.replace(SMALL, parameters=10**9)
    assert occupied(forest, base, large, device) == 1
    assert share(forest, Machine(), large) == 1
    middle = dataclasses.replace(SMALL, parameters=6 * 10**7)
    assert 1 / 4 < occupied(forest, base, middle, device) <= 1 / 2
    assert share(forest, Machine(), middle) == 0.5


def test_as_many_as_its_memory_holds(forest: Forest) -> None:
    [base] = forest.resources
    stage = forest.base(base)
    takes = needed(SMALL, stage.method, stage.dtype, SHARE, load_of(forest, base)).worker
    assert share(forest, Machine(memory=int(4.3 * takes))) == 0.25
    assert share(forest, Machine(memory=int(4.1 * takes))) == 0.5
    assert share(forest, Machine(memory=int(2.1 * takes))) == 1
    assert share(forest, Machine(memory=0)) == 1, "what nobody has seen"


def test_as_many_as_there_are_cpus_and_trees_for(forest: Forest) -> None:
    assert share(forest, Machine(cpus=2)) == 1
    assert share(forest, Machine(cpus=4)) == 0.5
    assert share(forest, Machine(gpus=8)) == 1, "eight trees have a GPU each"
    assert share(forest, Machine(gpus=4)) == 0.5, "two on each"


def test_who_did_not_ask_or_has_lanes_has_a_gpu_of_its_own(forest: Forest) -> None:
    for whole in (
        Resources(gpus=1),
        Resources(gpus=1, share=True, lanes=4),
        Resources(gpus=1, share=True, lanes="auto"),
    ):
        assert share(with_resources(forest, whole), Machine()) == 1
    assert share(with_resources(forest, Resources(gpus=0.5, share=True)), Machine()) == 0.5


@pytest.mark.parametrize("resources", [{"gpus": 1, "workers": 2}, {}])
def test_sharing_without_a_gpu_or_with_several_workers_is_refused(resources: dict[str, int]) -> None:
    with pytest.raises(SpecError, match=r"Resources.share: trials of one worker with a GPU may share it"):
        Resources(share=True, **resources)


def test_without_training_nothing_is_known_to_be_idle(trajectory: Trajectory) -> None:
    untrained = grow([dataclasses.replace(one, method=LoRA()) for one in trajectory(1e-3)][:1], SHARE)
    [base] = untrained.resources
    untrained.stages = {base: untrained.stages[base]}
    assert occupied(untrained, base, SMALL, DEVICES["h100"]) == 1
