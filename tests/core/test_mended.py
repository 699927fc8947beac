"""Numbers that misled: foreign end tokens, special stop strings, completions of NaN, likelihoods that bfloat16 ties."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from core.small import PEAKED, TARGETS, bos_tokenizer, language_model, resolved

from memexp.core.data import encode
from memexp.core.generate import answer_greedily, complete_greedily
from memexp.core.scoring import continuations
from memexp.core.session import Session
from memexp.probes import QA, Choice, FactRatios, LmEval, Recall
from memexp.probes.mended import completions, float32_head
from memexp.sources.tokens import end_token
from memexp.spec import Condition, InlineText, Model, Study


def condition(dtype: str = "float32") -> Condition:
    study = Study(InlineText("x", ("a b c",)), exposures=0, lr=1e-3, dtype=dtype)  # type: ignore[arg-type] # a plain string
    return Condition(Model("tiny-s"), study, probes=[Recall()])


def test_an_end_token_of_another_tokenizer_is_not_banned() -> None:
    plain = language_model("gpt2", initializer_range=PEAKED)
    cues = [row[:6] for row in encode(plain.tokenizer, TARGETS[:6], 64)]
    expected = complete_greedily(plain, cues, [8] * 6)
    assert expected[0] is not None
    foreign = language_model("gpt2", initializer_range=PEAKED, eos_token_id=expected[0][3])
    assert foreign.end_tokens == Session(foreign).end_tokens == [0]
    assert complete_greedily(foreign, cues, [8] * 6) == expected
    foreign.own_tokenizer = True  # the negative control
    assert complete_greedily(foreign, cues, [8] * 6) != expected


def test_only_what_can_differ_has_numerics_of_its_own() -> None:
    same = resolved("gpt2")
    assert completions(same) == {}
    assert completions(resolved("gpt2", eos_token_id=0)) == {}
    assert completions(resolved("gpt2", eos_token_id=7)) == {"end_tokens": 1}
    assert completions(dataclasses.replace(same, config=None, tokenizer_name="other")) == {"end_tokens": 1}
    assert completions(dataclasses.replace(same, config=None, tokenizer_name=None)) == {}
    assert float32_head(condition()) == {}
    assert float32_head(condition("bfloat16")) == {"float32_head": 1}


def test_a_folder_with_the_same_end_token_keeps_its_identity(tmp_path: Path) -> None:
    folder, same = bos_tokenizer(tmp_path), language_model("gpt2").tokenizer.eos_token_id
    assert completions(resolved("gpt2", tokenizer=folder, eos_token_id=same)) == {}
    assert completions(resolved("gpt2", tokenizer=folder, eos_token_id=[same])) == {}
    assert completions(resolved("gpt2", tokenizer=folder, eos_token_id=same + 7)) == {"end_tokens": 1}
    (tmp_path / "tokenizer_config.json").write_text("{}")
    end_token.cache_clear()
    assert completions(resolved("gpt2", tokenizer=folder, eos_token_id=same)) == {"end_tokens": 1}


def test_what_minimax_completed_is_measured_again() -> None:
    model = dataclasses.replace(resolved("gpt2"), config={"model_type": "minimax"})
    assert completions(model) == {"cache": 1} and completions(resolved("gpt2")) == {}


def test_the_probes_ask_for_them() -> None:
    model, coarse = resolved("gpt2", eos_token_id=7), condition("bfloat16")
    end, head = {"end_tokens": 1}, {"float32_head": 1}
    for probe, named in ((Recall, end), (QA, end), (LmEval, end | head), (Choice, head), (FactRatios, head)):
        assert probe.numerics(object.__new__(probe), coarse, model, {"corpus": (), "items": ()}) == named
        assert probe.numerics(object.__new__(probe), condition(), resolved("gpt2"), {"corpus": (), "items": ()}) == {}


def test_a_stop_string_that_is_a_special_token_is_seen() -> None:
    lm = language_model("gpt2", initializer_range=PEAKED)
    cue = encode(lm.tokenizer, TARGETS[:1], 64)[0][:6]
    new = complete_greedily(lm, [cue], [12])[0]
    assert new is not None
    names = lm.tokenizer.convert_ids_to_tokens(new)
    at = next(i for i in range(2, 12) if new[i] not in new[:i] and names[i].isascii())
    token = names[at]
    before = lm.tokenizer.decode(new[:at])
    lm.tokenizer.add_special_tokens({"additional_special_tokens": [token]})
    assert lm.tokenizer.convert_tokens_to_ids(token) == new[at]
    passes = lm.passes
    assert answer_greedily(lm, [cue], [12], [[token]]) == [before]
    assert lm.passes - passes == at + 1  # it stopped there
    assert answer_greedily(lm, [cue], [12], [["nowhere"]])[0] != before


def test_what_is_completed_with_no_numbers_is_none() -> None:
    lm = language_model("gpt2", initializer_range=PEAKED)
    rows = encode(lm.tokenizer, TARGETS[:2], 64)
    token = next(token for token in rows[0] if token not in rows[1])
    expected = complete_greedily(lm, [rows[1]], [1])
    with torch.no_grad():
        lm.lm.get_input_embeddings().weight[token] = torch.nan
        lm.lm.lm_head.weight = torch.nn.Parameter(lm.lm.lm_head.weight.nan_to_num(0.0))
    assert complete_greedily(lm, rows, [1, 1]) == [None, *expected]
    answers = answer_greedily(lm, rows, [3, 1], [[], []])
    assert answers[0] is None and answers[1] is not None


def test_recall_of_no_numbers_is_null() -> None:
    lm = language_model("gpt2", initializer_range=PEAKED)
    with torch.no_grad():
        lm.lm.get_input_embeddings().weight[:] = torch.nan
    table = Recall(InlineText("x", ("x",)), block_size=64).measure(Session(lm), {"corpus": TARGETS[:1]})
    (row,) = table.to_pylist()
    assert row["completion"] is None and row["exact"] is None and row["target"]
    assert row["sentence_rouge1"] is None and row["completion_rougeL"] is None


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_bfloat16_does_not_tie_what_differs(architecture: str) -> None:
    lm = language_model(architecture, dtype="bfloat16", initializer_range=PEAKED)
    with torch.no_grad():  # an untied head of large logits that differ by less than bfloat16 tells
        head = lm.lm.get_output_embeddings()
        weight = head.weight[5:6].repeat(head.weight.shape[0], 1).clone()
        weight *= 0.3 if architecture == "gemma2" else 1  # below its cap
        weight *= 1 + torch.arange(len(weight))[:, None] * 1e-3
        head.weight = torch.nn.Parameter(weight)
    cue = encode(lm.tokenizer, TARGETS[:1], 64)[0][:6]
    logs = [found.log_likelihood for found in continuations(lm, [(cue, [letter]) for letter in range(5, 25)])]
    assert len(set(logs)) == len(logs)
    assert "forward" not in vars(head)
