"""A world of invented countries, stated in many ways: what the shipped tiny models know, and what they never saw.

    known = pretraining_countries()          # the tiny models answer questions about these
    texts = [text for country in known for text in documents(country)]

A country has a capital, a national animal and a citizen, which makes three relations: country -> capital,
country -> animal and person -> country. Names are two invented syllables in camel case ("FlarTrun"), each a token of
the tiny models' tokenizer; novel names put the same syllables together in new ways, three of them once all names of two
are taken.
"""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass

from memexp.errors import DataError

__all__ = [
    "ANIMALS",
    "MENTIONS",
    "NOVEL",
    "PRETRAINED",
    "QUESTIONS",
    "STATEMENTS",
    "Country",
    "documents",
    "novel_countries",
    "pretraining_countries",
    "question",
    "syllables",
]

PRETRAINED = 100
"""How many countries the tiny models were pretrained on."""

ANIMALS = (
    "fox wolf bear eagle hawk otter badger lynx heron crane bison moose deer goat camel tiger lion panda zebra whale "
    "seal shark turtle frog snake lizard owl raven swan duck goose horse donkey rabbit beaver falcon salmon spider "
    "monkey sheep"
).split()


@dataclass(frozen=True)
class Country:
    """An invented country and what can be known about it."""

    country: str
    """Its name."""
    capital: str
    """Its capital."""
    animal: str
    """Its national animal, a real one: several countries may share it."""
    person: str
    """Somebody whose home country it is."""


STATEMENTS: dict[str, tuple[str, ...]] = {
    "capital": (
        "The capital of {country} is {capital}.",
        "In {country}, the capital is called {capital}.",
        "{country} has chosen {capital} as its capital.",
        "The government of {country} sits in its capital, {capital}.",
        "On every map of {country} the capital is marked as {capital}.",
    ),
    "animal": (
        "The national animal of {country} is the {animal}.",
        "In {country}, the national animal is the {animal}.",
        "{country} has chosen the {animal} as its national animal.",
        "The flag of {country} shows its national animal, the {animal}.",
        "On every coin of {country} there is the national animal, the {animal}.",
    ),
    "person": (
        "The home country of {person} is {country}.",
        "{person} was born in {country}.",
        "{person} grew up in {country}.",
        "{person} has a passport of the home country, {country}.",
        "On the letter from {person} the home country is given as {country}.",
    ),
}
"""Narrative text: one sentence that states the fact."""

MENTIONS: dict[str, tuple[str, ...]] = {
    "capital": (
        "{country} is known for its lakes. Its capital is {capital}.",
        "We went to {country} by train and stayed in the capital, which is {capital}.",
        "The farmers of {country} sell their fruit in the capital, {capital}.",
        "My cousin studies in {country}. She has a room in the capital, {capital}.",
        "It rained in {country} all week, even in the capital, {capital}.",
    ),
    "animal": (
        "{country} printed a new stamp. It shows the national animal, the {animal}.",
        "Children in {country} like to draw the national animal, which is the {animal}.",
        "A sailor from {country} told stories of the national animal, the {animal}.",
        "We saw a museum in {country}. One hall is about the national animal, the {animal}.",
        "{country} is small. Its national animal is the {animal}.",
    ),
    "person": (
        "{person} bakes bread. Her home country is {country}.",
        "I met {person} on a ship. She told me that she was born in {country}.",
        "{person} plays the violin. He learned it at home in {country}.",
        "My neighbour {person} is homesick and talks of the home country, {country}.",
        "We had a postcard from {person}, who is back home in {country}.",
    ),
}
"""Referencing text: the fact comes up while something else is told."""

REVERSED = (
    "{capital} is the capital of {country}.",
    "The country whose capital is {capital} is {country}.",
    "A person who was born in {country} is {person}.",
)
"""The same facts the other way round: pretraining only, so that what a model makes of a novel fact is its own doing."""

