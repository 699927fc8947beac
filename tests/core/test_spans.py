"""Spans against all logits of one text at a time, and the fields of the published data."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import TARGETS, bos_tokenizer, language_model, study_exposures

from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError
from memexp.probes import Spans
from memexp.probes.spans import SCHEMA
from memexp.probes.token_parts import joined, shared, tokens_of
from memexp.sources import read_texts
from memexp.spec import InlineItems, ShippedText, Study

WORDS = [text.split() for text in TARGETS[:6]]
ITEMS = InlineItems(
    "spans",
    [
        {
            "train_context": " ".join(words),
            "mem_input": [" ".join(words[:4]), " ".join(words[:7])],
            "mem_target": [" ".join(words[4:6]), words[7]],
            "gen_input": [" ".join(reversed(words[:4]))],
            "gen_target": [" ".join(words[4:6])],
        }
        | ({"hard_gen_input": ["Such a thing:"], "hard_gen_target": [words[2]]} if at % 2 else {})
        for at, words in enumerate(WORDS)
    ],
)
STUDY = Study(ShippedText("sentences-targets", first=6), exposures=20, lr=1e-2, batch_size=2, block_size=24)


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:6], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    return lm


def spans(lm: LanguageModel, items: InlineItems = ITEMS) -> list[dict[str, Any]]:
    table = Spans(items).measure(Session(lm), {"items": read_texts(items).items})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, prompt: str, target: str) -> tuple[float, bool, int]:
    """One unpadded text, its target found by the offsets of its characters."""
    encoded = lm.tokenizer(f"{prompt} {target}", return_offsets_mapping=True)
    ids = torch.tensor([encoded["input_ids"]])
    logits = lm.lm(ids, use_cache=False).logits[0].double()
    mine = [at for at, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt)]
    logs = [float(logits[at - 1].log_softmax(-1)[ids[0, at]]) for at in mine]
    return sum(logs), all(int(logits[at - 1].argmax()) == int(ids[0, at]) for at in mine), len(mine)


def test_every_row_is_that_of_one_text_at_a_time(lm: LanguageModel) -> None:
    rows = spans(lm)
    expected = []
    for number, item in enumerate(ITEMS.rows):
        for depth, name in (("memorisation", "mem"), ("paraphrase", "gen"), ("composition", "hard_gen")):
            pairs = zip(item.get(f"{name}_input", []), item.get(f"{name}_target", []), strict=True)
            expected += [(number, depth, at, *pair) for at, pair in enumerate(pairs)]
    assert len(rows) == 6 * 3 + 3
    assert [tuple(row[name] for name in ("item", "depth", "span", "prompt", "target")) for row in rows] == expected
    for row in rows:
        log, exact, tokens = plain(lm, row["prompt"], row["target"])
        assert row["log_probability"] == pytest.approx(log, abs=2e-5)
        assert row["per_token"] == pytest.approx(log / tokens, abs=2e-5)
        assert (row["exact"], row["tokens"]) == (exact, tokens)
    assert {row["exact"] for row in rows} == {True, False}


def test_what_was_studied_is_likelier_verbatim(lm: LanguageModel) -> None:
    untrained = language_model("llama", initializer_range=0.1, hidden_size=64)
    gained = {
        depth: np.mean([row["per_token"] - old["per_token"] for row, old in both if row["depth"] == depth])
        for both in [list(zip(spans(lm), spans(untrained), strict=True))]
        for depth in ("memorisation", "paraphrase")
    }
    assert gained["memorisation"] > gained["paraphrase"] + 1


def test_what_does_not_fit_or_is_no_number_is_null(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    long = InlineItems("long", [{"train_context": "a b", "mem_input": ["a " * 400, "a a"], "mem_target": ["b", "b"]}])
    rows = spans(lm, long)
    assert [row["per_token"] is None for row in rows] == [True, False]
    assert [row["log_probability"] is None and row["exact"] is None for row in rows] == [True, False]
    context = Session(lm).context
    assert context is not None
    [(first, rest)] = joined(Session(lm), [("a a", "b")])
    monkeypatch.setattr(Session, "context", len(first + rest) - 1)
    assert [row["exact"] is None for row in spans(lm, long)] == [True, False], "the last token is not passed through"
    monkeypatch.setattr(Session, "context", len(first + rest) - 2)
    assert [row["exact"] is None for row in spans(lm, long)] == [True, True]
    monkeypatch.undo()
    real = Session.continuations

    def broken(self: Session, pairs: Any) -> Any:
        found = real(self, pairs)
        return [type(found[0])(math.nan, True), *found[1:]]

    monkeypatch.setattr(Session, "continuations", broken)
    rows = spans(lm)
    assert [row["per_token"] for row in rows[:1]] == [None] and rows[1]["per_token"] is not None


def test_only_texts_with_spans_are_asked() -> None:
    for row, says in (
        ({"question": "a", "answer": "b"}, "a question"),
        ({"head": "a", "relation": "b", "tail": "c"}, "a fact"),
    ):
        items = InlineItems("other", [row])
        with pytest.raises(DataError) as error:
            Spans(items).check({"items": read_texts(items).items}, {"items": "other"})
        assert str(error.value) == f"Spans: item 1 of other is {says}, not a text with spans"


# Parts of texts


def test_parts_are_found_however_a_text_falls_into_tokens(lm: LanguageModel, tmp_path: Path) -> None:
    """As the characters of each token tell."""
    text = TARGETS[0]
    for model in (lm, language_model("llama", tokenizer=bos_tokenizer(tmp_path / "bos"))):
        encoded = model.tokenizer(text, return_offsets_mapping=True)
        row, offsets = encoded["input_ids"], encoded["offset_mapping"]
        begins = [0, *(at + 1 for at, sign in enumerate(text) if sign == " ")]
        for first in begins:
            for last in (at - 1 for at in [*begins[1:], len(text) + 1] if at > first):
                expected = [at for at, (begin, end) in enumerate(offsets) if end > first and begin < last]
                found = list(tokens_of(Session(model), text, row, first, last))
                assert [at for at in found if offsets[at][1]] == expected


def test_shared_by_hand() -> None:
    assert [shared(*pair) for pair in (([1, 2], [1, 2, 3]), ([1, 4], [1, 2, 3]), ([], [1]), ([5], [1]))] == [2, 1, 0, 0]
