"""Numbers and what they count: ``amount(1, "trial")`` is "1 trial", ``amount(3, "trial")`` "3 trials"."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["amount", "listed", "made_of", "noun", "span"]


def amount(count: int, what: str, many: str | None = None) -> str:
    """A number and what it counts, of which `many` is the plural where that is not made with an s."""
    return f"{count} {noun(count, what, many)}"


def noun(count: float, what: str, many: str | None = None) -> str:
    """What a number counts, for where the number is written otherwise or there is a word in between."""
    return what if count == 1 else many or what + "s"


def made_of(n: int, items: int, seeds: int, lists: int) -> str:
    """`n` values and what they are of: ``160 (80 items × 2 seeds)``, ``120 (30 items × 2 seeds, each twice)``.

    `items`, `seeds`, `lists`: how many different ones, 0 where that is not known.
    """
    named = f"{items:,} items" if 0 < items < n else "items"
    named += f" of {lists} lists" if lists > 1 else ""
    crossed = items * max(1, seeds)
    times, left = divmod(n, crossed) if crossed else (1, 1)
    if seeds > 1:
        named += f"{', ' if left else ' × '}{seeds} seeds"
    if times > 1 and not left:
        named += ", each twice" if times == 2 else f", each {times} times"
    return f"{n:,}" if named == "items" else f"{n:,} ({named})"


def span(seconds: float) -> str:
    """A time that has passed or is left: ``45 s``, ``12 min``, ``3.5 h``."""
    if round(seconds) < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def listed(names: Sequence[str]) -> str:
    """``one``, ``one and two``, ``one, two and three``."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
