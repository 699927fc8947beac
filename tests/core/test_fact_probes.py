"""Probes of facts: what they ask, against prompts and likelihoods made by hand, and that asking changes nothing."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from core.small import PEAKED, language_model, study_exposures
from lm_eval.evaluator import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from torch import Tensor

import memexp.probes.lm_eval
from memexp.core import fork
from memexp.core.harness import HarnessModel, quiet
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.probes import QA, Choice, FactRatios, LayerAblation, LmEval, Recall
from memexp.sources import Sources
from memexp.sources.items import read_items
from memexp.spec import Condition, Full, InlineItems, LoRA, Model, ShippedText, Study
from memexp.stimuli.facts import FactWorld
from memexp.stimuli.world import QUESTIONS, Country, novel_countries, pretraining_countries, question
from memexp.tasks.squad import exact_match, f1

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")

Row = dict[str, Any]

KNOWN = pretraining_countries()
WORLD = FactWorld(entities=4)
"""Facts that the tiny models do not know, to be taught."""
STUDY = Study(ShippedText("sentences-targets"), exposures=6, lr=2e-3, batch_size=16, block_size=64)
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
    found = []
    for part in prompt.split("\n\n"):
        match = re.fullmatch(r"Question: (.*) Answer:(?: (.*))?", part)
        assert match is not None, prompt
        found.append((match[1], match[2] or ""))
    return found


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


GOLDEN = ([14, 3, 2, 18, 2, 3], [18, 5, 4, 6, 18, 16])


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
    """Every word is one token of the tiny models'."""
    return {**row, "question": "fox " * words + row["question"]}


MEASURED = {QA: ("prediction", "exact", "f1"), Choice: ("log_likelihoods", "picked", "correct")}


@pytest.mark.parametrize(
    ("probe", "settings", "limit"),
    [
        (QA, {}, 255),  # a token of the answer at least
        (Choice, {}, 256),  # nothing comes after a letter
        (Choice, {"formulation": "cloze"}, 255),  # names are two tokens, and nothing comes after the second
    ],
)
def test_a_prompt_longer_than_the_context_has_no_result(
    session: Session, probe: type[Any], settings: dict[str, Any], limit: int
) -> None:
    assert session.context == 256
    items = [asking("capital", country) for country in KNOWN[:3]] if probe is QA else CHOICES[:3]
    alone = ask(probe, session, items, **settings)
    lengths = [*range(252, 260), 1000]
    long = [longer(items[0], length - alone[0]["prompt_tokens"]) for length in lengths]
    first, *found, second, third = ask(probe, session, [items[0], *long, *items[1:]], **settings)
    assert {limit, limit + 1} <= {row["prompt_tokens"] for row in found}, "both sides of the limit"
    for row, item in zip(found, long, strict=True):
        fits = row["prompt_tokens"] <= limit
        assert [row[name] is not None for name in MEASURED[probe]] == [fits] * 3, row["prompt_tokens"]
        assert item["question"] in row["prompt"] and row["answer"] == item["answer"]
    for row, expected in zip([first, second, third], alone, strict=True):
        assert without(row, "item", "log_likelihoods") == without(expected, "item", "log_likelihoods")
        if probe is Choice:
            np.testing.assert_allclose(row["log_likelihoods"], expected["log_likelihoods"], atol=1e-5)


def test_one_option_that_does_not_fit_leaves_the_question_without_a_result(session: Session) -> None:
    item = {**CHOICES[0], "choices": ["fox", "fox " * 250 + "fox"], "answer": 0}
    row, other = ask(Choice, session, [item, CHOICES[1]], formulation="cloze")
    assert [row[name] for name in MEASURED[Choice]] == [None] * 3
    assert other["log_likelihoods"] is not None


