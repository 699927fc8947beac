"""ROUGE F-measures of two texts (Lin 2004), number for number those of the package rouge-score without stemming.

    scores = rouge("The fox crossed the pond.", "The fox crossed a road.", latin_words)
    scores["rouge2"], scores["rougeL"]

That package imports nltk and with it scikit-learn, for a stemmer that is not used: two seconds of each process.
tests/unit/test_rouge.py compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

__all__ = ["ROUGES", "recall_of", "rouge"]

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
"""Of words, of pairs of words, of the longest common subsequence of all words, and of lines (Lin 2004, section 3.2)."""


def rouge(target: str, prediction: str, words: Callable[[str], list[str]]) -> dict[str, float]:
    """Each of `ROUGES`, from 0 to 1; 0 where either text has none of `words`."""
    one, two = words(target), words(prediction)
    longest = _f1(_common(one, two), one, two)
    # Between two texts of one line each the last two are one.
    lines = "\n" in target or "\n" in prediction
    return {
        "rouge1": _f1(_shared(one, two), one, two),
        "rouge2": _of_pairs(one, two),
        "rougeL": longest,
        "rougeLsum": _of_lines(_lines(target, words), _lines(prediction, words)) if lines else longest,
    }


def recall_of(target: str, prediction: str, words: Callable[[str], list[str]]) -> float:
    """ROUGE-L recall: share of the target's words in the longest common subsequence of both; 0 where it has none."""
    one = words(target)
    return _common(one, words(prediction)) / len(one) if one else 0.0


def _f1(shared: int, target: Sequence[object], prediction: Sequence[object]) -> float:
    if not shared:
        return 0.0
    precision, recall = shared / len(prediction), shared / len(target)
    return 2 * precision * recall / (precision + recall)


def _shared(one: Iterable[object], two: Iterable[object]) -> int:
    """How many are in both, each as often as in the one that has it less often."""
    return (Counter(one) & Counter(two)).total()


def _of_pairs(one: list[str], two: list[str]) -> float:
    target, prediction = list(pairwise(one)), list(pairwise(two))
    return _f1(_shared(target, prediction), target, prediction)


def _common(one: Sequence[str], two: Sequence[str]) -> int:
    """Length of the longest common subsequence, a bit for each word of `two` (Hyyrö 2004, "Bit-parallel LCS-length
    computation revisited")."""
    places: dict[str, int] = {}
    for i, word in enumerate(two):
        places[word] = places.get(word, 0) | 1 << i
    all_bits = (1 << len(two)) - 1
    row = all_bits  # a 0 where the length grows
    for word in one:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & all_bits
    return len(two) - row.bit_count()


def _lines(text: str, words: Callable[[str], list[str]]) -> list[list[str]]:
    return [words(line) for line in text.split("\n")]


def _of_lines(target: list[list[str]], prediction: list[list[str]]) -> float:
    """Of each line of the target the words that it has in common, in order, with any line of the prediction."""
    one, two = ([word for line in lines for word in line] for lines in (target, prediction))
    left = Counter(one) & Counter(two)  # a word counts as often as both have it
    shared = 0
    for line in target:
        matched: set[int] = set().union(*(_matched(line, other) for other in prediction))
        for word in (line[i] for i in sorted(matched)):
            shared += left[word] > 0
            left[word] -= 1
    return _f1(shared, one, two)


def _matched(one: list[str], two: list[str]) -> set[int]:
    """Places in `one` of a longest common subsequence; of several the one that rouge-score reads from its table."""
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, word in enumerate(one, 1):
        for j, other in enumerate(two, 1):
            table[i][j] = table[i - 1][j - 1] + 1 if word == other else max(table[i - 1][j], table[i][j - 1])
    i, j, places = len(one), len(two), set()
    while i and j:
        if one[i - 1] == two[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif table[i][j - 1] > table[i - 1][j]:
            j -= 1
        else:
            i -= 1
    return places
