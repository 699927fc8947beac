"""The shipped study lists, and the control stimuli of Orhan (2023) made from lists: random words, scrambled sentences.

    targets = random_words(240)
    foils = random_words(240, seed=1, unlike=targets)  # no text in common
    scrambled(load_list("sentences-targets"))

What is drawn depends on the arguments (and for random words on the shipped lists) alone, never on the machine, the
process or the version of Python: numbers come from SHA-256, since `random` promises a lasting sequence for its
``random()`` only and not for what is built on it.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from typing import TypeVar

from memexp.errors import DataError, SpecError

__all__ = ["load_list", "random_numbers", "random_words", "scrambled", "shipped_lists", "shuffled"]

T = TypeVar("T")

_SUFFIX = ".jsonl"
_VOCABULARY = tuple(f"sentences-{kind}" for kind in ("targets", "foils", "paraphrases", "synonyms", "interference"))
"""By name: a list that ships later would change every random word."""
_AROUND = ".,:;?"
_PLAIN = re.compile("[a-z]+")


def shipped_lists() -> list[str]:
    """Names of the lists that ship with memexp, sorted."""
    names = (entry.name for entry in files("memexp.stimuli").iterdir())
    return sorted(name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX))


def load_list(name: str) -> list[str]:
    """Sentences of a shipped list, in order; item i of a foil list belongs to item i of its target list.

    Raises:
        DataError: no list has this name; the message names those there are.
    """
    known = shipped_lists()
    if name not in known:  # also keeps a name with / or .. from reaching the file system
        raise DataError(f"{name}: no shipped list has this name; there are {', '.join(known)}")
    lines = (files("memexp.stimuli") / f"{name}{_SUFFIX}").read_text(encoding="utf-8").splitlines()
    return [str(json.loads(line)["sent"]) for line in lines]


def random_words(count: int, words: int = 25, seed: int = 0, unlike: Iterable[str] = ()) -> list[str]:
    """Texts of random words, the targets and foils of experiment 4 (Orhan 2023, arXiv 2303.17557).

    The words are those of the shipped sentences that stand there in plain lower-case letters: no names, no first words
    of sentences, nothing with a hyphen or an apostrophe. Every word is as likely as every other, however common it is.

    Args:
        count: how many texts; no two are the same. Fewer texts of the same seed are the first of more.
        words: words of each text, 25 as published; none comes twice in a text.
        seed: another seed draws other texts.
        unlike: texts that must not come up, such as the targets when foils are drawn.

    Returns:
        `count` texts, words separated by a space.

    Raises:
        SpecError: a number is out of range, or there are not so many texts.
    """
    vocabulary = _vocabulary()
    _check_whole("random_words", "count", count, least=1)
    _check_whole("random_words", "words", words, least=1)
    _check_whole("random_words", "seed", seed)
    if words > len(vocabulary):
        raise SpecError(f"random_words: words must be at most {len(vocabulary)}, the whole vocabulary, got {words}")
    taken = set(_list_of_texts("random_words: unlike", unlike))
    possible = math.perm(len(vocabulary), words) - sum(_is_drawn(text, words) for text in taken)
    if count > possible:
        raise SpecError(f"random_words: count must be at most {possible}, there are no more such texts, got {count}")
    texts: list[str] = []
    for attempt in itertools.count():
        draws = random_numbers(f"random words/{seed}/{words}/{attempt}")
        picked: dict[str, None] = {}  # a set that keeps the order
        while len(picked) < words:
            picked[vocabulary[next(draws) % len(vocabulary)]] = None
        text = " ".join(picked)
        if text not in taken:
            taken.add(text)
            texts.append(text)
            if len(texts) == count:
                break
    return texts


def scrambled(texts: Iterable[str], seed: int = 0) -> list[str]:
    """Texts with letters shuffled within words and words shuffled: the targets of experiment 6 (Orhan 2023, as above).

    A word is what stands between spaces, and its punctuation is shuffled along with its letters, as published:
    ``intrigued.`` may become ``idunt.rgie``. Beyond what was published, nothing is left as it was by chance:

    - a word with two different letters (or digits) has them in another order; one without, such as ``a`` or ``I,``,
      stays as it is;
    - the words stand in another order, unless they are all the same;
    - so the whole differs from the original wherever there is another arrangement.

    Args:
        texts: the originals.
        seed: another seed shuffles otherwise. How a text is shuffled does not depend on the texts around it.

    Returns:
        As many texts, in the order of the originals; words are separated by a space.

    Raises:
        SpecError: not a list of texts, or a seed that is no whole number.
        DataError: a text is empty.
    """
    _check_whole("scrambled", "seed", seed)
    originals = _list_of_texts("scrambled: texts", texts)
    for place, text in enumerate(originals):
        if not text.strip():
            raise DataError(f"scrambled: texts[{place}] is empty")
    return [_scramble(text, seed) for text in originals]


def _scramble(text: str, seed: int) -> str:
    draws = random_numbers(f"scrambled/{seed}/{text}")
    words = text.split()
    mixed = [_mix(word, draws) for word in words]
    order = range(len(words))
    places: Sequence[int] = order
    while len(set(words)) > 1 and [words[place] for place in places] == words:
        places = shuffled(order, draws)
    found = [mixed[place] for place in places]
    return " ".join(found if found != words else mixed)  # of "on no" the letters and the order undo each other


def _mix(word: str, draws: Iterator[int]) -> str:
    """`word` with its characters in another order, its letters too; itself where the letters have one order only."""
    letters = [character for character in word if character.isalnum()]
    mixed = list(word)
    while len(set(letters)) > 1 and [character for character in mixed if character.isalnum()] == letters:
        mixed = shuffled(word, draws)
    return "".join(mixed)


def shuffled(items: Sequence[T], draws: Iterator[int]) -> list[T]:
    """`items` in another order, by `draws` of `random_numbers` (Fisher and Yates): every order is as likely."""
    mixed = list(items)
    for last in range(len(mixed) - 1, 0, -1):
        other = next(draws) % (last + 1)
        mixed[last], mixed[other] = mixed[other], mixed[last]
    return mixed


def random_numbers(key: str) -> Iterator[int]:
    """Endless random numbers of 256 bits, by `key` alone; so large that a remainder of one is as good as uniform."""
    start = hashlib.sha256(key.encode("utf-8", "surrogatepass"))
    for number in itertools.count():
        draw = start.copy()
        draw.update(f"/{number}".encode())
        yield int.from_bytes(draw.digest(), "big")


@functools.cache
def _vocabulary() -> tuple[str, ...]:
    """The plain lower-case words of the shipped sentences, sorted."""
    words = {word.strip(_AROUND) for name in _VOCABULARY for text in load_list(name) for word in text.split()}
    return tuple(sorted(word for word in words if _PLAIN.fullmatch(word)))


def _is_drawn(text: str, words: int) -> bool:
    """Whether `random_words` could come up with `text`."""
    parts = text.split(" ")
    return len(parts) == len(set(parts)) == words and set(_vocabulary()).issuperset(parts)


def _check_whole(function: str, name: str, value: object, least: int | None = None) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise SpecError(f"{function}: {name} must be {wanted}, got {value!r}")


def _list_of_texts(what: str, texts: Iterable[str]) -> list[str]:
    """`texts` as a list. Raises SpecError for a single text, whose letters would pass for texts, and for no texts."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise SpecError(f"{what} must be a list of texts, got {type(texts).__name__}")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise SpecError(f"{what}[{place}] must be a text, got {type(text).__name__}")
    return found
