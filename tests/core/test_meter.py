"""Bytes of a rank of models of real size, counted as memexp's own code runs, and planned; a planted bug shows."""

from __future__ import annotations

import functools
from typing import Any
from unittest import mock

import pytest
import torch
from core import fake_ranks
from core.fake_ranks import BY_CHOICE, counted, most
from core.meter import Meter, Phase
from core.planned import TOKENS, inspection, planned

from memexp.core.batch_sizes import GPU_RESERVE
from memexp.core.fork import Fork, Moments
from memexp.core.model import LanguageModel, local
from memexp.plan.memory import Load, needed
from memexp.spec import EWC, Full, LoRA, Resources, ShippedText, Unlearn

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, on ranks that are not there
GB = 1e9
SHORT = {"num_hidden_layers": 2}
GATHERED = 2 * (4 * 218_112_000 + 525_336_576) + 4 * (525_336_576 + 4_096)
"""Bytes of the weights of four blocks of Llama-3 8B as they are gathered: its head travels in float32."""


def of(shape: str, ranks: int, adapter: bool = False, dtype: str = "bfloat16", **changes: Any) -> dict[str, Phase]:
    """What is counted, once for all tests."""
    return _counted(shape, ranks, adapter, dtype, tuple(sorted(changes.items())))


@functools.cache
def _counted(
    shape: str, ranks: int, adapter: bool, dtype: str, changes: tuple[tuple[str, Any], ...]
) -> dict[str, Phase]:
    return counted(shape, ranks, LoRA(r=8) if adapter else Full(), dtype, **dict(changes))


def deep(shape: str, ranks: int, adapter: bool, depth: int) -> dict[str, float]:
    """The peaks at `depth`, from those at 2 and 4 blocks: where a batch is not split, they grow by the block."""
    few, more = (peaks(of(shape, ranks, adapter, num_hidden_layers=count)) for count in (2, 4))
    return {name: few[name] + (more[name] - few[name]) * (depth - 2) / 2 for name in few}


def peaks(phases: dict[str, Phase]) -> dict[str, float]:
    """Of what has to be done."""
    return {name: phase.peak for name, phase in phases.items() if name not in BY_CHOICE}


@pytest.mark.parametrize(
    ("shape", "ranks", "adapter", "depth", "most"),
    [("opt-13b", 4, False, 40, 58), ("llama3-70b", 8, True, 80, 55)],
)
def test_models_of_real_size_fit(shape: str, ranks: int, adapter: bool, depth: int, most: float) -> None:
    """Those whose batches are split, and all at their full depth: tests/drills/test_size_drills.py."""
    found = deep(shape, ranks, adapter, depth)
    assert max(found.values()) <= most * GB
    assert found["restore"] <= found["training"]
    parameters = {"opt-13b": 12.85e9, "llama3-70b": 70.55e9}[shape]
    assert found["load"] <= 1.02 * parameters * (2 if adapter else 4) / ranks, "no rank ever holds the model"


def test_a_depth_is_as_good_as_measured() -> None:
    whole = peaks(of("opt-13b", 4, num_hidden_layers=8))
    assert deep("opt-13b", 4, False, 8) == pytest.approx(whole, rel=0.005)


def test_gathered_weights_are_known_to_the_byte_and_leave_room() -> None:
    """On a card where they just fit."""
    memory = 18.7 * GB
    found = of("llama3-8b", 4, memory=memory, num_hidden_layers=4)
    assert found["gathered"].now - found["restore"].now == pytest.approx(GATHERED, rel=1e-4)
    assert memory / 2 < found["full recall"].peak <= memory - GPU_RESERVE
    assert not of("llama3-8b", 4, num_hidden_layers=4, memory=0.97 * memory).keys() & set(BY_CHOICE)


def test_forks_are_on_the_host() -> None:
    found = of("gpt2", 1, dtype="float32")
    parameters = 124_439_808
    assert found["fork"].peak == found["restore"].peak == found["fork"].now
    assert found["fork"].host == pytest.approx(12 * parameters, rel=0.01)
    assert found["fork"].now == pytest.approx(12 * parameters, rel=0.01)
    assert found["training"].peak >= 16 * parameters


def test_ranks_share_what_they_hold() -> None:
    one, two = (of("llama3-8b", ranks, **SHORT) for ranks in (1, 2))
    for name in ("load", "restore"):
        assert two[name].peak == pytest.approx(one[name].peak / 2, rel=0.02)


# Plans

CASES = [  # most of them have been counted above
    ("gpt2", 1, False, "float32", {}),
    ("gpt2", 2, False, "bfloat16", {"num_hidden_layers": 4}),
    ("llama3-8b", 1, False, "bfloat16", SHORT),
    ("llama3-8b", 2, False, "bfloat16", SHORT),
    ("llama3-8b", 2, False, "float32", SHORT),
    ("llama3-8b", 8, False, "bfloat16", {"num_hidden_layers": 4}),
    ("llama3-8b", 4, True, "bfloat16", SHORT),
    ("llama3-70b", 8, True, "bfloat16", {"num_hidden_layers": 4}),
    ("opt-13b", 4, False, "bfloat16", {"num_hidden_layers": 8}),
]


@pytest.mark.parametrize(("shape", "ranks", "adapter", "dtype", "changes"), CASES)
def test_a_plan_is_near_the_meter(shape: str, ranks: int, adapter: bool, dtype: str, changes: dict[str, int]) -> None:
    found = of(shape, ranks, adapter, dtype, **changes)
    need = planned(shape, ranks, adapter, dtype, **changes)
    assert need.worker - need.process == pytest.approx(most(found), rel=0.03)


