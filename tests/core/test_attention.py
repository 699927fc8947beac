"""Attention beside bfloat16 layers on a CPU: float32 of rounded numbers, where models ask for it and nowhere else."""

from __future__ import annotations

import contextlib
from typing import Any
from unittest import mock

import pytest
import torch
from core.small import NO_DROPOUT, PEAKED, TARGETS, language_model
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from memexp.core.attention import narrow_attention, wide_attention
from memexp.core.checkpointing import checkpoint_blocks
from memexp.core.data import encode, right_padded
from memexp.core.model import LanguageModel
from memexp.core.precision import products

CPU = torch.device("cpu")


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """(rows, tokens, heads, width), by whatever models ask at the moment."""
    module = torch.nn.Module()
    with torch.autocast("cpu", torch.bfloat16):
        found: torch.Tensor = ALL_ATTENTION_FUNCTIONS["sdpa"](module, query, key, value, None, **options)[0]
    return found


def plain(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Causal attention in float64, of numbers rounded to bfloat16."""
    q, k, v = (one.to(torch.bfloat16).double() for one in (query, key, value))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(1, 2)


def drawn() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(2, 3, 7, 8, generator=draw).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=str)
def test_it_is_exact_but_for_rounding_before_and_after(kind: torch.dtype) -> None:
    """Keys of some models are float32 under autocast: they are rounded as those of the others."""
    given = [one.detach().to(kind) for one in drawn()]
    with products("bfloat16", CPU):
        found = attend(*given, is_causal=True)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), plain(*given), rtol=2**-8, atol=1e-6)


def test_its_gradients_are_exact_too() -> None:
    given, others, draw = drawn(), drawn(), torch.Generator().manual_seed(1)
    back = torch.randn(2, 7, 3, 8, generator=draw).to(torch.bfloat16)
    expected = torch.autograd.grad(plain(*given), given, back.double())
    with products("bfloat16", CPU):
        found = torch.autograd.grad(attend(*others, is_causal=True), others, back)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2**-7, atol=2**-8)


def test_a_bias_of_positions_is_taken_along() -> None:
    given, bias = [one.detach().to(torch.bfloat16) for one in drawn()], torch.zeros(1, 3, 7, 7, dtype=torch.bfloat16)
    with products("bfloat16", CPU):
        expected = attend(*given, is_causal=True)
        found = attend(*given, is_causal=True, position_bias=bias)
        other = attend(*given, is_causal=True, position_bias=bias + torch.eye(7).to(torch.bfloat16))
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(other, expected)


def test_what_others_attend_with_is_put_back() -> None:
    before = ALL_ATTENTION_FUNCTIONS["sdpa"]
    with contextlib.suppress(ZeroDivisionError), wide_attention():
        inside = ALL_ATTENTION_FUNCTIONS["sdpa"]
        with wide_attention():
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is inside is not before
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is inside
        raise ZeroDivisionError
    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before
    for dtype in ("float32", "tf32"):
        with products(dtype, CPU):
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is before

    def own(*_: Any, **__: Any) -> None:
        """Somebody's in this process."""

    with mock.patch.dict(ALL_ATTENTION_FUNCTIONS, {"sdpa": own}):
        with wide_attention():
            assert ALL_ATTENTION_FUNCTIONS["sdpa"] is not own
        assert ALL_ATTENTION_FUNCTIONS["sdpa"] is own


def gradients(lm: LanguageModel) -> dict[str, torch.Tensor]:
    rows = encode(lm.tokenizer, TARGETS[:6], 64)
    lm.zero_grad()
    nll = lm.nll(torch.from_numpy(right_padded(rows)), torch.tensor([len(row) for row in rows])).mean()
    with products(lm.dtype, CPU):
        nll.backward()
    return {name: one.grad.clone() for name, one in lm.learning().items() if one.grad is not None}


@pytest.mark.parametrize("architecture", ["gpt2", "llama", "opt", "gpt_neox"])
def test_models_use_it_in_bfloat16_alone(architecture: str) -> None:
    """Also where backward makes the forward pass once more."""
    for dtype in ("float32", "bfloat16"):
        lm = language_model(architecture, dtype=dtype, initializer_range=PEAKED, **NO_DROPOUT.get(architecture, {}))
        found = gradients(lm)
        with narrow_attention():
            other = gradients(lm)
        assert all(torch.equal(found[name], other[name]) for name in found) == (dtype == "float32")
        checkpoint_blocks(lm.lm)
        lm.train()
        again = gradients(lm)
        assert all(torch.equal(found[name], again[name]) for name in found)
