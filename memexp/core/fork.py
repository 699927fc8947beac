"""The state of a trajectory between two stages, in memory: what it learned, and its optimizer.

For forks; checkpoint.py has what outlives the process. Random state is no part of it: every stage seeds its own, and
one that begins within an exposure every step.

    fork = take(lm, optimizer)                   # later, as often as needed:
    optimizer = restore(lm, fork, study)
    optimizer = spend(lm, fork, study)           # the last time: nothing of the fork is left
"""

from __future__ import annotations

import contextlib
import copy
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.model import LanguageModel, local
from memexp.core.optimizer import fresh_optimizer, room
from memexp.spec import Training

__all__ = ["Fork", "on_host", "restore", "spend", "take", "weights_aside"]


@dataclass(frozen=True)
class Fork:
    """This rank's part of what a trajectory has learned, copied; all of it in the host's memory, none on a GPU."""

    weights: Mapping[str, Tensor]
    """The learning parameters by name (of a sharded model the local shard)."""
    optimizer: Moments | None
    """The optimizer's state, None before the first step."""


@dataclass(frozen=True)
class Moments:
    """An optimizer's state."""

    settings: list[dict[str, Any]]
    """Of each group of parameters."""
    kept: dict[str, dict[str, Tensor]]
    """What it keeps of each parameter, by name (of a sharded one, of the local shard)."""


def take(lm: LanguageModel, optimizer: Optimizer | None) -> Fork:
    """Copy what `lm` and `optimizer` have learned so far."""
    learning = lm.learning()
    weights = {name: on_host(parameter.detach()) for name, parameter in learning.items()}
    if optimizer is None:
        return Fork(weights, None)
    settings = [
        {key: copy.copy(value) for key, value in group.items() if key != "params"} for group in optimizer.param_groups
    ]
    kept = {
        name: {key: on_host(value) for key, value in optimizer.state[parameter].items()}
        for name, parameter in learning.items()
        if parameter in optimizer.state
    }
    return Fork(weights, Moments(settings, kept))


def on_host(tensor: Tensor) -> Tensor:
    """A copy of this rank's part of a tensor, in the host's memory."""
    return local(tensor).to("cpu", copy=True)


def restore(lm: LanguageModel, fork: Fork, settings: Training | None) -> Optimizer | None:
    """Bring `lm` back to `fork`, bit for bit. Let go of its present optimizer first, or both are there for a while.

    Returns:
        An optimizer of the fork's kind with its state, or None where it has none.
    """
    return _restored(lm, fork, settings, operator.getitem)


def spend(lm: LanguageModel, fork: Fork, settings: Training | None) -> Optimizer | None:
    """As `restore`, and `fork` is emptied on the way: what the model has again, the host has no more."""
    return _restored(lm, fork, settings, dict.pop)


@contextlib.contextmanager
def weights_aside(lm: LanguageModel) -> Iterator[None]:
    """`lm` may learn meanwhile, with another optimizer than it has; afterwards its weights are as before, bit for bit.

    An optimizer that it has stays where it is, so that a device holds two: `memexp.trial.state.State.aside` holds one.
    """
    here = take(lm, None)
    try:
        yield
    finally:
        spend(lm, here, None)


@torch.no_grad()
def _restored(
    lm: LanguageModel, fork: Fork, settings: Training | None, get: Callable[[Any, str], Any]
) -> Optimizer | None:
    """`get` is how something is had from the fork."""
    lm.zero_grad()  # a stage that failed half-way through a batch leaves gradients behind
    learning = lm.learning()
    for name, parameter in learning.items():
        local(parameter).copy_(get(fork.weights, name))
    if fork.optimizer is None or settings is None:
        return None
    optimizer = fresh_optimizer(lm, settings, fork.optimizer.settings)
    for name in list(fork.optimizer.kept):
        held = get(fork.optimizer.kept, name)
        here = optimizer.state.get(learning[name]) or room(optimizer, learning[name])
        optimizer.state[learning[name]] = here
        for key in list(held):
            local(here[key]).copy_(get(held, key))
    return optimizer