KEPT = ShippedText("sentences-foils")
AIMS: dict[str, tuple[Unlearn | EWC, Load]] = {
    "difference": (Unlearn("difference", 1, 1e-5, retain=KEPT), Load(TOKENS // 2, parted=True)),
    "kl": (Unlearn("kl", 1, 1e-5, retain=KEPT), Load(TOKENS // 2, held=1, parted=True, diverging=True)),
    "ewc": (EWC(10.0), Load(TOKENS, held=2)),
}


@pytest.mark.parametrize("aim", AIMS)
@pytest.mark.parametrize(
    ("shape", "ranks", "adapter", "dtype", "changes"), [CASES[1], CASES[3], ("gpt2", 1, True, "float32", {})]
)
def test_a_plan_is_near_the_meter_of_unlearning_and_of_a_protected_memory(
    shape: str, ranks: int, adapter: bool, dtype: str, changes: dict[str, int], aim: str
) -> None:
    how, load = AIMS[aim]
    found = of(shape, ranks, adapter, dtype, aim=how, **changes)
    need = planned(shape, ranks, adapter, dtype, load, **changes)
    assert need.worker - need.process == pytest.approx(most(found), rel=0.03)


def test_a_plan_tells_what_recall_takes_where_there_is_room() -> None:
    shape, depth = "llama3-8b", {"num_hidden_layers": 4}
    found = of(shape, 4, memory=18.7 * GB, **depth)
    resources = Resources(workers=4, gpus=1)
    need = needed(inspection(shape, **depth), Full(), "bfloat16", resources, Load(TOKENS, cue_tokens=8))
    assert need.together - need.process == pytest.approx(found["gathered"].peak, rel=0.05)
    assert planned(shape, 4, False, **depth).together == 0, "nothing is recalled"


FEW = {"rows": 2, "width": 16}
IN_LANES = [
    ("gpt2", 4, False, "float32", {"num_hidden_layers": 4}),
    ("gpt2", 2, False, "bfloat16", {"num_hidden_layers": 2}),
    ("gpt2", 8, False, "float32", {"num_hidden_layers": 2, **FEW}),
    ("gpt2", 4, True, "float32", {"num_hidden_layers": 4}),
    ("opt-13b", 2, False, "bfloat16", SHORT),
    ("llama3-8b", 2, True, "bfloat16", SHORT),
]


@pytest.mark.parametrize(("shape", "lanes", "adapter", "dtype", "changes"), IN_LANES)
def test_a_plan_is_near_the_meter_of_lanes(
    shape: str, lanes: int, adapter: bool, dtype: str, changes: dict[str, int]
) -> None:
    """Each with a batch of its own, and a fork of its own."""
    found = of(shape, 1, adapter, dtype, lanes=lanes, **changes)
    plain = {name: value for name, value in changes.items() if name not in FEW}
    load = Load(changes.get("rows", 16) * changes.get("width", 128), forks=1, ablating=True)
    need = planned(shape, 1, adapter, dtype, load, lanes, **plain)
    assert need.worker - need.process == pytest.approx(most(found), rel=0.03)
    learning = found["fork"].host / (3 * lanes)
    assert need.copies - learning == pytest.approx(max(phase.host for phase in found.values()), rel=0.02)
    assert found["restore"].peak == found["training"].peak, "moments go back to where they were"
    assert found["ablation"].now == found["scoring"].now and found["ablation"].host > found["scoring"].host


def test_lanes_cut_their_batches_to_what_they_leave() -> None:
    whole, memory = of("gpt2", 1, dtype="float32", lanes=4, num_hidden_layers=4), 9 * GB
    found = of("gpt2", 1, dtype="float32", lanes=4, memory=memory, num_hidden_layers=4)
    assert most(found) <= memory - GPU_RESERVE < most(whole)


# Planted bugs


def on_device(lm: LanguageModel, optimizer: Any) -> Fork:
    """A fork whose moments stay where they are."""
    learning = lm.learning()
    kept = {
        name: {key: local(value).clone() for key, value in optimizer.state[one].items()}
        for name, one in learning.items()
    }
    settings = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    return Fork({name: local(one.detach()).clone() for name, one in learning.items()}, Moments(settings, kept))


def test_a_fork_on_the_device_shows() -> None:
    found = of("llama3-8b", 4, **SHORT)
    with mock.patch.object(fake_ranks, "take", on_device):
        planted = counted("llama3-8b", 4, dtype="bfloat16", **SHORT)
    assert planted["fork"].now >= 1.9 * found["fork"].now and planted["fork"].host == 0


def test_weights_that_stay_gathered_show() -> None:
    """As autocast's copies of them did: the last block's of the forward pass are there when the first one's are."""
    found = of("llama3-8b", 4, **SHORT)
    plain = fake_ranks.shard

    def unshared(lm: LanguageModel) -> None:
        plain(lm)
        for module in lm.modules():
            if hasattr(module, "set_reshard_after_forward"):
                module.set_reshard_after_forward(False)
                module.set_reshard_after_backward(False)

    with mock.patch.object(fake_ranks, "shard", unshared):
        planted = counted("llama3-8b", 4, dtype="bfloat16", **SHORT)
    assert planted["training"].peak >= found["training"].peak + 1 * GB


def test_the_meter_counts_what_lives() -> None:
    with Meter() as meter:
        kept = torch.zeros(1000)
        with meter.phase() as phase:
            half = (kept + 1)[:10]
            assert meter.bytes["device"] == 8000, "a slice holds all of it"
            del half
        assert (phase.peak, phase.now) == (8000, 4000)
        kept.untyped_storage().resize_(0)
        assert meter.bytes["device"] == 0
