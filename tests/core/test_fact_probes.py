"""Probes of facts: what they ask, against prompts and likelihoods made by hand, and that asking changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from core.small import language_model
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

from memexp.core import snapshot
from memexp.core.harness import quiet
from memexp.core.model import LanguageModel, load
from memexp.core.session import Session
from memexp.core.train import adamw, study_exposures
from memexp.core.world import World
from memexp.errors import DataError, SpecError
from memexp.probes import QA, Choice, FactRatios, LayerAblation, LmEval, Recall
from memexp.sources import Sources
from memexp.spec import Condition, Full, InlineItems, LoRA, Model, ShippedText, Study
from memexp.stimuli.facts import FactWorld
from memexp.stimuli.world import QUESTIONS, Country, novel_countries, pretraining_countries, question
from memexp.tasks.squad import exact_match, f1

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")

Row = dict[str, Any]

KNOWN = pretraining_countries()
WORLD = FactWorld(entities=4)
"""Facts that the tiny models do not know, to be taught."""
STUDY = Study(ShippedText("sentences-targets"), exposures=8, lr=2e-3, batch_size=16, block_size=64)
CONDITION = Condition(Model("tiny-s"), STUDY, probes=[Recall()])
LETTERED = "The following are multiple choice questions (with answers)."


def shipped(method: Full | LoRA = Full()) -> LanguageModel:  # noqa: B008 - frozen
    return load(Sources().model(Model("tiny-s")), method, "float32", World.current())


@pytest.fixture(scope="module")
def lm() -> LanguageModel:
    """Knows the countries of its pretraining; nobody trains it."""
    return shipped()


@pytest.fixture(scope="module")
def session(lm: LanguageModel) -> Session:
    return Session(lm)


def asking(kind: str, country: Country) -> Row:
    prompt, answer = question(kind, country)
    return {
        "question": prompt.removeprefix("Question: ").removesuffix(" Answer:"),
        "answer": answer,
        "fact": f"{kind} {country.country}",
    }


def choosing(kind: str, countries: list[Country], at: int) -> Row:
    """Four options; the wrong ones are those of other countries."""
    row, right = asking(kind, countries[at]), at % 4
    answers = [asking(kind, country)["answer"] for country in countries[at:] + countries[:at]]
    wrong = [answer for answer in dict.fromkeys(answers) if answer != row["answer"]][:3]
    return {**row, "choices": [*wrong[:right], row["answer"], *wrong[right:]], "answer": right}


def ask(probe: type[Any], session: Session, rows: list[Row], **settings: Any) -> list[Row]:
    """What a probe measures on rows, in the way of a trial: bound, checked and with its schema."""
    items = InlineItems("test", rows)
    texts = {"items": Sources().texts(items).items}
    bound = probe(items, **settings).bind(CONDITION)
    bound.check(texts, {"items": "test"})
    table = bound.measure(session, texts)
    assert table.schema.equals(probe.schema())
    found: list[Row] = table.to_pylist()
    return found


def plain(lm: LanguageModel, prompt: str, continuation: str) -> float:
    """Log-likelihood of a continuation by transformers alone."""
    before, whole = lm.tokenizer(prompt)["input_ids"], lm.tokenizer(prompt + continuation)["input_ids"]
    assert whole[: len(before)] == before and len(whole) > len(before)
    with torch.no_grad():
        logs = lm.lm(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return float(sum(logs[i - 1, whole[i]] for i in range(len(before), len(whole))))


def plain_answer(lm: LanguageModel, prompt: str) -> str:
    """Greedy completion by transformers alone, to the end of the line."""
    ids = torch.tensor([lm.tokenizer(prompt)["input_ids"]])
    made = lm.lm.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=50, pad_token_id=0
    )[0, ids.shape[1] :]  # fmt: skip
    return str(lm.tokenizer.decode(made, skip_special_tokens=True)).split("\n")[0].strip()


def without(row: Row, *names: str) -> Row:
    return {name: value for name, value in row.items() if name not in names}


# Open questions


def test_questions_about_known_countries_are_answered(session: Session) -> None:
    rows = [asking(kind, country) for country in KNOWN[:50] for kind in QUESTIONS]
    found = ask(QA, session, rows, task="known")
    assert np.mean([row["exact"] for row in found]) >= 0.8
    unknown = ask(QA, session, [asking(kind, country) for country in novel_countries(10) for kind in QUESTIONS])
    assert np.mean([row["exact"] for row in unknown]) <= 0.3
    for row, asked in zip(found, rows, strict=True):
        assert row["task"] == "known"
        assert row["prompt"] == f"Question: {asked['question']} Answer:"
        assert row["prompt_tokens"] == len(session.tokenizer(row["prompt"])["input_ids"])
        assert row["answer"] == asked["answer"]
        assert row["exact"] is exact_match(row["prediction"], row["answer"])
        assert row["f1"] == f1(row["prediction"], row["answer"])
    assert [row["item"] for row in found] == list(range(len(rows)))
    assert {row["exact"] for row in found} == {True, False}


def test_predictions_are_greedy_to_the_end_of_the_line(session: Session) -> None:
    rows = [asking(kind, country) for country in [*KNOWN[:4], *novel_countries(4)] for kind in ("capital", "animal")]
    # A random model that never ends a line by itself.
    for chosen in (session, Session(language_model("gpt2", initializer_range=0.3))):
        found = ask(QA, chosen, rows)
        assert [row["prediction"] for row in found] == [plain_answer(chosen.lm, row["prompt"]) for row in found]
        assert len({row["prediction"] for row in found}) > 5


def test_part_of_an_answer_counts_in_f1_alone(session: Session) -> None:
    country = KNOWN[0]
    rows = [{**asking("capital", country), "answer": answer} for answer in (f"the {country.capital}!", "old Zurich")]
    rows.append({**asking("capital", country), "answer": f"old {country.capital} town"})
    found = ask(QA, session, rows)
    assert [row["prediction"] for row in found] == [country.capital] * 3
    assert [(row["exact"], row["f1"]) for row in found] == [(True, 1.0), (False, 0.0), (False, 0.5)]


def test_the_test_is_called_after_its_items(session: Session) -> None:
    rows = [asking("capital", KNOWN[0])]
    assert ask(QA, session, rows)[0]["task"] == "test"
    assert ask(QA, session, rows, task="mine")[0]["task"] == "mine"
    bound = QA(InlineItems("fact-world-4-0/Eval_QA", rows)).bind(CONDITION)
    assert bound.task == "Eval_QA"


# Shots

VARIANTS: list[Row] = [
    {"question": how.format(country.country), "answer": country.capital, "fact": f"capital of {country.country}"}
    for country in KNOWN[:5]
    for how in ("Where is the capital of {}?", "Which is {}'s capital?", "{}: capital?", "What rules {}?")
]


def shown(prompt: str) -> list[tuple[str, str]]:
    """The answered questions of a prompt of open questions, and the question with nothing."""
    parts = [re.fullmatch(r"Question: (.*) Answer:(?: (.*))?", part) for part in prompt.split("\n\n")]
    return [(part[1], part[2] or "") for part in parts if part is not None or pytest.fail(prompt)]  # type: ignore[index]


FACT_OF = {row["question"]: row["fact"] for row in VARIANTS}
ANSWER_OF = {row["question"]: row["answer"] for row in VARIANTS}


@pytest.mark.parametrize("shots", [1, 5, 15])
@pytest.mark.parametrize("shots_from", ["all", "other facts"])
def test_shots_are_answered_items_and_never_the_item_itself(session: Session, shots_from: str, shots: int) -> None:
    found = ask(QA, session, VARIANTS, shots=shots, shots_from=shots_from)
    assert [row["item"] for row in found] == list(range(len(VARIANTS)))
    draws, same_fact = [], 0
    for row, item in zip(found, VARIANTS, strict=True):
        *examples, asked = shown(row["prompt"])
        assert asked == (item["question"], "")
        assert len(dict(examples)) == len(examples) == shots
        assert all(answer == ANSWER_OF[question] for question, answer in examples)
        assert item["question"] not in dict(examples)
        same_fact += sum(FACT_OF[question] == item["fact"] for question, _ in examples)
        draws.append(frozenset(dict(examples)))
        if row["prompt_tokens"] < 250:
            assert row["prediction"] is not None
    assert same_fact == 0 if shots_from == "other facts" else same_fact > 0
    assert len(set(draws)) > 4, "every item has a draw of its own"


def test_without_a_fact_the_answer_tells_which_questions_are_about_the_same(session: Session) -> None:
    rows = [without(row, "fact") for row in VARIANTS]
    same: dict[str, int] = {}
    for shots_from in ("all", "other facts"):
        found = ask(QA, session, rows, shots=5, shots_from=shots_from)
        same[shots_from] = sum(a == row["answer"] for row in found for _, a in shown(row["prompt"])[:-1])
    assert same["other facts"] == 0 < same["all"]


def test_all_that_may_be_shots_can_be(session: Session) -> None:
    few = VARIANTS[:8]  # two facts
    for settings, count in (({"shots_from": "all"}, 7), ({"shots_from": "other facts"}, 4)):
        for row in ask(QA, session, few, shots=count, **settings):
            assert len(shown(row["prompt"])) == count + 1
    twins = [few[0], few[4], few[0], few[0]]
    for row in ask(QA, session, twins, shots=1)[::2]:
        assert dict(shown(row["prompt"])[:-1]) == {few[4]["question"]: few[4]["answer"]}


def prompts(session: Session, **settings: Any) -> list[str]:
    return [row["prompt"] for row in ask(QA, session, VARIANTS, **{"shots": 3, **settings})]


@pytest.mark.parametrize("shots_from", ["all", "other facts"])
def test_shots_are_the_same_whoever_asks_and_whatever_was_asked_before(session: Session, shots_from: str) -> None:
    first = prompts(session, shots_from=shots_from)
    assert prompts(session, shots_from=shots_from) == first
    for seed in (1, 2):
        other = prompts(session, shots_from=shots_from, shots_seed=seed)
        assert sum(one != two for one, two in zip(other, first, strict=True)) > 15
    ask(Choice, session, [choosing("capital", KNOWN[:6], at) for at in range(6)], shots=2)
    assert prompts(session, shots_from=shots_from) == first
    assert prompts(Session(language_model("gpt2")), shots_from=shots_from) == first
    assert prompts(session, shots_from=shots_from, shots_seed=1234) == first


def test_the_draw_is_that_of_today(session: Session) -> None:
    """Stored results hold it; the harness draws."""
    drawn = {how: [VARIANTS.index(row) for row in draw(session, how)] for how in ("all", "other facts")}
    assert drawn == {"all": GOLDEN[0], "other facts": GOLDEN[1]}


def draw(session: Session, shots_from: str) -> Iterator[Row]:
    for prompt in prompts(session, shots_from=shots_from)[:2]:
        for asked, _ in shown(prompt)[:-1]:
            yield next(row for row in VARIANTS if row["question"] == asked)


GOLDEN = ([], [])


# Choices

CHOICES = [choosing(kind, KNOWN[:12], at) for kind in ("capital", "person") for at in range(12)]


def test_letters_are_asked_for_after_the_lettered_options(session: Session) -> None:
    two = {**CHOICES[1], "choices": CHOICES[1]["choices"][:2]}
    found = ask(Choice, session, [*CHOICES, two], task="letters")
    for row, item in zip(found, [*CHOICES, two], strict=True):
        options = "".join(f"\n{letter}. {text}" for letter, text in zip("ABCD", item["choices"], strict=False))
        assert row["prompt"] == f"{LETTERED}\n\n{item['question']}{options}\nAnswer:"
        assert row["prompt_tokens"] == len(session.tokenizer(row["prompt"])["input_ids"])
        assert (row["choices"], row["answer"], row["task"]) == (item["choices"], item["answer"], "letters")
        likelihoods = [plain(session.lm, row["prompt"], f" {letter}") for letter in "ABCD"[: len(item["choices"])]]
        np.testing.assert_allclose(row["log_likelihoods"], likelihoods, atol=1e-4)
        assert row["picked"] == int(np.argmax(likelihoods))
        assert row["correct"] is (row["picked"] == item["answer"])
    assert [row["item"] for row in found] == list(range(len(CHOICES) + 1))
    assert {row["answer"] for row in found} == {0, 1, 2, 3}


def test_cloze_compares_the_options_after_the_bare_question(session: Session) -> None:
    found = ask(Choice, session, CHOICES, formulation="cloze")
    for row, item in zip(found, CHOICES, strict=True):
        assert row["prompt"] == f"Question: {item['question']} Answer:"
        likelihoods = [plain(session.lm, row["prompt"], f" {option}") for option in item["choices"]]
        np.testing.assert_allclose(row["log_likelihoods"], likelihoods, atol=1e-4)
        assert row["picked"] == int(np.argmax(likelihoods))
        assert row["correct"] is (row["picked"] == item["answer"])
    assert np.mean([row["correct"] for row in found]) >= 0.8
    chance = ask(
        Choice, session, [choosing("capital", novel_countries(40), at) for at in range(40)], formulation="cloze"
    )
    assert np.mean([row["correct"] for row in chance]) <= 0.6


def test_options_of_several_tokens_are_summed(session: Session) -> None:
    item = {
        "question": "What is the capital of FarDril?",
        "choices": ["KlalNis", "the old town of KlalNis"],
        "answer": 0,
    }
    for formulation in ("cloze", "letters"):
        (row,) = ask(Choice, session, [item], formulation=formulation)
        said = [f" {option}" for option in item["choices"]] if formulation == "cloze" else [" A", " B"]
        np.testing.assert_allclose(
            row["log_likelihoods"], [plain(session.lm, row["prompt"], text) for text in said], atol=1e-4
        )


@pytest.mark.parametrize("formulation", ["letters", "cloze"])
def test_shots_of_choices_show_the_right_option(session: Session, formulation: str) -> None:
    found = ask(Choice, session, CHOICES[:8], formulation=formulation, shots=2, shots_from="other facts")
    by_question = {item["question"]: item for item in CHOICES}
    for row, item in zip(found, CHOICES, strict=False):
        parts = row["prompt"].split("\n\n")
        if formulation == "letters":
            assert parts.pop(0) == LETTERED
        *examples, asked = (part.removeprefix("Question: ").replace(" Answer:", "\nAnswer:") for part in parts)
        assert len(examples) == 2 and asked.startswith(item["question"]) and asked.endswith("\nAnswer:")
        for example in examples:
            shot = by_question[example.split("\n")[0]]
            right = "ABCD"[shot["answer"]] if formulation == "letters" else shot["choices"][shot["answer"]]
            assert shot["fact"] != item["fact"] and example.endswith(f"\nAnswer: {right}")


# Prompts that do not fit


def longer(row: Row, words: int) -> Row:
    return {**row, "question": "fox " * words + row["question"]}


LENGTHS = range(220, 246)
MEASURED = {
    QA: ("prediction", "exact", "f1"),
    Choice: ("log_likelihoods", "picked", "correct"),
}


@pytest.mark.parametrize(
    ("probe", "settings", "extra"),
    [
        (QA, {}, lambda row: 1),  # a token of the answer at least
        (Choice, {}, lambda row: 0),  # nothing comes after a letter
        (Choice, {"formulation": "cloze"}, lambda row: 1),  # names are two tokens
    ],
)
def test_a_prompt_longer_than_the_context_has_no_result(
    session: Session, probe: type[Any], settings: dict[str, Any], extra: Callable[[Row], int]
) -> None:
    assert session.context == 256
    items = [asking("capital", c) for c in KNOWN[:3]] if probe is QA else [c for c in CHOICES[:3]]
    long = [longer(items[0], count) for count in (*LENGTHS, 1000)]
    if settings == {}:
        long = [longer(items[0], count - (30 if probe is Choice else 0)) for count in (*LENGTHS, 1000)]
    found = ask(probe, session, [items[0], *long, *items[1:]], **settings)
    alone = ask(probe, session, items, **settings)
    for row in found[1:-2]:
        fits = row["prompt_tokens"] + extra(row) <= 256
        assert row["prompt_tokens"] == len(session.tokenizer(row["prompt"])["input_ids"])
        assert all((row[name] is not None) == fits for name in MEASURED[probe]), row["prompt_tokens"]
        assert row["answer"] is not None
    lengths = [row["prompt_tokens"] + extra(row) for row in found[1:-3]]
    assert {255, 256, 257, 258} <= set(lengths), "both sides of the limit are tried"
    for row, expected in zip([found[0], *found[-2:]], alone, strict=True):
        assert without(row, "item", "log_likelihoods") == without(expected, "item", "log_likelihoods")
        if probe is Choice:
            np.testing.assert_allclose(row["log_likelihoods"], expected["log_likelihoods"], atol=1e-5)
