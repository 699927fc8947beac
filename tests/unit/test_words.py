"""Words in any script: for ASCII those of rouge_score, for others letters of their own."""

# ruff: noqa: RUF001 - letters of other scripts are what it is about

from __future__ import annotations

import random
import string

import pytest
from rouge_score.tokenize import tokenize

from memexp.plan import grow
from memexp.probes import FactRatios, Recall
from memexp.probes.words import in_other_letters, latin_words, words_of_any_script
from memexp.spec import Condition, InlineItems, InlineText, Model, Study


def test_a_text_in_ascii_has_the_words_of_rouge_score() -> None:
    rng = random.Random(0)
    for _ in range(2000):
        text = "".join(rng.choices(string.printable + "\x00\x1f\x7f", k=rng.randint(0, 40)))
        assert words_of_any_script(text) == latin_words(text) == tokenize(text, None), repr(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Лиса перешла замёрзший пруд, в 1894-м.", ["лиса", "перешла", "замёрзший", "пруд", "в", "1894", "м"]),
        ("Η Αθήνα_είναι «εδώ»", ["η", "αθήνα", "είναι", "εδώ"]),
        ("Ein Café im Öl", ["ein", "café", "im", "öl"]),
        ("Un cafe\u0301 noir", ["un", "cafe\u0301", "noir"]),
        ("狐狸穿过GPT2池塘。", ["狐", "狸", "穿", "过", "gpt2", "池", "塘"]),
        ("キツネが、池を", ["キ", "ツ", "ネ", "が", "池", "を"]),
        ("データ", ["デ", "ー", "タ"]),
        ("여우가 연못을", ["여우가", "연못을"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("น้ำ ดี", ["น้", "ำ", "ดี"]),
        ("مَدِينَة كبيرة", ["مَدِينَة", "كبيرة"]),
        ("\u0301 ... 。 😀", []),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    assert words_of_any_script(text) == words


@pytest.mark.parametrize("text", ["a fox", "naïve – “so”…", "Grüße, Łódź, ﬁn", "2 µm², 3 ½, 1ª", "donʼt 😀", "", "١٢"])
def test_latin_texts_are_left_to_rouge_score(text: str) -> None:
    assert not in_other_letters(text)


@pytest.mark.parametrize("text", ["GPT 狐", "α", "пруд", "ほ", "हि", "여우", "Ａ"])
def test_other_letters_are_not(text: str) -> None:
    assert in_other_letters(text)


STUDY = Study(InlineText("studied", ["a fox", "the pond"]), exposures=0, lr=1e-3)


def identity(tiny_model: Model, probe: Recall | FactRatios) -> str:
    (ask,) = grow([Condition(tiny_model, STUDY, probes=[probe])]).asks
    return ask.probe_id


def test_recall_of_latin_texts_keeps_its_identity_and_that_of_others_has_a_new_one(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ("the pønd – so", "the пруд", "... !")
    plain, other, empty = (Recall(InlineText("mine", ["a fox", text])) for text in texts)
    now = [identity(tiny_model, probe) for probe in (plain, other, empty)]
    monkeypatch.setattr(Recall, "numerics", lambda *_: {})  # as it was
    before = [identity(tiny_model, probe) for probe in (plain, other, empty)]
    assert [one == two for one, two in zip(now, before, strict=True)] == [True, False, False]


def test_ratios_have_a_new_identity_where_a_head_has_several_tails(
    tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"head": "France", "relation": "neighbour", "tail": "Spain"},
        {"head": "France", "relation": "neighbour", "tail": "Spain"},
        {"head": "France", "relation": "capital", "tail": "Paris"},
        {"head": "Italy", "relation": "neighbour", "tail": "Austria"},
    ]
    one = FactRatios(InlineItems("mine", rows))
    several = FactRatios(InlineItems("mine", [*rows, {**rows[0], "tail": "Italy"}]))
    now = [identity(tiny_model, probe) for probe in (one, several)]
    monkeypatch.setattr(FactRatios, "numerics", lambda *_: {})
    before = [identity(tiny_model, probe) for probe in (one, several)]
    assert [a == b for a, b in zip(now, before, strict=True)] == [True, False]
