"""How often the host waits for a GPU: a step of training and a token of an answer once at most, by a pretended one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from unittest import mock

import pytest
import torch
from core.pretended import Pretended, pretended
from core.small import NO_DROPOUT, PEAKED, TARGETS, resolved

import memexp.core.train
from memexp.core import copies, masks
from memexp.core.batches import StudyBatches
from memexp.core.data import encode
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import continuations, token_nlls
from memexp.core.train import READ_STEPS, Diverged, Step, train, update
from memexp.spec import Full, LoRA, ShippedText, Study

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

STUDY = Study(ShippedText("sentences-targets", first=64), exposures=3, lr=1e-3, batch_size=8, clip_norm=1.0)
CASES = {
    "gpt2": ("gpt2", Full(), "float32"),
    "llama": ("llama", Full(), "bfloat16"),
    "opt with an adapter": ("opt", LoRA(r=4), "tf32"),
}


@pytest.fixture
def gpu() -> Iterator[Pretended]:
    with pretended() as device:
        yield device


def loaded(case: str) -> LanguageModel:
    architecture, method, dtype = CASES[case]
    model = resolved(architecture, initializer_range=PEAKED, **NO_DROPOUT[architecture])
    return load(model, method, dtype, World.current(gpus=1))


def rows_of(lm: LanguageModel, count: int = 64) -> list[list[int]]:
    return encode(lm.tokenizer, TARGETS[:count], 64)


def trained(lm: LanguageModel, last: int, **more: object) -> list[Step]:
    batches = StudyBatches(STUDY, rows_of(lm), 0)
    return train(lm, fresh_optimizer(lm, STUDY), STUDY, batches, 1, last, **more)  # type: ignore[arg-type] # as `train` has them


@pytest.mark.parametrize("case", CASES)
def test_training_waits_once_for_ten_steps(case: str, gpu: Pretended) -> None:
    lm = loaded(case)
    with gpu.counted() as waits:
        update(lm, fresh_optimizer(lm, STUDY), rows_of(lm, 8), 1e-3, 1.0)
    assert waits == []
    with gpu.counted() as waits:
        steps = trained(lm, 2 * READ_STEPS["cuda"])
    assert [step.step for step in steps] == list(range(1, 21)) and all(isinstance(step.loss, float) for step in steps)
    assert len(waits) == 3, waits  # two times the losses, and once the weights at the end


def test_a_wait_in_a_step_would_be_seen(gpu: Pretended) -> None:
    """The negative controls: looks of transformers, copies that are waited for, a loss read in each step."""
    lm = loaded("gpt2")
    with mock.patch.object(masks, "_ANSWERS", {}), gpu.counted() as looks:
        update(lm, fresh_optimizer(lm, STUDY), rows_of(lm, 8), 1e-3, 1.0)
    assert looks and all("model.py" in one for one in looks)

    def slowly(device: torch.device, *arrays: object) -> list[torch.Tensor]:
        return [torch.as_tensor(array).to(device) for array in arrays]

    with mock.patch.object(memexp.core.model, "to_device", slowly), gpu.counted() as slow:
        update(lm, fresh_optimizer(lm, STUDY), rows_of(lm, 8), 1e-3, 1.0)
    assert len(slow) == 3 and copies.to_device is not slowly
    with mock.patch.dict(READ_STEPS, cuda=1), gpu.counted() as each:
        trained(lm, 10)
    assert len(each) == 11


@pytest.mark.parametrize("case", CASES)
def test_scoring_waits_once_a_batch(case: str, gpu: Pretended) -> None:
    lm = loaded(case)
    rows = rows_of(lm)
    with gpu.counted() as waits:
        token_nlls(lm, rows)
    assert len(waits) == 1, waits
    pairs = [(row[:3], row[3 : 4 + i % 5]) for i, row in enumerate(rows)] + [(rows[0][:3], [i]) for i in range(9)]
    with gpu.counted() as waits:
        continuations(lm, pairs)
    assert len(waits) == 1, waits


@pytest.mark.parametrize("case", CASES)
def test_a_token_waits_once_at_most(case: str, gpu: Pretended) -> None:
    lm = loaded(case)
    for cues in ([row[:4] for row in rows_of(lm, 6)], [row[: 2 + i] for i, row in enumerate(rows_of(lm, 6))]):
        with gpu.counted() as waits:
            complete_greedily(lm, cues, [20] * len(cues))
        assert len(waits) == 1, waits
        passes = lm.passes
        with gpu.counted() as waits:
            answer_greedily(lm, cues, [6 + 4 * i for i in range(len(cues))], [["zz"]] * len(cues))
        assert 20 < lm.passes - passes <= 26 and len(waits) <= lm.passes - passes, waits


def test_what_is_read_late_is_as_if_it_was_read_at_once(gpu: Pretended) -> None:
    late, at_once = loaded("gpt2"), loaded("gpt2")
    seen: list[tuple[list[int], torch.Tensor]] = []

    def after(steps: object) -> None:
        assert isinstance(steps, list)
        seen.append(([step.step for step in steps], late.lm.lm_head.weight.detach().cpu()))

    room = iter([99] * 3 + [4] * 2 + [99] * 99)
    found = trained(late, 16, after=after, room=lambda: next(room))
    assert [numbers for numbers, _ in seen] == [[1, 2, 3, 4], list(range(5, 15)), [15, 16]]
    with mock.patch.dict(READ_STEPS, cuda=1):
        assert trained(at_once, 16) == found
        again = loaded("gpt2")
        trained(again, 4)
    assert torch.equal(seen[0][1], again.lm.lm_head.weight.detach().cpu())


def test_a_loss_that_is_not_finite_is_noticed_when_it_is_read(gpu: Pretended) -> None:
    lm = loaded("gpt2")
    real, calls = memexp.core.train.update, 0

    def updated(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        loss, tokens = real(*arguments)  # type: ignore[arg-type] # as it is called
        return (loss * float("nan") if calls in (7, 9) else loss), tokens  # type: ignore[operator] # a tensor

    told: list[object] = []
    with (
        mock.patch.object(memexp.core.train, "update", updated),
        pytest.raises(Diverged, match=r"the loss is nan at step 7 \(exposure 1"),
        contextlib.nullcontext(),
    ):
        trained(lm, 24, after=told.append)
    assert calls == 10 and told == []
