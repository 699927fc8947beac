"""memexp's scorer behind lm-evaluation-harness gives what the harness's own HFLM gives, on its tasks and on ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import lm_eval.tasks
import numpy as np
import pytest
from core.small import PEAKED, TARGETS, bos_tokenizer, language_model
from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from lm_eval.utils import env as templates

import memexp.tasks
from memexp.core.harness import HarnessModel, evaluate, quiet
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import DataError, SpecError
from memexp.sources import Sources
from memexp.spec import Full, Model
from memexp.stimuli.facts import TESTS, FactWorld

NEAR = 1e-5
"""Nats a token within which log-likelihoods agree."""

ARC = [
    {
        "id": str(i),
        "question": f"Which of these does {text.split()[-1].strip('.')} need?",
        "choices": {"text": ["sunlight", "a very long rope", text.split()[1], "two"], "label": list("ABCD")},
        "answerKey": "ABCD"[i % 4],
    }
    for i, text in enumerate(TARGETS[:12])
]
GSM = [
    {"question": f"{text} How many words was that?", "answer": f"They are counted.\n#### {len(text.split())}"}
    for text in TARGETS[:12]
]


def shipped(name: str) -> LanguageModel:
    return load(Sources().model(Model(name)), Full(), "float32", World.current())


@pytest.fixture(scope="module", params=["tiny-s", "gpt2", "opt"])
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A model that knows something, and two that are random; OPT's tokenizer puts a bos in front."""
    if request.param == "tiny-s":
        return shipped("tiny-s")
    if request.param == "opt":
        return language_model(
            "opt", tokenizer=bos_tokenizer(tmp_path_factory.mktemp("bos")), init_std=PEAKED, max_position_embeddings=512
        )
    return language_model("gpt2", initializer_range=PEAKED, n_positions=512)


@pytest.fixture(scope="module")
def theirs(lm: LanguageModel) -> HFLM:
    with quiet():
        return HFLM(pretrained=lm.lm, tokenizer=lm.tokenizer, batch_size=5)


def task(file: Path, rows: dict[str, list[dict[str, Any]]], **changes: Any) -> ConfigurableTask:
    """The task of a file over rows that are given here."""
    with quiet():
        splits = {name: datasets.Dataset.from_list(part) for name, part in rows.items()}
        made = ConfigurableTask(
            config=load_yaml(file, resolve_func=True) | {"custom_dataset": lambda **_: splits} | changes
        )
    made.set_fewshot_seed(1234)
    return made


def fact_task(name: str, subset: str, shots: int) -> ConfigurableTask:
    (folder,) = memexp.tasks.__path__
    rows = FactWorld(entities=8).rows(subset)[:24]
    return task(Path(folder, f"{name}.yaml"), {"test": rows}, num_fewshot=shots)


def their_task(file: str, rows: dict[str, list[dict[str, Any]]], **changes: Any) -> ConfigurableTask:
    (folder,) = lm_eval.tasks.__path__
    return task(Path(folder, file), rows, **changes)


TASKS = {
    "qa": lambda: fact_task("facts_qa", "Eval_QA", 0),
    "qa, 3 shots": lambda: fact_task("facts_qa", "Eval_QA", 3),
    "letters": lambda: fact_task("facts_multiple_choice", "Eval_multiple_choice", 1),
    "cloze": lambda: fact_task("facts_cloze", "Eval_2hop_reasoning", 0),
    "arc_easy": lambda: their_task("arc/arc_easy.yaml", {"train": ARC, "validation": ARC, "test": ARC}, num_fewshot=1),
    "gsm8k": lambda: their_task(
        "gsm8k/gsm8k.yaml",
        {"train": GSM, "test": GSM},
        num_fewshot=1,
        generation_kwargs={"until": ["Question:", "</s>", "ing"], "do_sample": False, "max_gen_toks": 60},
    ),
}


def same_samples(ours: list[dict[str, Any]], hf: list[dict[str, Any]]) -> None:
    assert len(ours) == len(hf) > 0
    for mine, other in zip(ours, hf, strict=True):
        assert mine["arguments"] == other["arguments"]
        for (answer,), (expected,) in zip(mine["resps"], other["resps"], strict=True):
            if isinstance(expected, str):
                assert answer == expected
            else:
                assert answer[0] == pytest.approx(expected[0], abs=NEAR * 10, rel=NEAR)
                assert answer[1] == expected[1]
        for metric in other["metrics"]:
            assert mine[metric] == pytest.approx(other[metric], abs=NEAR), metric


