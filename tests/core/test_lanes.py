"""Lanes equal the same models one by one: losses, likelihoods and completions, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from core.small import ARCHITECTURES, NO_DROPOUT, TARGETS, language_model, varied

from memexp.core import fork, lane_layers
from memexp.core.data import Row, encode, key_seed, order, right_padded
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel, set_dropout
from memexp.core.optimizer import fresh_optimizer
from memexp.core.scoring import token_nlls
from memexp.core.train import update
from memexp.errors import ModelError
from memexp.spec import Full, LoRA, ShippedText, Study

RATES = (1e-4, 3e-3, 1e-2)
BATCH = 8
STEPS = 8


def study(lr: float, **more: Any) -> Study:
    return Study(corpus=ShippedText("sentences-targets"), exposures=1, lr=lr, **more)


def batch(rows: Sequence[Row], lane: int, step: int) -> list[Row]:
    """Another order in each lane, as with other seeds."""
    return [rows[i] for i in order(len(rows), lane, step)[:BATCH]]


def rows_of(lm: LanguageModel) -> list[Row]:
    return list(encode(lm.tokenizer, [*TARGETS[:24], *varied(8)], 64))


def alone(lm: LanguageModel, lane: int, dropout: float | None, steps: int = STEPS) -> list[float]:
    """The losses of a model that is trained as `lane` is."""
    rows, settings = rows_of(lm), study(RATES[lane], dropout=dropout)
    optimizer, losses = fresh_optimizer(lm, settings), []
    set_dropout(lm.lm, dropout)
    lm.train()
    for step in range(steps):
        if step in (0, 4):
            torch.manual_seed(key_seed(lane, step))
        loss, _ = update(lm, optimizer, batch(rows, lane, step), RATES[lane], 1.0)
        losses.append(float(loss or 0))
    return losses


def in_company(lanes: Lanes, dropout: float | None, steps: int = STEPS, first: int = 0, optimizers: Any = None) -> Any:
    """The losses of all lanes, and their optimizers."""
    rows = rows_of(lanes.models[0])
    optimizers = optimizers or [fresh_optimizer(lm, study(lr)) for lm, lr in zip(lanes.models, RATES, strict=True)]
    losses: list[list[float]] = [[] for _ in RATES]
    for lm in lanes.models:
        set_dropout(lm.lm, dropout)
        lm.train()
    for step in range(first, first + steps):
        asked = [
            (lane, (optimizers[lane], batch(rows, lane, step), RATES[lane], 1.0, dropout, seed_of(lane, step)))
            for lane in range(len(RATES))
        ]
        for lane, made in enumerate(lanes.do("update", asked)):
            losses[lane].append(float(made[0]))
    return losses, optimizers


def seed_of(lane: int, step: int) -> int | None:
    """Draws begin anew now and then, and go on in between."""
    return key_seed(lane, step) if step in (0, 4) else None


def models(architecture: str, method: Full | LoRA, **changes: Any) -> list[LanguageModel]:
    return [language_model(architecture, method, **changes) for _ in RATES]


def close(one: LanguageModel, other: LanguageModel, within: float = 1e-4) -> bool:
    return far(one, other) < within


def far(one: LanguageModel, other: LanguageModel) -> float:
    """The largest difference of their NLLs, in nats."""
    rows = rows_of(one)
    pairs = zip(token_nlls(one, rows), token_nlls(other, rows), strict=True)
    return max(float(np.abs(first - second).max(initial=0)) for first, second in pairs)


def assert_as_alone(
    losses: list[list[float]],
    lanes: Lanes,
    singles: list[LanguageModel],
    expected: list[list[float]],
    others: Callable[[], list[LanguageModel]],
    dropout: float | None,
) -> None:
    """Losses to 1e-6 and likelihoods to 1e-4 nats, or what becomes of a rounding of the last digit of all weights.

    At the highest of the rates it may grow further than that, on some processors and not on others.
    """
    for lane, (single, mine) in enumerate(zip(singles, lanes.models, strict=True)):
        apart, nats = np.abs(np.array(losses[lane]) / expected[lane] - 1).max(), far(single, mine)
        if apart > 1e-6 or nats > 1e-4:
            rounded = [_rounded(others()[lane], seed) for seed in range(5)]
            made = [np.abs(np.array(alone(one, lane, dropout)) / expected[lane] - 1).max() for one in rounded]
            assert apart <= max(1e-6, 2 * max(made)), lane
            assert nats <= max(1e-4, 2 * max(far(single, one) for one in rounded)), lane


@torch.no_grad()
def _rounded(lm: LanguageModel, seed: int) -> LanguageModel:
    """With the last digit of its weights one more, one less, or as it was."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in lm.parameters():
        parameter.mul_(1 + 2**-23 * torch.randint(-1, 2, parameter.shape, generator=draw))
    return lm


@pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lanes_train_and_score_as_each_by_itself(architecture: str, method: Full | LoRA) -> None:
    singles = models(architecture, method)
    expected = [alone(lm, lane, 0.0) for lane, lm in enumerate(singles)]
    lanes = Lanes(language_model(architecture, method), len(RATES))
    losses, _ = in_company(lanes, 0.0)
    assert_as_alone(losses, lanes, singles, expected, lambda: models(architecture, method), 0.0)
    assert not close(singles[0], lanes.models[2])  # the control: lanes do differ
    asked = []
    for at in range(len(RATES)):
        rows = rows_of(lanes.models[at])[at : 9 + 2 * at]  # other rows, and another number of them
        lengths = torch.tensor([len(row) for row in rows])
        asked.append((at, (torch.from_numpy(right_padded(rows)), lengths)))
    with torch.no_grad():
        for lane, (at, found) in enumerate(zip(asked, lanes.do("nll", asked), strict=True)):
            torch.testing.assert_close(found, lanes.do("nll", [(lane, at[1])])[0], atol=1e-4, rtol=0)


DROPPING = {
    "gpt2": {"attn_pdrop": 0.1, "embd_pdrop": 0.1, "resid_pdrop": 0.1},
    "gpt_neo": {"attention_dropout": 0.1, "embed_dropout": 0.1, "resid_dropout": 0.1},
    "gpt_neox": {"attention_dropout": 0.1, "hidden_dropout": 0.1},
    "opt": {"dropout": 0.1, "attention_dropout": 0.1},
    "bloom": {"hidden_dropout": 0.1, "attention_dropout": 0.1},
    "llama": {"attention_dropout": 0.1},
}


