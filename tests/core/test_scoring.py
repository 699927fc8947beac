"""Scoring and completion in batches equal the plain way: one text at a time through transformers' loss and generate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from core.small import CONFIGS, FOILS, PEAKED, TARGETS, language_model, varied, weights
from numpy.typing import NDArray
from transformers.cache_utils import DynamicCache, DynamicSlidingWindowLayer

from memexp.core.data import encode
from memexp.core.generate import complete_greedily
from memexp.core.kv_cache import preallocate
from memexp.core.model import LanguageModel
from memexp.core.scoring import token_nlls
from memexp.core.session import Session

NEAR = 1e-5
"""Nats within which a token's negative log-likelihood agrees."""


@torch.no_grad()
def plain_nlls(lm: LanguageModel, row: Sequence[int]) -> tuple[NDArray[np.float32], float]:
    """Each token's NLL and their mean as the model's own loss gives it, for one unpadded text."""
    lm.lm.eval()
    ids = torch.tensor([row])
    output = lm.lm(input_ids=ids, labels=ids)
    each = F.cross_entropy(output.logits[0, :-1].float(), ids[0, 1:], reduction="none")
    return each.numpy(), float(output.loss)


def plain_completion(lm: LanguageModel, cue: Sequence[int], count: int) -> list[int]:
    """`count` greedy tokens after one cue as generate makes them; a length that is reached exactly bans eos."""
    lm.lm.eval()
    ids = torch.tensor([cue])
    made = lm.lm.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=count,
        max_new_tokens=count,
        pad_token_id=0,
        use_cache=True,
    )
    return [int(i) for i in made[0, len(cue) :]]


def assert_plain(lm: LanguageModel, rows: Sequence[Sequence[int]]) -> None:
    for row, found in zip(rows, token_nlls(lm, rows), strict=True):
        each, mean = plain_nlls(lm, row)
        np.testing.assert_allclose(found, each, rtol=0, atol=NEAR)
        assert abs(float(found.astype(np.float64).mean()) - mean) < NEAR


# Log-likelihoods


def test_every_token_is_scored_as_one_text_at_a_time(lm: LanguageModel) -> None:
    rows = [row for row in encode(lm.tokenizer, [*varied(40), *TARGETS[:20]], 128) if len(row) > 1]
    assert lm._plain_head
    assert len({len(row) for row in rows}) > 30
    assert_plain(lm, rows)


def test_no_decision_between_two_texts_flips(lm: LanguageModel) -> None:
    targets, foils = encode(lm.tokenizer, TARGETS, 128), encode(lm.tokenizer, FOILS, 128)
    nlls = [float(nll.astype(np.float64).mean()) for nll in token_nlls(lm, [*targets, *foils])]
    batched = np.less(nlls[: len(targets)], nlls[len(targets) :])
    plain = [plain_nlls(lm, a)[1] < plain_nlls(lm, b)[1] for a, b in zip(targets, foils, strict=True)]
    assert batched.tolist() == plain
    assert 0 < sum(plain) < len(plain)


def test_rows_too_short_to_predict_anything_have_no_numbers(lm: LanguageModel) -> None:
    rows = [[5], [], [5, 6, 7], [8]]
    found = token_nlls(lm, rows)
    assert [nll.size for nll in found] == [0, 0, 2, 0]
    np.testing.assert_allclose(found[2], plain_nlls(lm, rows[2])[0], rtol=0, atol=NEAR)
    assert [nll.size for nll in token_nlls(lm, [[3], []])] == [0, 0]
    assert token_nlls(lm, []) == []


