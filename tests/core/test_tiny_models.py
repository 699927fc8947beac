"""The tiny models do what their cards say: answer what they were taught, remember new sentences after some exposures.

Measured by sweeps/pretrain_tiny.py, whose gate they passed before they were shipped.
"""

from __future__ import annotations

import runpy
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from memexp.core.load import load
from memexp.core.processes import World
from memexp.plan import Trial, grow
from memexp.plan.attempts import Attempt
from memexp.probes import Recall, Recognition
from memexp.sources import Sources
from memexp.spec import Condition, Full, Model, Pair, RandomInit, Resources, ShippedText, Study
from memexp.stimuli.tiny import SHIPPED_MODELS
from memexp.stimuli.world import novel_countries, pretraining_countries
from memexp.store import Store
from memexp.trial.execute import execute

SCRIPT = Path(__file__).parents[2] / "sweeps" / "pretrain_tiny.py"
SENTENCES = 24


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


def few_shot(model: Model, folder: Path) -> dict[tuple[str, int], float]:
    """Recognition and mean ROUGE-2 of the completion by exposures, at the quickstart's higher learning rate."""
    pair = Pair(ShippedText("sentences-targets", first=SENTENCES), ShippedText("sentences-foils", first=SENTENCES))
    forest = grow(
        Condition(
            model=model,
            study=Study(pair.targets, exposures=exposures, lr=1e-3, batch_size=4),
            probes=[Recognition(pair), Recall()],
        )
        for exposures in (0, 3, 10)
    )
    base, *stages = sorted(forest.stages.values(), key=lambda stage: stage.parent is not None)
    store = Store(folder)
    trial = Trial(base, stages, forest.asks, Resources(), forest.texts)
    assert execute(trial, store, World.current(), Attempt("tiny", "first")) == []
    found: dict[tuple[str, int], list[float]] = {}
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "recognition": lambda row: float(row["target_nll"] < row["foil_nll"]),
        "recall": lambda row: float(row["completion_rouge2"]),
    }
    for kind, measure in measures.items():
        table = store.scan(kind)
        assert table is not None
        for row in table.to_pylist():
            found.setdefault((kind, row["exposures"]), []).append(measure(row))
    assert {len(values) for values in found.values()} == {SENTENCES}
    return {key: statistics.fmean(values) for key, values in found.items()}


@pytest.mark.parametrize("name", SHIPPED_MODELS)
def test_it_remembers_sentences(name: str, tmp_path: Path) -> None:
    shares = few_shot(Model(name), tmp_path)
    # 24 sentences where the card has 80: the standard error of one half is .1.
    assert 0.25 <= shares["recognition", 0] <= 0.75
    assert shares["recognition", 3] >= 0.9
    assert shares["recall", 0] <= 0.1
    assert shares["recall", 10] >= 0.5


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
