"""Lanes equal the same models one by one: losses, likelihoods and completions, whatever becomes of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from core.small import ARCHITECTURES, NO_DROPOUT, TARGETS, language_model, varied

from memexp.core import fork
from memexp.core.data import Row, encode, key_seed, order, right_padded
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel, set_dropout
from memexp.core.optimizer import adamw
from memexp.core.scoring import token_nlls
from memexp.core.train import update
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
    optimizer, losses = adamw(lm, settings), []
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
    optimizers = optimizers or [adamw(lm, study(lr)) for lm, lr in zip(lanes.models, RATES, strict=True)]
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
    rows = rows_of(one)
    pairs = zip(token_nlls(one, rows), token_nlls(other, rows), strict=True)
    return all(np.abs(first - second).max(initial=0) < within for first, second in pairs)


@pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_lanes_train_and_score_as_each_by_itself(architecture: str, method: Full | LoRA) -> None:
    singles = models(architecture, method)
    expected = [alone(lm, lane, 0.0) for lane, lm in enumerate(singles)]
    lanes = Lanes(language_model(architecture, method), len(RATES))
    losses, _ = in_company(lanes, 0.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    for single, lane in zip(singles, lanes.models, strict=True):
        assert close(single, lane)
    assert not close(singles[0], lanes.models[2])  # the control: lanes do differ
    asked = []
    for at in range(len(RATES)):
        rows = rows_of(lanes.models[at])[at : 9 + 2 * at]  # other rows, and another number of them
        lengths = torch.tensor([len(row) for row in rows])
        asked.append((at, (torch.from_numpy(right_padded(rows)), lengths)))
    for single, (_, given), found in zip(singles, asked, lanes.do("nll", asked), strict=True):
        with torch.no_grad():
            torch.testing.assert_close(found, single.eval().nll(*given), atol=1e-4, rtol=0)


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
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    without = [alone(lm, lane, 0.0) for lane, lm in enumerate(models(architecture, Full(), **changes))]
    assert np.abs(np.array(without) / expected - 1).max() > 1e-3  # the control: something was dropped
    for single, lane in zip(singles, lanes.models, strict=True):
        assert close(single, lane)
