"""Architectures whose cache or whose sight of padding would give wrong numbers are found out when they are loaded."""

from __future__ import annotations

import pytest
import torch
from core.small import ARCHITECTURES, CONFIGS, PEAKED, TARGETS, language_model

from memexp.core.data import encode
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.scoring import token_nlls
from memexp.errors import ModelError

MINIMAX = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "head_dim": 8,
    "num_local_experts": 2,
    "num_experts_per_tok": 1,
    "max_position_embeddings": 160,
    "block_size": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
CPMANT = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "dim_head": 8,
    "dim_ff": 64,
    "num_hidden_layers": 2,
    "position_bias_max_distance": 64,
}


@torch.no_grad()
def one_by_one(lm: LanguageModel, cue: list[int], count: int) -> list[int]:
    row = list(cue)
    for _ in range(count):
        logits = lm.lm(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
        logits[[i for i in lm.end_tokens if i < len(logits)]] = -torch.inf
        row.append(int(logits.argmax()))
    return row[len(cue) :]


def test_a_wrong_cache_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "minimax", MINIMAX)
    lm = language_model("minimax", initializer_range=PEAKED)
    assert not lm.caches
    cues = [row[: 4 + i % 5] for i, row in enumerate(encode(lm.tokenizer, TARGETS[:12], 64))]
    counts = [6 + i % 3 for i in range(12)]
    expected = [one_by_one(lm, cue, count) for cue, count in zip(cues, counts, strict=True)]
    assert complete_greedily(lm, cues, counts) == expected
    answers = answer_greedily(lm, cues, counts, [[]] * 12)
    assert answers == [answer_greedily(lm, [cue], [n], [[]])[0] for cue, n in zip(cues, counts, strict=True)]
    lm.caches, lm.pads_left = True, False  # the negative control
    assert complete_greedily(lm, cues, counts) != expected


def test_a_text_in_company_scores_as_alone_without_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "minimax", MINIMAX)
    lm = language_model("minimax", initializer_range=PEAKED)
    rows = encode(lm.tokenizer, TARGETS[:12], 64)
    for row, found in zip(rows, token_nlls(lm, rows), strict=True):
        assert abs(found - token_nlls(lm, [row])[0]).max() < 1e-4


def test_a_model_that_sees_right_padding_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CONFIGS, "cpmant", CPMANT)
    with pytest.raises(ModelError, match="'cpmant': CpmAntForCausalLM scores a text otherwise when it is padded"):
        language_model("cpmant", init_std=PEAKED)


@pytest.mark.parametrize("architecture", [*ARCHITECTURES, "gemma2"])
def test_usual_architectures_keep_their_cache(architecture: str) -> None:
    assert language_model(architecture).caches