def test_a_tokenizer_that_closes_every_text_is_refused(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the closing token all letters would tie, and the first be picked everywhere."""
    plain = session.tokenizer

    class Closing:
        all_special_ids = plain.all_special_ids

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [*plain(text)["input_ids"], plain.eos_token_id]}

    monkeypatch.setattr(session.lm, "tokenizer", Closing())
    with pytest.raises(SpecError, match="closes every text with a token"):
        HarnessModel(session)


@pytest.mark.parametrize("formulation", ["letters", "cloze"])
def test_of_outputs_that_are_no_numbers_no_choice_is_the_likeliest(
    session: Session, formulation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    likelihoods = session.continuations

    def broken(pairs: Any) -> Any:
        found = likelihoods(pairs)
        return [dataclasses.replace(found[0], log_likelihood=math.nan), *found[1:]]

    monkeypatch.setattr(session, "continuations", broken)
    first, *others = ask(Choice, session, CHOICES[:3], formulation=formulation)
    assert [first[name] for name in MEASURED[Choice]] == [None] * 3
    assert all(row[name] is not None for row in others for name in MEASURED[Choice])


# Ablation


@dataclasses.dataclass(frozen=True)
class Taught:
    """A model that has learned the facts of `WORLD`, what it was before, and another to be put together."""

    lm: LanguageModel
    pretrained: fork.Fork
    other: LanguageModel
    untrained: dict[str, Tensor]

    @property
    def session(self) -> Session:
        return Session(self.lm, self.pretrained)


def copied(lm: LanguageModel) -> dict[str, Tensor]:
    """Every tensor there is."""
    return {name: tensor.detach().clone() for name, tensor in lm.state_dict().items()}


@pytest.fixture(scope="module", params=["full", "lora"])
def taught(request: pytest.FixtureRequest) -> Taught:
    method = Full() if request.param == "full" else LoRA(r=8)
    study = STUDY if request.param == "full" else dataclasses.replace(STUDY, exposures=8, lr=5e-3)
    lm, other = shipped(method), shipped(method)
    before = fork.take(lm, None)
    texts = [row["text"] for row in WORLD.rows("Corpus_narrative")]
    study_exposures(lm, fresh_optimizer(lm, study), study, Session(lm).encode(texts, 64), 0, 1, study.exposures)
    return Taught(lm, before, other, copied(other))


MIXED = [*WORLD.rows("Eval_QA"), *(asking(kind, country) for country in KNOWN[:4] for kind in QUESTIONS)]
"""What is learned, and what was known before."""
MIXED_CHOICES = [*WORLD.rows("Eval_multiple_choice")[::4], *CHOICES]
SIDES = [("none", None), *(("lower", k) for k in (1, 2, 3, 4)), *(("upper", k) for k in (3, 2, 1, 0))]
"""In the order of the rows, for the four blocks of tiny-s."""


def ablate(
    taught: Taught, probe: type[Any], rows: list[Row], **settings: Any
) -> dict[tuple[str, int | None], list[Row]]:
    """The rows of each side."""
    items = InlineItems("test", rows)
    texts = {"items": Sources().texts(items).items}
    bound = LayerAblation(probe(items, **settings)).bind(CONDITION)
    bound.check(texts, {"items": "test"})
    table = bound.measure(taught.session, texts)
    assert table.schema.equals(LayerAblation.schema())
    found = table.to_pylist()
    assert len(found) == len(rows) * (2 * taught.session.depth + 1) == len(rows) * 9
    sides: dict[tuple[str, int | None], list[Row]] = {}
    for row in found:
        sides.setdefault((row["ablated_side"], row["ablated_layer"]), []).append(row)
    assert list(sides) == SIDES
    for side in sides.values():
        assert [row["item"] for row in side] == list(range(len(rows)))
    return sides


def by_hand(taught: Taught, side: str, layer: int | None) -> Session:
    """The other model, with what was learned copied into it, but for the blocks that are ablated."""
    learned = copied(taught.lm)
    with torch.no_grad():
        for name, tensor in taught.other.state_dict().items():
            block = next((int(part) for part in name.split(".") if part.isdigit()), None)
            upper = block is not None and layer is not None and block >= layer
            stays = side == "none" or upper == (side == "lower")
            tensor.copy_(learned[name] if stays else taught.untrained[name])
    return Session(taught.other)


def test_answers_without_some_blocks_are_those_of_a_model_put_together_by_hand(taught: Taught) -> None:
    sides = ablate(taught, QA, MIXED)
    for (side, layer), rows in sides.items():
        expected = ask(QA, by_hand(taught, side, layer), MIXED)
        for row, other in zip(rows, expected, strict=True):
            assert row["task"] == "test"
            assert (row["answer"], row["prediction"]) == (other["answer"], other["prediction"]), (side, layer)
            assert (row["correct"], row["f1"]) == (other["exact"], other["f1"])
    assert len({tuple(row["prediction"] for row in rows) for rows in sides.values()}) >= 7, "sides must differ"
    # Everything that was learned and nothing else is taken away.
    untrained = ask(QA, Session(shipped()), MIXED)
    assert [row["prediction"] for row in sides["lower", 4]] == [row["prediction"] for row in untrained]
    right = {
        side: np.mean([row["correct"] for row in rows[: len(WORLD.rows("Eval_QA"))]]) for side, rows in sides.items()
    }
    assert right["none", None] >= right["lower", 4] + 0.2, "the facts were learned"
    for row, other in zip(sides["none", None], ask(QA, taught.session, MIXED), strict=True):
        assert (row["prediction"], row["correct"], row["f1"]) == (other["prediction"], other["exact"], other["f1"])


def test_choices_without_some_blocks_too(taught: Taught) -> None:
    sides = ablate(taught, Choice, MIXED_CHOICES, formulation="cloze")
    for (side, layer), rows in sides.items():
        expected = ask(Choice, by_hand(taught, side, layer), MIXED_CHOICES, formulation="cloze")
        for row, other in zip(rows, expected, strict=True):
            assert row["answer"] == other["choices"][other["answer"]]
            assert row["prediction"] == other["choices"][other["picked"]], (side, layer)
            assert row["correct"] is other["correct"]
            assert row["f1"] is None
    assert len({tuple(row["prediction"] for row in rows) for rows in sides.values()}) >= 4, "sides must differ"
    untrained = ask(Choice, Session(shipped()), MIXED_CHOICES, formulation="cloze")
    assert [row["correct"] for row in sides["lower", 4]] == [row["correct"] for row in untrained]


def differing(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert list(one) == list(other)
    return [name for name in one if not torch.equal(one[name], other[name])]


def test_the_weights_are_the_same_bit_for_bit_afterwards(taught: Taught, monkeypatch: pytest.MonkeyPatch) -> None:
    before, within = copied(taught.lm), []
    plain_measure = QA.measure

    def watching(self: QA, session: Session, texts: Any) -> pa.Table:
        within.append(copied(taught.lm))
        return plain_measure(self, session, texts)

    monkeypatch.setattr(QA, "measure", watching)
    ablate(taught, QA, MIXED[:2])
    assert differing(before, copied(taught.lm)) == []
    for (side, layer), state in zip(SIDES, within, strict=True):
        assert differing(state, copied(by_hand(taught, side, layer).lm)) == [], (side, layer)
    changed = [len(differing(before, state)) for state in within]
    assert changed[0] == 0 and all(one < two for one, two in pairwise(changed[1:5])), "first to last block"
    assert changed[5] > 0 and all(one < two for one, two in pairwise(changed[5:])), "last to first block"


@pytest.mark.parametrize("call", [2, 5, 9])
def test_the_weights_are_the_same_after_an_error_too(
    taught: Taught, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, calls = copied(taught.lm), []
    plain_measure = QA.measure

    def failing(self: QA, session: Session, texts: Any) -> pa.Table:
        calls.append(len(differing(before, copied(taught.lm))))
        if len(calls) == call:
            raise KeyboardInterrupt
        return plain_measure(self, session, texts)

    monkeypatch.setattr(QA, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        ablate(taught, QA, MIXED[:2])
    assert len(calls) == call and calls[-1] > 0, "weights were others when it failed"
    assert differing(before, copied(taught.lm)) == []


def test_what_does_not_fit_has_no_result_in_any_ablation(taught: Taught) -> None:
    sides = ablate(taught, QA, [longer(MIXED[0], 300), MIXED[1]])
    for row, other in sides.values():
        assert (row["prediction"], row["correct"], row["f1"]) == (None, None, None)
        assert row["answer"] == MIXED[0]["answer"] and other["prediction"] is not None


def test_a_test_that_does_not_fit_is_refused_before() -> None:
    items = InlineItems("mine", CHOICES)
    with pytest.raises(DataError, match="QA: item 1 of mine has choices"):
        LayerAblation(QA(items)).check({"items": Sources().texts(items).items}, {"items": "mine"})


def test_without_the_weights_before_study_nothing_can_be_ablated(session: Session) -> None:
    items = InlineItems("mine", MIXED[:1])
    with pytest.raises(SpecError, match="does not know the weights before study"):
        LayerAblation(QA(items)).bind(CONDITION).measure(session, {"items": Sources().texts(items).items})


# Ratios

FACTS: list[Row] = [
    *({"head": country.country, "relation": "capital", "tail": country.capital} for country in KNOWN[:6]),
    *(
        {"head": country.country, "relation": "national animal", "tail": f"the {country.animal}"}
        for country in KNOWN[:6]
    ),
    {"head": "FarDril", "relation": "largest lake", "tail": "the KlalNis"},
    {"head": "BosHum", "relation": "largest lake", "tail": "the KlalNis"},
]
SHARED = [  # some tails are those of several heads
    {"head": head, "relation": "capital", "tail": tail}
    for head, tail in zip(
        "abcdefg", ["KlalNis", "GilVen", "KlalNis", "BrelPrar", "GilVen", "SanJir", "KlalNis"], strict=True
    )
]


def test_ratios_are_those_of_plain_likelihoods(session: Session) -> None:
    found = ask(FactRatios, session, FACTS, wrong_tails=4)
    for row, fact in zip(found, FACTS, strict=True):
        assert {name: row[name] for name in fact} == fact
        assert row["prompt"] == f"The {fact['relation']} of {fact['head']} is"
        assert row["negated_prompt"] == f"The {fact['relation']} of {fact['head']} is not"
        right = plain(session.lm, row["prompt"], f" {fact['tail']}")
        denied = plain(session.lm, row["negated_prompt"], f" {fact['tail']}")
        wrong = [plain(session.lm, row["prompt"], f" {tail}") for tail in row["wrong_tails"]]
        assert row["log_likelihood"] == pytest.approx(right, abs=1e-4)
        assert row["negated_log_likelihood"] == pytest.approx(denied, abs=1e-4)
        assert row["wrong_log_likelihoods"] == pytest.approx(wrong, abs=1e-4)
        assert row["log_negation_ratio"] == pytest.approx(right - denied, abs=1e-4)
        if fact["relation"] == "largest lake":  # nothing to compare with
            assert (row["wrong_tails"], row["wrong_log_likelihoods"], row["log_comparison_ratio"]) == ([], [], None)
        else:
            assert len(wrong) == 4
            ratio = right - math.log(sum(map(math.exp, wrong)) / len(wrong))
            assert row["log_comparison_ratio"] == pytest.approx(ratio, abs=1e-4)
    assert [row["item"] for row in found] == list(range(len(FACTS)))
    assert np.mean([row["log_comparison_ratio"] for row in found[:6]]) > 3, "the countries are known"


def test_wrong_tails_are_other_tails_of_the_relation_each_once(session: Session) -> None:
    rows = [*SHARED, *FACTS]
    for count in (1, 3, 10):
        for row in ask(FactRatios, session, rows, wrong_tails=count):
            others = {fact["tail"] for fact in rows if fact["relation"] == row["relation"]} - {row["tail"]}
            assert len(set(row["wrong_tails"])) == len(row["wrong_tails"]) == min(count, len(others))
            assert set(row["wrong_tails"]) <= others
    # Those that come next, and from the beginning again.
    found = ask(FactRatios, session, SHARED, wrong_tails=2)
    assert [row["wrong_tails"] for row in found] == [
        ["GilVen", "BrelPrar"],
        ["KlalNis", "BrelPrar"],
        ["BrelPrar", "GilVen"],
        ["GilVen", "SanJir"],
        ["SanJir", "KlalNis"],
        ["KlalNis", "GilVen"],
        ["GilVen", "BrelPrar"],
    ]


def test_another_right_tail_of_the_same_head_is_not_wrong(session: Session) -> None:
    pairs = [("France", "Spain"), ("Italy", "Austria"), ("France", "Italy"), ("Spain", "Portugal")]
    rows = [{"head": head, "relation": "neighbour", "tail": tail} for head, tail in pairs]
    found = ask(FactRatios, session, [*rows, {"head": "France", "relation": "capital", "tail": "Paris"}])
    assert [row["wrong_tails"] for row in found] == [
        ["Austria", "Portugal"],
        ["Italy", "Portugal", "Spain"],
        ["Portugal", "Austria"],
        ["Spain", "Austria", "Italy"],
        [],
    ]


def test_templates_are_filled_with_head_and_relation(session: Session) -> None:
    (row, _) = ask(FactRatios, session, FACTS[:2], statement="In {head} the {relation} is", negation="Not in {head} is")
    assert row["prompt"] == "In FarDril the capital is"
    assert row["negated_prompt"] == "Not in FarDril is"
    assert row["log_likelihood"] == pytest.approx(plain(session.lm, row["prompt"], " KlalNis"), abs=1e-4)


def test_the_comparison_ratio_rises_with_what_is_taught(session: Session, taught: Taught) -> None:
    def mean(session: Session, world: FactWorld) -> float:
        found = ask(FactRatios, session, world.rows("Facts"))
        return float(np.mean([row["log_comparison_ratio"] for row in found]))

    others = FactWorld(entities=4, seed=1)
    rise, rise_of_others = (mean(taught.session, world) - mean(session, world) for world in (WORLD, others))
    assert rise > 2
    assert rise > rise_of_others + 2


def test_a_tail_that_does_not_fit_is_left_out(session: Session) -> None:
    long = "fox " * 300
    rows = [*FACTS[:3], {"head": "NobOdy", "relation": "capital", "tail": long.strip()}]
    *found, last = ask(FactRatios, session, rows)
    assert [last[name] for name in ("log_likelihood", "log_comparison_ratio", "log_negation_ratio")] == [None] * 3
    assert None not in last["wrong_log_likelihoods"]
    for row, alone in zip(found, ask(FactRatios, session, FACTS[:3]), strict=True):
        wrong = dict(zip(row["wrong_tails"], row["wrong_log_likelihoods"], strict=True))
        assert wrong.pop(long.strip()) is None and set(wrong) == set(alone["wrong_tails"])
        assert row["log_comparison_ratio"] == pytest.approx(alone["log_comparison_ratio"], abs=1e-5)
    (row,) = ask(FactRatios, session, [{**FACTS[0], "head": long}])
    assert (row["log_likelihood"], row["negated_log_likelihood"], row["log_comparison_ratio"]) == (None, None, None)


# Tasks of lm-evaluation-harness

CAPITALS = [
    {
        "q": f"What is the capital of {country.country}?",
        # Of unequal length, so that the two accuracies differ.
        "options": [country.capital, "fox", f"the old town of {country.person} by the sea", "hen"],
        "gold": 0 if at < 12 else 2,
        "a": country.capital,
    }
    for at, country in enumerate([*KNOWN[:8], *novel_countries(8)])
]
DATA = """dataset_path: json
dataset_kwargs:
  data_files: {{test: {0}/data.jsonl}}
test_split: test
fewshot_split: test
"""
CHOICE_TASK = """task: capitals_choice
output_type: multiple_choice
doc_to_text: "Question: {{q}} Answer:"
doc_to_choice: options
doc_to_target: gold
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
OPEN_TASK = """task: capitals_open
output_type: generate_until
doc_to_text: "Question: {{q}} Answer:"
doc_to_target: "{{a}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 12, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true, ignore_case: true}
"""
NAMES = ["capitals_choice", "capitals_open"]


def task_folder(folder: Path, **files: str) -> Path:
    """Files of tasks beside their data."""
    folder.mkdir(exist_ok=True)
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CAPITALS), encoding="utf-8")
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(DATA.format(folder) + text, encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return task_folder(tmp_path / "tasks", choice=CHOICE_TASK, generation=OPEN_TASK)


def lm_eval(session: Session, folder: Path, names: list[str], **settings: Any) -> list[Row]:
    probe = LmEval(names, include_path=folder, **settings).bind(CONDITION)
    probe.check({}, {})
    table = probe.measure(session, {})
    assert table.schema.equals(LmEval.schema())
    found: list[Row] = table.to_pylist()
    return found


def test_a_model_whose_outputs_are_no_numbers_answers_nothing(folder: Path) -> None:
    lm = language_model("gpt2", initializer_range=PEAKED)
    with torch.no_grad():
        lm.lm.get_input_embeddings().weight[:] = torch.nan
    broken = Session(lm)
    found = lm_eval(broken, folder, NAMES)
    assert len(found) == 48 and all(row["value"] is None and row["response"] is None for row in found)
    assert all(row["prompt"] and row["answer"] for row in found)
    items = InlineItems("q", [{"question": "What is the capital of France?", "answer": "Paris"}])
    texts = {"items": read_items(items)[1]}
    (row,) = QA(items, task="q").measure(broken, texts).to_pylist()
    assert row["prompt"] and row["prediction"] is row["exact"] is row["f1"] is None


@pytest.mark.parametrize("shots", [None, 2])
def test_values_are_those_of_the_harness(session: Session, folder: Path, shots: int | None) -> None:
    found = lm_eval(session, folder, NAMES, shots=shots)
    with quiet():
        theirs = simple_evaluate(
            model=HFLM(pretrained=session.lm.lm, tokenizer=session.tokenizer, batch_size=4),
            tasks=NAMES,
            num_fewshot=shots,
            task_manager=TaskManager(include_defaults=False, include_path=str(folder)),
            bootstrap_iters=0,
        )
    means = {}
    for name, metrics in (("capitals_choice", ("acc", "acc_norm")), ("capitals_open", ("exact_match",))):
        rows = [row for row in found if row["task"] == name]
        assert [(row["item"], row["metric"]) for row in rows] == [(i, m) for i in range(16) for m in metrics]
        samples = {sample["doc_id"]: sample for sample in theirs["samples"][name]}
        for row in rows:
            sample = samples[row["item"]]
            assert row["value"] == sample[row["metric"]]
            assert row["prompt"] == sample["arguments"][0][0]
            assert row["prompt_tokens"] == len(session.tokenizer(row["prompt"])["input_ids"])
            assert (row["filter"], row["weight"], row["answer"]) == ("none", None, str(sample["target"]))
            if name == "capitals_open":
                assert row["response"] == sample["filtered_resps"][0]
                assert row["choices"] is None and row["log_likelihoods"] is None
            else:
                assert row["response"] is None
                assert row["choices"] == [f" {option}" for option in CAPITALS[row["item"]]["options"]]
                logs = [log for log, _ in sample["filtered_resps"]]
                assert row["log_likelihoods"] == pytest.approx(logs, abs=1e-4)
        for metric in metrics:
            values = [row["value"] for row in rows if row["metric"] == metric]
            means[metric] = np.mean(values)
            assert means[metric] == pytest.approx(theirs["results"][name][f"{metric},none"], abs=1e-9)
            assert set(values) == {0.0, 1.0} or shots, "otherwise any constant would do"
    assert len(found) == 48
    assert shots or means["acc"] != means["acc_norm"]


def test_a_limit_asks_the_first_items_only(session: Session, folder: Path) -> None:
    found = lm_eval(session, folder, ["capitals_open"], limit=3)
    assert found == [row for row in lm_eval(session, folder, ["capitals_open"]) if row["item"] < 3]


def test_shots_follow_their_seed(session: Session, folder: Path) -> None:
    first, again, other = (
        [row["prompt"] for row in lm_eval(session, folder, ["capitals_open"], shots=2, shots_seed=seed, limit=8)]
        for seed in (1234, 1234, 5)
    )
    assert first == again != other
    assert all(prompt.count("Question:") == 3 for prompt in first)


DRAWING = {
    "random": "random.sample(range(16), 6)",
    "numpy": "np.random.permutation(16)[:6].tolist()",
    "torch": "torch.randperm(16)[:6].tolist()",
}


@pytest.mark.parametrize("library", DRAWING)
def test_what_a_task_draws_follows_the_seed_and_nothing_else(session: Session, tmp_path: Path, library: str) -> None:
    made = task_folder(tmp_path / "t", generation=f"{OPEN_TASK}process_docs: !function drawn_{library}.drawn\n")
    (made / f"drawn_{library}.py").write_text(
        "import random\nimport numpy as np\nimport torch\n"
        f"def drawn(rows):\n    return rows.select({DRAWING[library]})\n"
    )
    prompts, after = [], []
    for state, seed in ((1, 1234), (2, 1234), (1, 5)):
        random.seed(state), np.random.seed(state), torch.manual_seed(state)
        prompts.append([row["prompt"] for row in lm_eval(session, made, ["capitals_open"], shots_seed=seed)])
        after.append((random.random(), np.random.rand(), torch.rand(()).item()))
    assert len(set(prompts[0])) == 6
    assert prompts[0] == prompts[1] != prompts[2]
    assert after[0] != after[1] and after[0] == after[2], "the generators go on where they were"
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    assert after[0] == (random.random(), np.random.rand(), torch.rand(()).item())


@pytest.mark.parametrize(("fixed", "shots", "shown"), [(None, None, 0), (1, None, 1), (1, 2, 2), (0, 2, 0)])
def test_a_task_says_how_many_shots_unless_told(
    session: Session, tmp_path: Path, fixed: int | None, shots: int | None, shown: int
) -> None:
    says = "" if fixed is None else f"num_fewshot: {fixed}\n"
    made = task_folder(tmp_path / "t", generation=OPEN_TASK + says)
    for row in lm_eval(session, made, ["capitals_open"], shots=shots, limit=2):
        assert row["prompt"].count("Question:") == shown + 1


def test_a_group_and_a_tag_stand_for_their_tasks(session: Session, folder: Path) -> None:
    (folder / "both.yaml").write_text("group: both\ntask: [capitals_choice, capitals_open]\n")
    expected = lm_eval(session, folder, NAMES, limit=2)
    assert lm_eval(session, folder, ["both"], limit=2) == expected
    tagged = task_folder(folder.parent / "tagged", choice=CHOICE_TASK + "tag: some\n", generation=OPEN_TASK)
    assert lm_eval(session, tagged, ["some"], limit=2) == [row for row in expected if row["task"] == NAMES[0]]


def test_what_does_not_fit_has_no_value(session: Session, folder: Path) -> None:
    rows = [{**CAPITALS[0], "q": "fox " * 300}, *CAPITALS[1:3]]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for row in lm_eval(session, folder, NAMES):
        measured = (row["value"], row["log_likelihoods"] or row["response"])
        assert (None in measured) == (measured == (None, None)) == (row["item"] == 0)
        assert row["prompt_tokens"] > 256 or row["item"] > 0


def refusal(probe: LmEval, session: Session) -> str:
    with pytest.raises((DataError, SpecError)) as error:
        probe.bind(CONDITION)
        probe.check({}, {})
        probe.measure(session, {})
    text = str(error.value)
    assert "\n" not in text and len(text) < 500
    return f"{type(error.value).__name__}: {text}"


def test_an_unknown_task_is_told_with_those_near_it(session: Session, folder: Path) -> None:
    text = refusal(LmEval(["capitals_open", "capitals_choise"], include_path=folder), session)
    assert text.startswith(
        f"DataError: LmEval.tasks: {folder} has no task 'capitals_choise'; near it are capitals_choice"
    )
    assert "'zebra'; near it are capitals_choice, capitals_open" in refusal(
        LmEval(["zebra"], include_path=folder), session
    )
    (folder.parent / "empty").mkdir()
    text = refusal(LmEval(["zebra"], include_path=folder.parent / "empty"), session)
    assert text.endswith("has no task 'zebra'; there is none at all")


def test_tasks_are_in_a_folder(session: Session, folder: Path) -> None:
    for path in (folder / "none", folder / "choice.yaml"):
        told = f"DataError: LmEval.include_path: {path} is no folder"
        assert refusal(LmEval(["capitals_open"], include_path=path), session) == told
        with pytest.raises(DataError, match="is no folder"):
            LmEval(["capitals_open"], include_path=path).check({}, {})


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("do_sample: true, temperature: 0.7", "SpecError: task 'capitals_open' asks for sampling"),
        ("temperature: 0.7", "SpecError: task 'capitals_open' asks for sampling"),
        ("num_beams: 3", "SpecError: task 'capitals_open' asks for num_beams"),
    ],
)
def test_a_task_that_samples_is_refused(session: Session, tmp_path: Path, asked: str, told: str) -> None:
    made = task_folder(tmp_path / "t", generation=OPEN_TASK.replace("do_sample: false", asked))
    assert refusal(LmEval(["capitals_open"], include_path=made), session).startswith(told)


