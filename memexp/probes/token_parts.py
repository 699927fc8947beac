"""Which tokens of a text are a part of it, however the text falls into tokens.

    [(before, after)] = joined(session, [("The capital of Peru is", "Lima")])
    tokens_of(session, text, row, 4, 11)

A text is encoded as a whole, as it is in study. What its beginning has in common with the whole is the beginning's; the
space before a part belongs to the part, as with lm-evaluation-harness.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["NO_END", "joined", "shared", "tokens_of"]

NO_END = 2**20
"""Tokens, for texts that are not cut."""


def joined(session: Session, pairs: Sequence[tuple[str, str]]) -> list[tuple[list[int], list[int]]]:
    """The token ids of each text and of what follows it after a space."""
    firsts = session.encode([first for first, _ in pairs], NO_END)
    texts = [f"{first.rstrip()} {rest}" for first, rest in pairs]
    wholes = session.without_ends(session.encode(texts, NO_END))
    ends = [shared(first, whole) for first, whole in zip(firsts, wholes, strict=True)]
    return [(whole[:end], whole[end:]) for end, whole in zip(ends, wholes, strict=True)]


def shared(first: Sequence[int], whole: Sequence[int]) -> int:
    """How many tokens two rows begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(first, whole, strict=False)) if a != b), min(len(first), len(whole))
    )


def tokens_of(session: Session, text: str, row: Sequence[int], first: int, last: int) -> range:
    """The places in `row`, the tokens of `text`, of what is from character `first` to before `last`.

    A token that is only partly of it is counted, at either end.
    """
    before, until = session.without_ends(session.encode([text[:first].rstrip(), text[:last]], NO_END))
    end = shared(until, row)
    return range(shared(before, row), min(end + (end < len(until)), len(row)))
