"""The functions of the searches that are tested without a cluster."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from memexp import (
    Condition,
    Model,
    Pair,
    Recognition,
    Study,
)


@pytest.fixture
def condition(tiny_model: Model, pair: Pair) -> Callable[..., Condition]:
    """The function of a search over the learning rate."""

    def made(lr: float, exposures: int = 1) -> Condition:
        return Condition(
            tiny_model, Study(pair.targets, exposures=exposures, lr=lr, batch_size=4), probes=[Recognition(pair)]
        )

    return made


@pytest.fixture
def trajectory(condition: Callable[..., Condition]) -> Callable[..., list[Condition]]:
    """The same after one, two and three exposures."""
    return lambda lr: [condition(lr, exposures) for exposures in (1, 2, 3)]
