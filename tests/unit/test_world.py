"""The invented world: fixed for ever where the tiny models know it, new wherever a novel country is asked for."""

from __future__ import annotations

import pytest

from memexp.errors import DataError
from memexp.stimuli.world import (
    ANIMALS,
    MENTIONS,
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
    novel = names(novel_countries(1536 - PRETRAINED))  # all there are
    assert len(set(novel)) == len(novel)
    assert not set(novel) & set(known)


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


@pytest.mark.parametrize("count", [0, -1, 1536 - PRETRAINED + 1])
def test_impossible_counts_are_refused(count: int) -> None:
    with pytest.raises(DataError, match=rf"count must be 1 to 1436, got {count}"):
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
