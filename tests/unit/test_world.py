"""The invented world: fixed for ever where the tiny models know it, new wherever a novel country is asked for."""

from __future__ import annotations

import hashlib
import re

import pytest

from memexp.errors import DataError
from memexp.stimuli.world import (
    ANIMALS,
    MENTIONS,
    NOVEL,
    PRETRAINED,
    QUESTIONS,
    STATEMENTS,
    Country,
    documents,
    novel_countries,
    pretraining_countries,
    question,
    syllables,
)

GOLDEN_FIRST = Country(country="FarDril", capital="KlalNis", animal="bear", person="ProrDil")
GOLDEN_LAST = Country(country="TilKlis", capital="LorGrur", animal="donkey", person="DrimStil")
GOLDEN_NOVEL = Country(country="StosLar", capital="KlamTres", animal="falcon", person="NanThum")
ODENSIA = Country(country="OdenSia", capital="KarMund", animal="otter", person="LenTor")


def names(countries: list[Country]) -> list[str]:
    return [name for c in countries for name in (c.country, c.capital, c.person)]


def digest(countries: list[Country]) -> str:
    return hashlib.sha256(repr([vars(country) for country in countries]).encode()).hexdigest()[:16]


def test_pretraining_countries_never_change() -> None:
    """The weights that ship were trained on these; any other answer makes their figures wrong."""
    first, *_, last = pretraining_countries()
    assert (first, last) == (GOLDEN_FIRST, GOLDEN_LAST)
    assert len(pretraining_countries()) == PRETRAINED


def test_novel_countries_never_change() -> None:
    assert novel_countries(2, seed=0)[1] == GOLDEN_NOVEL


def test_names_are_unique_and_novel_ones_unknown() -> None:
    known = names(pretraining_countries())
    assert len(set(known)) == len(known)
    for count in (1536 - PRETRAINED, 5000, NOVEL):  # all of two syllables, some of three, all there are
        novel = names(novel_countries(count))
        assert len(set(novel)) == len(novel) == 3 * count
        assert not set(novel) & set(known)


def test_names_are_longer_only_where_the_short_ones_are_taken() -> None:
    """Up to 1436 they have been drawn before; beyond, no ending is a name that the tiny models know."""
    assert digest(novel_countries(1436, seed=5)) == "7ba020583d5d83e0"
    assert digest(novel_countries(1440)) == "7a8fa9fc806bc510"
    parts = [[re.findall("[A-Z][a-z]+", name) for name in names([country])] for country in novel_countries(3000)]
    assert {len(name) for country in parts[:1436] for name in country} == {2}
    known = set(names(pretraining_countries()))
    for country in parts[1436:]:
        for name, ends in zip(country, (64, 88, 112), strict=True):
            assert len(name) == 3 and set(name[:2]) <= set(syllables()[:64])
            assert name[2] in syllables()[ends : ends + 24] and name[1] + name[2] not in known
    longer = [set(names(novel_countries(1500, seed)[1436:])) for seed in (0, 1)]
    assert len(longer[0] & longer[1]) < 10


def test_names_are_two_syllables_of_their_kind() -> None:
    parts = syllables()
    assert len(set(parts)) == len(parts) == 136
    for country in [*pretraining_countries(), *novel_countries(50, seed=3)]:
        for name, ends in ((country.country, 64), (country.capital, 88), (country.person, 112)):
            assert any(name == first + end for first in parts[:64] for end in parts[ends : ends + 24])
        assert country.animal in ANIMALS


def test_seeds_differ_and_repeat() -> None:
    assert novel_countries(40, seed=1) == novel_countries(40, seed=1)
    assert novel_countries(40, seed=1) != novel_countries(40, seed=2)


@pytest.mark.parametrize("count", [0, -1, 1436 * 65 + 1])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"count must be 1 to 93340, got {count}"):
        novel_countries(count)


def test_texts_name_what_they_relate() -> None:
    both = {"capital": ("OdenSia", "KarMund"), "animal": ("OdenSia", "otter"), "person": ("LenTor", "OdenSia")}
    for texts in (STATEMENTS, MENTIONS):
        assert set(texts) == set(both)
        for kind, templates in texts.items():
            for template in templates:
                told = template.format(**vars(ODENSIA))
                assert all(name in told for name in both[kind]), told
                # Forward only: the answer comes last, so that asking the other way round is another question.
                assert told.index(both[kind][0]) < told.index(both[kind][1]) == told.rindex(both[kind][1]), told


def test_questions_end_where_the_answer_begins() -> None:
    assert question("capital", ODENSIA) == ("Question: What is the capital of OdenSia? Answer:", "KarMund")
    assert question("hop-animal", ODENSIA)[1] == "otter"
    for kind in QUESTIONS:
        asked, answer = question(kind, ODENSIA)
        assert answer not in asked


def test_documents_tell_and_ask_everything() -> None:
    told = documents(ODENSIA)
    assert not [text for text in told if "{" in text]
    stated = {
        template.format(**vars(ODENSIA)) for texts in (STATEMENTS, MENTIONS) for t in texts.values() for template in t
    }
    assert len(stated) == 30 and stated <= set(told)
    for kind in QUESTIONS:
        assert " ".join(question(kind, ODENSIA)) in told
