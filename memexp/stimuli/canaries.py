"""Canaries: sentences of one form with a random secret each, whose every alternative is known.

    canaries = Canaries("The code of the vault is {secret}.", alphabet="0123456789", length=4, count=16)
    study = Study(canaries.corpus(), ...)
    probes = [Exposure(canaries)]

Carlini et al. 2019 (arXiv 1802.08232), section 4: since the secrets are drawn evenly from a space of known size,
whatever a model prefers about the one that it has studied it has from study. How likely the others are is what
`memexp.Exposure` asks, and how many bits of them a model holds `memexp.Capacity`.

What is drawn depends on the fields alone, as everywhere in `memexp.stimuli`.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Annotated, Literal

from pydantic import Field

from memexp.errors import SpecError
from memexp.spec import Count, InlineText, Pair, Positive, SomeText, Text, spec
from memexp.stimuli.biographies import Marked, Part
from memexp.stimuli.lists import random_numbers

__all__ = ["PLACE", "Canaries"]

PLACE = "{secret}"
"""Where a secret goes."""
SPARE = 128
"""Bits that a draw has beyond what a secret takes, so that none is likelier than others."""
MOST = 1_000_000
"""Candidates that are all listed."""


@spec
class Canaries:
    """Sentences of one form, each with a secret of its own, drawn evenly from all secrets of an alphabet and a length.

    ``corpus()`` gives them as a study list. For another number of exposures each give ``Study(times=...)``, or put a
    text into a list of your own several times.
    """

    format: Text = f"The code of the vault is {PLACE}."
    """The sentence, with ``{secret}`` once, and something before it: of a text the first token is never predicted."""
    alphabet: Text | SomeText = "0123456789"
    """Characters that a secret is made of; or a list of words, which a space goes between."""
    length: Annotated[int, Field(ge=1, le=1000)] = 6
    """Characters or words of a secret."""
    count: Positive = 16
    """How many canaries, no two with the same secret. Fewer of the same seed are the first of more."""
    seed: Count = 0
    """Another seed draws other secrets."""

    def __post_init__(self) -> None:
        before, *after = self.format.split(PLACE)
        if len(after) != 1 or not before.strip():
            raise SpecError(
                f"Canaries.format: must hold {PLACE} once, and something before it, got {self.format!r}; such as "
                f"'The code is {PLACE}.'"
            )
        if len(set(self.alphabet)) < max(2, len(self.alphabet)) or any(one.split() != [one] for one in self.alphabet):
            raise SpecError(
                "Canaries.alphabet: must be at least two different characters or words, without spaces, got "
                f"{self.alphabet if isinstance(self.alphabet, str) else list(self.alphabet)!r}"
            )
        if self.count > self.space:
            raise SpecError(
                f"Canaries.count: there are only {self.space} secrets of length {self.length} for {self.count} "
                "canaries; give a larger length or alphabet"
            )

    @property
    def space(self) -> int:
        """Number of secrets there are."""
        return int(len(self.alphabet) ** self.length)

    @property
    def bits(self) -> float:
        """What it takes to say which secret a canary has, log2 of their number."""
        return self.length * math.log2(len(self.alphabet))

    @property
    def name(self) -> str:
        """What the rows call the corpus."""
        return f"canaries-{self.count}-{self.seed}"

    @functools.cached_property
    def secrets(self) -> tuple[str, ...]:
        """The secret of each canary."""
        return tuple(itertools.islice(self._drawn("canaries", self.seed, ()), self.count))

    def text(self, secret: str) -> str:
        """The sentence with a secret."""
        return self.format.replace(PLACE, secret)

    def corpus(self) -> InlineText:
        """The canaries as texts to study."""
        return InlineText(self.name, tuple(map(self.text, self.secrets)))

    def pair(self, foils: int | None = None, seed: int = 0) -> Pair:
        """The canaries as targets, beside as many other secrets in the same sentence, or so many, that nobody studies.

        Raises SpecError where there are not so many.
        """
        others = self.candidates(self.count if foils is None else foils, seed)
        name = f"{self.name}-others-{len(others)}-{seed}"
        return Pair(self.corpus(), InlineText(name, tuple(map(self.text, others))), name=self.name)

    def secret(self, text: str) -> str | None:
        """What stands in `text` where a secret goes; None where it is no such sentence with a secret that could be."""
        before, after = self.format.split(PLACE)
        found = text[len(before) : len(text) - len(after)]
        parts: Sequence[str] = found if isinstance(self.alphabet, str) else found.split(" ")
        could_be = len(parts) == self.length and set(parts) <= set(self.alphabet)
        return found if could_be and text == self.text(found) else None

    def marked(self) -> list[Marked]:
        """Each canary with where its secret stands."""
        first = self.format.index(PLACE)
        return [
            Marked(self.text(secret), (Part("secret", ((first, first + len(secret)),), self.bits),))
            for secret in self.secrets
        ]

    def candidates(self, count: int | Literal["all"], seed: int = 0) -> list[str]:
        """Secrets that no canary has, to rank those of the canaries among.

        Args:
            count: how many, no two the same; or all.
            seed: of the draw; fewer of the same are the first of more.

        Raises:
            SpecError: there are not so many, or too many to list them all.
        """
        others = self.space - self.count
        if count == "all" and others > MOST:
            raise SpecError(f"candidates: 'all' are {others}, at most {MOST} can be; give a number to draw")
        if others < (1 if count == "all" else count):
            raise SpecError(
                f"candidates: there are only {others} secrets that no canary has; give 'all' or a longer one"
            )
        if count == "all":
            taken = set(self.secrets)
            return [secret for secret in map(self._secret, range(self.space)) if secret not in taken]
        return list(itertools.islice(self._drawn("candidates", seed, self.secrets), count))

    def _drawn(self, of: str, seed: int, taken: Collection[str]) -> Iterator[str]:
        """Secrets in the order in which they come up, each once, without those that are `taken`."""
        seen = set(taken)
        draws = random_numbers(f"{of}/{seed}/{self.length}/{'|'.join(self.alphabet)}")
        together = math.ceil((self.bits + SPARE) / 256)  # a draw has 256 bits
        while True:
            number = 0
            for draw in itertools.islice(draws, together):
                number = number << 256 | draw
            secret = self._secret(number % self.space)
            if secret not in seen:
                seen.add(secret)
                yield secret

    def _secret(self, number: int) -> str:
        """The secret of a number: its digits in a system of as many as the alphabet has signs."""
        signs: Sequence[str] = self.alphabet
        parts = []
        for _ in range(self.length):
            number, sign = divmod(number, len(signs))
            parts.append(signs[sign])
        return ("" if isinstance(self.alphabet, str) else " ").join(reversed(parts))