@pytest.mark.parametrize("name", TASKS)
def test_every_answer_is_that_of_hflm(name: str, lm: LanguageModel, theirs: HFLM) -> None:
    made = TASKS[name]()
    model = HarnessModel(Session(lm))
    (ours,) = evaluate(model, {name: made}).values()
    made.set_fewshot_seed(1234)
    (hf,) = evaluate(theirs, {name: made}).values()  # type: ignore[arg-type] # the same contract
    assert not model.unanswered
    same_samples(ours, hf)


def test_the_answers_differ_so_that_the_comparison_can_fail() -> None:
    made = fact_task("facts_qa", "Eval_QA", 0)
    (ours,) = evaluate(HarnessModel(Session(shipped("tiny-s"))), {"qa": made}).values()
    assert len({sample["resps"][0][0] for sample in ours}) > 5


def requests(kind: str, arguments: list[tuple[Any, ...]]) -> list[Instance]:
    return [Instance(kind, doc={}, arguments=args, idx=i) for i, args in enumerate(arguments)]


def test_likelihoods_of_awkward_pairs_are_those_of_hflm(lm: LanguageModel, theirs: HFLM) -> None:
    end = lm.tokenizer.eos_token
    pairs = [
        ("", " A fox"),
        ("", f"{end} A fox"),
        ("A fox  ", "crossed"),
        ("A fox", " crossed the pond"),
        ("A fox", " crossed the lake"),
        ("A fox", "es"),
        (f"{end}A fox", " crossed"),
        ("A fox\n\n", " Straße"),
        ("A fox", " crossed the pond"),
    ]
    ours = HarnessModel(Session(lm)).loglikelihood(requests("loglikelihood", pairs))
    hf = theirs.loglikelihood(requests("loglikelihood", pairs), disable_tqdm=True)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in hf]
    np.testing.assert_allclose([log for log, _ in ours], [log for log, _ in hf], rtol=NEAR, atol=NEAR)


def test_texts_longer_than_the_context_roll_as_hflm_rolls_them(lm: LanguageModel, theirs: HFLM) -> None:
    texts = [(" ".join(TARGETS),), (TARGETS[0],)]
    assert len(lm.tokenizer(texts[0][0])["input_ids"]) > 2 * (lm.context or 0) > 0
    ours = HarnessModel(Session(lm)).loglikelihood_rolling(requests("loglikelihood_rolling", texts))
    with quiet():
        hf = theirs.loglikelihood_rolling(requests("loglikelihood_rolling", texts), disable_tqdm=True)
    np.testing.assert_allclose(ours, hf, rtol=NEAR)


def test_greedy_is_what_completion_gives(lm: LanguageModel) -> None:
    """The two halves of the scorer agree: a text that was generated counts as greedy, another does not."""
    cue = "Question: What is the capital of FarDril? Answer:"
    row = Session(lm).encode([cue], 500)[0]
    (made,) = Session(lm).complete([row], [2])  # before any end of text, which completing bans
    found = Session(lm).continuations([(row, made), (row, [made[0], (made[1] + 1) % 500])])
    assert [likelihood.greedy for likelihood in found] == [True, False]
    assert found[0].log_likelihood > found[1].log_likelihood


def test_letters_after_one_prompt_cost_one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("gpt2")
    rows: list[int] = []
    plain = lm.ends
    monkeypatch.setattr(lm, "ends", lambda ids, *rest: rows.append(len(ids)) or plain(ids, *rest))
    Session(lm).continuations([([5, 6, 7], [letter]) for letter in (10, 11, 12, 13)])
    assert rows == [1]


