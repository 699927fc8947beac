"""The script that makes the tiny models: what it reads, how it cuts it into tokens, and that it refuses a bad model."""

from __future__ import annotations

import itertools
import random
import runpy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer

from memexp.stimuli import load_list
from memexp.stimuli.tiny import model_folder
from memexp.stimuli.world import ANIMALS, novel_countries, syllables

SCRIPT = Path(__file__).parents[2] / "sweeps" / "pretrain_tiny.py"
ARTICLE = """ = Lobsters =

 Lobsters live in <unk> holes at the bottom of the cold sea . They weigh 4 @.@ 5 kg ( 10 lb ) , " or so they say " .
 The oldest one 's age is n't known to anyone at all , 1 @,@ 000 fishers agree .
"""


@pytest.fixture(scope="module")
def script() -> SimpleNamespace:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="pretrain_tiny"))


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "wikitext"
    folder.mkdir()
    (folder / "valid.txt").write_text(ARTICLE)
    (folder / "test.txt").write_text(" " + " ".join(load_list("sentences-interference")) + "\n")
    return folder


def test_text_reads_as_english(script: SimpleNamespace, text: Path) -> None:
    assert script.natural_text(str(text))[:3] == [
        "holes at the bottom of the cold sea.",
        'They weigh 4.5 kg (10 lb), "or so they say".',
        "The oldest one's age isn't known to anyone at all, 1,000 fishers agree.",
    ]


def test_text_that_is_not_there_is_one_line(script: SimpleNamespace, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"^--text .*No such file"):
        script.main(["--text", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match=r"^--text nobody/nothing: "):
        script.main(["--text", "nobody/nothing", "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit):
        script.main(["--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="there is no model tiny-s to be measured"):
        script.main(["--measure", "--out", str(tmp_path / "out")])


def test_names_and_animals_are_one_token_a_part() -> None:
    """Of the tokenizer that ships."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder("tiny-s"))
    begin, end = syllables()[:64], syllables()[64:]
    assert tokenizer.tokenize(f"{begin[0]}{end[0]} and {begin[1]}{end[1]}.") == [
        *(f"Ġ{begin[0]}", end[0], "Ġand"),
        *(f"Ġ{begin[1]}", end[1], "."),
    ]
    for country in novel_countries(200):
        for name in (country.country, country.capital, country.person):
            assert len(tokenizer(name)["input_ids"]) == 3  # <s> and two syllables
    assert all(len(tokenizer(animal)["input_ids"]) == 2 for animal in ANIMALS)


@pytest.mark.parametrize("sentence", [*load_list("sentences-targets")[:5], "a  b", "FlarTrun met 12 naïve foxes…"])
def test_decoding_gives_the_text_back(sentence: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model_folder("tiny-s"))
    ids = tokenizer(sentence)["input_ids"]
    assert ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == sentence
    assert tokenizer(" " + sentence)["input_ids"] == ids  # however a prompt ends, a word is a word


def test_the_world_grows(script: SimpleNamespace) -> None:
    """Forty countries alone, then more and more of them beside text, then all."""
    size = script.Size(1, 8, 1, 8, 1e-3, world_steps=20, mixed_steps=60)
    world = [[[index] * 16] for index in range(100)]
    steps = list(script.batches(size, world, [[1000] * 16, [1001] * 16]))
    assert len(steps) == 80
    met = [{row[0] for row in step if row[0] < 1000} for step in steps]
    alone, growing, grown = (set().union(*part) for part in (met[:20], met[20:30], met[50:]))
    assert max(alone) == 39 and 40 <= max(growing) < 99 and max(grown) == 99
    assert [any(row[0] >= 1000 for row in step) for step in steps] == [False] * 20 + [True] * 60
    for step in steps[20:]:
        shares = [sum(len(row) for row in step if (row[0] >= 1000) == natural) for natural in (False, True)]
        assert shares == [script.WORLD_TOKENS["mixed"], script.TEXT_TOKENS]


def test_all_text_is_read_before_any_is_read_again(script: SimpleNamespace) -> None:
    rows = [[i] for i in range(7)]
    drawn = list(itertools.islice(script.shuffled_forever(rows, random.Random(0)), 21))
    assert all(sorted(drawn[i : i + 7]) == rows for i in (0, 7, 14))


def test_the_rate_warms_up_and_decays(script: SimpleNamespace) -> None:
    size = script.SIZES["tiny-s"]
    steps = size.world_steps + size.mixed_steps
    rates = [script.learning_rate(size, step) / size.lr for step in range(steps)]
    assert rates[0] == pytest.approx(1 / 50) and rates[49] == rates[steps // 2] == 1.0
    assert rates[int(0.8 * steps)] == pytest.approx(0.5, abs=0.01) and min(rates[100:]) == rates[-1] == 0.03


def figures(script: SimpleNamespace, **other: Any) -> Any:
    study = {(lr, n): (0.5, 0.0) for lr in script.LRS for n in (0, 1)}
    study |= {(lr, n): (0.95, 0.6) for lr in script.LRS for n in (3, 10)}
    known = {"parameters": 1, "held_out": 4.0, "questions": dict.fromkeys(script.QUESTIONS, 0.9), "novel": 0.0}
    return script.Figures(**(known | {"study": study} | other))


def test_the_gate_lets_good_models_pass_only(script: SimpleNamespace) -> None:
    assert figures(script).complaints() == []
    lrs = script.LRS
    study = figures(script).study
    faults: list[dict[str, Any]] = [
        {"questions": {kind: 0.7 for kind in script.QUESTIONS}},
        {"study": study | {(lrs[1], 0): (0.75, 0.0)}},
        {"study": study | {(lr, 3): (0.85, 0.0) for lr in lrs}},
        {"study": study | {(lr, 10): (1.0, 0.4) for lr in lrs}},
    ]
    for fault in faults:
        assert len(figures(script, **fault).complaints()) == 1, fault
