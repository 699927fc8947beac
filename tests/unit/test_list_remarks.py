"""What of the lists misleads is said before anything is trained: cut texts, repeated ones, targets that are foils."""

from __future__ import annotations

from pathlib import Path

import pytest

from memexp.errors import ModelError
from memexp.plan import grow
from memexp.probes import QA, Recall, Recognition
from memexp.sources import Sources, tokens
from memexp.spec import (
    Condition,
    InlineItems,
    InlineText,
    Interference,
    Model,
    Pair,
    Probe,
    RandomInit,
    Study,
    counterbalanced,
)

LONG = "one two three four five six seven eight nine ten eleven twelve"


def remarks(model: Model, studied: InlineText, *probes: Probe, block_size: int = 128) -> list[str]:
    study = Study(studied, exposures=1, lr=1e-3, block_size=block_size, batch_size=2)
    return list(grow([Condition(model, study, probes=probes or [Recall()])]).remarks)


def test_a_text_given_twice_is_counted(tiny_model: Model) -> None:
    assert remarks(tiny_model, InlineText("seen", ["a b", "c d", "a b", "a b"])) == [
        "2 of the 4 entries of seen repeat an earlier one"
    ]
    assert not remarks(tiny_model, InlineText("seen", ["a b", "c d", "a  b"]))


def test_a_question_given_twice_is_counted(tiny_model: Model) -> None:
    asked = InlineItems("asked", [{"question": "Who?", "answer": answer} for answer in ("me", "you", "me")])
    assert remarks(tiny_model, InlineText("seen", ["a b"]), QA(asked, shots=0)) == [
        "1 of the 3 entries of asked repeats an earlier one"
    ]


def test_a_target_that_is_its_foil_is_counted_once_for_a_pair_and_its_twin(tiny_model: Model) -> None:
    seen, foils = InlineText("seen", ["a b", "c d", "e f"]), InlineText("foils", ["c d", "c d ", "e f"])
    one = Condition(tiny_model, Study(seen, exposures=1, lr=1e-3), probes=[Recognition(Pair(seen, foils))])
    assert list(grow([one, counterbalanced(one)]).remarks) == [
        "1 of the 3 targets of seen is its own foil in foils; nothing can tell them apart"
    ]


def test_texts_longer_than_a_block_are_counted_once_for_all_who_cut_them(tiny_model: Model) -> None:
    seen, foils = InlineText("seen", [LONG, "a b", f"{LONG} {LONG}"]), InlineText("foils", ["a b", "c d", LONG])
    told = remarks(tiny_model, seen, Recognition(Pair(seen, foils)), Recall(), block_size=12)
    assert told == [
        "2 of the 3 texts of seen are cut at block_size 12 (bpe-400)",
        "1 of the 3 texts of foils is cut at block_size 12 (bpe-400)",
    ]
    (own,) = remarks(tiny_model, seen, Recall(block_size=12))  # where the probe alone cuts them
    assert own == told[0]
    assert not remarks(tiny_model, seen, Recall())


def test_interference_cuts_likewise(tiny_model: Model) -> None:
    seen, after = InlineText("seen", ["a b"]), InlineText("after", [LONG, "a b c"])
    between = Interference(after, steps=1, lr=1e-3, batch_size=2, block_size=12)
    one = Condition(tiny_model, Study(seen, exposures=1, lr=1e-3), probes=[Recall()], interference=between)
    assert list(grow([one]).remarks) == ["1 of the 2 texts of after is cut at block_size 12 (bpe-400)"]


def test_models_that_agree_share_a_line() -> None:
    seen = InlineText("seen", [f"The river is wide here. {LONG}", "It is."])
    sizes = [Model(name) for name in ("tiny-s", "tiny-m")]
    forest = grow(
        Condition(model, Study(seen, exposures=1, lr=1e-3, block_size=16), probes=[Recall()]) for model in sizes
    )
    assert list(forest.remarks) == ["1 of the 2 texts of seen is cut at block_size 16 (tiny-s, tiny-m)"]


def test_without_a_tokenizer_file_that_may_be_said_only(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"some other format")
    model = Model("new", tokenizer=str(tmp_path), init=RandomInit({"model_type": "gpt2"}))
    told = f"whether block_size 12 cuts texts of seen shows in training only: no tokenizer.json ({tmp_path.name})"
    assert remarks(model, InlineText("seen", [LONG, "a b"]), block_size=12) == [told]
    assert not remarks(model, InlineText("seen", ["a b"]), block_size=12)
    (tmp_path / "tokenizer.json").write_text("{")  # loading it says what is wrong
    assert remarks(model, InlineText("seen", [LONG, "a b"]), block_size=12) == [told]


def test_a_hub_that_does_not_answer_is_no_error_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def silent(*_: object) -> None:
        raise ModelError("tokenizer.json cannot be fetched")

    (tmp_path / "tokenizer.model").write_bytes(b"what is asked of the hub is not asked before")
    model = Model("new", tokenizer=str(tmp_path), init=RandomInit({"model_type": "gpt2"}))
    monkeypatch.setattr(tokens, "hub_file", silent)
    (told,) = remarks(model, InlineText("seen", [LONG]), block_size=12)
    assert "shows in training only" in told


def test_counts_are_remembered(tiny_model: Model, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a list of 100,000 texts a plan is to take seconds once, and not each time."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    sources = Sources()
    model, texts = sources.model(tiny_model), sources.texts(InlineText("seen", [LONG, "a b"]))
    assert tokens.cut(model, texts, 12) == 1
    monkeypatch.setattr(tokens, "_tokenizer", lambda _: pytest.fail("asked again"))
    assert tokens.cut(model, texts, 12) == 1
