"""Shipped lists are found by name; random words and scrambled sentences are the same ones everywhere and for good."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from memexp.errors import DataError, MemexpError
from memexp.identity import texts_identity
from memexp.sources import read_texts
from memexp.spec import ShippedText
from memexp.stimuli import load_list, random_words, scrambled, shipped_lists

KINDS = ("foils", "interference", "paraphrases", "synonyms", "targets")
SENTENCES = [text for kind in KINDS for text in load_list(f"sentences-{kind}")]
VOCABULARY = {
    word.strip(".,:;?") for text in SENTENCES for word in text.split() if re.fullmatch("[a-z]+", word.strip(".,:;?"))
}


def test_names_are_sorted_and_complete() -> None:
    assert shipped_lists() == [f"sentences-{kind}" for kind in KINDS]


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


# Random words


def test_golden_random_words() -> None:
    """What changes here changes the identity of every result of experiments 4 and 5."""
    assert random_words(2, words=3, seed=1) == ["dull separate loudly", "jogs moist drawing"]
    assert random_words(1, words=4) == ["painter spends sideways lakes"]
    assert texts_identity(random_words(240)) == "0787abae55c196b9"


def test_random_words_are_distinct_texts_of_distinct_plain_words() -> None:
    texts = random_words(500, words=20)
    assert len(texts) == len(set(texts)) == 500
    for text in texts:
        words = text.split(" ")
        assert len(words) == len(set(words)) == 20
        assert set(words) <= VOCABULARY
    assert {len(text.split(" ")) for text in random_words(3)} == {25}


def test_every_word_of_the_vocabulary_comes_up_and_about_as_often() -> None:
    counts = Counter(word for text in random_words(4000) for word in text.split(" "))
    expected = 4000 * 25 / len(VOCABULARY)  # 26 each, with a standard deviation of 5
    assert set(counts) == VOCABULARY
    assert min(counts.values()) > expected / 5 and max(counts.values()) < expected * 2.5


def test_fewer_random_words_are_the_first_of_more_and_another_seed_draws_others() -> None:
    texts = random_words(40)
    assert random_words(10) == texts[:10]
    assert not set(texts) & set(random_words(40, seed=1))
    assert not set(random_words(40, seed=-1)) & set(random_words(40, seed=1))


def test_foils_share_no_text_with_the_targets() -> None:
    """With texts of one word, all but a few taken, a draw that did not look would hit a target."""
    targets = random_words(len(VOCABULARY) - 3, words=1)
    foils = random_words(3, words=1, seed=1, unlike=targets)
    assert sorted([*targets, *foils]) == sorted(VOCABULARY)
    # what could not come up in any case leaves as many as there are
    assert len(random_words(3, words=1, unlike=[*targets, *SENTENCES, "a a", "aardwolf"])) == 3
    assert len(random_words(1, words=1, unlike=iter(targets))) == 1


# Scrambled


def letters(text: str) -> list[str]:
    return [character for character in text if character.isalnum()]


EDGES = [
    "a",
    "I, a",
    "on no",
    "no on no",
    "aa bb",
    "It is. Is it?",
    "Grüße aus Köln.",
    "1987 - 1978",
    "two  spaces\nand",
    "half a \ud83d pair",
]


def test_golden_scrambled() -> None:
    assert scrambled(["It isn't so, I say."], seed=1) == ["i'nts sy.a o,s tI I"]
    assert scrambled(["Grüße, aus Köln!", "on no"]) == ["asu Gür,eß nKlö!", "no on"]
    assert texts_identity(scrambled(load_list("sentences-targets"))) == "ecedd1f46c15e982"


@pytest.mark.parametrize("seed", range(3))
def test_scrambling_keeps_the_characters_of_every_word(seed: int) -> None:
    def bags(text: str) -> list[str]:
        return sorted("".join(sorted(word)) for word in text.split())

    originals = SENTENCES + EDGES
    mixed = scrambled(originals, seed)
    assert len(mixed) == len(originals)
    for before, after in zip(originals, mixed, strict=True):
        assert bags(before) == bags(after)
        assert after == " ".join(after.split())


@pytest.mark.parametrize("seed", range(3))
def test_letters_that_can_change_their_order_do(seed: int) -> None:
    words = sorted({word for text in SENTENCES + EDGES for word in text.split()})
    short = {word for word in words if len(letters(word)) == 2}
    assert len(short) > 20  # half of them would stay as they are by chance
    for before, after in zip(words, scrambled(words, seed), strict=True):
        assert (after != before) == (letters(after) != letters(before)) == (len(set(letters(before))) > 1), before


@pytest.mark.parametrize("seed", range(20))
def test_words_that_can_change_their_order_do(seed: int) -> None:
    assert scrambled(["a I", "a a I", "I, I. a"], seed)[0] == "I a"
    assert scrambled(["a a I", "1 2"], seed)[0] in ("a I a", "I a a")
    for text in ("abc def", "abc abc def"):
        before = ["".join(sorted(word)) for word in text.split()]
        assert ["".join(sorted(word)) for word in scrambled([text], seed)[0].split()] != before


@pytest.mark.parametrize("seed", range(20))
def test_a_scrambled_text_is_never_its_original_where_there_is_another(seed: int) -> None:
    texts = SENTENCES[:50] + EDGES[1:]
    assert [text for text, mixed in zip(texts, scrambled(texts, seed), strict=True) if text == mixed] == []
    alone = ["a", "I,", "aa", "a a a", "--", "- a-"]
    assert scrambled(alone[:5], seed) == alone[:5]
    assert scrambled(alone[5:], seed) == ["a- -"]


def test_a_text_is_scrambled_alike_in_any_company_and_otherwise_with_another_seed() -> None:
    texts = SENTENCES[:20]
    mixed = scrambled(texts)
    assert scrambled(texts[::-1]) == mixed[::-1]
    assert scrambled(iter(texts[:3])) == mixed[:3]
    assert not set(scrambled(texts, seed=1)) & set(mixed)
    assert scrambled([]) == []


def test_letters_go_to_every_place() -> None:
    assert Counter(scrambled(["abc"], seed)[0] for seed in range(200)).keys() == {"acb", "bac", "bca", "cab", "cba"}


# What is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: random_words(0), "random_words: count must be a whole number of at least 1, got 0"),
        (lambda: random_words(-3), "random_words: count must be a whole number of at least 1, got -3"),
        (lambda: random_words(2.0), "random_words: count must be a whole number of at least 1, got 2.0"),  # type: ignore
        (lambda: random_words(True), "random_words: count must be a whole number of at least 1, got True"),
        (lambda: random_words(1, words=0), "random_words: words must be a whole number of at least 1, got 0"),
        (lambda: random_words(1, words=-1), "random_words: words must be a whole number of at least 1, got -1"),
        (
            lambda: random_words(1, words=len(VOCABULARY) + 1),
            f"random_words: words must be at most {len(VOCABULARY)}, the whole vocabulary, got {len(VOCABULARY) + 1}",
        ),
        (
            lambda: random_words(len(VOCABULARY) + 1, words=1),
            f"random_words: count must be at most {len(VOCABULARY)}, there are no more such texts, "
            f"got {len(VOCABULARY) + 1}",
        ),
        (
            lambda: random_words(len(VOCABULARY), words=1, unlike=["also", "a zebra", "Also"]),
            f"random_words: count must be at most {len(VOCABULARY) - 1}, there are no more such texts, "
            f"got {len(VOCABULARY)}",
        ),
        (lambda: random_words(1, seed="a"), "random_words: seed must be a whole number, got 'a'"),  # type: ignore
        (lambda: random_words(1, unlike="a b"), "random_words: unlike must be a list of texts, got str"),
        (lambda: scrambled("A fox."), "scrambled: texts must be a list of texts, got str"),
        (lambda: scrambled(3), "scrambled: texts must be a list of texts, got int"),  # type: ignore
        (lambda: scrambled(["A fox.", 3]), "scrambled: texts[1] must be a text, got int"),  # type: ignore
        (lambda: scrambled(["A fox.", " "]), "scrambled: texts[1] is empty"),
        (lambda: scrambled(["A fox."], seed=0.5), "scrambled: seed must be a whole number, got 0.5"),  # type: ignore
    ],
)
def test_a_wrong_argument_is_one_line_that_names_it(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(MemexpError) as error:
        make()
    assert str(error.value) == message


def test_as_many_words_as_there_are_can_be_had() -> None:
    assert sorted(random_words(1, words=len(VOCABULARY))[0].split()) == sorted(VOCABULARY)
