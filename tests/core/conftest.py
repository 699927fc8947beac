"""What the tests of the core share: one thread, so that numbers do not depend on the machine; eight architectures."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from core.small import ARCHITECTURES, PEAKED, bos_tokenizer, language_model

from memexp.core.model import LanguageModel


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a trial with one CPU has."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def lm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A random model with peaked predictions; OPT's and Gemma's tokenizers put a bos in front."""
    name: str = request.param
    tokenizer = bos_tokenizer(tmp_path_factory.mktemp("bos")) if name in ("opt", "gemma") else None
    spread = "init_std" if name == "opt" else "initializer_range"
    return language_model(name, tokenizer=tokenizer, **{spread: PEAKED})
