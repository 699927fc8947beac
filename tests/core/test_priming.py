"""Priming against all logits of one prefix at a time, before study and after it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core.small import TARGETS, language_model, study_exposures, weights

from memexp.core.fork import Fork, take
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.probes import Priming
from memexp.probes.priming import SCHEMA
from memexp.sources import read_texts
from memexp.spec import Full, InlineItems, LoRA, ShippedText, Study

WORDS = [text.split() for text in TARGETS[:5]]
ITEMS = InlineItems(
    "keywords",
    [{"keyword": words[4], "prefixes": [" ".join(words[:4]), "The thing is", "It was so"][: 2 + at % 2]}
     for at, words in enumerate(WORDS)],
)  # fmt: skip
STUDY = Study(ShippedText("sentences-targets", first=5), exposures=10, lr=1e-2, batch_size=2, block_size=24)


@pytest.fixture(scope="module", params=[Full(), LoRA(r=4)], ids=["full", "lora"])
def studied(request: pytest.FixtureRequest) -> Iterator[tuple[LanguageModel, Fork, LanguageModel]]:
    """A model that has studied, what it learned with before, and the model that it was."""
    lm, base = (language_model("llama", request.param, initializer_range=0.1, hidden_size=64) for _ in range(2))
    before = take(lm, None)
    rows = Session(lm).encode(TARGETS[:5], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    yield lm, before, base


def priming(session: Session, items: InlineItems = ITEMS) -> list[dict[str, Any]]:
    table = Priming(items).measure(session, {"items": read_texts(items).items})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, prefix: str, keyword: str) -> float:
    encoded = lm.tokenizer(f"{prefix} {keyword}", return_offsets_mapping=True)
    ids = torch.tensor([encoded["input_ids"]])
    logs = lm.lm(ids, use_cache=False).logits[0].double().log_softmax(-1)
    mine = [at for at, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prefix)]
    return sum(float(logs[at - 1, ids[0, at]]) for at in mine)


def test_every_row_is_that_of_one_prefix_at_a_time(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    lm, before, base = studied
    learned = weights(lm)
    rows = priming(Session(lm, before))
    assert all(torch.equal(parameter, learned[name]) for name, parameter in lm.named_parameters()), "and it is back"
    assert [(row["item"], row["number"]) for row in rows] == [(i, n) for i in range(5) for n in range(2 + i % 2)]
    for row in rows:
        item = ITEMS.rows[row["item"]]
        assert (row["keyword"], row["prefix"]) == (item["keyword"], item["prefixes"][row["number"]])
        after, old = (plain(one, row["prefix"], row["keyword"]) for one in (lm, base))
        assert row["log_probability"] == pytest.approx(after, abs=2e-5)
        assert row["log_probability_before"] == pytest.approx(old, abs=2e-5)
        assert row["ratio"] == pytest.approx(np.exp(after - old), rel=1e-4)
    assert np.mean([row["ratio"] for row in rows if row["number"] == 0]) > 10, "what was studied itself"


def test_what_does_not_fit_is_null(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    lm, before, _ = studied
    long = InlineItems("long", [{"keyword": "b", "prefixes": ["a " * 400, "a"]}])
    rows = priming(Session(lm, before), long)
    assert [row["ratio"] is None and row["log_probability"] is None for row in rows] == [True, False]


def test_without_the_weights_before_study_it_is_a_line(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    with pytest.raises(SpecError, match="does not know the weights before study"):
        priming(Session(studied[0]))


def test_only_keywords_are_asked() -> None:
    items = InlineItems("other", [{"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"^Priming: item 1 of other has no keyword and prefixes$"):
        Priming(items).check({"items": read_texts(items).items}, {"items": "other"})
