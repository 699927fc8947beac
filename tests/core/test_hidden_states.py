"""Hidden states of many rows in batches equal those of one row at a time through transformers."""

from __future__ import annotations

import dataclasses
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import TARGETS, language_model, varied

from memexp.core.data import encode
from memexp.core.hidden_states import hidden_states
from memexp.core.model import LanguageModel
from memexp.core.session import Session
from memexp.errors import ModelError, SpecError
from memexp.spec import LoRA


@torch.no_grad()
def assert_plain(lm: LanguageModel, layers: list[int]) -> None:
    rows = [*encode(lm.tokenizer, [*varied(20), *TARGETS[:8]], 64), [5], [7, 8, 9]]
    with mock.patch.object(lm, "budget", dataclasses.replace(lm.budget, scoring_tokens=400)):
        found = Session(lm).hidden(rows, layers)
    lm.lm.eval()
    for row, states in zip(rows, found, strict=True):
        expected = lm.lm(input_ids=torch.tensor([row]), output_hidden_states=True).hidden_states
        assert len(states) == len(layers)
        for layer, state in zip(layers, states, strict=True):
            assert state.dtype == np.float32 and state.shape == (len(row), 32)
            np.testing.assert_allclose(state, expected[layer][0], rtol=1e-4, atol=1e-4)
        assert not np.allclose(states[0], states[1], atol=0.01), "layers differ"


def test_states_are_those_of_one_row_at_a_time(lm: LanguageModel) -> None:
    assert_plain(lm, [2, 0, 1])


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
def test_states_beside_an_adapter_and_of_a_head_that_caps() -> None:
    assert_plain(language_model("gpt2", LoRA(r=4), initializer_range=0.3), [1, 2])
    assert_plain(language_model("gemma2"), [0, 2])


def test_equal_rows_have_equal_states_and_empty_ones_none(lm: LanguageModel) -> None:
    one, nothing, again = hidden_states(lm, [[3, 4, 5], [], [3, 4, 5]], [1])
    assert np.array_equal(one[0], again[0]) and [state.shape for state in nothing] == [(0, 0)]
    assert hidden_states(lm, [], [0]) == [] and hidden_states(lm, [[1]], []) == [[]]


@pytest.mark.parametrize("layer", [-1, 3])
def test_a_layer_that_is_not_there_is_a_line(layer: int) -> None:
    complaint = rf"^Session\.hidden: layers are 0 \(before the first block\) to 2, got {layer}$"
    with pytest.raises(SpecError, match=complaint):
        Session(language_model("gpt2")).hidden([[1, 2]], [0, layer])


def test_a_model_that_gives_none_is_a_line() -> None:
    lm = language_model("gpt2")
    complaint = r"^GPT2LMHeadModel gives 0 hidden states, not one for each block$"
    with (
        mock.patch.object(lm.lm.transformer, "forward", lambda **_: object()),
        pytest.raises(ModelError, match=complaint),
    ):
        Session(lm).hidden([[1, 2]], [0])