def test_a_folder_is_read_again_when_its_content_has_changed(folder: Path) -> None:
    probe = LmEval(["capitals_open"], include_path=folder)
    first, again = probe.bind(CONDITION), probe.bind(CONDITION)
    assert first._index() is again._index() is probe._index()
    (folder / "generation.yaml").rename(folder / "open.yaml")
    (folder / "more.yaml").write_text(DATA.format(folder) + OPEN_TASK.replace("capitals_open", "more"))
    LmEval(["more"], include_path=folder).check({}, {})
    LmEval(["more"], include_path=folder).bind(CONDITION).check({}, {})


@pytest.mark.parametrize("known", [True, False])
def test_a_folder_that_is_gone_is_named_once(session: Session, folder: Path, known: bool) -> None:
    bound = LmEval(["capitals_open"], include_path=folder).bind(CONDITION)
    if known:
        bound.check({}, {})
    folder.rename(folder.parent / "elsewhere")
    with pytest.raises(DataError, match=f"^LmEval.include_path: {re.escape(str(folder))} is no folder$"):
        bound.measure(session, {})


def test_a_task_without_its_data_is_one_line(session: Session, folder: Path) -> None:
    (folder / "data.jsonl").unlink()
    text = refusal(LmEval(["capitals_open"], include_path=folder), session)
    assert text.startswith("DataError: LmEval: capitals_open cannot be loaded: ") and "data.jsonl" in text


