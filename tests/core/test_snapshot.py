"""A trajectory that was put down and taken up again ends where one that was never interrupted ends, to the last bit."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from core.small import NO_DROPOUT, TARGETS, language_model, study_exposures, weights
from torch.optim import AdamW

from memexp.core.data import encode
from memexp.core.fork import restore, take
from memexp.core.generate import complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.scoring import token_nlls
from memexp.core.train import Diverged
from memexp.spec import Full, LoRA, ShippedText, Study

STUDY = Study(
    ShippedText("sentences-targets", first=64), exposures=3, lr=3e-3, batch_size=8, weight_decay=0.01, clip_norm=1.0
)
CASES = [
    pytest.param("gpt2", Full(), 0.2, id="gpt2-full-dropout"),
    pytest.param("gpt2", LoRA(r=4), 0.0, id="gpt2-lora"),
    pytest.param("llama", Full(), 0.0, id="llama-full"),
    pytest.param("llama", LoRA(r=4, dropout=0.2), 0.0, id="llama-lora-dropout"),
]
pytestmark = pytest.mark.filterwarnings(
    "ignore:fan_in_fan_out",  # peft sets it right by itself
    "ignore:.*is_gradient_checkpointing",  # transformers on itself
    "ignore:torch.distributed is disabled",  # which is what a single process wants
)


class Subject:
    """A model and its optimizer."""

    def __init__(self, architecture: str, method: Full | LoRA, dropout: float) -> None:
        self.lm: LanguageModel = language_model(architecture, method, initializer_range=0.1, **NO_DROPOUT[architecture])
        self.study = dataclasses.replace(STUDY, dropout=dropout)
        self.rows = encode(self.lm.tokenizer, TARGETS[:20], 64)
        self.optimizer: AdamW | None = None

    def learn(self, first: int, last: int, lr: float = STUDY.lr) -> None:
        study = dataclasses.replace(self.study, lr=lr)
        self.optimizer = self.optimizer or fresh_optimizer(self.lm, study)
        study_exposures(self.lm, self.optimizer, study, self.rows, 0, first, last)

    def state(self) -> tuple[dict[str, torch.Tensor], Any, list[float], list[list[int]]]:
        """Weights, optimizer and what probes would find."""
        assert self.optimizer is not None
        scores = np.concatenate(token_nlls(self.lm, self.rows)).tolist()
        completions = complete_greedily(self.lm, [row[:5] for row in self.rows], [9] * len(self.rows))
        return weights(self.lm), self.optimizer.state_dict(), scores, completions


def assert_same(a: Any, b: Any) -> None:
    """To the last bit, whatever it is made of."""
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert a.dtype == b.dtype and torch.equal(a, b)
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_same(one, other)
    else:
        assert a == b


@pytest.mark.parametrize(("architecture", "method", "dropout"), CASES)
def test_three_exposures_in_one_go_equal_three_taken_up_again(
    architecture: str, method: Full | LoRA, dropout: float
) -> None:
    whole = Subject(architecture, method, dropout)
    whole.learn(1, 3)

    forked = Subject(architecture, method, dropout)
    for exposure in (1, 2, 3):
        forked.learn(exposure, exposure)
        if exposure < 3:
            fork = take(forked.lm, forked.optimizer)
            forked.learn(exposure + 1, 3, lr=1e-1)  # another child of the same stage
            forked.optimizer = restore(forked.lm, fork, forked.study)

    assert_same(forked.state(), whole.state())


def test_a_snapshot_is_a_copy_and_serves_any_number_of_forks() -> None:
    subject = Subject("gpt2", Full(), 0.0)
    subject.learn(1, 1)
    fork = take(subject.lm, subject.optimizer)
    ends = []
    for _ in range(2):
        subject.optimizer = restore(subject.lm, fork, subject.study)
        subject.learn(2, 2)
        ends.append(subject.state())
    assert_same(ends[0], ends[1])
    subject.optimizer = restore(subject.lm, fork, subject.study)
    again = take(subject.lm, subject.optimizer)
    assert again.optimizer is not None and fork.optimizer is not None
    assert_same((again.weights, vars(again.optimizer)), (fork.weights, vars(fork.optimizer)))
    assert any(not torch.equal(w, fork.weights[name]) for name, w in ends[0][0].items())


def test_a_snapshot_before_any_step_has_no_optimizer() -> None:
    subject = Subject("llama", Full(), 0.0)
    start = take(subject.lm, None)
    subject.learn(1, 1)
    assert restore(subject.lm, start, subject.study) is None
    assert_same(weights(subject.lm), weights(Subject("llama", Full(), 0.0).lm))


def test_an_adapters_snapshot_holds_the_adapter_only() -> None:
    subject = Subject("llama", LoRA(r=2), 0.0)
    subject.learn(1, 1)
    assert set(take(subject.lm, subject.optimizer).weights) == set(subject.lm.learning())


def test_a_model_that_diverged_is_brought_back() -> None:
    whole, burnt = Subject("llama", Full(), 0.0), Subject("llama", Full(), 0.0)
    whole.learn(1, 2)
    burnt.learn(1, 1)
    fork = take(burnt.lm, burnt.optimizer)
    with pytest.raises(Diverged):
        burnt.learn(2, 3, lr=1e30)
    assert not all(torch.isfinite(w).all() for w in weights(burnt.lm).values())
    burnt.optimizer = restore(burnt.lm, fork, burnt.study)
    burnt.learn(2, 2)
    assert_same(burnt.state(), whole.state())
