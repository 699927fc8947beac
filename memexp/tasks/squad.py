"""Exact match and F1 of an open answer, as in the evaluation of SQuAD 1.1 (Rajpurkar et al. 2016, arXiv 1606.05250).

    exact_match("The Fox.", "fox"), f1("a red fox", "fox")      # True, 0.67

Both forget capitals, punctuation (that of ASCII), the articles a, an and the, and how much space there is.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["exact_match", "f1", "process_results"]

_ARTICLE = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def exact_match(prediction: str, answer: str) -> bool:
    """Whether nothing is left between them."""
    return _words(prediction) == _words(answer)


def f1(prediction: str, answer: str) -> float:
    """Harmonic mean of the shares of words in common; 0 where there are none, so also where both are empty."""
    predicted, wanted = _words(prediction), _words(answer)
    common = sum((Counter(predicted) & Counter(wanted)).values())
    # In this order of operations, to agree with the published script to the last digit.
    precision, recall = common / max(1, len(predicted)), common / max(1, len(wanted))
    return 2 * precision * recall / (precision + recall) if common else 0.0


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """What the task files beside this one call for each item."""
    prediction, answer = str(results[0]), str(doc["answer"])
    return {"exact_match": float(exact_match(prediction, answer)), "f1": f1(prediction, answer)}


def _words(text: str) -> list[str]:
    # Punctuation goes before articles, as published: "a." is an article then, "the-" too.
    return _ARTICLE.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split()
