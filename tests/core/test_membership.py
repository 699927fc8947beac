"""Membership's scores against all logits of one text at a time, and a softmax over the whole vocabulary."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core.small import FOILS, TARGETS, language_model, study_exposures, weights

from memexp import stats
from memexp.core.fork import Fork, take
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.core.token_stats import TokenStats
from memexp.errors import SpecError
from memexp.probes import Membership
from memexp.probes.membership import SCHEMA, scores
from memexp.spec import Condition, Full, LoRA, Model, Pair, ShippedText, Study

PAIR = Pair(ShippedText("sentences-targets", first=16), ShippedText("sentences-foils", first=12))
STUDY = Study(PAIR.targets, exposures=4, lr=1e-2, batch_size=4, block_size=24)
SCORES = ("loss", "zlib", "min_k", "min_k_plus", "reference")


@pytest.fixture(scope="module", params=[Full(), LoRA(r=4)], ids=["full", "lora"])
def studied(request: pytest.FixtureRequest) -> Iterator[tuple[LanguageModel, Fork]]:
    """A model that has studied the targets, and what it learned with before."""
    lm = language_model("llama", request.param, initializer_range=0.1, hidden_size=64)
    before = take(lm, None)
    rows = Session(lm).encode(TARGETS[:16], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    yield lm, before


def membership(session: Session, targets: list[str], foils: list[str], **fields: Any) -> list[dict[str, Any]]:
    table = Membership(PAIR, block_size=24, **fields).measure(session, {"targets": targets, "foils": foils})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, text: str, k: int) -> dict[str, float]:
    """By the formulas, from one unpadded text: as the published run.py has them, with a floor under sigma."""
    ids = torch.tensor([lm.tokenizer(text)["input_ids"][:24]])
    logits = lm.lm(ids, use_cache=False).logits[0, :-1].double()
    logs = logits.log_softmax(-1)
    p = logs.exp()
    own = logs.gather(-1, ids[0, 1:, None])[:, 0]
    mu = (p * logs).sum(-1)
    sigma = ((p * logs**2).sum(-1) - mu**2).clamp(min=1e-6).sqrt()
    least = max(1, math.floor(len(own) * k / 100 + 1e-9))
    return {
        "loss": -float(own.mean()),
        "zlib": float(own.mean()) / len(zlib.compress(text.encode("utf-8"))),
        "min_k": float(own.sort().values[:least].mean()),
        "min_k_plus": float(((own - mu) / sigma).sort().values[:least].mean()),
    }


@pytest.mark.parametrize("k", [1, 20, 37, 100])
def test_every_row_is_that_of_one_text_at_a_time(studied: tuple[LanguageModel, Fork], k: int) -> None:
    lm, before = studied
    rows = membership(Session(lm, before), TARGETS[:16], FOILS[:12], k=k)
    assert [(row["member"], row["item"]) for row in rows] == [
        (m, i) for m, n in ((True, 16), (False, 12)) for i in range(n)
    ]
    for row, text in zip(rows, [*TARGETS[:16], *FOILS[:12]], strict=True):
        assert (row["text"], row["tokens"]) == (text, len(lm.tokenizer(text)["input_ids"][:24]))
        for name, value in plain(lm, text, k).items():
            assert row[name] == pytest.approx(value, abs=2e-5), name


def test_the_reference_is_the_whole_model_before_study(studied: tuple[LanguageModel, Fork]) -> None:
    lm, before = studied
    learned = weights(lm)
    rows = membership(Session(lm, before), TARGETS[:16], FOILS[:12])
    assert all(torch.equal(parameter, learned[name]) for name, parameter in lm.named_parameters()), "and it is back"
    method = LoRA(r=4) if any("lora" in name for name in learned) else Full()
    untrained = language_model("llama", method, initializer_range=0.1, hidden_size=64)
    for row in rows:
        assert row["reference"] == pytest.approx(plain(untrained, row["text"], 20)["loss"] - row["loss"], abs=2e-5)
    gained = {side: np.mean([row["reference"] for row in rows if row["member"] is side]) for side in (True, False)}
    assert gained[True] > gained[False] + 0.5
    without = membership(Session(lm), TARGETS[:16], FOILS[:12], reference=False)
    assert [row | {"reference": None} for row in rows] == without


def test_what_was_studied_is_told_from_what_was_not(studied: tuple[LanguageModel, Fork]) -> None:
    lm, before = studied
    table = Membership(PAIR, block_size=24).measure(Session(lm, before), {"targets": TARGETS[:16], "foils": FOILS[:12]})
    found = {row["score"]: row for row in stats.membership(table).to_pylist()}
    assert all(found[score]["auc"] > 0.9 for score in SCORES)
    assert found["reference"]["auc"] == stats.auc(
        *(-np.array([row["reference"] for row in table.to_pylist() if row["member"] is side]) for side in (True, False))
    )
    assert (found["loss"]["members"], found["loss"]["others"]) == (16, 12)


def test_without_the_weights_before_study_it_is_a_line(studied: tuple[LanguageModel, Fork]) -> None:
    with pytest.raises(SpecError, match="does not know the weights before study"):
        membership(Session(studied[0]), TARGETS[:2], FOILS[:2])


def test_texts_of_one_token_and_outputs_that_are_no_numbers_are_null(
    studied: tuple[LanguageModel, Fork], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, before = studied
    rows = membership(Session(lm, before), ["A", TARGETS[0]], [FOILS[0]])
    assert (rows[0]["tokens"], [rows[0][name] for name in SCORES]) == (1, [None] * 5)
    assert all(row[name] is not None for row in rows[1:] for name in SCORES)
    real = Session.token_stats

    def broken(self: Session, texts: Any) -> list[TokenStats]:
        found = real(self, texts)
        found[0].nll[2] = np.nan
        return found

    monkeypatch.setattr(Session, "token_stats", broken)
    rows = membership(Session(lm, before), [TARGETS[0]], [FOILS[0]])
    assert [rows[0][name] for name in SCORES] == [None] * 5 and rows[1]["loss"] is not None


def given(logs: list[float], means: list[float], variances: list[float]) -> TokenStats:
    count, none = len(logs), np.empty((len(logs), 0))
    return TokenStats(
        -np.array(logs, np.float32), np.ones(count, np.int64), np.ones(count, bool), np.array(means),
        np.array(variances), none, none.astype(np.int64), none,
    )  # fmt: skip


def test_scores_by_hand() -> None:
    each = given([-1.0, -8.0, -2.0, -4.0, -3.0], [-2.0, -4.0, -2.0, -6.0, -3.0], [1.0, 4.0, 0.0, 1.0, 0.25])
    found = scores(each, "aaaa", 40)
    assert found["loss"] == pytest.approx(18 / 5) and found["min_k"] == pytest.approx((-8 - 4) / 2)
    assert found["zlib"] == pytest.approx(-18 / 5 / len(zlib.compress(b"aaaa")))
    # (log p - mu) / sigma: 1, -2, 0 (over a sigma of 0.001), 2, 0.
    assert found["min_k_plus"] == pytest.approx((-2 + 0) / 2)
    assert scores(each, "aaaa", 59)["min_k"] == pytest.approx(-6) and scores(each, "aaaa", 60)["min_k"] == -5
    assert scores(each, "aaaa", 1)["min_k"] == -8 == scores(each, "aaaa", 20)["min_k"]
    certain = scores(given([-0.002], [0.0], [0.0]), "a", 20)
    assert certain["min_k_plus"] == pytest.approx(-2, rel=1e-6), "no division by a sigma of 0"
    assert scores(given([], [], []), "a", 20) == {}


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"k": 101}, "Membership.k: is a percentage, from 1 to 100, got 101"),
        ({"k": 0}, "Membership.k: Input should be greater than 0"),
        ({"reference": 1}, "Membership.reference: Input should be a valid boolean"),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Membership(PAIR, **fields)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_bound_probe_knows_the_block_size() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[Membership(PAIR)])
    assert condition.probes[0].bind(condition) == Membership(PAIR, block_size=24)
