"""What the tests on a real pretrained model share: the model, which `make real` makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.sources import ResolvedModel, Sources
from memexp.spec import Full, LoRA, Model

FOLDER = Path(__file__).parents[2] / "models" / "smollm2-135m"


@pytest.fixture(scope="session")
def folder() -> Path:
    if not (FOLDER / "config.json").exists():
        pytest.skip(f"there is no {FOLDER}: `make real` makes it")
    return FOLDER


@pytest.fixture(scope="session")
def model(folder: Path) -> ResolvedModel:
    return Sources().model(Model(str(folder)))


def _loaded(model: ResolvedModel, method: Full | LoRA) -> LanguageModel:
    return load(model, method, "float32", World.current())


@pytest.fixture(scope="module")
def lm(model: ResolvedModel) -> LanguageModel:
    """Nobody trains it."""
    return _loaded(model, Full())


@pytest.fixture
def fresh(model: ResolvedModel, request: pytest.FixtureRequest) -> LanguageModel:
    """To be trained, in full or by the method that the test is given."""
    return _loaded(model, getattr(request, "param", Full()))