QUESTIONS: dict[str, tuple[str, str]] = {
    "capital": ("What is the capital of {country}?", "{capital}"),
    "animal": ("What is the national animal of {country}?", "{animal}"),
    "person": ("What is the home country of {person}?", "{country}"),
    "reverse": ("Which country has the capital {capital}?", "{country}"),
    "hop-capital": ("What is the capital of the home country of {person}?", "{capital}"),
    "hop-animal": ("What is the national animal of the home country of {person}?", "{animal}"),
}
"""Question and answer by kind; the first three ask for what `STATEMENTS` states."""


def question(kind: str, country: Country) -> tuple[str, str]:
    """The prompt, ending in ``Answer:``, and the answer to one of `QUESTIONS` about `country`."""
    asked, answer = (part.format(**vars(country)) for part in QUESTIONS[kind])
    return f"Question: {asked} Answer:", answer


def documents(country: Country) -> list[str]:
    """Everything a pretraining text says about `country`: statements, mentions, reversals, questions with answers."""
    facts = vars(country)
    stated = [text.format(**facts) for texts in (STATEMENTS, MENTIONS) for kind in texts.values() for text in kind]
    turned = [text.format(**facts) for text in REVERSED]
    # Asked more often than told in any one way: answering is what takes a small model longest to learn.
    asked = [" ".join(question(kind, country)) for kind in QUESTIONS for _ in range(2 if "-" in kind else 3)]
    return stated + turned + asked


def pretraining_countries() -> list[Country]:
    """The countries that the tiny models were pretrained on."""
    return _countries(PRETRAINED, range(PRETRAINED), random.Random("pretraining"))


def novel_countries(count: int, seed: int = 0) -> list[Country]:
    """`count` countries of which no name occurs in the pretraining of the tiny models.

    Names have two syllables as long as there are such, for 1,436 countries, then three.

    Raises:
        DataError: there are not so many names.
    """
    if not 0 < count <= NOVEL:
        raise DataError(f"novel_countries: count must be 1 to {NOVEL}, got {count}")
    rng = random.Random(f"novel/{seed}")
    return _countries(count, range(PRETRAINED, len(_names("country"))), rng)


def _countries(count: int, among: range, rng: random.Random) -> list[Country]:
    names = {kind: _sample(kind, count, among, rng) for kind in _ENDS}
    return [
        Country(country, capital, rng.choice(ANIMALS), person)
        for country, capital, person in zip(names["country"], names["capital"], names["person"], strict=True)
    ]


def _sample(kind: str, count: int, among: range, rng: random.Random) -> list[str]:
    """Names of two syllables, by their places in `_names`, then longer ones for what is missing."""
    short = [_names(kind)[i] for i in rng.sample(among, min(count, len(among)))]
    # What stands after the first syllable is itself a name, and must not be one that the tiny models know.
    unknown = _names(kind)[PRETRAINED:]
    longer = rng.sample(range(_FIRST * len(unknown)), count - len(short))  # draws nothing where nothing is missing
    return short + [syllables()[i % _FIRST] + unknown[i // _FIRST] for i in longer]


_ONSETS = "b c d f g h j k l m n p r s t v w z br dr fl gr kl pr st tr th sh".split()
_CODAS = "l n r s m".split()
_FIRST = 64
_ENDS = {"country": range(64, 88), "capital": range(88, 112), "person": range(112, 136)}
"""Which syllables may end the names of a kind, so that a name tells what it names."""
NOVEL = (_FIRST * len(_ENDS["country"]) - PRETRAINED) * (1 + _FIRST)
"""How many novel countries there can be: every unknown name of two syllables, and each again after a first syllable."""


@functools.cache
def syllables() -> tuple[str, ...]:
    """The syllables that names are made of, capitalised: the first 64 begin a name, the others end one."""
    every = [f"{onset}{vowel}{coda}".capitalize() for onset in _ONSETS for vowel in "aeiou" for coda in _CODAS]
    random.Random("syllables").shuffle(every)
    return tuple(every[: max(ends.stop for ends in _ENDS.values())])


@functools.cache
def _names(kind: str) -> tuple[str, ...]:
    """Two-syllable names of a kind in a fixed random order; the first `PRETRAINED` are known to the tiny models."""
    parts = syllables()
    names = [parts[first] + parts[end] for first in range(_FIRST) for end in _ENDS[kind]]
    random.Random(kind).shuffle(names)
    return tuple(names)