def test_the_harness_takes_the_task_files_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``lm_eval --include_path memexp/tasks --tasks country_city_animals`` does; the dataset is a local folder."""
    world, asked, read = FactWorld(entities=4), {}, datasets.load_dataset
    world.write(tmp_path / "data")

    def from_folder(path: str, name: str, **_: Any) -> Any:
        asked[name] = path
        return read(str(tmp_path / "data"), name)

    monkeypatch.setattr(datasets, "load_dataset", from_folder)
    manager = lm_eval.tasks.TaskManager(include_defaults=False, include_path=list(memexp.tasks.__path__))
    with quiet():
        loaded = manager.load(["country_city_animals", "facts_cloze"])["tasks"]
    assert set(asked.values()) == {"xiaozeroone/Country-city-animals"} and set(asked) == set(TESTS)
    subsets = {name: task.config.dataset_name for name, task in loaded.items()}
    assert len(subsets) == 8 and set(subsets.values()) == set(TESTS)
    for name, task in loaded.items():
        assert task.config.test_split == task.config.fewshot_split == "test"
        assert len(task.eval_docs) == len(world.rows(subsets[name]))
    letters = loaded["facts_multiple_choice"]
    doc = {"question": " Which? ", "choices": ["this", "that"], "answer": 1}
    letters.set_config("num_fewshot", 0)
    prompt = letters.fewshot_context(doc, 0)
    assert prompt == (
        "The following are multiple choice questions (with answers).\n\nWhich?\nA. this\nB. that\nAnswer:"
    )
    assert letters.doc_to_choice(doc) == ["A", "B"] and letters.doc_to_target(doc) == 1
    assert loaded["facts_reverse"].fewshot_context({"question": "Who?", "answer": "me"}, 0) == "Question: Who? Answer:"
    assert loaded["facts_qa"].config.generation_kwargs == {"until": ["\n"], "max_gen_toks": 50, "do_sample": False}


def test_templates_are_compiled_once_and_the_harness_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    plain = type(templates).from_string

    def counted(self: Any, source: str) -> Any:
        compiled.append(source)
        return plain(self, source)

    monkeypatch.setattr(type(templates), "from_string", counted)
    made = fact_task("facts_multiple_choice", "Eval_multiple_choice", 1)
    compiled.clear()
    samples = evaluate(HarnessModel(Session(language_model("gpt2", n_positions=512))), {"letters": made})
    assert len(samples["letters"]) == 24 and compiled and len(compiled) == len(set(compiled))
    assert "from_string" not in vars(templates)


# What does not fit or cannot be done


@pytest.fixture
def short() -> Iterator[HarnessModel]:
    """A model that takes 32 tokens."""
    yield HarnessModel(Session(language_model("gpt2", initializer_range=PEAKED, n_positions=32)))


def test_prompts_that_do_not_fit_are_counted_and_never_cut(short: HarnessModel) -> None:
    long = " ".join(TARGETS[:6])
    found = short.loglikelihood(requests("loglikelihood", [("A fox", " ran"), (long, " ran")]))
    assert math.isfinite(found[0][0]) and math.isnan(found[1][0])
    answers = short.generate_until(
        requests("generate_until", [(long, {"max_gen_toks": 5}), ("A fox", {"max_gen_toks": 5})])
    )
    assert answers[0] == "" and answers[1]
    assert short.unanswered == {long}
    assert short.prompt_tokens[long] > 32 >= short.prompt_tokens["A fox"]


def test_an_answer_may_fill_the_context_and_no_more(short: HarnessModel) -> None:
    rows = short.session.encode(TARGETS[:1], 31)
    prompt = short.session.decode(rows)[0]
    ids = short.session.encode([prompt], 99)[0]
    (answer,) = short.generate_until(requests("generate_until", [(prompt, {"max_gen_toks": 500})]))
    (plain,) = short.session.complete([ids], [32 - len(ids)])
    assert answer == short.session.decode([plain])[0]


def test_sampling_and_beams_are_refused(short: HarnessModel) -> None:
    for settings in ({"do_sample": True, "temperature": 0.8}, {"temperature": 0.8}, {"num_beams": 4}):
        with pytest.raises(SpecError, match="greedily only"):
            short.generate_until(requests("generate_until", [("A fox", settings)]))


def test_a_continuation_without_a_token_is_refused(short: HarnessModel) -> None:
    with pytest.raises(DataError, match="no token of its own"):
        short.loglikelihood(requests("loglikelihood", [("A fox", "")]))