def test_the_identity_is_that_of_the_harness_and_of_the_folders_content(folder: Path) -> None:
    def content(path: Path | None = folder) -> str:
        bound = LmEval(["capitals_open"], include_path=path).bind(CONDITION).content
        assert bound is not None
        return bound

    first = content()
    assert first.startswith("lm-eval 0.4.")
    assert content() == first != content(None)
    assert content(task_folder(folder.parent / "empty")) != first
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "x.pyc").write_bytes(b"")
    assert content() == first
    seen = {first}
    for change in (
        lambda: (folder / "generation.yaml").write_text((folder / "generation.yaml").read_text() + "tag: x\n"),
        lambda: (folder / "data.jsonl").write_text("{}\n"),
        lambda: (folder / "data.jsonl").rename(folder / "data2.jsonl"),
        lambda: (folder / "utils.py").write_text(""),
        lambda: (folder / "choice.yaml").unlink(),
    ):
        change()
        assert content() not in seen
        seen.add(content())
    twin = folder.parent / "twin"
    folder.rename(twin)
    assert content(twin) in seen, "where the folder is does not count"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, (1.0, None)),
        (True, (1.0, None)),
        (np.float32(0.5), (0.5, None)),
        (np.int64(3), (3.0, None)),
        (np.bool_(True), (1.0, None)),
        ((-4.5, 7), (-4.5, 7.0)),
        ((np.float32(-4.5), np.int64(7)), (-4.5, 7.0)),
        (float("nan"), (None, None)),
        ("good", (None, None)),
        ((1, [2]), (None, None)),
        ((1, 2, 3), (None, None)),
    ],
)
def test_a_metric_is_a_number_or_a_pair_of_them(value: Any, expected: tuple[float | None, float | None]) -> None:
    assert memexp.probes.lm_eval._number("word_perplexity", value) == expected
    if isinstance(value, tuple):  # of f1 and mcc gold and prediction, whose mean would be the same for every model
        assert memexp.probes.lm_eval._number("f1", value) == (None, None)