def test_the_same_text_has_the_same_numbers_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, whatever batch it would come into: a foil that equals its target is a tie."""
    lm = language_model("gpt2")
    real, batches = LanguageModel.nll, []

    def noisy(self: LanguageModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        batches.append(1)
        return real(self, ids, lengths) + 1e-6 * len(batches)

    monkeypatch.setattr(LanguageModel, "nll", noisy)
    rows = encode(lm.tokenizer, TARGETS, 64)
    found = token_nlls(lm, [*rows, *rows])
    assert len(batches) > 1
    assert all(np.array_equal(a, b) for a, b in zip(found[:64], found[64:], strict=True))


def test_a_bos_that_the_tokenizer_puts_is_scored_from(lm: LanguageModel) -> None:
    row = encode(lm.tokenizer, TARGETS[:1], 128)[0]
    with_bos = lm.lm.config.model_type in ("opt", "gemma")
    assert (row[0] == lm.tokenizer.bos_token_id) == with_bos
    assert token_nlls(lm, [row])[0].size == len(row) - 1


# Completions


def test_completions_are_those_of_generate(lm: LanguageModel) -> None:
    rows = [row for row in encode(lm.tokenizer, varied(44), 64) if len(row) > 1][:24]
    cues = [row[: len(row) // 2] for row in rows]
    counts = [len(row) - len(cue) for row, cue in zip(rows, cues, strict=True)]
    found = complete_greedily(lm, cues, counts)
    assert found == [plain_completion(lm, cue, count) for cue, count in zip(cues, counts, strict=True)]
    assert len(set(map(tuple, found))) > 18, "the models' opinions differ from text to text"


def test_rows_that_are_complete_are_left_out_of_what_follows() -> None:
    lm, rows = language_model("gpt2", initializer_range=PEAKED), []
    cues, counts = [[5, 6], [7, 8, 9], [4], [3, 3]], [2, 5, 0, 3]
    real = lm.choose

    def choose(ids: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(ids))
        return real(ids, *rest)

    expected = [plain_completion(lm, *each) if each[1] else [] for each in zip(cues, counts, strict=True)]
    with mock.patch.object(lm, "choose", choose):
        assert complete_greedily(lm, cues, counts) == expected
        assert rows == [3, 3, 2, 1, 1]
        rows.clear()
        with mock.patch.object(lm, "drops_rows", False):
            assert complete_greedily(lm, cues, counts) == expected
        assert rows == [3] * 5


def test_short_cues_with_long_completions_stay_within_the_context(lm: LanguageModel) -> None:
    """Neither alone exceeds 160 positions; side by side, padded to both, they would."""
    rows = encode(lm.tokenizer, [" ".join(TARGETS[i : i + 12]) for i in range(4)], 100)
    cues, counts = [rows[0][:90], rows[1][:10], rows[2][:6], rows[3]], [10, 95, 5, 60]
    assert [len(cue) for cue in cues] == [90, 10, 6, 100]
    assert complete_greedily(lm, cues, counts) == [
        plain_completion(lm, *each) for each in zip(cues, counts, strict=True)
    ]


def test_as_many_tokens_are_added_as_asked_for(lm: LanguageModel) -> None:
    assert [len(new) for new in complete_greedily(lm, [[5], [6, 7, 8], [9, 9], [4]], [7, 0, 1, 3])] == [7, 0, 1, 3]
    assert complete_greedily(lm, [], []) == []


def end_lover(**changes: object) -> LanguageModel:
    """A GPT-J whose likeliest next token is always token 0, the end of the text."""
    lm = language_model("gptj", initializer_range=PEAKED, **changes)
    with torch.no_grad():
        lm.lm.get_output_embeddings().bias[0] = 1e4
    return lm


def test_the_end_of_text_is_banned_even_if_it_is_likeliest() -> None:
    lm = end_lover()
    cues, counts = encode(lm.tokenizer, TARGETS[:8], 10), [3, 9, 4, 5, 6, 2, 8, 1]
    with torch.no_grad():
        assert int(lm.lm(torch.tensor([cues[0]])).logits[0, -1].argmax()) == lm.tokenizer.eos_token_id == 0
    found = complete_greedily(lm, cues, counts)
    assert not any(0 in (new or [0]) for new in found)
    assert found == [plain_completion(lm, cue, count) for cue, count in zip(cues, counts, strict=True)]


def test_all_of_several_end_tokens_are_banned() -> None:
    lm = end_lover()
    lm.own_tokenizer = True  # as of a checkpoint whose generation config names several
    cue = encode(lm.tokenizer, TARGETS[:1], 10)[0]
    favourites = complete_greedily(lm, [cue], [12])[0] or []
    lm.lm.generation_config.eos_token_id = [0, favourites[0], favourites[5]]
    found = complete_greedily(lm, [cue], [12])[0] or []
    assert not {0, favourites[0], favourites[5]} & set(found)
    assert found == plain_completion(lm, cue, 12)


def test_an_end_token_beyond_the_vocabulary_bans_nothing() -> None:
    lm = language_model("gpt2", initializer_range=PEAKED, eos_token_id=50256, bos_token_id=50256)
    lm.own_tokenizer = True  # as of a checkpoint whose vocabulary was made smaller
    cue = encode(lm.tokenizer, TARGETS[:1], 10)[0]
    assert complete_greedily(lm, [cue], [6])[0] == plain_completion(lm, cue, 6)


# Heads, arithmetic, side effects


@pytest.mark.parametrize("spread", [0.002, PEAKED])
def test_a_head_with_a_soft_cap_takes_the_whole_path(spread: float) -> None:
    lm = language_model("gemma2", initializer_range=spread)
    assert not lm._plain_head
    with torch.no_grad():  # as training would: on small logits a cap of 5 does nothing
        lm.lm.get_output_embeddings().weight *= 0.2 / spread
    rows = encode(lm.tokenizer, TARGETS[:8], 64)
    assert_plain(lm, rows)
    cues = [row[: len(row) // 2] for row in rows]
    assert complete_greedily(lm, cues, [9] * 8) == [plain_completion(lm, cue, 9) for cue in cues]


def test_bfloat16_is_used_and_stays_near(lm: LanguageModel) -> None:
    rows = encode(lm.tokenizer, TARGETS[:16], 64)
    exact = np.concatenate(token_nlls(lm, rows))
    lm.dtype = "bfloat16"
    try:
        coarse = np.concatenate(token_nlls(lm, rows))
        complete_greedily(lm, [row[:4] for row in rows], [4] * len(rows))
    finally:
        lm.dtype = "float32"
    assert {parameter.dtype for parameter in lm.parameters()} == {torch.float32}
    assert coarse.dtype == np.float32
    assert 1e-4 < np.abs(coarse - exact).mean() < 0.3


def test_loading_in_bfloat16_scores_in_bfloat16() -> None:
    coarse, exact = (language_model("llama", dtype=d, initializer_range=PEAKED) for d in ("bfloat16", "float32"))
    rows = encode(exact.tokenizer, TARGETS[:4], 64)
    apart = np.abs(np.concatenate(token_nlls(coarse, rows)) - np.concatenate(token_nlls(exact, rows)))
    assert 1e-4 < apart.mean() < 0.3


@pytest.mark.parametrize("training", [True, False])
def test_probing_leaves_no_trace(lm: LanguageModel, training: bool) -> None:
    lm.train(training)
    flags = {name: module.training for name, module in lm.named_modules()}
    before, random = weights(lm), torch.get_rng_state()
    session = Session(lm)
    rows = session.encode(TARGETS[:6], 32)
    session.token_nlls(rows)
    session.complete([row[:3] for row in rows], [5] * 6)
    assert {name: module.training for name, module in lm.named_modules()} == flags
    assert torch.equal(torch.get_rng_state(), random)
    for name, parameter in lm.named_parameters():
        assert torch.equal(parameter, before[name])
        assert parameter.grad is None


def test_a_text_scores_the_same_alone_and_in_company(lm: LanguageModel) -> None:
    lm.train()  # scoring is without dropout in any case
    rows = encode(lm.tokenizer, varied(20), 64)
    together = token_nlls(lm, rows)
    for row, nll in zip(rows, together, strict=True):
        np.testing.assert_allclose(token_nlls(lm, [row])[0], nll, rtol=0, atol=NEAR)


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        ("roberta", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}),
        (
            "bart",
            {
                "d_model": 32,
                **{f"{side}_layers": 2 for side in ("encoder", "decoder")},
                **{f"{side}_attention_heads": 2 for side in ("encoder", "decoder")},
                **{f"{side}_ffn_dim": 64 for side in ("encoder", "decoder")},
                "is_encoder_decoder": False,
            },
        ),
    ],
)
def test_a_model_that_cannot_be_padded_on_the_left_completes_equally_long_cues_together(
    architecture: str, config: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    """RoBERTa counts positions from elsewhere; BART takes none and sees the padding."""
    spread = {"init_std" if architecture == "bart" else "initializer_range": PEAKED}
    monkeypatch.setitem(
        CONFIGS, architecture, {**config, "is_decoder": True, "max_position_embeddings": 160, "pad_token_id": 0}
    )
    lm = language_model(architecture, **spread)
    assert not lm.pads_left
    rows = encode(lm.tokenizer, TARGETS[:24], 64)
    cues = [row[: len(row) // 2] for row in rows]
    counts = [len(row) - len(cue) for row, cue in zip(rows, cues, strict=True)]
    alone = [complete_greedily(lm, [cue], [count])[0] for cue, count in zip(cues, counts, strict=True)]
    assert complete_greedily(lm, cues, counts) == alone
    for cue, new in zip(cues[:4], alone[:4], strict=True):
        row = list(cue)
        for token in new or []:
            with torch.no_grad():
                logits = lm.lm(input_ids=torch.tensor([row]), use_cache=False).logits[0, -1]
            logits[[i for i in lm.end_tokens if i < len(logits)]] = -torch.inf
            assert int(logits.argmax()) == token
            row.append(token)
    lm.pads_left = True  # the negative control: padded all the same, some completions change
    assert complete_greedily(lm, cues, counts) != alone


@pytest.mark.parametrize("grouped", [False, True])
def test_a_cache_preallocate_holds_what_the_plain_one_holds(grouped: bool) -> None:
    lm = language_model("llama", num_key_value_heads=1 if grouped else 2, num_attention_heads=2).lm
    ids = torch.randint(3, 60, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        plain, roomy = (lm(input_ids=ids[:, :4], use_cache=True).past_key_values for _ in range(2))
        assert type(plain) is DynamicCache
        for layer in roomy.layers:
            vars(layer).pop("dtype", None)  # of which transformers 5.24 keeps none
        roomy = preallocate(roomy, 5)
        for at in range(4, 9):
            held = [layer.keys.data_ptr() for layer in roomy.layers]
            first, second = (
                lm(input_ids=ids[:, at : at + 1], past_key_values=past, use_cache=True).logits
                for past in (plain, roomy)
            )
            assert torch.allclose(first, second, atol=1e-6)
            for one, other in zip(plain.layers, roomy.layers, strict=True):
                assert other.get_seq_length() == at + 1
                assert torch.allclose(one.keys, other.keys, atol=1e-6)
                assert torch.allclose(one.values, other.values, atol=1e-6)
            if at > 4:  # nothing was copied
                assert held == [layer.keys.data_ptr() for layer in roomy.layers]


def test_another_kind_of_cache_stays_as_it_is() -> None:
    sliding = DynamicCache()
    sliding.layers = [DynamicSlidingWindowLayer(sliding_window=4)]
    for past in (None, (1, 2), DynamicCache(), sliding):
        before = list(past.layers) if isinstance(past, DynamicCache) else None
        assert preallocate(past, 3) is past
        assert before is None or past.layers == before
