"""The tiny models do what their cards say: answer what they were taught, remember new sentences after some exposures.

Measured by sweeps/pretrain_tiny.py, whose gate they passed before they were shipped.
"""

from __future__ import annotations

import runpy
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from core.few_shot import assert_remembered, few_shot

from memexp.core.load import load
from memexp.core.processes import World
from memexp.sources import Sources
from memexp.spec import Full, Model, RandomInit
from memexp.stimuli.tiny import SHIPPED_MODELS
from memexp.stimuli.world import novel_countries, pretraining_countries

SCRIPT = Path(__file__).parents[2] / "sweeps" / "pretrain_tiny.py"


@pytest.fixture(scope="module")
def exact_match() -> Callable[..., dict[str, float]]:
    """The script's own measure."""
    return runpy.run_path(str(SCRIPT), run_name="pretrain_tiny")["exact_match"]


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_it_answers_about_its_world_only(name: str, exact_match: Callable[..., dict[str, float]]) -> None:
    lm = load(Sources().model(Model(name)), Full(), "float32", World.current())
    kinds = ("capital", "animal", "person")
    known = exact_match(lm.lm, lm.tokenizer, kinds, pretraining_countries())
    assert statistics.fmean(known.values()) >= 0.8
    novel = exact_match(lm.lm, lm.tokenizer, kinds, novel_countries(40))
    assert statistics.fmean(novel.values()) <= 0.15


def test_a_random_model_answers_nothing(exact_match: Callable[..., dict[str, float]]) -> None:
    drawn = Model("drawn", tokenizer="tiny-s", init=RandomInit("tiny-s"))
    lm = load(Sources().model(drawn), Full(), "float32", World.current())
    assert exact_match(lm.lm, lm.tokenizer, ("capital",), pretraining_countries()) == {"capital": 0.0}


def test_it_remembers_sentences(tmp_path: Path) -> None:
    """The others: drills/test_tiny_drills.py."""
    assert_remembered(few_shot(Model("tiny-s"), tmp_path))


def test_a_random_model_recalls_nothing(tmp_path: Path) -> None:
    """What the pretraining is for."""
    assert few_shot(Model("drawn", tokenizer="tiny-s", init=RandomInit("tiny-s")), tmp_path)["recall", 10] < 0.2


def test_the_weights_are_read_exactly() -> None:
    """float16 on disk is float32 in memory, number by number."""
    from safetensors.torch import load_file

    resolved = Sources().model(Model("tiny-s"))
    lm = load(resolved, Full(), "float32", World.current()).lm
    assert resolved.folder is not None
    stored = load_file(resolved.folder / "model.safetensors")
    parameters = dict(lm.named_parameters())
    assert set(stored) == set(parameters)
    assert all(torch.equal(parameters[key].detach(), tensor.float()) for key, tensor in stored.items())
