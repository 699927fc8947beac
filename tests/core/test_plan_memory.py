"""What a plan says of memory (test_meter.py has it beside the meter, drills/test_size_drills.py beside processes)."""

from __future__ import annotations

import dataclasses

import pytest
from core.planned import TOKENS, inspection, planned

from memexp.plan.memory import Load, Need, fewest, needed
from memexp.spec import Full, LoRA, Resources

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of torch, peft, transformers
WHOLE = {  # GB of a rank, counted by the meter at full depth (tests/drills/test_size_drills.py counts them)
    ("llama3-8b", 4, False): 35.27,
    ("llama3-8b", 1, True): 24.81,
    ("opt-13b", 4, False): 56.61,
    ("llama3-70b", 8, True): 32.80,
}


@pytest.mark.parametrize(("case", "counted_gb"), WHOLE.items())
def test_a_plan_is_near_what_was_counted_of_whole_models(case: tuple[str, int, bool], counted_gb: float) -> None:
    need = planned(*case)
    assert (need.worker - need.process) / 1e9 == pytest.approx(counted_gb, rel=0.02)


def test_what_saves_memory_is_counted() -> None:
    model, load = inspection("gpt2"), Load(TOKENS, forks=1)
    plain = needed(model, Full(), "float32", Resources(gpus=1), load)
    assert plain.copies == pytest.approx(16 * model.parameters, rel=0.01)
    filed = dataclasses.replace(model, kept_in_files=True)
    again = needed(filed, Full(), "float32", Resources(gpus=1), load)
    assert plain.copies - again.copies == 4 * model.parameters
    assert needed(filed, LoRA(r=8), "float32", Resources(gpus=1), load).copies > 0, "an adapter is in no file"
    saving = needed(model, Full(), "float32", Resources(gpus=1, checkpointing=True), load)
    assert saving.parts["activations"] < plain.parts["activations"] / 3
    away = needed(model, Full(), "float32", Resources(gpus=1, offload=True), load)
    assert away.parts["optimizer"] == 0 and away.copies - plain.copies == 8 * model.parameters
    for moments in (0, 1):
        sgd = dataclasses.replace(load, moments=moments)
        found, theirs = (needed(model, Full(), "float32", Resources(gpus=1, offload=on), sgd) for on in (False, True))
        assert found.parts == plain.parts | {"optimizer": 4 * moments * model.parameters}
        assert plain.copies - found.copies == 4 * (2 - moments) * model.parameters, "of the fork"
        assert theirs.copies - found.copies == 4 * moments * model.parameters
    on_cpu = needed(model, Full(), "float32", Resources(workers=2), load)
    assert on_cpu.host == 2 * on_cpu.worker and on_cpu.worker > on_cpu.copies


def test_the_smallest_number_of_workers_is_named() -> None:
    def need(workers: int) -> Need:
        return planned("llama3-8b", workers, False)

    assert fewest(need, 80e9) == 2
    assert fewest(need, 40e9) == 4
    assert fewest(need, 1e6) is None


def test_weights_that_few_bits_take_the_place_of_are_on_the_host() -> None:
    model, load = inspection("gpt2"), Load(TOKENS)
    few = dataclasses.replace(load, rounding=True)

    def more(method: Full | LoRA, resources: Resources) -> int:
        one, other = (needed(model, method, "float32", resources, each) for each in (load, few))
        assert one.parts == other.parts
        return other.copies - one.copies

    assert more(Full(), Resources(gpus=1)) == 4 * model.parameters
    assert more(Full(), Resources()) == 0, "where gradients were"
    for resources in (Resources(), Resources(gpus=1)):
        assert more(LoRA(r=8), resources) == pytest.approx(4 * model.parameters, rel=0.01), "the frozen ones"
