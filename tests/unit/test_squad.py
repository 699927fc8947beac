"""Exact match and F1 are those of the published evaluation of SQuAD 1.1, on strings where another reading would show.

The table holds values worked out by hand; the published algorithm is written out once more, in its own order of steps,
and compared on every pair of the table's strings and on random ones.
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections import Counter
from fractions import Fraction

import pytest

from memexp.tasks.squad import exact_match, f1, process_results

# Prediction, answer, whether they match, and F1 as 2 * common / (predicted + wanted).
TABLE: list[tuple[str, str, bool, Fraction]] = [
    # Capitals, space and articles
    ("The Fox.", "fox", True, Fraction(1)),
    ("a red fox", "fox", False, Fraction(2, 3)),
    ("fox red", "red fox", False, Fraction(1)),
    ("  the  red\tfox \r\n", "Red Fox", True, Fraction(1)),
    ("red\nfox", "red fox", True, Fraction(1)),
    ("red\u2028fox", "red fox", True, Fraction(1)),
    ("red\u00a0fox", "red fox", True, Fraction(1)),
    ("a\u00a0fox", "fox", True, Fraction(1)),
    ("red\u200bfox", "red fox", False, Fraction(0)),  # of no width, and no space to Python
    ("an apple a day", "apple day", True, Fraction(1)),
    ("THE AN A fox", "fox", True, Fraction(1)),
    ("theatre", "atre", False, Fraction(0)),
    ("another anaconda", "other conda", False, Fraction(0)),
    ("atlas of the alps", "atlas of alps", True, Fraction(1)),
    ("vitamin a", "vitamin", True, Fraction(1)),
    ("redthefox", "red fox", False, Fraction(0)),
    ("ａ fox", "fox", False, Fraction(2, 3)),  # noqa: RUF001 - a full-width letter is no article
    # Punctuation of ASCII goes before the articles
    ("a.", "", True, Fraction(0)),
    ("A.n apple", "apple", True, Fraction(1)),
    ("the-end", "end", False, Fraction(0)),
    ("the-end", "theend", True, Fraction(1)),
    ("the - end", "end", True, Fraction(1)),
    ("_a_ fox", "fox", True, Fraction(1)),
    ("red_fox", "redfox", True, Fraction(1)),
    ("red-fox", "red fox", False, Fraction(0)),
    ("the fox's den", "foxs den", True, Fraction(1)),
    ("t.h.e fox", "fox", True, Fraction(1)),
    ("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~fox", "fox", True, Fraction(1)),
    # That of other scripts stays, and ends a word as far as articles are concerned
    ("“fox”", "fox", False, Fraction(0)),
    ("the“fox”", "“fox”", True, Fraction(1)),
    ("fox — owl", "fox owl", False, Fraction(4, 5)),
    ("fox—owl", "fox owl", False, Fraction(0)),
    ("¿fox?", "fox", False, Fraction(0)),
    ("¿fox?", "¿fox", True, Fraction(1)),
    ("the fox’s den", "the fox's den", False, Fraction(1, 2)),  # noqa: RUF001 - it is about this quote
    ("a…", "…", True, Fraction(1)),
    ("fox—the—owl", "fox— —owl", True, Fraction(1)),  # a space takes the place of an article
    # Capitals of Unicode, and marks that combine
    ("İ", "i", False, Fraction(0)),
    ("İ", "i\u0307", True, Fraction(1)),
    ("ß", "ss", False, Fraction(0)),
    ("ẞ", "ß", True, Fraction(1)),
    ("STRASSE", "Straße", False, Fraction(0)),
    ("KÖLN", "Köln", True, Fraction(1)),
    ("É", "e\u0301", False, Fraction(0)),
    ("a\u0301", "\u0301", True, Fraction(1)),  # a mark is no letter: the word ends before it
    ("á", "\u0301", False, Fraction(0)),
    ("ΟΔΟΣ", "οδος", True, Fraction(1)),  # the sigma that ends a word
    # Digits
    ("1,894", "1894", True, Fraction(1)),
    ("3.5 %", "$35", True, Fraction(1)),
    ("a1", "1", False, Fraction(0)),
    ("a 1", "1", True, Fraction(1)),
    ("four", "4", False, Fraction(0)),
    # A word counts as often as it is said by both
    ("fox fox owl", "fox owl owl", False, Fraction(2, 3)),
    ("fox fox", "fox", False, Fraction(2, 3)),
    ("fox", "fox fox fox", False, Fraction(1, 2)),
    ("the fox the owl", "fox an owl", True, Fraction(1)),
    ("one two three four", "two five", False, Fraction(1, 3)),
    # Nothing left on one side or both
    ("", "", True, Fraction(0)),
    ("", "fox", False, Fraction(0)),
    ("fox", "", False, Fraction(0)),
    ("the", "", True, Fraction(0)),
    ("the an", "A", True, Fraction(0)),
    ("?!", "...", True, Fraction(0)),
    ("?!", "the", True, Fraction(0)),
    (" \n", "", True, Fraction(0)),
    ("the", "fox", False, Fraction(0)),
    ("—", "", False, Fraction(0)),
    # Chinese and Japanese have no spaces, and a full stop of their own
    ("东京", "东京", True, Fraction(1)),
    ("东京。", "东京", False, Fraction(0)),
    ("a东京", "东京", False, Fraction(0)),
    ("a 东京", "东京", True, Fraction(1)),
    ("東京 都", "東京", False, Fraction(2, 3)),
    ("東京\u3000都", "東京 都", True, Fraction(1)),
]


def published(text: str) -> str:
    """Lower case, then no punctuation, then no articles, then single spaces."""
    lowered = text.lower()
    bare = "".join(character for character in lowered if character not in string.punctuation)
    without = re.sub(r"\b(a|an|the)\b", " ", bare)
    return " ".join(without.split())


def published_f1(prediction: str, answer: str) -> float:
    predicted, wanted = published(prediction).split(), published(answer).split()
    same = sum((Counter(predicted) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision = same / len(predicted)
    recall = same / len(wanted)
    return (2 * precision * recall) / (precision + recall)


@pytest.mark.parametrize(("prediction", "answer", "exact", "score"), TABLE)
def test_the_values_are_those_worked_out_by_hand(prediction: str, answer: str, exact: bool, score: Fraction) -> None:
    assert exact_match(prediction, answer) is exact
    assert f1(prediction, answer) == pytest.approx(float(score), abs=1e-12)


def test_neither_depends_on_which_of_the_two_was_predicted() -> None:
    for prediction, answer, exact, score in TABLE:
        assert exact_match(answer, prediction) is exact
        assert f1(answer, prediction) == pytest.approx(float(score), abs=1e-12)


def test_the_values_are_the_published_ones_to_the_last_digit() -> None:
    texts = sorted({text for row in TABLE for text in row[:2]})
    pieces = ["a ", "the ", "The", "fox ", " owl", "hen ", "İ", "1", " ", "\u00a0", "\n", ".", "-", "_", "“", "—", "东"]
    rng = random.Random(0)
    pairs = [*itertools.product(texts, texts)]
    for length in rng.choices(range(16), k=4_000):
        wanted = rng.choices(pieces, k=length)
        said = [piece if rng.random() < 0.7 else rng.choice(pieces) for piece in wanted]
        pairs.append(("".join(said), "".join(wanted)))
    scores = set()
    for prediction, answer in pairs:
        assert exact_match(prediction, answer) == (published(prediction) == published(answer)), (prediction, answer)
        assert f1(prediction, answer) == published_f1(prediction, answer), (prediction, answer)
        scores.add(published_f1(prediction, answer))
    assert len(scores) > 20, "otherwise hardly anything was compared"


def test_a_task_file_gets_both_as_numbers() -> None:
    assert process_results({"answer": "the red fox"}, ["A fox!"]) == {"exact_match": 0.0, "f1": pytest.approx(2 / 3)}
    assert process_results({"answer": 4}, [" 4."]) == {"exact_match": 1.0, "f1": 1.0}
