"""Invented facts: every answer is true of what the texts state, and the same world comes out everywhere."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from memexp.errors import DataError, MemexpError
from memexp.sources import read_texts
from memexp.spec import HubItems, HubText, InlineItems, InlineText
from memexp.stimuli.facts import CORPORA, SUBSETS, TESTS, FactDataset, FactWorld
from memexp.stimuli.world import ANIMALS, MENTIONS, NOVEL, STATEMENTS, novel_countries, pretraining_countries

SMALL = FactWorld(entities=4)
WIDE = FactWorld(entities=300, seed=7)
"""Large enough for every animal."""
WITH_CHOICES = ("Eval_multiple_choice", "Eval_2hop_reasoning")
COLUMNS: dict[str, dict[str, type]] = {
    **{subset: {"text": str} for subset in CORPORA},
    **{subset: {"question": str, "answer": str, "fact": str} for subset in TESTS},
    **{subset: {"question": str, "choices": list, "answer": int, "fact": str} for subset in WITH_CHOICES},
    "Facts": {"head": str, "relation": str, "tail": str},
}
NAME = re.compile("(?:[A-Z][a-z]+){2,}")


def digest(world: FactWorld) -> str:
    rows = [world.rows(subset) for subset in SUBSETS]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]


class Told:
    """What the narrative texts of a world say, read back from their first statements."""

    def __init__(self, world: FactWorld) -> None:
        text = "\n".join(row["text"] for row in world.rows("Corpus_narrative"))
        self.capital = dict(re.findall(r"^The capital of (\w+) is (\w+)\.$", text, re.MULTILINE))
        self.animal = dict(re.findall(r"^The national animal of (\w+) is the (\w+)\.$", text, re.MULTILINE))
        self.home = dict(re.findall(r"^The home country of (\w+) is (\w+)\.$", text, re.MULTILINE))
        self.has_capital = {capital: country for country, capital in self.capital.items()}
        self.at_home = {country: person for person, country in self.home.items()}

    def answer(self, question: str) -> tuple[str, str]:
        """The right answer to a question, and the fact it is about; common sense is left out."""
        [name] = NAME.findall(question)
        if "home country" in question and ("capital" in question or "animal" in question):
            relation, known = ("capital", self.capital) if "capital" in question else ("national animal", self.animal)
            return known[self.home[name]], f"{relation} of the home country of {name}"
        if name in self.home:
            return self.home[name], f"home country of {name}"
        if name in self.has_capital:
            return self.has_capital[name], f"capital of {self.has_capital[name]}"
        if "person" in question:
            return self.at_home[name], f"home country of {self.at_home[name]}"
        relation, known = ("national animal", self.animal) if "animal" in question else ("capital", self.capital)
        return known[name], f"{relation} of {name}"


# What it holds


def test_golden_world() -> None:
    """What changes here changes the identity of every result on a fact world."""
    assert SMALL.rows("Eval_QA")[3:6] == [
        {"question": "What is the capital of StosLar?", "answer": "KlalDen", "fact": "capital of StosLar"},
        {
            "question": "What is the national animal of StosLar?",
            "answer": "zebra",
            "fact": "national animal of StosLar",
        },
        {"question": "What is the home country of JarDris?", "answer": "StosLar", "fact": "home country of JarDris"},
    ]
    assert SMALL.rows("Eval_multiple_choice")[5] == {
        "question": "What is the national animal of ShusDrol?",
        "choices": ["shark", "whale", "monkey", "horse"],
        "answer": 1,
        "fact": "national animal of ShusDrol",
    }
    assert SMALL.rows("Facts")[1] == {"head": "ShusDrol", "relation": "national animal", "tail": "the whale"}
    assert digest(SMALL) == "27ea26c12e893f45"
    assert digest(FactWorld()) == digest(FactWorld(entities=40, seed=0)) == "a43797a72b00ab8f"


def test_the_same_world_in_another_process() -> None:
    program = "from test_facts import *; print(digest(WIDE))"
    found = {digest(WIDE)}
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, timeout=60
        )
        found.add(done.stdout.strip())
    assert len(found) == 1


def test_subsets_are_the_published_ones_in_their_columns() -> None:
    texts, evals, facts = SUBSETS[:2], SUBSETS[2:9], SUBSETS[9:]
    assert texts == CORPORA and evals == TESTS
    assert texts == ("Corpus_narrative", "Corpus_referencing") and facts == ("Facts",)
    assert [name.removeprefix("Eval_") for name in evals] == [
        *("QA", "multiple_choice", "reverse", "indirect_reasoning", "animal_commonsense"),
        *("2hop_reasoning", "2hop_reasoning_raw"),
    ]
    assert {subset: len(WIDE.rows(subset)) / 300 for subset in SUBSETS if "animal" not in subset} == {
        "Corpus_narrative": 15,
        "Corpus_referencing": 15,
        "Eval_QA": 3,
        "Eval_multiple_choice": 12,
        "Eval_reverse": 2,
        "Eval_indirect_reasoning": 9,
        "Eval_2hop_reasoning": 8,
        "Eval_2hop_reasoning_raw": 2,
        "Facts": 3,
    }
    for subset in SUBSETS:
        for row in WIDE.rows(subset):
            assert {name: type(value) for name, value in row.items()} == COLUMNS[subset]
            assert list(row) == list(COLUMNS[subset]) and "{" not in str(list(row.values()))


def test_corpora_hold_every_statement_and_mention_once() -> None:
    for subset, told in (("Corpus_narrative", STATEMENTS), ("Corpus_referencing", MENTIONS)):
        texts = [row["text"] for row in SMALL.rows(subset)]
        countries = novel_countries(4)
        wanted = {t.format(**vars(country)) for country in countries for kind in told.values() for t in kind}
        assert len(texts) == len(set(texts)) == 60 and set(texts) == wanted


def test_facts_are_the_first_statements() -> None:
    stated = ["The {relation} of {head} is {tail}.".format(**row) for row in WIDE.rows("Facts")]
    assert stated == [row["text"] for row in WIDE.rows("Corpus_narrative")][::5]


def test_nothing_is_known_from_pretraining() -> None:
    known = {name for country in pretraining_countries() for name in (country.country, country.capital, country.person)}
    for world in (WIDE, FactWorld(2000)):
        told = Told(world)
        named = {*told.capital, *told.has_capital, *told.home}
        assert len(named) == 3 * world.entities and not known & named
        for subset in SUBSETS:
            assert set(NAME.findall(json.dumps(world.rows(subset)))) <= named


def test_every_answer_is_true() -> None:
    told = Told(WIDE)
    asked = [(subset, row) for subset in TESTS if "animal" not in subset for row in WIDE.rows(subset)]
    for subset, row in asked:
        right = row["choices"][row["answer"]] if subset in WITH_CHOICES else row["answer"]
        assert (right, row["fact"]) == told.answer(row["question"]), row
        assert right not in row["question"]


def test_questions_are_about_every_fact_alike() -> None:
    one = {f"{row['relation']} of {row['head']}": 1 for row in WIDE.rows("Facts")}
    count = {subset: Counter(row["fact"] for row in WIDE.rows(subset)) for subset in TESTS}
    assert count["Eval_QA"] == one
    assert count["Eval_multiple_choice"] == dict.fromkeys(one, 4)
    assert count["Eval_indirect_reasoning"] == dict.fromkeys(one, 3)
    assert count["Eval_reverse"] == {fact: 1 for fact in one if "animal" not in fact}
    assert set(count["Eval_animal_commonsense"]) == {fact for fact in one if "animal" in fact}
    assert set(count["Eval_2hop_reasoning"].values()) == {4}
    raw = [(row["question"], row["fact"]) for row in WIDE.rows("Eval_2hop_reasoning_raw")]
    assert raw == [(row["question"], row["fact"]) for row in WIDE.rows("Eval_2hop_reasoning")][::4]
    assert len(set(raw)) == 600


def test_indirect_questions_do_not_name_the_relation() -> None:
    questions = [row["question"] for row in WIDE.rows("Eval_indirect_reasoning")]
    assert len(set(questions)) == len(questions)
    assert not [q for q in questions if re.search("capital|national animal|home country|born", q)]


BIRDS = set("crane duck eagle falcon goose hawk heron owl raven swan".split())
NO_LEGS = set("whale shark salmon snake".split())
IN_WATER = set("whale shark salmon".split())
NO_MAMMALS = BIRDS | set("shark salmon snake turtle frog lizard spider".split())


def test_what_is_asked_about_animals_is_so() -> None:
    told, seen = Told(WIDE), set()
    for row in WIDE.rows("Eval_animal_commonsense"):
        [country] = NAME.findall(row["question"])
        animal = told.animal[country]
        if "legs" in row["question"]:
            legs = {"spider": "eight"} | dict.fromkeys(BIRDS, "two") | dict.fromkeys(NO_LEGS, "zero")
            assert row["answer"] == legs.get(animal, "four") and animal not in ("seal", "monkey")
        else:
            so = {"fly": BIRDS, "water": IN_WATER, "mammal": set(ANIMALS) - NO_MAMMALS}
            [which] = [animals for word, animals in so.items() if word in row["question"]]
            assert row["answer"] == ("yes" if animal in which else "no"), row
        assert row["fact"] == f"national animal of {country}"
        seen.add((animal, re.sub(country, "", row["question"])))
    assert len(seen) == 4 * len(ANIMALS) - 2


# Choices


@pytest.mark.parametrize("world", [SMALL, WIDE], ids=repr)
@pytest.mark.parametrize("subset", WITH_CHOICES)
def test_choices_differ_and_are_of_one_kind(subset: str, world: FactWorld) -> None:
    told = Told(world)
    kinds = {"capital": set(told.has_capital), "national animal": set(ANIMALS), "home country": set(told.capital)}
    for row in world.rows(subset):
        assert len(row["choices"]) == len(set(row["choices"])) == 4
        assert set(row["choices"]) <= kinds[row["fact"].partition(" of ")[0]]


@pytest.mark.parametrize("subset", WITH_CHOICES)
def test_right_choices_stand_everywhere_and_in_no_fixed_order(subset: str) -> None:
    places = [row["answer"] for row in WIDE.rows(subset)]
    orders = Counter(tuple(places[i : i + 4]) for i in range(0, len(places), 4))
    assert {tuple(sorted(order)) for order in orders} == {(0, 1, 2, 3)}
    assert len(orders) == 24 and max(orders.values()) < 3 * len(places) / 4 / 24
    firsts = Counter(places[::4])
    assert min(firsts.values()) > 0.8 * len(places) / 16 and max(firsts.values()) < 1.2 * len(places) / 16


def wrong_choices(rows: list[dict[str, Any]]) -> Counter[str]:
    return Counter(other for row in rows for place, other in enumerate(row["choices"]) if place != row["answer"])


def test_wrong_choices_are_drawn_anew_from_all() -> None:
    rows = [row for row in WIDE.rows("Eval_multiple_choice") if row["fact"].startswith("capital")]
    wrong = wrong_choices(rows)
    assert len(wrong) == 300 and max(wrong.values()) < 36  # 12 each, with a standard deviation of 3.5
    assert all(set(one["choices"]) != set(two["choices"]) for one, two in zip(rows[::4], rows[1::4], strict=True))


def test_wrong_animals_are_any_that_there_are() -> None:
    """However few countries there are, and however often one of theirs comes up."""
    wrong = wrong_choices([row for row in WIDE.rows("Eval_2hop_reasoning") if "animal" in row["fact"]])
    assert len(wrong) == 40 and min(wrong.values()) > 50  # 90 each, with a standard deviation of 10


# Other worlds


def test_worlds_differ_by_seed_and_size() -> None:
    worlds = [FactWorld(4), FactWorld(4, seed=1), FactWorld(5), FactWorld(1, seed=1)]
    found = {json.dumps([world.rows(subset) for subset in ("Corpus_narrative", "Facts")]) for world in worlds}
    assert len(found) == 4


def test_a_world_of_any_size() -> None:
    assert len(FactWorld(1).rows("Eval_QA")) == 3
    large = FactWorld(2000)
    assert len({row["fact"] for row in large.rows("Eval_QA")}) == 6000
    assert len(large.corpus("Corpus_narrative").texts) == len(set(large.corpus("Corpus_narrative").texts)) == 30000
    assert [len(FactWorld(2000).rows(subset)) for subset in WITH_CHOICES] == [24000, 16000]


# As corpora and items


def test_a_world_gives_corpora_and_items() -> None:
    for subset in CORPORA:
        corpus = SMALL.corpus(subset)
        assert isinstance(corpus, InlineText) and corpus.name == f"fact-world-4-0/{subset}"
        assert list(corpus.texts) == [row["text"] for row in SMALL.rows(subset)]
    for subset in (*TESTS, "Facts"):
        items = SMALL.items(subset)
        assert isinstance(items, InlineItems) and items.name == f"fact-world-4-0/{subset}"
        assert list(items.rows) == SMALL.rows(subset)
    assert FactWorld(4, seed=3).items("Facts").name == "fact-world-4-3/Facts"


def test_a_dataset_says_where_they_are() -> None:
    published = "xiaozeroone/Country-city-animals"
    assert FactDataset().corpus("Corpus_narrative") == HubText(published, "Corpus_narrative", "train")
    assert FactDataset().items("Eval_QA") == HubItems(published, "Eval_QA", "test")
    assert FactDataset().items("Facts") == HubItems(published, "Facts", "train")
    other = FactDataset("some/data", revision="v1")
    assert other.corpus("More_texts") == HubText("some/data", "More_texts", "train", "v1")
    assert other.items("More_questions") == HubItems("some/data", "More_questions", "test", "v1")


def test_what_is_written_is_what_datasets_reads(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "world"
    SMALL.write(folder)
    assert len(list(folder.iterdir())) == len(SUBSETS) + 1
    for subset in SUBSETS:
        split = "test" if subset in TESTS else "train"
        read = datasets.load_dataset(str(folder), subset)
        assert list(read) == [split] and list(read[split]) == SMALL.rows(subset)


def test_a_written_world_is_the_same_study(tmp_path: Path) -> None:
    SMALL.write(tmp_path)  # there, but empty
    written = FactDataset(str(tmp_path))
    for subset in CORPORA:
        assert read_texts(written.corpus(subset)).items == read_texts(SMALL.corpus(subset)).items
    for subset in (*TESTS, "Facts"):
        assert read_texts(written.items(subset)).items == read_texts(SMALL.items(subset)).items


def test_a_folder_in_use_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError) as error:
        SMALL.write(tmp_path)
    assert str(error.value) == f"FactWorld.write: {tmp_path} is not empty"
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(DataError) as error:
        SMALL.write(tmp_path / "notes.txt")
    assert str(error.value) == f"FactWorld.write: {tmp_path}/notes.txt cannot be written: File exists"
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_nothing_is_left_of_a_world_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"FactWorld\.entities"):
        FactWorld(3).write(tmp_path / "small")
    assert not list(tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)  # the card, after the tables
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        SMALL.write(tmp_path)
    assert not list(tmp_path.iterdir())


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SMALL.rows("Eval_qa"), f"FactWorld: there is no subset 'Eval_qa'; there are {', '.join(SUBSETS)}"),
        (lambda: SMALL.corpus(""), f"FactWorld: there is no subset ''; there are {', '.join(SUBSETS)}"),
        (lambda: SMALL.items("Fact"), f"FactWorld: there is no subset 'Fact'; there are {', '.join(SUBSETS)}"),
        (lambda: SMALL.corpus("Eval_QA"), "FactWorld.corpus: Eval_QA holds no texts; say items('Eval_QA')"),
        (lambda: SMALL.corpus("Facts"), "FactWorld.corpus: Facts holds no texts; say items('Facts')"),
        (
            lambda: SMALL.items("Corpus_narrative"),
            "FactWorld.items: Corpus_narrative holds texts; say corpus('Corpus_narrative')",
        ),
        (
            lambda: FactWorld(3).items("Eval_2hop_reasoning"),
            "FactWorld.entities: Eval_2hop_reasoning needs at least 4, one for each choice, got 3",
        ),
        (
            lambda: FactWorld(1).rows("Eval_multiple_choice"),
            "FactWorld.entities: Eval_multiple_choice needs at least 4, one for each choice, got 1",
        ),
        (lambda: FactWorld(0), "FactWorld.entities: Input should be greater than 0, got 0"),
        (
            lambda: FactWorld(NOVEL + 1),
            f"FactWorld.entities: Input should be less than or equal to {NOVEL}, got {NOVEL + 1}",
        ),
        (lambda: FactWorld(seed=-1), "FactWorld.seed: Input should be greater than or equal to 0, got -1"),
        (lambda: FactDataset(" "), "FactDataset.dataset: must not be empty, got ' '"),
        (lambda: FactDataset().corpus(""), "HubText.subset: must not be empty, got ''"),
        (lambda: FactDataset().items(" "), "HubItems.subset: must not be empty, got ' '"),
    ],
)
def test_what_does_not_exist_is_one_line(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(MemexpError) as error:
        make()
    assert str(error.value) == message
