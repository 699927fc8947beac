"""Words of texts, for ROUGE: those of the package rouge-score, of a to z and 0 to 9, and those of any script.

rouge(target, prediction, words_of_any_script)
"""

from __future__ import annotations

import functools
import re
import unicodedata

__all__ = ["fails_latin", "in_other_letters", "latin_words", "words_of_any_script"]

_UNSPACED = re.compile(r"CJK |IDEOGRAPHIC |HIRAGANA |(HALFWIDTH )?KATAKANA[ -]|THAI |LAO |KHMER |MYANMAR ")
"""Beginnings of the names of characters of scripts that put no space between words."""


def latin_words(text: str) -> list[str]:
    """Lower-cased runs of a to z and 0 to 9, and nothing else, as rouge-score has them without stemming."""
    return re.findall("[a-z0-9]+", text.lower())


def words_of_any_script(text: str) -> list[str]:
    """Lower-cased runs of letters and digits, in scripts without spaces each by itself, in order.

    A mark (an accent, a vowel sign) belongs to the letter before it. A text in ASCII has its `latin_words`.
    """
    words: list[str] = []
    before = "space"
    for character in text.lower():
        kind = _kind(character)
        if kind == "mark" and before != "space":
            words[-1] += character
            continue
        if kind == "letter" and before == "letter":
            words[-1] += character
        elif kind in ("letter", "word"):
            words.append(character)
        before = "space" if kind == "mark" else kind
    return words


@functools.lru_cache(maxsize=1 << 16)
def _kind(character: str) -> str:
    """letter (or digit), word (a letter that is a token by itself), mark or space (all the rest)."""
    if character.isalnum():
        unspaced = not character.isascii() and _UNSPACED.match(unicodedata.name(character, ""))
        return "word" if unspaced else "letter"
    return "mark" if unicodedata.category(character).startswith("M") else "space"


def in_other_letters(text: str) -> bool:
    """Whether there are letters in `text` that are not Latin, accents and ligatures included."""
    return not text.isascii() and any(map(_is_other, text))


@functools.lru_cache(maxsize=1 << 16)
def _is_other(character: str) -> bool:
    # Before U+0250 all is Latin, or an indicator or a unit in Latin texts, as modifier letters (Lm) may be.
    letter = ord(character) >= 0x250 and unicodedata.category(character) in ("Lu", "Ll", "Lt", "Lo")
    return letter and not unicodedata.name(character, "").startswith("LATIN ")


def fails_latin(text: str) -> bool:
    """Whether `latin_words` fail a text: it has letters that are not Latin, or no a to z or 0 to 9.

    The text that is to be said decides. Of a Latin one a completion is compared as it always was, whatever letters
    it has, so that the numbers of old stores stay what they are.
    """
    return in_other_letters(text) or not re.search("[a-z0-9]", text.lower())
