"""Extraction against greedy generation, a sampler that draws, and formulas on tables made by hand."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from core.small import FOILS, TARGETS, language_model, study_exposures

from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.core.token_stats import TokenStats
from memexp.errors import DataError, SpecError
from memexp.probes import Extraction
from memexp.probes.extraction import SCHEMA, queries, strength
from memexp.spec import Condition, Model, ShippedText, Study

CORPUS = ShippedText("sentences-targets", first=8)
STUDY = Study(CORPUS, exposures=30, lr=1e-2, batch_size=4, block_size=24)
MEASURED = ("exact", "matching", "strength", "probability", "log_probability", "queries")


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A model that has learned some of eight sentences by heart."""
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:8], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    return lm


def extraction(lm: LanguageModel, texts: list[str], **fields: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"prefixes": [4, 8], "suffix": 6, "block_size": 24} | fields
    table = Extraction(CORPUS, **settings).measure(Session(lm), {"corpus": texts})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, ids: list[int], prefix: int, temperature: float, top_k: int) -> dict[str, Any]:
    """One text at a time: greedy generation without a banned token, and a sampler's probabilities in float64."""
    made, suffix = list(ids[:prefix]), 6
    log, matches = 0.0, []
    for at in range(prefix, prefix + suffix):
        made.append(int(lm.lm(torch.tensor([made]), use_cache=False).logits[0, -1].argmax()))
        logits = lm.lm(torch.tensor([ids[:at]]), use_cache=False).logits[0, -1].double()
        matches.append(int(logits.argmax()) == ids[at])
        if top_k:
            logits[logits < logits.topk(top_k).values[-1]] = -math.inf
        log += float((logits / temperature).log_softmax(-1)[ids[at]])
    since = next((at for at in range(suffix + 1) if all(matches[at:])), suffix)
    return {
        "exact": made[prefix:] == list(ids[prefix : prefix + suffix]),
        "matching": float(np.mean(matches)),
        "strength": 1 - since / suffix,
        "log_probability": log,
    }


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, 0), (1.0, 40), (0.6, 3), (2.0, 40)])
def test_every_row_is_that_of_one_text_at_a_time(lm: LanguageModel, temperature: float, top_k: int) -> None:
    texts = [*TARGETS[:12], *FOILS[:6]]
    rows = extraction(lm, texts, temperature=temperature, top_k=top_k)
    assert [(row["prefix_tokens"], row["item"]) for row in rows] == [(n, i) for n in (4, 8) for i in range(18)]
    for row in rows:
        ids = lm.tokenizer(texts[row["item"]])["input_ids"][:24]
        prefix = row["prefix_tokens"]
        expected = plain(lm, ids, prefix, temperature, top_k)
        assert (row["exact"], row["matching"]) == (expected["exact"], expected["matching"])
        assert row["strength"] == pytest.approx(expected["strength"])
        if math.isinf(expected["log_probability"]):
            assert (row["probability"], row["log_probability"], row["queries"]) == (0.0, None, None)
        else:
            assert row["log_probability"] == pytest.approx(expected["log_probability"], abs=2e-5)
            assert row["probability"] == pytest.approx(math.exp(expected["log_probability"]), rel=2e-5)
            assert row["queries"] == queries(row["log_probability"], 0.5)
        assert (row["suffix_tokens"], row["tokens"]) == (6, len(ids))
        assert row["prefix"] == lm.tokenizer.decode(ids[:prefix])
        assert row["suffix"] == lm.tokenizer.decode(ids[prefix : prefix + 6])
    assert {row["exact"] for row in rows} == {True, False}
    assert 0 < sum(row["probability"] == 0 for row in rows) < len(rows) or top_k == 0


def test_p_z_is_how_often_a_sampler_gives_the_suffix(lm: LanguageModel) -> None:
    """Transformers' own, which draws."""
    [row] = extraction(lm, TARGETS[:1], prefixes=[4], suffix=2, temperature=1.5, top_k=5)
    ids = lm.tokenizer(TARGETS[0])["input_ids"]
    torch.manual_seed(0)
    made = lm.lm.generate(
        torch.tensor([ids[:4]]).expand(4000, -1), do_sample=True, temperature=1.5, top_k=5, top_p=1.0, pad_token_id=0,
        min_new_tokens=2, max_new_tokens=2,
    )[:, 4:]  # fmt: skip
    often = float((made == torch.tensor(ids[4:6])).all(1).float().mean())
    assert 0.02 < row["probability"] < 0.98
    assert often == pytest.approx(row["probability"], abs=4 * math.sqrt(0.25 / 4000))


def assert_near(row: dict[str, Any], other: dict[str, Any]) -> None:
    """Numbers up to rounding."""
    assert row.keys() == other.keys()
    for name, value in row.items():
        assert other[name] == (pytest.approx(value, rel=1e-4) if isinstance(value, float) else value)


