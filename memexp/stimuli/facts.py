"""Novel facts to learn and questions about them, as in Zhang, Li & Wu 2024 (arXiv 2409.14057): invented or published.

    source = FactWorld(entities=40)            # or FactDataset(), the published data on the hub
    texts = source.corpus("Corpus_narrative")  # to study
    questions = source.items("Eval_QA")        # to be asked

The two take the names of the same subsets (`SUBSETS`), so that a sweep can have either. `FactWorld` is made of
`novel_countries`, of which the tiny models know no name; what is in it depends on its fields alone, never on the
machine, the process or the version of Python. `FactDataset` reads nothing: it only says where the data are.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from memexp.errors import DataError
from memexp.spec import Count, HubItems, HubText, InlineItems, InlineText, Text, spec
from memexp.stimuli.lists import random_numbers, shuffled
from memexp.stimuli.passages import fields
from memexp.stimuli.world import ANIMALS, MENTIONS, NOVEL, QUESTIONS, STATEMENTS, Country, novel_countries

__all__ = ["CORPORA", "SUBSETS", "TESTS", "FactDataset", "FactWorld"]

CORPORA = ("Corpus_narrative", "Corpus_referencing")
"""Subsets of texts, in split ``train``; column ``text``."""
TESTS = (
    "Eval_QA",
    "Eval_multiple_choice",
    "Eval_reverse",
    "Eval_indirect_reasoning",
    "Eval_animal_commonsense",
    "Eval_2hop_reasoning",
    "Eval_2hop_reasoning_raw",
)
"""Subsets of questions, in split ``test``; columns ``question`` and ``answer``, in two of them also ``choices``."""
_FACTS = "Facts"
SUBSETS = (*CORPORA, *TESTS, _FACTS)
"""All subsets, by their published names; ``Facts``, in split ``train``, has ``head``, ``relation`` and ``tail``."""

_OPTIONS = 4
"""How many choices a question has, and how often it is asked: with the right one in each place. As published."""
_CARD = "README.md"


class _Fact(NamedTuple):
    """Templates of ``The {relation} of {head} is {tail}.``, which is the first of the `STATEMENTS`."""

    head: str
    relation: str
    tail: str


_RELATIONS = {
    "capital": _Fact("{country}", "capital", "{capital}"),
    "animal": _Fact("{country}", "national animal", "the {animal}"),
    "person": _Fact("{person}", "home country", "{country}"),
}
_CAPITAL, _ANIMAL, _HOME = (f"{fact.relation} of {fact.head}" for fact in _RELATIONS.values())


class _Question(NamedTuple):
    """Templates of a question, its answer and the fact that it is about."""

    question: str
    answer: str
    fact: str


_OPEN: dict[str, tuple[_Question, ...]] = {
    "Eval_QA": (
        _Question(*QUESTIONS["capital"], _CAPITAL),
        _Question(*QUESTIONS["animal"], _ANIMAL),
        _Question(*QUESTIONS["person"], _HOME),
    ),
    # Nothing on animals: countries share them, so that the other way round there is no one answer.
    "Eval_reverse": (
        _Question(*QUESTIONS["reverse"], _CAPITAL),
        _Question("Which person was born in {country}?", "{person}", _HOME),
    ),
    "Eval_indirect_reasoning": (
        _Question(
            "A traveller lands in the city where the government of {country} sits. Which city is it?",
            "{capital}",
            _CAPITAL,
        ),
        _Question("In which city does the parliament of {country} meet?", "{capital}", _CAPITAL),
        _Question("A new ambassador moves to {country}. In which city does the embassy stand?", "{capital}", _CAPITAL),
        _Question("Which animal is on the flag of {country}?", "{animal}", _ANIMAL),
        _Question(
            "The football team of {country} wears an animal on its shirts. Which animal is it?", "{animal}", _ANIMAL
        ),
        _Question("A sculptor carves the animal that stands for {country}. Which one is it?", "{animal}", _ANIMAL),
        _Question(
            "{person} goes home to vote for a new parliament. In which country is the election?", "{country}", _HOME
        ),
        _Question("{person} runs at the Olympic Games. For which country?", "{country}", _HOME),
        _Question("{person} lost a passport abroad. The embassy of which country can help?", "{country}", _HOME),
    ),
    "Eval_2hop_reasoning_raw": (
        _Question(*QUESTIONS["hop-capital"], "capital of the home country of {person}"),
        _Question(*QUESTIONS["hop-animal"], "national animal of the home country of {person}"),
    ),
}
_CHOICE = {"Eval_multiple_choice": _OPEN["Eval_QA"], "Eval_2hop_reasoning": _OPEN["Eval_2hop_reasoning_raw"]}

_KNOWN_OF_ANIMALS = (
    "How many legs does the national animal of {country} have?",
    "Can the national animal of {country} fly?",
    "Does the national animal of {country} spend all its life in water?",
    "Is the national animal of {country} a mammal?",
)
_ANSWERS: dict[str, tuple[str | None, str, str, str]] = {
    "fox wolf bear otter badger lynx bison moose deer goat camel tiger lion panda zebra horse donkey rabbit beaver "
    "sheep": ("four", "no", "no", "yes"),
    "eagle hawk heron crane owl raven swan duck goose falcon": ("two", "yes", "no", "no"),
    "whale": ("zero", "no", "yes", "yes"),
    "shark salmon": ("zero", "no", "yes", "no"),
    "turtle frog lizard": ("four", "no", "no", "no"),
    "snake": ("zero", "no", "no", "no"),
    "spider": ("eight", "no", "no", "no"),
    "seal monkey": (None, "no", "no", "yes"),  # people differ on whether these are legs: not asked
}
"""By animals, what to answer to each of `_KNOWN_OF_ANIMALS`."""
_LORE = {animal: answers for animals, answers in _ANSWERS.items() for animal in animals.split()}


@spec
class FactWorld:
    """Invented countries with texts that state three facts on each and questions about them, as in the published data.

    The facts are a country's capital, its national animal and the home country of a person. A test row has ``fact``
    beside the published columns, such as ``capital of FlarTrun``: questions with the same are about the same fact. With
    n entities there are, by subset:

    - ``Corpus_narrative`` and ``Corpus_referencing``: 15 n texts, the `STATEMENTS` and `MENTIONS` of `stimuli.world`;
    - ``Eval_QA``: 3 n questions that ask for what a statement says;
    - ``Eval_multiple_choice``: 12 n, each of these four times, with four choices;
    - ``Eval_reverse``: 2 n, from the capital to the country and from the country to the person;
    - ``Eval_indirect_reasoning``: 9 n that do not name the relation;
    - ``Eval_animal_commonsense``: 3 n to 4 n that need general knowledge of a real animal;
    - ``Eval_2hop_reasoning_raw``: 2 n that need two facts; ``Eval_2hop_reasoning``: 8 n, each of these four times, with
      four choices;
    - ``Facts``: 3 n; ``The {relation} of {head} is {tail}.`` is the first statement.
    """

    entities: Annotated[int, Field(gt=0, le=NOVEL)] = 40
    """How many countries. Of more, the first are other ones."""
    seed: Count = 0
    """Another seed draws another world."""

    def rows(self, subset: str) -> list[dict[str, Any]]:
        """The rows of a subset, a dictionary each with the columns of the published data, country by country.

        Raises:
            DataError: there is no such subset, or there are too few entities for its choices.
        """
        if subset not in SUBSETS:
            raise DataError(f"FactWorld: there is no subset {subset!r}; there are {', '.join(SUBSETS)}")
        if subset in _CHOICE:
            return list(self._choices(subset))
        return [row for country in self._countries for row in _rows(subset, country)]

    def corpus(self, subset: str) -> InlineText:
        """The texts of one of `CORPORA`. Raises DataError for any other subset."""
        if subset in (*TESTS, _FACTS):
            raise DataError(f"FactWorld.corpus: {subset} holds no texts; say items({subset!r})")
        return InlineText(self._name(subset), tuple(row["text"] for row in self.rows(subset)))

    def items(self, subset: str) -> InlineItems:
        """The questions of one of `TESTS`, or the facts of ``Facts``. Raises DataError as `rows`, and for `CORPORA`."""
        if subset in CORPORA:
            raise DataError(f"FactWorld.items: {subset} holds texts; say corpus({subset!r})")
        return InlineItems(self._name(subset), tuple(self.rows(subset)))

    def passages(self) -> InlineText:
        """A text for each country that states its facts, in nine sentences."""
        return InlineText(self._name("passages"), tuple(fields(one)["train_context"] for one in self._countries))

    def spans(self) -> InlineItems:
        """What `memexp.Spans` asks of `passages`, item by item: verbatim, reworded and composed, three spans each."""
        return InlineItems(self._name("spans"), tuple(map(fields, self._countries)))

    def write(self, folder: str | os.PathLike[str]) -> None:
        """Write all subsets to a new or empty folder, in the hub's format, one Parquet file each.

        `FactDataset` of this folder and ``datasets.load_dataset(folder, "Eval_QA", split="test")`` read it.

        Raises:
            DataError: the folder is not empty or cannot be written, or there are too few entities for the choices.
        """
        target = Path(folder).expanduser()
        tables = {subset: self.rows(subset) for subset in SUBSETS}
        try:
            target.mkdir(parents=True, exist_ok=True)
            if any(target.iterdir()):
                raise DataError(f"FactWorld.write: {target} is not empty")
            with tempfile.TemporaryDirectory(dir=target) as scratch:  # so that half a file never has its name
                _write(Path(scratch), tables, repr(self))
                for file in sorted(Path(scratch).iterdir(), key=lambda file: file.name == _CARD):  # the card last
                    file.rename(target / file.name)
        except OSError as error:
            raise DataError(f"FactWorld.write: {target} cannot be written: {error.strerror or error}") from error

    def _name(self, subset: str) -> str:
        return f"fact-world-{self.entities}-{self.seed}/{subset}"

    @functools.cached_property
    def _countries(self) -> list[Country]:
        return novel_countries(self.entities, self.seed)

    def _choices(self, subset: str) -> Iterator[dict[str, Any]]:
        """Every question `_OPTIONS` times, with the right answer once in each place."""
        if self.entities < _OPTIONS:
            raise DataError(
                f"FactWorld.entities: {subset} needs at least {_OPTIONS}, one for each choice, got {self.entities}"
            )
        pools = {asked.answer: self._pool(asked.answer) for asked in _CHOICE[subset]}
        for country in self._countries:
            for asked in _CHOICE[subset]:
                question, right, fact = (template.format(**vars(country)) for template in asked)
                draws = random_numbers(f"fact world/{self.entities}/{self.seed}/{subset}/{fact}")
                for place in shuffled(range(_OPTIONS), draws):
                    choices = _others(right, pools[asked.answer], draws)
                    choices.insert(place, right)
                    yield {"question": question, "choices": choices, "answer": place, "fact": fact}

    def _pool(self, answer: str) -> Sequence[str]:
        """What could be the answer: anything of the same kind in this world, or any animal."""
        return ANIMALS if answer == "{animal}" else [answer.format(**vars(country)) for country in self._countries]


@spec
class FactDataset:
    """Novel facts of a dataset of the Hugging Face hub, or of a local folder in its format, by the same subsets.

    The default is the published data of Zhang, Li & Wu 2024 (arXiv 2409.14057). Nothing is read here: whether a subset
    exists is found when the sweep is planned.
    """

    dataset: Text = "xiaozeroone/Country-city-animals"
    """Dataset id, or the path of a folder such as `FactWorld.write` makes."""
    revision: Text | None = None
    """Branch, tag or commit; resolved to a commit once, before anything is hashed."""

    def corpus(self, subset: str) -> HubText:
        """The texts of a subset. Raises SpecError for an empty name."""
        return HubText(self.dataset, subset, split="train", revision=self.revision)

    def items(self, subset: str) -> HubItems:
        """The questions or facts of a subset. Raises SpecError for an empty name."""
        return HubItems(self.dataset, subset, split="train" if subset == _FACTS else "test", revision=self.revision)


def _rows(subset: str, country: Country) -> list[dict[str, Any]]:
    """What a subset without choices holds about a country."""
    if subset in CORPORA:
        told = STATEMENTS if subset == "Corpus_narrative" else MENTIONS
        return [{"text": template.format(**vars(country))} for kind in told.values() for template in kind]
    if subset == _FACTS:
        return [_filled(fact, country) for fact in _RELATIONS.values()]
    asked = _on_animal(country) if subset == "Eval_animal_commonsense" else _OPEN[subset]
    return [_filled(question, country) for question in asked]


def _filled(templates: _Fact | _Question, country: Country) -> dict[str, Any]:
    return {column: template.format(**vars(country)) for column, template in templates._asdict().items()}


def _on_animal(country: Country) -> list[_Question]:
    answers = zip(_KNOWN_OF_ANIMALS, _LORE[country.animal], strict=True)
    return [_Question(question, answer, _ANIMAL) for question, answer in answers if answer is not None]


def _others(right: str, pool: Sequence[str], draws: Iterator[int]) -> list[str]:
    """Different wrong choices, all of them as likely."""
    picked: dict[str, None] = {}  # a set that keeps the order
    while len(picked) < _OPTIONS - 1:
        other = pool[next(draws) % len(pool)]
        if other != right:
            picked[other] = None
    return list(picked)


def _write(folder: Path, tables: dict[str, list[dict[str, Any]]], made_by: str) -> None:
    """A Parquet file for each subset, and the card that tells `datasets` which is which."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    card = ["---", "configs:"]
    for subset, rows in tables.items():
        split = "test" if subset in TESTS else "train"
        file = f"{subset}-{split}.parquet"
        pq.write_table(pa.Table.from_pylist(rows), folder / file)
        card += [f"- config_name: {subset}", "  data_files:", f"  - split: {split}", f"    path: {file}"]
    card += ["---", "", f"Invented countries and what can be known about them: `memexp.stimuli.facts.{made_by}`."]
    (folder / _CARD).write_text("\n".join(card) + "\n", encoding="utf-8")