def test_a_folder_of_tasks_travels_by_its_path_and_is_known_by_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers are in other folders; data beside the task files is named without one."""
    for name in ("here", "there"):
        folder = tmp_path / name / "tasks"
        folder.mkdir(parents=True)
        (folder / "data.jsonl").write_text('{"q": "Is it?", "c": ["yes", "no"], "a": 0}\n')
        (folder / "mine.yaml").write_text(
            "task: mine\ndataset_path: json\ndataset_kwargs: {data_files: {test: data.jsonl}}\ntest_split: test\n"
            "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_choice: c\ndoc_to_target: a\n"
            "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n"
        )
    condition = Condition(Model("tiny-s"), Study("unused.txt", exposures=1, lr=1e-3), probes=[Recall()])
    bound = []
    for name in ("here", "there"):
        monkeypatch.chdir(tmp_path / name)
        bound.append(LmEval(["mine"], include_path="tasks").bind(condition))
    monkeypatch.chdir(tmp_path)
    assert bound[0] != bound[1] and bound[0].known_by() == bound[1].known_by()
    bound[0].check({}, {})
    table = bound[0].measure(Session(language_model("gpt2")), {})
    assert table.num_rows == 1 and table.to_pylist()[0]["metric"] == "acc"
    assert Path.cwd() == tmp_path


def test_a_task_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.yaml").write_text("task: mine\n dataset_path: json\n")
    with pytest.raises(DataError, match=r"broken\.yaml: mapping values are not allowed"):
        LmEval(["mine"], include_path=str(tmp_path)).check({}, {})