def test_one_forward_pass_serves_all_prefixes(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = [row for prefix in (8, 4) for row in extraction(lm, TARGETS[:6], prefixes=[prefix])]
    before = lm.passes
    together = extraction(lm, TARGETS[:6], prefixes=[8, 4])
    assert lm.passes == before + 1
    for one, other in zip(alone, together, strict=True):
        assert_near(one, other)


def test_a_text_too_short_keeps_its_place(lm: LanguageModel) -> None:
    texts = ["A fox was in the pond.", TARGETS[0], "A"]
    lengths = [len(row) for row in Session(lm).encode(texts, 24)]
    assert 10 <= lengths[0] < 14 <= lengths[1] and lengths[2] == 1
    rows = extraction(lm, texts)
    known = [row["exact"] is not None for row in rows]
    assert known == [prefix + 6 <= lengths[item] for prefix in (4, 8) for item in range(3)]
    for row, there in zip(rows, known, strict=True):
        assert there or [row[name] for name in MEASURED] == [None] * 6
        assert row["tokens"] == lengths[row["item"]]
    assert_near(rows[1], extraction(lm, [TARGETS[0]])[0] | {"item": 1})


def test_a_prefix_longer_than_every_text_is_a_line(lm: LanguageModel) -> None:
    with pytest.raises(DataError) as error:
        extraction(lm, TARGETS[:2], prefixes=[4, 150], block_size=160)
    longest = max(len(row) for row in Session(lm).encode(TARGETS[:2], 160))
    assert str(error.value) == (
        "Extraction.prefixes: no text of sentences-targets[:8] has the 156 tokens of a prefix of 150 and a suffix of "
        f"6, the longest has {longest}; give shorter ones"
    )


def test_a_closing_end_token_is_no_part_of_a_suffix(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(lm)
    assert session.without_ends([[5, 0, 6, 0, 0], [0], [], [7]]) == [[5, 0, 6], [], [], [7]]
    end = session.end_tokens[0]
    encode = Session.encode
    monkeypatch.setattr(Session, "encode", lambda self, texts, size: [[*row, end] for row in encode(self, texts, size)])
    assert extraction(lm, TARGETS[:3])[0]["tokens"] == len(encode(session, TARGETS[:1], 24)[0])


def test_outputs_that_are_no_numbers_are_null(lm: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Session.token_stats

    def broken(self: Session, *given: Any, **named: Any) -> list[TokenStats]:
        found = real(self, *given, **named)
        found[1].nll[4] = np.nan  # the fifth token that is predicted: of the suffix after four
        return found

    monkeypatch.setattr(Session, "token_stats", broken)
    rows = extraction(lm, TARGETS[:2])
    assert [row["exact"] is None for row in rows] == [False, True, False, False]
    assert {name for name, value in rows[1].items() if value is None} == {"member", *MEASURED}


# By hand


def test_strength_is_the_share_from_which_on_all_match() -> None:
    for matches in itertools.product([False, True], repeat=5):
        since = min(at for at in range(6) if all(matches[at:]))
        assert strength(matches) == pytest.approx(1 - since / 5)
    assert strength([True, True, False]) == 0.0 and strength([True]) == 1.0


def test_queries_is_the_smallest_number_that_reaches_p() -> None:
    for p_z in (Fraction(1, 2), Fraction(1, 3), Fraction(9, 10), Fraction(1, 100), Fraction(999, 1000)):
        for p in (0.1, 0.5, 0.9, 0.99):
            n = next(n for n in itertools.count(1) if 1 - (1 - p_z) ** n >= Fraction(p) * (1 - Fraction(1, 10**14)))
            assert queries(math.log(p_z), p) == n, (p_z, p)
    assert queries(0.0, 0.9) == 1.0 == queries(-1e-17, 0.999)
    assert queries(-math.inf, 0.5) is None and queries(-700.0, 0.5) is None
    assert queries(-600.0, 0.5) == pytest.approx(math.log(2) * math.exp(600), rel=1e-9)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"prefixes": []}, "Extraction.prefixes: must not be empty"),
        ({"prefixes": [0]}, "Extraction.prefixes: Input should be greater than 0"),
        ({"prefixes": [5, 5]}, "Extraction.prefixes: give each length once, got [5, 5]"),
        ({"p": 0.0}, "Extraction.p: must be above 0"),
        ({"p": 1.0}, "Extraction.p: Input should be less than 1"),
        ({"temperature": 0.0}, "Extraction.temperature: Input should be greater than 0"),
        ({"top_k": -1}, "Extraction.top_k: Input should be greater than or equal to 0"),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Extraction(CORPUS, **fields)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_bound_probe_knows_its_texts_and_their_size() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[Extraction(prefixes=[10], suffix=14)])
    bound = condition.probes[0].bind(condition)
    assert bound == Extraction(CORPUS, prefixes=[10], suffix=14, block_size=24)
    with pytest.raises(SpecError) as error:
        Extraction().bind(condition)
    assert str(error.value) == (
        "Extraction.prefixes: 50 tokens and a suffix of 50 exceed the block_size 24; give shorter ones, or a larger "
        "block_size"
    )
    assert Extraction(block_size=128).bind(condition).block_size == 128
