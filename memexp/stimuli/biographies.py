"""Biographies of invented people, of which the number of bits is known: a seeded world to measure capacity with.

    people = Biographies(count=100)
    people.corpus().texts[0]    # "Meet Tram Blin Gorst. She was born on March 3, 1984. ..."
    people.marked()[0].parts    # where in it the name and the values stand, and how many bits each takes

After bioS of Allen-Zhu & Li 2024 (arXiv 2404.05405): a name of three parts, the pronoun and five attributes, each drawn
evenly from a pool of as many values as theirs. Names, values and the sentences, one for each, are memexp's own; the
city of work, which follows from the employer and takes no bits, is left out. What is drawn depends on the fields alone.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from memexp.spec import Count, InlineText, Positive, spec
from memexp.stimuli.lists import random_numbers
from memexp.stimuli.world import syllables

__all__ = ["Biographies", "Marked", "Part"]

MONTHS = "January February March April May June July August September October November December".split()
POOLS = {"first": 400, "middle": 400, "last": 1000, "city": 200, "university": 300, "subject": 100, "employer": 263}
"""How many values there are of each, as published."""
PRONOUNS = ("He", "She")
DAYS, FIRST_YEAR, YEARS = 28, 1900, 200
NAME = "{first} {middle} {last}"
SENTENCES = (
    ("{pronoun} was born on {birthday}.", ("pronoun", "birthday")),
    ("The birthplace is {city}.", ("city",)),
    ("The university was {university}.", ("university",)),
    ("The subject was {subject}.", ("subject",)),
    ("The employer is {employer}.", ("employer",)),
)


@dataclass(frozen=True)
class Part:
    """A part of a text whose number of bits is known."""

    kind: str
    """What it is: ``secret``, ``name`` or ``values``."""
    spans: tuple[tuple[int, int], ...]
    """Where it stands: first character and the one after the last, of each of its pieces."""
    bits: float
    """log2 of the number of values that it is drawn from."""


@dataclass(frozen=True)
class Marked:
    """A text with its parts."""

    text: str
    parts: tuple[Part, ...]


@spec
class Biographies:
    """Texts on invented people, a sentence for the name and one for each attribute."""

    count: Positive = 100
    """How many people. Fewer of the same seed are the first of more."""
    seed: Count = 0
    """Another seed draws other people."""

    @property
    def name(self) -> str:
        """What the rows call the corpus."""
        return f"biographies-{self.count}-{self.seed}"

    def corpus(self) -> InlineText:
        """The biographies as texts to study."""
        return InlineText(self.name, tuple(one.text for one in self.marked()))

    def marked(self) -> Sequence[Marked]:
        """Each biography with where its name and its values stand."""
        return self._people

    @functools.cached_property
    def _people(self) -> tuple[Marked, ...]:
        return tuple(_marked(_drawn(self.seed, number)) for number in range(self.count))


def _drawn(seed: int, number: int) -> dict[str, str]:
    draws = random_numbers(f"biographies/{seed}/{number}")
    person = {kind: _pool(kind)[next(draws) % size] for kind, size in POOLS.items()}
    person["pronoun"] = PRONOUNS[next(draws) % len(PRONOUNS)]
    month, day, year = MONTHS[next(draws) % len(MONTHS)], 1 + next(draws) % DAYS, FIRST_YEAR + next(draws) % YEARS
    return person | {"birthday": f"{month} {day}, {year}"}


def _marked(person: dict[str, str]) -> Marked:
    """The text of a person, put together piece by piece."""
    text = f"Meet {NAME.format(**person)}"
    name = ((len("Meet "), len(text)),)
    text += "."
    values: list[tuple[int, int]] = []
    for sentence, kinds in SENTENCES:
        text += " "
        rest = sentence
        for kind in kinds:
            before, rest = rest.split(f"{{{kind}}}")
            text += before
            values.append((len(text), len(text) + len(person[kind])))
            text += person[kind]
        text += rest
    return Marked(
        text, (Part("name", name, _bits("first", "middle", "last")), Part("values", tuple(values), _values()))
    )


def _bits(*kinds: str) -> float:
    return math.log2(math.prod(POOLS[kind] for kind in kinds))


def _values() -> float:
    """Of what the sentences after the name say."""
    dates = len(PRONOUNS) * len(MONTHS) * DAYS * YEARS
    return math.log2(dates) + _bits("city", "university", "subject", "employer")


@functools.cache
def _pool(kind: str) -> tuple[str, ...]:
    """Different names of two syllables, and what makes them a university, a subject or an employer."""
    after: dict[str, Any] = {"university": " University", "subject": " studies", "employer": " Works"}
    draws, parts = random_numbers(f"biographies/{kind}"), syllables()
    found: dict[str, None] = {}  # a set that keeps the order
    while len(found) < POOLS[kind]:
        first, second = (parts[next(draws) % len(parts)] for _ in range(2))
        found[first + second.lower() + after.get(kind, "")] = None
    return tuple(found)
