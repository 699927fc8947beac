"""Biographies: drawn by their fields alone, evenly, and marked where what is drawn stands."""

from __future__ import annotations

import collections
import math
import re

from memexp.stimuli.biographies import POOLS, Biographies

TEXT = re.compile(
    r"Meet (\w+) (\w+) (\w+)\. (He|She) was born on (\w+) (\d+), (\d{4})\. The birthplace is (\w+)\. "
    r"The university was (\w+ University)\. The subject was (\w+ studies)\. The employer is (\w+ Works)\."
)


def test_golden_biographies() -> None:
    """Studies of them are known by their texts."""
    assert Biographies(1).corpus().texts == (
        "Meet Flilrus Gilgel Klalnor. She was born on June 16, 2055. The birthplace is Meljar. "
        "The university was Hercon University. The subject was Noshen studies. The employer is Bosnom Works.",
    )


def test_fewer_are_the_first_of_more() -> None:
    assert Biographies(3).corpus().texts == Biographies(7).corpus().texts[:3] != Biographies(3, seed=1).corpus().texts


def test_what_is_drawn_is_marked() -> None:
    for one in Biographies(30).marked():
        found = TEXT.fullmatch(one.text)
        assert found is not None
        first, middle, last, pronoun, month, day, year, *rest = found.groups()
        name, values = one.parts
        assert (name.kind, values.kind) == ("name", "values")
        assert [one.text[a:b] for a, b in name.spans] == [f"{first} {middle} {last}"]
        assert [one.text[a:b] for a, b in values.spans] == [pronoun, f"{month} {day}, {year}", *rest]
        assert name.bits == math.log2(400 * 400 * 1000)
        assert math.isclose(values.bits, math.log2(2 * 12 * 28 * 200 * 200 * 300 * 100 * 263), rel_tol=1e-12)


def test_values_are_drawn_evenly_from_as_many_as_are_counted() -> None:
    found = [TEXT.fullmatch(text) for text in Biographies(6000).corpus().texts]
    columns = list(zip(*(one.groups() for one in found if one), strict=True))
    sizes = [POOLS["first"], POOLS["middle"], POOLS["last"], 2, 12, 28, 200]
    sizes += [POOLS[kind] for kind in ("city", "university", "subject", "employer")]
    for values, size in zip(columns, sizes, strict=True):
        counts = collections.Counter(values)
        mean = 6000 / size
        squared = sum((n - mean) ** 2 / mean for n in counts.values()) + mean * (size - len(counts))
        assert len(counts) <= size and squared < size - 1 + 4 * math.sqrt(2 * size), "chi squared, four deviations"
