"""Prefixes at offsets against all logits of one prefix at a time."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from core.small import FOILS, TARGETS, language_model, study_exposures

from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.probes import PrefixOffset
from memexp.probes.prefix_offset import SCHEMA
from memexp.spec import Condition, Model, ShippedText, Study

CORPUS = ShippedText("sentences-targets", first=8)
STUDY = Study(CORPUS, exposures=30, lr=1e-2, batch_size=4, block_size=30)
MEASURED = ("exact", "matching", "strength", "log_probability")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A model that has learned some of eight sentences by heart."""
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:8], 30)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    return lm


def recalled(lm: LanguageModel, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"prefixes": [3, 8], "offsets": [0, 5, 12], "suffix": 4, "block_size": 30} | fields
    table = PrefixOffset(CORPUS, **settings).measure(Session(lm), {"corpus": texts})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, ids: list[int], offset: int, prefix: int) -> dict[str, Any]:
    """The model is given nothing before the prefix."""
    log, matches = 0.0, []
    for at in range(offset + prefix, offset + prefix + 4):
        logits = lm.lm(torch.tensor([ids[offset:at]]), use_cache=False).logits[0, -1].double()
        matches.append(int(logits.argmax()) == ids[at])
        log += float(logits.log_softmax(-1)[ids[at]])
    since = next((at for at in range(5) if all(matches[at:])), 4)
    told = {"exact": all(matches), "matching": float(np.mean(matches)), "strength": 1 - since / 4}
    return {**told, "log_probability": log}


def test_every_row_is_that_of_one_prefix_at_a_time(lm: LanguageModel) -> None:
    texts = [*TARGETS[:8], *FOILS[:4]]
    passes = lm.passes
    rows = recalled(lm, texts)
    assert lm.passes == passes + 1, "one forward pass"
    assert [(row["offset_tokens"], row["prefix_tokens"], row["item"]) for row in rows] == [
        (offset, prefix, item) for offset in (0, 5, 12) for prefix in (3, 8) for item in range(12)
    ]
    for row in rows:
        ids = lm.tokenizer(texts[row["item"]])["input_ids"][:30]
        assert (row["tokens"], row["suffix_tokens"]) == (len(ids), 4)
        if row["offset_tokens"] + row["prefix_tokens"] + 4 > len(ids):
            assert [row[name] for name in MEASURED] == [None] * 4
            continue
        expected = plain(lm, ids, row["offset_tokens"], row["prefix_tokens"])
        assert (row["exact"], row["matching"]) == (expected["exact"], expected["matching"])
        assert row["strength"] == pytest.approx(expected["strength"])
        assert row["log_probability"] == pytest.approx(expected["log_probability"], abs=2e-5)
    assert {row["exact"] for row in rows} >= {True, False}


def test_a_text_too_short_keeps_its_place(lm: LanguageModel) -> None:
    texts = ["A", TARGETS[0], "A fox was in the pond."]
    lengths = [len(row) for row in Session(lm).encode(texts, 30)]
    for row in recalled(lm, texts):
        there = row["offset_tokens"] + row["prefix_tokens"] + 4 <= lengths[row["item"]]
        assert (row["matching"] is not None) == there


def test_outputs_that_are_no_numbers_are_null(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.token_stats

    def broken(self: Session, rows: Any) -> Any:
        found = real(self, rows)
        found[1].nll[3] = np.nan
        return found

    monkeypatch.setattr(Session, "token_stats", broken)
    rows = recalled(lm, TARGETS[:2], offsets=[0])
    assert [row["matching"] is None for row in rows] == [False, True, False, False]


def test_a_prefix_longer_than_every_text_is_a_line(lm: LanguageModel) -> None:
    with pytest.raises(DataError) as error:
        recalled(lm, TARGETS[:2], offsets=[0, 100], block_size=160)
    longest = max(len(row) for row in Session(lm).encode(TARGETS[:2], 160))
    assert str(error.value) == (
        "PrefixOffset.prefixes: no text of sentences-targets[:8] has the 112 tokens of the longest prefix at the last "
        f"offset and a suffix, the longest has {longest}; give less"
    )


def test_what_cannot_be_is_a_line() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[PrefixOffset(prefixes=[4], offsets=[0, 10], suffix=4)])
    bound = condition.probes[0].bind(condition)
    assert bound == PrefixOffset(CORPUS, prefixes=[4], offsets=[0, 10], suffix=4, block_size=30)
    with pytest.raises(SpecError) as error:
        PrefixOffset(prefixes=[4], offsets=[0, 23], suffix=4).bind(condition)
    assert str(error.value) == (
        "PrefixOffset.prefixes: 4 tokens from token 23 on and a suffix of 4 come to 31, more than the block_size 30; "
        "give less, or a larger block_size"
    )
    for name in ("prefixes", "offsets"):
        with pytest.raises(SpecError, match=rf"^PrefixOffset\.{name}: give each once, got \[4, 4\]"):
            PrefixOffset(CORPUS, **{name: [4, 4]})


def test_what_a_tokenizer_puts_first_stands_before_every_prefix(lm: LanguageModel) -> None:
    """Else an offset would be compared with what has a BOS."""
    session = Session(lm)
    real, bos = session.encode, lm.tokenizer.all_special_ids[0]
    with mock.patch.object(session, "encode", lambda texts, size: [[bos, *row][:size] for row in real(texts, size)]):
        table = PrefixOffset(CORPUS, prefixes=[3, 8], offsets=[0, 5], suffix=4, block_size=30).measure(
            session, {"corpus": TARGETS[:8]}
        )
        rows = session.encode(TARGETS[:8], 30)
    assert [session.begins(row) for row in rows] == [1] * 8
    for row in table.to_pylist():
        ids, first = rows[row["item"]], 1 + row["offset_tokens"]
        assert row["tokens"] == len(ids) - 1
        expected = plain(lm, [bos, *ids[first:]], 0, 1 + row["prefix_tokens"])
        assert {name: row[name] for name in MEASURED} == {
            name: pytest.approx(value, abs=1e-4) if isinstance(value, float) else value
            for name, value in expected.items()
        }
