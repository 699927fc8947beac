"""What recognition and recall write down, against counts and scores made by hand."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import FOILS, PEAKED, TARGETS, language_model, study_exposures
from rouge_score.rouge_scorer import RougeScorer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.session import Session
from memexp.errors import DataError
from memexp.probes import Recall, Recognition
from memexp.probes.recall import ROUGES, _rouge
from memexp.probes.recall import SCHEMA as RECALL
from memexp.probes.recognition import SCHEMA as RECOGNITION
from memexp.spec import Condition, Model, Pair, ShippedText, Study

PAIR = Pair(ShippedText("sentences-targets", first=64), ShippedText("sentences-foils", first=64))
STUDY = Study(PAIR.targets, exposures=30, lr=1e-2, batch_size=4, block_size=24)
ONE = "A"  # a single token


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """A model that has learned some of eight sentences by heart."""
    lm = language_model("llama", initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:8], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, STUDY.exposures)
    return lm


@pytest.fixture
def session(lm: LanguageModel) -> Session:
    return Session(lm)


def recognition(session: Session, targets: list[str], foils: list[str], size: int = 24) -> list[dict[str, Any]]:
    table = Recognition(PAIR, block_size=size).measure(session, {"targets": targets, "foils": foils})
    assert table.schema.equals(RECOGNITION)
    return table.to_pylist()


def recall(session: Session, texts: list[str], size: int = 24) -> list[dict[str, Any]]:
    table = Recall(PAIR.targets, block_size=size).measure(session, {"corpus": texts})
    assert table.schema.equals(RECALL)
    return table.to_pylist()


# Recognition


def test_recognition_has_the_mean_nll_of_both_texts_and_their_tokens(session: Session) -> None:
    rows = recognition(session, TARGETS[:8], FOILS[:8])
    assert [row["item"] for row in rows] == list(range(8))
    for row, target, foil in zip(rows, TARGETS, FOILS, strict=False):
        for side, text in (("target", target), ("foil", foil)):
            ids = session.tokenizer(text)["input_ids"][:24]
            with torch.no_grad():
                loss = float(session.lm.lm(input_ids=torch.tensor([ids]), labels=torch.tensor([ids])).loss)
            assert row[side] == text
            assert row[f"{side}_tokens"] == len(ids)
            assert row[f"{side}_nll"] == pytest.approx(loss, abs=1e-5)
    assert all(row["target_nll"] < row["foil_nll"] for row in rows), "what was studied is recognised"


def test_recognition_sees_a_text_up_to_the_block_size(session: Session) -> None:
    whole, short = recognition(session, TARGETS[:4], FOILS[:4], 128), recognition(session, TARGETS[:4], FOILS[:4], 5)
    assert [row["target_tokens"] for row in short] == [5] * 4
    assert all(row["target_tokens"] > 5 for row in whole)
    ids = session.encode(TARGETS[:4], 5)
    means = [float(nll.astype(np.float64).mean()) for nll in session.token_nlls(ids)]
    assert [row["target_nll"] for row in short] == pytest.approx(means, abs=1e-6)


def test_outputs_that_are_no_numbers_are_no_nll(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    nlls = session.token_nlls

    def broken(rows: Any) -> Any:
        return [nll * np.nan if number == 1 else nll for number, nll in enumerate(nlls(rows))]

    monkeypatch.setattr(session, "token_nlls", broken)
    texts = {"targets": ["One two three.", "Four five."], "foils": ["Six seven.", "Eight nine."]}
    table = Recognition(PAIR, block_size=16).measure(session, texts)
    assert table["target_nll"].is_null().to_pylist() == [False, True]
    assert table["foil_nll"].is_null().to_pylist() == [False, False]


def test_a_foil_that_equals_its_target_is_a_tie(session: Session) -> None:
    foils = [*TARGETS[:20], *FOILS[20:60]]
    rows = recognition(session, TARGETS[:60], foils)
    assert [row["target_nll"] == row["foil_nll"] for row in rows] == [True] * 20 + [False] * 40


def test_texts_that_differ_beyond_the_block_size_only_are_a_tie(session: Session) -> None:
    targets, foils = [text + " Yes." for text in TARGETS[:30]], [text + " Not at all." for text in TARGETS[:30]]
    rows = recognition(session, targets, foils, 12)
    assert all(row["target_nll"] == row["foil_nll"] for row in rows)
    assert all(row["target_nll"] != row["foil_nll"] for row in recognition(session, targets, foils, 128))


def test_surplus_foils_are_not_used(session: Session) -> None:
    rows = recognition(session, TARGETS[:3], FOILS)
    assert len(rows) == 3
    assert [row["foil"] for row in rows] == FOILS[:3]


def test_too_few_foils_are_refused(session: Session) -> None:
    probe = Recognition(PAIR)
    probe.check({"targets": TARGETS[:3], "foils": FOILS[:3]}, {"targets": "a", "foils": "b"})
    with pytest.raises(DataError, match=r"^b: 2 foils are too few for the 3 targets of a$"):
        probe.check({"targets": TARGETS[:3], "foils": FOILS[:2]}, {"targets": "a", "foils": "b"})


def test_a_text_of_one_token_has_no_nll_but_a_count(session: Session) -> None:
    (row,) = recognition(session, [ONE], FOILS[:1])
    assert (row["target_nll"], row["target_tokens"]) == (None, 1)
    assert row["foil_nll"] is not None


# Recall


def test_a_cue_is_the_first_half_of_the_tokens_and_is_completed_to_the_length(session: Session) -> None:
    texts = [*TARGETS[:8], *(" ".join(text.split()[:n]) for n, text in enumerate(TARGETS[8:16], start=2))]
    rows = recall(session, texts)
    lengths = set()
    for row, text in zip(rows, texts, strict=True):
        ids = session.tokenizer(text)["input_ids"][:24]
        lengths.add(len(ids) % 2)
        assert row["tokens"] == len(ids)
        assert row["cue_tokens"] == len(ids) // 2
        assert row["cue"] == session.tokenizer.decode(ids[: len(ids) // 2])
        assert row["target"] == session.tokenizer.decode(ids)
        cue = torch.tensor([ids[: len(ids) // 2]])
        count = len(ids) - cue.shape[1]
        made = session.lm.lm.generate(
            cue, attention_mask=torch.ones_like(cue), do_sample=False, pad_token_id=0,
            min_new_tokens=count, max_new_tokens=count,
        )[0, cue.shape[1] :].tolist()  # fmt: skip
        assert len(made) == count
        assert row["completion"] == session.tokenizer.decode(made)
        assert row["exact"] == (made == ids[len(ids) // 2 :])
    assert lengths == {0, 1}
    assert {row["exact"] for row in rows} == {True, False}


def test_rouge_is_that_of_rouge_score_on_the_whole_and_on_the_completion(session: Session) -> None:
    rows = recall(session, TARGETS[:16])
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"], use_stemmer=False)
    for row, ids in zip(rows, session.encode(TARGETS[:16], 24), strict=True):
        half = len(ids) // 2
        (made,) = session.complete([ids[:half]], [len(ids) - half])
        whole = scorer.score(session.tokenizer.decode(ids), session.tokenizer.decode(ids[:half] + made))
        rest = scorer.score(session.tokenizer.decode(ids[half:]), session.tokenizer.decode(made))
        for name in ROUGES:
            assert row[f"sentence_{name}"] == whole[name].fmeasure
            assert row[f"completion_{name}"] == rest[name].fmeasure
    assert any(row["completion_rouge1"] < 1 for row in rows)
    assert any(row["completion_rouge2"] == 1 and row["exact"] for row in rows)


@pytest.mark.parametrize("separator", [" ", "\n"])
def test_every_rouge_is_that_of_rouge_score_with_and_without_lines(separator: str) -> None:
    rng = random.Random(0)
    words = ["fox", "pond", "ice", "red", "a", "the", "crossed", "1894", "e-mail", separator]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 14))) for _ in range(400)]
    targets, predictions = [*texts[:200], "", "fox"], [*texts[200:], "fox", ""]
    scorer = RougeScorer(list(ROUGES), use_stemmer=False)
    expected = [scorer.score(*texts) for texts in zip(targets, predictions, strict=True)]
    if separator == "\n":  # the case that must not be taken for the other
        assert any(scores["rougeL"].fmeasure != scores["rougeLsum"].fmeasure for scores in expected)
    found = _rouge("x", targets, predictions, [True] * len(targets), [False] * len(targets))
    assert found == {f"x_{name}": [scores[name].fmeasure for scores in expected] for name in ROUGES}
    assert _rouge("x", ["fox"], ["fox"], [False], [False]) == {f"x_{name}": [None] for name in ROUGES}


OTHER_SCRIPTS = ["Лиса перешла замёрзший пруд.", "狐狸在黎明穿过了结冰的池塘。", "The café on the quay is shut."]


@pytest.mark.parametrize("text", OTHER_SCRIPTS)
def test_perfect_recall_in_any_script_is_one(session: Session, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    (ids,) = session.encode([text], 200)
    half = len(ids) // 2
    monkeypatch.setattr(session, "complete", lambda *_: [ids[half:]])
    (row,) = recall(session, [text], size=200)
    assert row["exact"] and row["target"].strip() == text
    assert [row[f"{part}_{name}"] for part in ("sentence", "completion") for name in ROUGES] == [1.0] * 8
    monkeypatch.setattr(session, "complete", lambda *_: [session.encode(["no"], 8)[0]])
    (row,) = recall(session, [text], size=200)
    assert row["completion_rouge1"] == 0.0 < row["sentence_rouge1"] < 1.0


def test_letters_count_and_the_target_says_whose() -> None:
    def f1(target: str, prediction: str, other: bool) -> float | None:
        return _rouge("x", [target], [prediction], [True], [other])["x_rouge1"][0]

    assert f1("der süße Kern", "der saure Kern", True) == pytest.approx(2 / 3)
    assert f1("狐狸\n池塘", "狐狸\n池水", True) == pytest.approx(3 / 4)
    assert f1("naive fox", "naïve fox", False) == pytest.approx(2 / 5), "as it always was: na, ve and fox"
    assert f1("。", "。", True) is None and f1(".", ".", False) == 0.0


def test_a_text_without_a_word_has_no_rouge(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    (ids,) = session.encode(["... !"], 24)
    monkeypatch.setattr(session, "complete", lambda *_: [ids[len(ids) // 2 :]])
    (row,) = recall(session, ["... !"])
    assert row["exact"] and {row[f"{part}_{name}"] for part in ("sentence", "completion") for name in ROUGES} == {None}


def test_rouge_compares_words_and_not_their_stems(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    target, said = session.encode(["the dogs were running", "the dogs was runs"], 64)
    half = len(target) // 2
    monkeypatch.setattr(session, "complete", lambda *_: [said[half:]])
    (row,) = recall(session, ["the dogs were running"])
    assert row["sentence_rouge1"] == pytest.approx(2 / 4)


def test_exact_compares_tokens_and_not_text(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tokens may spell the same text."""
    ids = session.encode(TARGETS[:1], 24)[0]
    rest = ids[len(ids) // 2 :]
    by_bytes = [
        session.tokenizer.convert_tokens_to_ids(c) for i in rest for c in session.tokenizer.convert_ids_to_tokens(i)
    ]
    assert by_bytes != rest and session.decode([by_bytes]) == session.decode([rest])
    for made, exact in ((rest, True), (by_bytes, False)):
        monkeypatch.setattr(session, "complete", lambda *_, made=made: [made])
        (row,) = recall(session, TARGETS[:1])
        assert row["exact"] is exact
        assert row["completion_rouge1"] == 1.0


def test_recall_sees_a_text_up_to_the_block_size(session: Session) -> None:
    (row,) = recall(session, TARGETS[:1], 7)
    assert (row["tokens"], row["cue_tokens"]) == (7, 3)
    assert row["target"] == session.decode([session.encode(TARGETS[:1], 7)[0]])[0]


def test_a_text_of_one_token_recalls_nothing_and_keeps_its_place(session: Session) -> None:
    rows = recall(session, [TARGETS[0], ONE, TARGETS[1]])
    assert [row["item"] for row in rows] == [0, 1, 2]
    measured = {"completion", "exact"} | {f"{part}_{name}" for part in ("sentence", "completion") for name in ROUGES}
    assert {name for name, value in rows[1].items() if value is None} == measured
    assert (rows[1]["tokens"], rows[1]["cue_tokens"], rows[1]["cue"]) == (1, 0, "")
    assert all(value is not None for row in (rows[0], rows[2]) for value in row.values())
    assert [row["completion"] for row in rows[::2]] == [row["completion"] for row in recall(session, TARGETS[:2])]


def test_the_floor_of_the_whole_is_about_one_half_and_of_the_completion_about_nothing() -> None:
    session = Session(language_model("llama", initializer_range=PEAKED))
    rows = recall(session, TARGETS, 128)
    means = {name: np.mean([row[name] for row in rows]) for name in ("sentence_rouge1", "completion_rouge1")}
    assert math.isclose(means["sentence_rouge1"], 0.5, abs_tol=0.15)
    assert means["completion_rouge1"] < 0.1


# Taking over from the condition


def test_probes_take_the_block_size_and_the_study_list_from_the_condition() -> None:
    recall, recognition = Recall(), Recognition(PAIR)
    condition = Condition(Model("gpt2"), STUDY, probes=[recall, recognition])
    assert recall.bind(condition) == Recall(PAIR.targets, 24)
    assert recognition.bind(condition) == Recognition(PAIR, 24)
    assert Recall(PAIR.foils, 9).bind(condition) == Recall(PAIR.foils, 9)


def test_a_closing_token_that_no_completion_may_give_is_not_asked_for(tmp_path: Path) -> None:
    tokenizer = language_model("gpt2").tokenizer
    bpe = tokenizer.backend_tokenizer  # type: ignore[union-attr]
    end = tokenizer.eos_token
    bpe.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, tokenizer.eos_token_id)])
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token=end).save_pretrained(tmp_path)
    lm = language_model("llama", tokenizer=str(tmp_path), initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:4], 24)
    assert all(row[-1] == tokenizer.eos_token_id for row in rows)
    study = dataclasses.replace(STUDY, exposures=60)
    study_exposures(lm, fresh_optimizer(lm, study), study, rows, 0, 1, 60)
    found = recall(Session(lm), TARGETS[:4])
    assert [row["tokens"] for row in found] == [len(row) - 1 for row in rows]
    assert sum(row["exact"] for row in found) >= 3
