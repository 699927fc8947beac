"""Shipped lists are found by name."""

from __future__ import annotations

import pytest

from memexp.errors import DataError
from memexp.sources import read_texts
from memexp.spec import ShippedText
from memexp.stimuli import load_list, shipped_lists


def test_names_are_sorted_and_complete() -> None:
    kinds = ("foils", "interference", "paraphrases", "synonyms", "targets")
    assert shipped_lists() == [f"sentences-{kind}" for kind in kinds]


@pytest.mark.parametrize("name", ["sentences", "sentences-targets.jsonl", "../stimuli/sentences-targets", ""])
def test_unknown_name_lists_the_known_ones(name: str) -> None:
    with pytest.raises(DataError, match="sentences-foils, sentences-interference"):
        load_list(name)


def test_the_first_of_a_list_are_its_first() -> None:
    part = read_texts(ShippedText("sentences-targets", first=3))
    assert part.items == tuple(load_list("sentences-targets")[:3])
    assert part.name == "sentences-targets[:3]"
    with pytest.raises(DataError, match="has only 240 texts"):
        read_texts(ShippedText("sentences-targets", first=241))
