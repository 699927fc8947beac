"""Canaries: drawn by their fields alone, evenly, each once."""

from __future__ import annotations

import collections
import math
import subprocess
import sys
from typing import Any

import pytest

from memexp.errors import SpecError
from memexp.stimuli.canaries import Canaries
from memexp.stimuli.lists import random_numbers


def test_golden_canaries() -> None:
    """Studies of them are known by their texts."""
    assert Canaries(count=3).corpus().texts == tuple(
        f"The code of the vault is {secret}." for secret in ("417031", "980511", "156251")
    )
    words = Canaries("Say {secret}", ["red", "blue"], length=2, count=2, seed=5)
    assert words.corpus().texts == ("Say blue blue", "Say red red")


def test_they_are_the_same_in_another_process() -> None:
    code = "from memexp.stimuli.canaries import Canaries; print(Canaries(count=5, seed=3).secrets)"
    made = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    )
    assert made.stdout.strip() == repr(Canaries(count=5, seed=3).secrets)


def test_each_secret_comes_once_and_fewer_are_the_first_of_more() -> None:
    every = Canaries(alphabet="abc", length=3, count=27)
    assert sorted(every.secrets) == sorted(a + b + c for a in "abc" for b in "abc" for c in "abc")
    assert Canaries(alphabet="abc", length=3, count=5).secrets == every.secrets[:5]
    assert Canaries(alphabet="abc", length=3, count=5, seed=1).secrets != every.secrets[:5]
    assert (every.space, every.bits) == (27, pytest.approx(math.log2(27)))


def test_secrets_are_drawn_evenly() -> None:
    """Each digit in each place about as often: chi squared of 9 degrees of freedom is below 28 in .999 of all cases."""
    secrets = Canaries(count=2000).secrets
    for place in range(6):
        counts = collections.Counter(secret[place] for secret in secrets)
        assert sum((counts[digit] - 200) ** 2 / 200 for digit in "0123456789") < 28


def test_candidates_are_all_others() -> None:
    few = Canaries(alphabet=["one", "two"], length=3, count=3)
    others = few.candidates("all")
    assert len(others) == 5 and len({*others, *few.secrets}) == 8
    assert sorted(few.candidates(5)) == sorted(others)
    says = r"^candidates: there are only \d secrets that no canary has"
    with pytest.raises(SpecError, match=says):
        few.candidates(6)
    with pytest.raises(SpecError, match=says):
        Canaries(alphabet="ab", length=1, count=2).candidates("all")


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"format": "The code."}, "Canaries.format: must hold {secret} once, and something before it, got 'The code.'"),
        ({"format": "{secret} it is"}, "Canaries.format: must hold {secret} once, and something before it"),
        ({"format": "a {secret} {secret}"}, "Canaries.format: must hold {secret} once"),
        ({"alphabet": "0"}, "Canaries.alphabet: must be at least two different characters or words, without spaces"),
        ({"alphabet": "010"}, "Canaries.alphabet: must be at least two different"),
        ({"alphabet": ["a b", "c"]}, "Canaries.alphabet: must be at least two different characters or words"),
        ({"length": 0}, "Canaries.length: Input should be greater than or equal to 1"),
        (
            {"alphabet": "01", "length": 3, "count": 9},
            "Canaries.count: there are only 8 secrets of length 3 for 9 canaries; give a larger length or alphabet",
        ),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Canaries(**fields)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_secret_is_found_again() -> None:
    words = Canaries("Say {secret}, {please}!", ["red", "blue"], length=2, count=2)
    assert [words.secret(words.text(secret)) for secret in words.secrets] == list(words.secrets)
    assert words.secret("Say red blue, {please}!") == "red blue"
    for other in (
        "Say red, {please}!",
        "Say red  blue, {please}!",
        "Say red blue!",
        "say red blue, {please}!",
        "",
        "Say ",
    ):
        assert words.secret(other) is None
    assert Canaries(length=2).secret("The code of the vault is 07.") == "07"
    assert Canaries(length=2).secret("The code of the vault is 7.") is None


def test_long_secrets_are_drawn_evenly_too() -> None:
    """Longer than one draw: none of their places is the same in all."""
    for long in (Canaries(length=100, count=40), Canaries("Say {secret}", [f"w{i}" for i in range(2048)], 64, 40)):
        words = [secret if isinstance(long.alphabet, str) else secret.split() for secret in long.secrets]
        assert all(len({word[place] for word in words}) > 4 for place in range(long.length))
    short = Canaries(length=38, count=2)  # what one draw is enough for stays what it was
    draws = random_numbers(f"canaries/0/38/{'|'.join('0123456789')}")
    assert short.secrets == tuple(str(next(draws) % 10**38).zfill(38) for _ in range(2))
