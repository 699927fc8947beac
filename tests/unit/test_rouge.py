"""ROUGE is that of the package rouge-score, to the last bit, and of what is known by hand."""

from __future__ import annotations

import random

import pytest
from rouge_score.rouge_scorer import RougeScorer

from memexp.probes.rouge import ROUGES, rouge
from memexp.probes.words import latin_words, words_of_any_script

FEW = ["fox", "pond", "ice", "a", "Ice.", "--"]
MANY = [f"w{i}" for i in range(40)]


@pytest.mark.parametrize("vocabulary", [FEW, MANY], ids=["few", "many"])
@pytest.mark.parametrize("separator", ["", "\n", "\n\n"])
def test_every_number_is_that_of_rouge_score(vocabulary: list[str], separator: str) -> None:
    """Few words make for many longest subsequences, among which a line's words are chosen as there."""
    rng = random.Random(f"{len(vocabulary)}{separator}")
    scorer = RougeScorer(list(ROUGES), use_stemmer=False)

    def text() -> str:
        return " ".join(rng.choices([*vocabulary, separator], k=rng.randint(0, 24)))

    different = 0
    for _ in range(1500):
        target, prediction = text(), text()
        expected = {name: score.fmeasure for name, score in scorer.score(target, prediction).items()}
        assert rouge(target, prediction, latin_words) == expected, (target, prediction)
        different += expected["rougeL"] != expected["rougeLsum"]
    assert (different > 100) == bool(separator)


def test_by_hand() -> None:
    assert rouge("a b c d", "a x c", latin_words) == {
        "rouge1": pytest.approx(4 / 7),
        "rouge2": 0.0,
        "rougeL": pytest.approx(4 / 7),
        "rougeLsum": pytest.approx(4 / 7),
    }
    assert rouge("b a b", "a b a", latin_words)["rougeL"] == pytest.approx(2 / 3)
    assert set(rouge("", "a", latin_words).values()) == {0.0}
    assert rouge("狐狸", "狐", latin_words)["rouge1"] == 0 < rouge("狐狸", "狐", words_of_any_script)["rouge1"]


def test_long_texts_take_no_square_of_time() -> None:
    """Two texts of 20,000 words: 400 million cells of a table otherwise."""
    rng = random.Random(0)
    one, two = (" ".join(rng.choices(MANY, k=20_000)) for _ in range(2))
    assert 0.2 < rouge(one, two, latin_words)["rougeL"] < 1
