"""What a plan says of memory is what the meter counts, and what a process takes."""

from __future__ import annotations

import dataclasses
import functools

import pytest
from core.fake_ranks import SHAPES, counted, most
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from memexp.core.hollow import hollow
from memexp.core.inspect import memory_facts
from memexp.plan.inspection import Inspection
from memexp.plan.memory import Load, Need, fewest, needed
from memexp.spec import Full, LoRA, Resources

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # of torch, peft, transformers
TOKENS = 16 * 128
CASES = [
    ("gpt2", 1, False, "float32", {}),
    ("gpt2", 2, False, "bfloat16", {}),
    ("llama3-8b", 1, False, "float32", {"num_hidden_layers": 3}),
    ("llama3-8b", 2, False, "float32", {"num_hidden_layers": 3}),
    ("llama3-8b", 8, False, "bfloat16", {"num_hidden_layers": 4}),
    ("llama3-8b", 4, True, "bfloat16", {"num_hidden_layers": 4}),
    ("llama3-70b", 8, True, "bfloat16", {"num_hidden_layers": 4}),
    ("opt-13b", 4, False, "bfloat16", {"num_hidden_layers": 8}),
]
WHOLE = {  # GB of a rank, counted by the meter at full depth (tests/drills/test_size_drills.py counts them)
    ("llama3-8b", 4, False): 35.27,
    ("llama3-8b", 1, True): 24.81,
    ("opt-13b", 4, False): 56.61,
    ("llama3-70b", 8, True): 32.80,
}


@functools.cache
def inspection(shape: str, **changes: int) -> Inspection:
    values = {**SHAPES[shape], **changes}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    lm = hollow(config)
    head = lm.get_output_embeddings()
    linear = [one.weight for one in lm.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head]
    facts = memory_facts(lm, config) | {"coarse": True}  # as these are published
    extents = sum(sum(weight.shape) for weight in linear)
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    return Inspection(parameters, extents, None, config.num_hidden_layers, **facts)


def planned(shape: str, ranks: int, adapter: bool, dtype: str = "bfloat16", **changes: int) -> Need:
    method = LoRA(r=8) if adapter else Full()
    return needed(inspection(shape, **changes), method, dtype, Resources(workers=ranks, gpus=1), Load(TOKENS))


@pytest.mark.parametrize(("shape", "ranks", "adapter", "dtype", "changes"), CASES)
def test_a_plan_is_near_the_meter(shape: str, ranks: int, adapter: bool, dtype: str, changes: dict[str, int]) -> None:
    found = counted(shape, ranks, LoRA(r=8) if adapter else Full(), dtype, **changes)
    need = planned(shape, ranks, adapter, dtype, **changes)
    assert need.worker - need.process == pytest.approx(most(found), rel=0.1)


def test_a_plan_tells_what_recall_takes_where_there_is_room() -> None:
    shape, depth = "llama3-8b", {"num_hidden_layers": 4}
    found = counted(shape, 4, Full(), "bfloat16", memory=18.7e9, **depth)
    resources = Resources(workers=4, gpus=1)
    need = needed(inspection(shape, **depth), Full(), "bfloat16", resources, Load(TOKENS, cue_tokens=8))
    assert need.together - need.process == pytest.approx(found["gathered"].peak, rel=0.05)
    assert planned(shape, 4, False, **depth).together == 0, "nothing is recalled"


@pytest.mark.parametrize(("case", "counted_gb"), WHOLE.items())
def test_a_plan_is_near_what_was_counted_of_whole_models(case: tuple[str, int, bool], counted_gb: float) -> None:
    need = planned(*case)
    assert (need.worker - need.process) / 1e9 == pytest.approx(counted_gb, rel=0.1)


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
    on_cpu = needed(model, Full(), "float32", Resources(workers=2), load)
    assert on_cpu.host == 2 * on_cpu.worker and on_cpu.worker > on_cpu.copies


def test_the_smallest_number_of_workers_is_named() -> None:
    def need(workers: int) -> Need:
        return planned("llama3-8b", workers, False)

    assert fewest(need, 80e9) == 2
    assert fewest(need, 40e9) == 4
    assert fewest(need, 1e6) is None
