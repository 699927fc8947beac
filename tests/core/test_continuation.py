"""What is written after prompts and questions against a plain loop with generate, over MUSE's own files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from core.small import TARGETS, language_model

from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import DataError
from memexp.probes import Continuation
from memexp.probes.continuation import ENDS, SCHEMA
from memexp.sources import Sources
from memexp.spec import (
    Condition,
    Full,
    HubItems,
    HubText,
    InlineItems,
    ItemFile,
    Model,
    Probe,
    ShippedText,
    Study,
    TextFile,
)
from memexp.stimuli.world import pretraining_countries, question

rouge_scorer = pytest.importorskip("rouge_score.rouge_scorer")
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing")

PROMPTS = [{"prompt": text[: len(text) // 2], "gt": text[len(text) // 2 :] * 3} for text in TARGETS[:10]]
KNOWN = pretraining_countries()[:12]


def asked(at: int) -> dict[str, str]:
    prompt, answer = question("capital", KNOWN[at])
    return {"question": prompt.removeprefix("Question: ").removesuffix(" Answer:"), "answer": answer}


QUESTIONS, SHOTS = [asked(at) for at in range(8)], [asked(at) for at in range(8, 9)]


@pytest.fixture(scope="module", params=["knows", "random"])
def lm(request: pytest.FixtureRequest) -> LanguageModel:
    if request.param == "random":
        return language_model("gpt2", initializer_range=0.3)
    return load(Sources().model(Model("tiny-m")), Full(), "float32", World.current())


def measured(lm: LanguageModel, probe: Probe) -> list[dict[str, Any]]:
    """In the way of a trial: bound, read, checked and with its schema."""
    study = Study(ShippedText("sentences-targets"), exposures=1, lr=1e-3)
    bound = probe.bind(Condition(Model("tiny-s"), study, probes=[probe]))
    fields = {name: getattr(bound, name) for name in ("items", "shots") if getattr(bound, name) is not None}
    read = {name: Sources().texts(corpus) for name, corpus in fields.items()}
    texts = {name: one.items for name, one in read.items()}
    bound.check(texts, {name: one.name for name, one in read.items()})
    table = bound.measure(Session(lm), texts)
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


@torch.no_grad()
def plain(lm: LanguageModel, prompt: str, count: int) -> str:
    """As the published code completes."""
    ids = lm.tokenizer(prompt, return_tensors="pt")["input_ids"]
    made = lm.lm.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, pad_token_id=0, use_cache=True
    )
    return str(lm.tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def scores(reference: str, prediction: str) -> tuple[float, float]:
    found = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False).score(reference, prediction)["rougeL"]
    return found.fmeasure, found.recall


def test_prompts_are_gone_on_with(lm: LanguageModel) -> None:
    rows = measured(lm, Continuation(InlineItems("verbmem", PROMPTS), most_tokens=12))
    assert [(row["task"], row["item"], row["prompt"]) for row in rows] == [
        ("verbmem", at, one["prompt"]) for at, one in enumerate(PROMPTS)
    ]
    for row, one in zip(rows, PROMPTS, strict=True):
        assert row["prediction"] == plain(lm, one["prompt"], 12)
        reference = lm.tokenizer.decode(lm.tokenizer(one["gt"])["input_ids"][:12], skip_special_tokens=True)
        assert row["reference"] == reference and len(reference) < len(one["gt"])
        assert (row["rougeL"], row["rougeL_recall"]) == pytest.approx(scores(reference, row["prediction"]))
        assert row["prompt_tokens"] == len(lm.tokenizer(one["prompt"])["input_ids"])


def test_answers_end_before_the_next_question(lm: LanguageModel) -> None:
    probe = Continuation(InlineItems("knowmem", QUESTIONS), shots=InlineItems("icl", SHOTS), most_tokens=10)
    rows = measured(lm, probe)
    before = "".join(f"Question: {one['question']}\nAnswer: {one['answer']}\n\n" for one in SHOTS)
    for row, one in zip(rows, QUESTIONS, strict=True):
        prompt = f"{before}Question: {one['question']}\nAnswer: "
        expected = plain(lm, prompt, 10)
        for end in ENDS:
            expected = expected.partition(end)[0]
        assert (row["prompt"], row["prediction"], row["reference"]) == (prompt, expected, one["answer"])
        assert (row["rougeL"], row["rougeL_recall"]) == pytest.approx(scores(one["answer"], expected))
    without = measured(lm, dataclasses.replace(probe, shots=None))
    assert [row["prompt"] for row in without] == [row["prompt"].removeprefix(before) for row in rows]


def test_what_does_not_fit_is_null() -> None:
    lm = language_model("gpt2", initializer_range=0.3)
    room = Session(lm).context
    assert room is not None
    long = {"prompt": "a b " * room, "gt": "c"}
    rows = measured(lm, Continuation(InlineItems("long", [*PROMPTS[:2], long]), most_tokens=9))
    assert [row["prediction"] is None for row in rows] == [False, False, True]
    assert rows[2]["rougeL"] is None and rows[2]["rougeL_recall"] is None and rows[2]["prompt_tokens"] > room


# MUSE's files


def folders(tmp_path: Path) -> tuple[Path, Path]:
    """The hub's format, with configurations, and the code's own folder."""
    hub, code = tmp_path / "hub", tmp_path / "data" / "news"
    privleak = [{"text": text} for text in TARGETS[:4]]
    given = {
        ("verbmem", "forget"): PROMPTS,
        ("knowmem", "forget_qa"): QUESTIONS,
        ("knowmem", "forget_qa_icl"): SHOTS,
        ("privleak", "forget"): privleak,
    }
    configs: dict[str, list[str]] = {}
    for (subset, split), rows in given.items():
        (hub / subset).mkdir(parents=True, exist_ok=True)
        (code / subset).mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), hub / subset / f"{split}-00000-of-00001.parquet")
        plain = [row["text"] for row in rows] if subset == "privleak" else rows
        (code / subset / f"{split}.json").write_text(json.dumps(plain, indent=2), encoding="utf-8")
        configs.setdefault(subset, []).append(f"  - split: {split}\n    path: {subset}/{split}-*")
    head = "".join(
        f"- config_name: {subset}\n  data_files:\n" + "\n".join(splits) + "\n" for subset, splits in configs.items()
    )
    (hub / "README.md").write_text(f"---\nconfigs:\n{head}---\n", encoding="utf-8")
    return hub, code


def test_published_files_are_read_as_they_are(tmp_path: Path) -> None:
    hub, code = folders(tmp_path)
    read = Sources()
    for subset, split in (("verbmem", "forget"), ("knowmem", "forget_qa"), ("knowmem", "forget_qa_icl")):
        one, other = HubItems(str(hub), subset, split), ItemFile(str(code / subset / f"{split}.json"))
        assert read.texts(one).items == read.texts(other).items
    texts = HubText(str(hub), "privleak", "forget"), TextFile(str(code / "privleak" / "forget.json"))
    assert [read.texts(one).items for one in texts] == [tuple(TARGETS[:4])] * 2
    lm = language_model("gpt2", initializer_range=0.3)
    probe = Continuation(
        HubItems(str(hub), "knowmem", "forget_qa"), HubItems(str(hub), "knowmem", "forget_qa_icl"), most_tokens=6
    )
    inline = Continuation(InlineItems("knowmem", QUESTIONS), InlineItems("icl", SHOTS), most_tokens=6)
    assert measured(lm, probe) == measured(lm, inline)


@pytest.mark.parametrize(
    ("items", "shots", "says"),
    [
        (PROMPTS, SHOTS, "Continuation.shots: it has prompts, which nothing precedes; leave shots away"),
        ([*QUESTIONS, PROMPTS[0]], None, "Continuation: item 9 of it has not question and answer alone"),
        (QUESTIONS, PROMPTS, "Continuation: item 1 of few has not question and answer alone"),
        (
            [{**QUESTIONS[0], "choices": ["a", "b"], "answer": 1}],
            None,
            "Continuation: item 1 of it has not question and answer alone",
        ),
        ([{"prompt": "a"}], None, "it, item 0: gt must be a text, got NoneType"),
        ([{"prompt": "a", "gt": " "}], None, "it, item 0: gt is empty"),
    ],
)
def test_what_cannot_be_is_a_line(items: Any, shots: Any, says: str) -> None:
    probe = Continuation(InlineItems("it", items), None if shots is None else InlineItems("few", shots))
    with pytest.raises(DataError) as error:
        measured(language_model("gpt2"), probe)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)