@pytest.mark.parametrize("method", [Full(), LoRA(r=4, dropout=0.1)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", DROPPING)
def test_each_lane_draws_its_own_dropout(architecture: str, method: Full | LoRA) -> None:
    changes = DROPPING[architecture]
    singles = models(architecture, method, **changes)
    expected = [alone(lm, lane, None) for lane, lm in enumerate(singles)]
    lanes = Lanes(language_model(architecture, method, **changes), len(RATES))
    losses, _ = in_company(lanes, None)
    assert_as_alone(losses, lanes, singles, expected, lambda: models(architecture, method, **changes), None)
    without = [alone(lm, lane, 0.0) for lane, lm in enumerate(models(architecture, Full(), **changes))]
    assert np.abs(np.array(without) / expected - 1).max() > 1e-3  # the control: something was dropped


@pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lanes_complete_and_answer_as_each_by_itself(architecture: str, method: Full | LoRA) -> None:
    lanes = Lanes(language_model(architecture, method, initializer_range=0.3), len(RATES))
    with lanes.weights.stirred(0.3):
        cues = [[row[: 3 + i % 4] for i, row in enumerate(rows_of(lm)[:6])] for lm in lanes.models]
        if not lanes.joint.pads_left:
            cues = [[[*row, *row][:3] for row in own] for own in cues]
        greedy = [(lane, (own[: 4 + lane], [5, 3, 3, 2, 1, 1][: 4 + lane])) for lane, own in enumerate(cues)]
        assert lanes.do("greedy", greedy) == [lanes.do("greedy", [one])[0] for one in greedy]
        answers = [(lane, (own, [6] * 6, [("e",)] * 6)) for lane, own in enumerate(cues)]
        assert lanes.do("answers", answers) == [lanes.do("answers", [one])[0] for one in answers]
        pairs = [(at, row[-2:]) for at, row in enumerate(cues[0])]
        ends = [(lane, (own, pairs[: 3 + lane])) for lane, own in enumerate(cues)]
        with torch.no_grad():
            together, apart = lanes.do("ends", ends), [lanes.do("ends", [one])[0] for one in ends]
        for many, alone in zip(together, apart, strict=True):
            for (logs, likeliest), (its, greedily) in zip(many, alone, strict=True):
                torch.testing.assert_close(logs, its, atol=1e-4, rtol=0)
                assert likeliest == greedily
        assert together[0][0][0].tolist() != together[1][0][0].tolist()  # the control: lanes differ


def test_memory_that_runs_out_of_all_is_tried_by_each(monkeypatch: pytest.MonkeyPatch) -> None:
    lanes = Lanes(language_model("gpt2", LoRA(r=4), **NO_DROPOUT["gpt2"]), len(RATES))
    expected = [alone(language_model("gpt2", LoRA(r=4), **NO_DROPOUT["gpt2"]), lane, 0.0) for lane in range(len(RATES))]

    def short(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(lanes.joint, "nll", short)
    losses, _ = in_company(lanes, 0.0)
    assert losses == expected  # to the last bit: each by itself


def test_what_fails_of_one_lane_is_no_failure_of_the_others() -> None:
    lanes = Lanes(language_model("gpt2", LoRA(r=4)), len(RATES))
    rows = [(1, 2, 3), (1, 10**6, 3), (1, 2, 3)]  # there is no such token
    asked = [(lane, (torch.tensor([row]), torch.tensor([3]))) for lane, row in enumerate(rows)]
    with torch.no_grad():
        first, broken, last = lanes.do("nll", asked)
    assert isinstance(broken, IndexError)
    assert torch.equal(first, last) and first.isfinite().all()


def test_what_no_lane_can_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("gpt2", LoRA(r=4, targets=("lm_head",)))
    with pytest.raises(ModelError, match="adapter of the output embedding"):
        Lanes(lm, 2)
    computed = lane_layers._product
    monkeypatch.setattr(lane_layers, "_product", lambda layer, x, weight: computed(layer, x, weight.flip(0)))
    lm, like = (language_model("gpt2", LoRA(r=4)) for _ in range(2))
    with pytest.raises(ModelError, match="does not compute several lanes as each by itself"):
        Lanes(lm, 2)
    assert lm.seat is None and lm.budget == like.budget and far(lm, like) == 0
    learning = list(lm.learning().values())
    assert len({one.untyped_storage().data_ptr() for one in learning}) == len(learning), "no room for lanes is kept"
    assert all(one.untyped_storage().nbytes() == one.nbytes and one.grad is None for one in learning)


def test_a_lane_takes_a_fork_of_another() -> None:
    lanes = Lanes(language_model("gpt2", LoRA(r=4)), len(RATES))
    _, optimizers = in_company(lanes, 0.0, steps=3)
    taken = fork.take(lanes.models[2], optimizers[2])
    optimizers[0] = fork.restore(lanes.models[0], taken, study(RATES[2]))
    rows = rows_of(lanes.models[0])
    asked = [(lane, (optimizers[lane], batch(rows, 2, 3), RATES[2], 1.0, 0.0, None)) for lane in (0, 2)]
    first, second = lanes.do("update", asked)
    assert first == second
    assert close(lanes.models[0], lanes.models[2], 1e-5)
    assert not close(lanes.models[0], lanes.models[1])


def test_lanes_in_bfloat16_are_near() -> None:
    single = language_model("llama", LoRA(r=4), "bfloat16")
    expected = alone(single, 1, 0.0)
    lanes = Lanes(language_model("llama", LoRA(r=4), "bfloat16"), len(RATES))
    losses, _ = in_company(lanes, 0.0)
    np.testing.assert_allclose(losses[1], expected, rtol=1e-3)
