"""Truth ratios against all logits of one answer at a time, and items in the columns of TOFU."""

from __future__ import annotations

import itertools
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from core.small import FOILS, TARGETS, language_model

from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.probes import QA, Recall, TruthRatio
from memexp.probes.rouge import recall_of
from memexp.probes.truth_ratio import SCHEMA, ratios
from memexp.probes.words import latin_words
from memexp.sources import Sources
from memexp.spec import Condition, Full, HubItems, InlineItems, ItemFile, Model, ShippedText, Study
from memexp.stimuli.world import pretraining_countries, question
from memexp.store.closed import closed

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")

Row = dict[str, Any]

KNOWN = pretraining_countries()[:8]
STUDY = Study(ShippedText("sentences-targets"), exposures=1, lr=1e-3)
CONDITION = Condition(Model("tiny-s"), STUDY, probes=[Recall()])


def asked(at: int, paraphrased: bool = True) -> Row:
    """What the shipped models know, with the answers of other countries."""
    prompt, answer = question("capital", KNOWN[at])
    others = [question("capital", country)[1] for country in KNOWN if country is not KNOWN[at]][: 2 + at % 3]
    row = {"question": prompt.removeprefix("Question: ").removesuffix(" Answer:"), "answer": answer}
    row |= {"perturbed_answer": others, "paraphrased_question": "not read"}
    return row | ({"paraphrased_answer": f"{answer} it is"} if paraphrased else {})


@pytest.fixture(scope="module", params=["knows", "random"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    if request.param == "random":
        return language_model("gpt2", initializer_range=0.3)
    return load(Sources().model(Model("tiny-s")), Full(), "float32", World.current())


def measured(session: Session, rows: list[Row], **fields: Any) -> list[Row]:
    """In the way of a trial: bound, read and with its schema."""
    bound = TruthRatio(InlineItems("test", tuple(rows)), **fields).bind(CONDITION)
    table = bound.measure(session, {"items": Sources().texts(bound.items).items})
    assert table.schema.equals(SCHEMA)
    found: list[Row] = table.to_pylist()
    return found


@torch.no_grad()
def plain_nll(lm: LanguageModel, prompt: str, answer: str) -> float:
    """Mean over an answer's tokens, by transformers alone."""
    before, whole = (lm.tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {answer}"))
    logs = lm.lm(input_ids=torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return -float(np.mean([float(logs[at - 1, whole[at]]) for at in range(len(before), len(whole))]))


def longest_common(one: list[str], two: list[str]) -> int:
    """The textbook's recursion."""
    table = np.zeros((len(one) + 1, len(two) + 1), int)
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1, j + 1] = table[i, j] + 1 if a == b else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_every_row_is_that_of_one_answer_at_a_time(lm: LanguageModel) -> None:
    given = [asked(at, at != 3) for at in range(6)]
    found = measured(Session(lm), given, most_tokens=12)
    qa = QA(InlineItems("test", tuple(given)), task="t").measure(
        Session(lm), {"items": Sources().texts(InlineItems("test", tuple(given))).items}
    )
    for at, (row, its) in enumerate(zip(found, given, strict=True)):
        prompt = f"Question: {its['question']} Answer:"
        p = {
            name: math.exp(-plain_nll(lm, prompt, its[name]))
            for name in ("answer", "paraphrased_answer")
            if name in its
        }
        wrong = [math.exp(-plain_nll(lm, prompt, other)) for other in its["perturbed_answer"]]
        right = p.get("paraphrased_answer", p["answer"])
        assert row["probability"] == pytest.approx(p["answer"], rel=1e-4)
        assert (row["paraphrase_probability"] or row["probability"]) == pytest.approx(right, rel=1e-4)
        assert row["wrong_probabilities"] == pytest.approx(wrong, rel=1e-4)
        assert row["truth_ratio"] == pytest.approx(math.prod(wrong) ** (1 / len(wrong)) / right, rel=1e-4)
        assert row["truth_ratio_arithmetic"] == pytest.approx(np.mean(wrong) / right, rel=1e-4)
        assert row["normalised"] == pytest.approx(p["answer"] / (p["answer"] + sum(wrong)), rel=1e-4)
        assert (row["task"], row["item"], row["prompt"], row["answer"]) == ("test", at, prompt, its["answer"])
        assert row["prompt_tokens"] == len(lm.tokenizer(prompt)["input_ids"])
        assert (
            row["answer_tokens"] == len(lm.tokenizer(f"{prompt} {its['answer']}")["input_ids"]) - row["prompt_tokens"]
        )
        said = str(qa["prediction"][at])
        assert said.startswith(row["prediction"]), "as open questions are answered, of fewer tokens"
        words = [text.lower().replace(".", "").split() for text in (its["answer"], row["prediction"])]
        if all(word.isalnum() and word.isascii() for word in words[1]):
            assert row["rougeL_recall"] == pytest.approx(longest_common(*words) / len(words[0]))
    assert found[3]["paraphrase_probability"] is None


def test_what_a_model_knows_is_likelier_than_what_is_wrong() -> None:
    knows = load(Sources().model(Model("tiny-s")), Full(), "float32", World.current())
    found = measured(Session(knows), [asked(at, False) for at in range(8)])
    assert np.median([row["truth_ratio"] for row in found]) < 0.2
    assert np.mean([row["rougeL_recall"] for row in found]) > 0.7
    turned = [asked(at, False) for at in range(8)]
    for row in turned:
        row["answer"], row["perturbed_answer"] = row["perturbed_answer"][0], [row["answer"]]
    assert np.median([row["truth_ratio"] for row in measured(Session(knows), turned)]) > 5


def test_columns_by_hand() -> None:
    found = ratios([1.0, 2.0, 3.0, 5.0], True)
    assert found["probability"] == pytest.approx(math.exp(-1)) and found["paraphrase_probability"] == math.exp(-2)
    assert found["truth_ratio"] == pytest.approx(math.exp(2 - 4))  # wrong over right, in other words
    assert found["truth_ratio_arithmetic"] == pytest.approx((math.exp(-3) + math.exp(-5)) / 2 / math.exp(-2))
    assert found["normalised"] == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-3) + math.exp(-5)))
    without = ratios([1.0, 3.0, 5.0], False)
    assert without["truth_ratio"] == pytest.approx(math.exp(1 - 4)) and without["paraphrase_probability"] is None
    assert ratios([1.0, None, 3.0], True) == {}


