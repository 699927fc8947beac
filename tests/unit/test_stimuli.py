"""The shipped lists hold what they promise, and nothing but chance tells their targets from their foils."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Callable
from importlib.resources import files

import pytest

from memexp.errors import DataError
from memexp.stimuli import load_list, shipped_lists

TARGETS = load_list("everyday-targets")
FOILS = load_list("everyday-foils")
PAIRS = list(zip(TARGETS, FOILS, strict=True))


def words(sentence: str) -> list[str]:
    return [word.strip(".,").lower() for word in sentence.split()]


COUNTS = Counter(word for sentence in TARGETS + FOILS for word in words(sentence))


def commonness(sentence: str) -> float:
    """Mean log count of the words over both lists, so that neither list is the measure of the other."""
    return statistics.fmean(math.log(COUNTS[word]) for word in words(sentence))


def articles(sentence: str) -> float:
    return sum(word in ("a", "an", "the") for word in words(sentence))


Measure = Callable[[str], float]
MEASURES: list[Measure] = [len, lambda sentence: len(sentence.split()), commonness, articles]


def test_names_are_sorted_and_complete() -> None:
    assert shipped_lists() == ["everyday-foils", "everyday-targets"]


@pytest.mark.parametrize("name", ["everyday", "everyday-targets.jsonl", "../stimuli/everyday-targets", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DataError, match="everyday-foils, everyday-targets"):
        load_list(name)


@pytest.mark.parametrize("name", ["everyday-targets", "everyday-foils"])
def test_rows_hold_one_sentence_each(name: str) -> None:
    lines = (files("memexp.stimuli") / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == 64
    assert all(set(row) == {"sent"} for row in rows)


def test_sentences_are_plain_and_of_the_promised_length() -> None:
    for sentence in TARGETS + FOILS:
        assert 12 <= len(sentence.split()) <= 24, sentence
        assert sentence.isascii() and sentence.isprintable(), sentence
        assert sentence[0].isupper() and sentence.endswith(".") and sentence == " ".join(sentence.split()), sentence


def test_no_sentence_occurs_twice() -> None:
    # compared by words: a change of case or of a comma would not make another item
    assert len({" ".join(words(sentence)) for sentence in TARGETS + FOILS}) == 128


def test_foils_match_their_targets_in_length_only() -> None:
    for target, foil in PAIRS:
        assert abs(len(target.split()) - len(foil.split())) <= 3, (target, foil)
        shared = set(words(target)) & set(words(foil))
        assert len(shared) <= len(set(words(target))) / 2, (target, foil)


def bias(pairs: list[tuple[str, str]], measure: Measure) -> float:
    """Mean difference between the first and the second of a pair, in standard errors."""
    differences = [measure(first) - measure(second) for first, second in pairs]
    return statistics.fmean(differences) / (statistics.stdev(differences) / math.sqrt(len(differences)))


@pytest.mark.parametrize("measure", MEASURES)
def test_lists_are_exchangeable(measure: Measure) -> None:
    assert abs(bias(PAIRS, measure)) < 1.5


@pytest.mark.parametrize("measure", MEASURES)
def test_a_biased_choice_of_targets_would_be_seen(measure: Measure) -> None:
    biased = [(min(pair, key=measure), max(pair, key=measure)) for pair in PAIRS]
    assert bias(biased, measure) < -5
