"""Capacity against all logits of one text at a time, and the published formula on a table made by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core.small import TARGETS, language_model, study_exposures

from memexp.core.fork import Fork, take
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError
from memexp.probes import Capacity
from memexp.probes.capacity import SCHEMA
from memexp.spec import Condition, Model, Study
from memexp.stimuli.biographies import Biographies
from memexp.stimuli.canaries import Canaries

PEOPLE = Biographies(count=4)
STRINGS = Canaries("Note: {secret}", alphabet=["cat", "dog", "owl", "fox"], length=5, count=6)
STUDY = Study(PEOPLE.corpus(), exposures=15, lr=1e-2, batch_size=2, block_size=140)


@pytest.fixture(scope="module")
def studied() -> Iterator[tuple[LanguageModel, Fork]]:
    """A model that has studied both, and what it was before."""
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    before = take(lm, None)
    rows = Session(lm).encode([*PEOPLE.corpus().texts, *STRINGS.corpus().texts], 140)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    yield lm, before


def capacity(session: Session, source: Any, listed: Any = None, **fields: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"block_size": 140} | fields
    texts = {"corpus": listed or source.corpus().texts}
    table = Capacity(source, **settings).measure(session, texts)
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def bits(lm: LanguageModel, text: str, pieces: list[tuple[int, int]]) -> tuple[float, int]:
    """Of the tokens whose characters are of one of the pieces, each with the space before it."""
    encoded = lm.tokenizer(text, return_offsets_mapping=True)
    ids = torch.tensor([encoded["input_ids"]])
    logs = lm.lm(ids, use_cache=False).logits[0].double().log_softmax(-1)
    mine = [
        at
        for at, (begin, end) in enumerate(encoded["offset_mapping"])
        if any(end > first - (text[first - 1] == " ") and begin < last for first, last in pieces)
    ]
    return -sum(float(logs[at - 1, ids[0, at]]) for at in mine) / math.log(2), len(mine)


def test_every_row_is_that_of_one_text_at_a_time(studied: tuple[LanguageModel, Fork]) -> None:
    lm, before = studied
    untrained = language_model("llama", initializer_range=0.1, hidden_size=64)
    for source, kinds in ((PEOPLE, ["name", "values"]), (STRINGS, ["secret"])):
        rows = capacity(Session(lm, before), source)
        marked = source.marked()
        assert [(row["item"], row["part"]) for row in rows] == [
            (at, kind) for at in range(len(marked)) for kind in kinds
        ]
        for row in rows:
            [part] = [part for part in marked[row["item"]].parts if part.kind == row["part"]]
            expected, tokens = bits(lm, row["text"], list(part.spans))
            assert (row["bits"], row["tokens"]) == (pytest.approx(expected, abs=1e-4), tokens)
            assert row["bits_before"] == pytest.approx(bits(untrained, row["text"], list(part.spans))[0], abs=1e-4)
            assert row["stored"] == row["entropy"] - row["bits"] and row["gained"] == row["bits_before"] - row["bits"]
        assert [row | {"bits_before": None, "gained": None} for row in rows] == capacity(
            Session(lm), source, reference=False
        )


def test_the_sum_is_the_published_formula(studied: tuple[LanguageModel, Fork]) -> None:
    """N log2(N0 / e^p1) + N log2(S0 / e^p2), and log2 of the number of strings less their NLL."""
    lm, before = studied
    rows = capacity(Session(lm, before), PEOPLE)
    n0, s0 = 400 * 400 * 1000, 2 * (12 * 28 * 200) * 200 * 300 * 100 * 263
    p1, p2 = (
        np.mean([row["bits"] * math.log(2) for row in rows if row["part"] == kind]) for kind in ("name", "values")
    )
    expected = 4 * (math.log2(n0) - p1 / math.log(2)) + 4 * (math.log2(s0) - p2 / math.log(2))
    assert sum(row["stored"] for row in rows) == pytest.approx(expected, abs=1e-6)
    strings = capacity(Session(lm, before), STRINGS)
    assert {row["entropy"] for row in strings} == {5 * 2.0}


def test_study_stores_bits(studied: tuple[LanguageModel, Fork]) -> None:
    lm, before = studied
    for source in (PEOPLE, STRINGS):
        known = capacity(Session(lm, before), source)
        others = capacity(Session(lm, before), type(source)(**{**vars_of(source), "seed": 1}))
        assert np.mean([row["gained"] for row in known]) > np.mean([row["gained"] for row in others]) + 1


def vars_of(source: Any) -> dict[str, Any]:
    return {name: getattr(source, name) for name in type(source).__dataclass_fields__}


def test_the_place_in_the_list_is_told(studied: tuple[LanguageModel, Fork]) -> None:
    first, *rest = STRINGS.corpus().texts
    rows = capacity(Session(*studied), STRINGS, [*TARGETS[:2], *rest, first, first])
    assert [row["item"] for row in rows] == [7, 2, 3, 4, 5, 6]


def test_texts_that_are_not_in_the_list_or_too_long_are_a_line(studied: tuple[LanguageModel, Fork]) -> None:
    texts = STRINGS.corpus().texts
    Capacity(STRINGS).check({"corpus": texts}, {"corpus": "mine"})
    with pytest.raises(DataError) as error:
        Capacity(STRINGS).check({"corpus": texts[:-1]}, {"corpus": "mine"})
    assert str(error.value) == (
        f"Capacity.source: its text 5, {texts[5]!r}, is not in mine; study its .corpus() or a list with its texts, or "
        "name one with corpus=..."
    )
    with pytest.raises(DataError, match=r"^Capacity\.block_size: 'Note: .*' has more than 4 tokens; give a larger one"):
        capacity(Session(*studied), STRINGS, block_size=4)


def test_outputs_that_are_no_numbers_are_null(
    studied: tuple[LanguageModel, Fork], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Session.token_nlls

    def broken(self: Session, rows: Any) -> Any:
        found = [each.copy() for each in real(self, rows)]
        found[1][-1] = np.nan
        return found

    monkeypatch.setattr(Session, "token_nlls", broken)
    rows = capacity(Session(*studied), STRINGS)
    assert [row["bits"] is None for row in rows] == [False, True, False, False, False, False]
    assert (rows[1]["stored"], rows[1]["gained"], rows[1]["bits_before"]) == (None, None, None)


def test_a_bound_probe_knows_its_list() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[Capacity(PEOPLE)])
    assert condition.probes[0].bind(condition) == Capacity(PEOPLE, STUDY.corpus, block_size=140)
