"""Two gloo ranks that share a model and whose prompts share a beginning answer and score as one, pass for pass."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import FOILS, PEAKED, TARGETS, language_model
from dist.ranks import on_ranks

from memexp.core.batch_sizes import Budget
from memexp.core.data import encode
from memexp.core.generate import answer_greedily
from memexp.core.prefixes import SharedPrefixes
from memexp.core.scoring import continuations

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled")


def found(architecture: str) -> tuple[list[Any], list[tuple[float, bool]], int]:
    """Answers and likelihoods, in an odd number of batches, some with a prefix; and passes for a prefix."""
    lm = language_model(architecture, initializer_range=PEAKED)
    first, second = encode(lm.tokenizer, [" ".join(TARGETS[:3]), " ".join(TARGETS[3:5])], 60)
    ends = [row[: 1 + 5 * i % 19] for i, row in enumerate(encode(lm.tokenizer, FOILS[:23], 30))]
    cues = [*((first if i % 3 else second) + end for i, end in enumerate(ends)), *encode(lm.tokenizer, FOILS[30:], 9)]
    limits = [3 if i < 9 else 30 + i % 5 for i in range(len(cues))]
    stops = [["e"] if i % 3 else ["zz", "s t"] for i in range(len(cues))]
    pairs = [(cue, [5 + at, 7][: 1 + (i + at) % 2]) for i, cue in enumerate(cues) for at in range(3)]
    made: list[int] = []
    real = SharedPrefixes.past

    def past(self: SharedPrefixes, prefix: Any) -> Any:
        held, passes = real(self, prefix)
        made.append(passes)
        return held, passes

    small = dataclasses.replace(lm.budget, answer_rows=4, scoring_tokens=90)
    with (
        mock.patch.object(lm, "budget", small),
        mock.patch.object(Budget, "prefix_cost", lambda *_: 0),
        mock.patch.object(SharedPrefixes, "past", past),
    ):
        answers = answer_greedily(lm, cues, limits, stops)
        likelihoods = [(one.log_likelihood, one.greedy) for one in continuations(lm, pairs)]
    return answers, likelihoods, sum(made)


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "bloom"])
def test_two_ranks_answer_after_a_shared_prefix_as_one(architecture: str, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as every rank has
    answers, likelihoods, made = found(architecture)
    torch.set_num_threads(threads)
    assert made > 1 and len(set(answers)) > 10
    ranks = on_ranks(2, tmp_path, found, architecture)
    assert all(passes > 0 for _, _, passes in ranks)
    for told, scored, _ in ranks:
        assert told == answers
        assert [greedy for _, greedy in scored] == [greedy for _, greedy in likelihoods]
        np.testing.assert_allclose([log for log, _ in scored], [log for log, _ in likelihoods], rtol=0, atol=1e-4)
