"""Numbers and what they count: ``amount(1, "trial")`` is "1 trial", ``amount(3, "trial")`` "3 trials"."""

from __future__ import annotations

__all__ = ["amount", "noun"]


def amount(count: int, what: str, many: str | None = None) -> str:
    """A number and what it counts, of which `many` is the plural where that is not made with an s."""
    return f"{count} {noun(count, what, many)}"


def noun(count: float, what: str, many: str | None = None) -> str:
    """What a number counts, for where the number is written otherwise or there is a word in between."""
    return what if count == 1 else many or what + "s"
