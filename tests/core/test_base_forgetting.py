"""Cross-entropy against the model before study: against all logits of one text at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from core.small import FOILS, TARGETS, language_model, study_exposures, weights

from memexp.core import divergence
from memexp.core.fork import Fork, take
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import SpecError
from memexp.probes import BaseForgetting
from memexp.probes.base_forgetting import SCHEMA
from memexp.spec import Condition, Full, LoRA, Model, ShippedText, Study

CORPUS = ShippedText("sentences-foils", first=12)
STUDY = Study(ShippedText("sentences-targets", first=8), exposures=8, lr=1e-2, batch_size=4, block_size=24)
MEASURED = ("cross_entropy", "base_entropy", "kl", "loss", "base_loss")


@pytest.fixture(scope="module", params=[Full(), LoRA(r=4)], ids=["full", "lora"])
def studied(request: pytest.FixtureRequest) -> Iterator[tuple[LanguageModel, Fork, LanguageModel]]:
    """A model that has studied, what it learned with before, and the model that it was."""
    lm, base = (language_model("llama", request.param, initializer_range=0.1, hidden_size=64) for _ in range(2))
    before = take(lm, None)
    rows = Session(lm).encode(TARGETS[:8], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    yield lm, before, base


def forgetting(session: Session, texts: list[str]) -> list[dict[str, Any]]:
    table = BaseForgetting(CORPUS, block_size=24).measure(session, {"corpus": texts})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, base: LanguageModel, text: str) -> dict[str, float]:
    ids = torch.tensor([lm.tokenizer(text)["input_ids"][:24]])
    p, q = (one.lm(ids, use_cache=False).logits[0, :-1].double().log_softmax(-1) for one in (lm, base))
    told = {"cross_entropy": -(q.exp() * p).sum(-1), "base_entropy": -(q.exp() * q).sum(-1)}
    told |= {"kl": torch.nn.functional.kl_div(p, q, log_target=True, reduction="none").sum(-1)}
    told |= {name: -one.gather(-1, ids[0, 1:, None])[:, 0] for name, one in (("loss", p), ("base_loss", q))}
    return {name: float(value.mean()) for name, value in told.items()}


@pytest.mark.parametrize("held", [divergence.HELD, 600 * 4 * 40])
def test_every_row_is_that_of_one_text_at_a_time(
    studied: tuple[LanguageModel, Fork, LanguageModel], held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few distributions are held at once."""
    monkeypatch.setattr(divergence, "HELD", held)
    lm, before, base = studied
    learned, texts = weights(lm), [*FOILS[:12], FOILS[3]]
    rows = forgetting(Session(lm, before), texts)
    assert all(torch.equal(parameter, learned[name]) for name, parameter in lm.named_parameters()), "and it is back"
    assert [row["item"] for row in rows] == list(range(13)) and rows[3] == rows[12] | {"item": 3}
    for row, text in zip(rows, texts, strict=True):
        assert (row["text"], row["tokens"]) == (text, len(lm.tokenizer(text)["input_ids"][:24]))
        for name, value in plain(lm, base, text).items():
            assert row[name] == pytest.approx(value, abs=1e-5), name
    assert min(row["kl"] for row in rows) > 0.01, "study has changed it"


def test_few_are_held_at_once(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    rows = [[1] * 11, [2] * 21, [1] * 11, [3], [4] * 5]
    assert [[len(row) for row in part] for part in divergence._parts(rows, 2**20 * 4)] == [[11], [21], [5]]
    assert [[len(row) for row in part] for part in divergence._parts(rows, 2**21)] == [[11, 21], [5]]
    assert [[len(row) for row in part] for part in divergence._parts(rows, 600)] == [[11, 21, 5]]


def test_the_base_model_has_forgotten_nothing(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    base = studied[2]
    for row in forgetting(Session(base, take(base, None)), FOILS[:4]):
        assert row["kl"] == pytest.approx(0, abs=1e-6) and row["loss"] == pytest.approx(row["base_loss"], abs=1e-6)


def test_texts_of_one_token_and_outputs_that_are_no_numbers_are_null(
    studied: tuple[LanguageModel, Fork, LanguageModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, before, _ = studied
    rows = forgetting(Session(lm, before), ["A", FOILS[0]])
    assert (rows[0]["tokens"], [rows[0][name] for name in MEASURED]) == (1, [None] * 5)
    assert all(rows[1][name] is not None for name in MEASURED)
    real = Session.divergences

    def broken(self: Session, texts: Any) -> Any:
        found = real(self, texts)
        found[0].cross_entropy[2] = np.nan
        return found

    monkeypatch.setattr(Session, "divergences", broken)
    rows = forgetting(Session(lm, before), FOILS[:2])
    assert [rows[0][name] for name in MEASURED] == [None] * 5 and rows[1]["kl"] is not None


def test_without_the_weights_before_study_it_is_a_line(studied: tuple[LanguageModel, Fork, LanguageModel]) -> None:
    with pytest.raises(SpecError, match="does not know the weights before study"):
        forgetting(Session(studied[0]), FOILS[:2])


def test_a_bound_probe_knows_the_block_size() -> None:
    condition = Condition(Model("tiny-s"), STUDY, probes=[BaseForgetting(CORPUS)])
    assert condition.probes[0].bind(condition) == BaseForgetting(CORPUS, block_size=24)