def test_rouge_l_recall_is_a_share_of_the_answer() -> None:
    for one, two in itertools.product([*TARGETS[:8], "one two", ""], [*FOILS[:8], TARGETS[0][:30], "two one two", ""]):
        words = [re.findall("[a-z0-9]+", text.lower()) for text in (one, two)]
        share = longest_common(*words) / len(words[0]) if words[0] else 0.0
        assert recall_of(one, two, latin_words) == pytest.approx(share)
    assert recall_of("a b c d", "x b d", latin_words) == 0.5


def test_a_prompt_that_does_not_fit_is_null(lm: LanguageModel) -> None:
    long = {**asked(0), "question": "Why? " * 200}
    if lm.context is None or lm.context > 600:
        long["question"] = "Why? " * lm.context
    first, second = measured(Session(lm), [long, asked(1)], most_tokens=4)
    names = ("probability", "wrong_probabilities", "truth_ratio", "normalised", "prediction", "rougeL_recall")
    assert [first[name] for name in names] == [None] * 6 and all(second[name] is not None for name in names)


def test_another_prompt(lm: LanguageModel) -> None:
    [row] = measured(Session(lm), [asked(1)], prompt="{question}", most_tokens=4)
    assert row["prompt"] == asked(1)["question"]


# Items


def test_the_same_items_in_any_container_are_the_same(tmp_path: Path) -> None:
    rows = [asked(at) for at in range(4)]
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    folder = tmp_path / "hub"
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "data" / "train-00000-of-00001.parquet")
    described: list[Any] = [
        tmp_path / "lines.jsonl",
        ItemFile(str(tmp_path / "rows.parquet")),
        HubItems(str(folder), split="train"),
        InlineItems("mine", tuple(rows)),
    ]
    read = [Sources().texts(TruthRatio(items).items) for items in described]
    assert len({one.id for one in read}) == 1 and len({tuple(one.items) for one in read}) == 1
    assert json.loads(read[0].items[0]).keys() == {"question", "answer", "paraphrased_answer", "perturbed_answer"}


def test_who_asks_open_questions_of_the_same_file_reads_what_was_always_read() -> None:
    """The identities of `QA` on such a list are what they were."""
    items, plain = InlineItems("a", (asked(0),)), {name: asked(0)[name] for name in ("question", "answer")}
    sources = Sources()
    probe = TruthRatio(items)
    assert sources.texts(items).id == Sources().texts(InlineItems("a", (plain,))).id != sources.texts(probe.items).id
    assert QA(items).items == items


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"perturbed_answer": None}, "perturbed_answer must be a list of 1 to 26 texts"),
        ({"perturbed_answer": []}, "perturbed_answer must be a list of 1 to 26 texts"),
        ({"perturbed_answer": ["", "b"]}, "perturbed_answer[0] is empty"),
        ({"paraphrased_answer": 3}, "paraphrased_answer must be a text, got int"),
        ({"answer": " "}, "answer is empty"),
    ],
)
def test_a_broken_item_is_a_line(change: Row, says: str) -> None:
    probe = TruthRatio(InlineItems("mine", (asked(0), asked(1) | change)))
    with pytest.raises(DataError) as error:
        Sources().texts(probe.items)
    assert str(error.value) == f"mine, item 1: {says}"


def test_a_list_without_wrong_answers_is_a_line() -> None:
    probe = TruthRatio(InlineItems("mine", ({"question": "Why?", "answer": "So."},)))
    with pytest.raises(DataError, match="no column 'perturbed_answer'") as error:
        Sources().texts(probe.items)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prompt", ["Question: Answer:", "{question} {question}"])
def test_a_prompt_needs_the_question_once(prompt: str) -> None:
    with pytest.raises(SpecError, match=r"TruthRatio\.prompt: must have \{question\} once"):
        TruthRatio(InlineItems("mine", (asked(0),)), prompt=prompt)


def test_what_does_not_fit_has_no_part_in_the_mean() -> None:
    """Of NULL the greatest with 0 would be 0."""
    rows = pa.table({"truth_ratio": [0.5, None, 3.0]})
    with closed() as connection:
        connection.register("items", rows)
        (found,) = connection.sql(f"SELECT avg({TruthRatio.headline.mean}) FROM items").fetchall()
    assert found == (0.25,)
