"""The state of a trajectory between two stages, in memory: what it learned, and its optimizer.

For forks; checkpoint.py has what outlives the process. Random state is no part of it: every stage seeds its own.

    fork = take(lm, optimizer)          # later: optimizer = restore(lm, fork, study)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW

from memexp.core.model import LanguageModel, local
from memexp.core.optimizer import adamw
from memexp.spec import Training

__all__ = ["Fork", "restore", "take"]


@dataclass(frozen=True)
class Fork:
    """This rank's part of what a trajectory has learned, copied; on the CPU, so that forks cost no GPU memory."""

    weights: dict[str, Tensor]
    """The learning parameters by name (of a sharded model the local shard)."""
    optimizer: dict[str, Any] | None
    """The optimizer's state, None before the first step."""


def take(lm: LanguageModel, optimizer: AdamW | None) -> Fork:
    """Copy what `lm` and `optimizer` have learned so far."""
    weights = {name: local(parameter).detach().to("cpu", copy=True) for name, parameter in lm.learning().items()}
    return Fork(weights, None if optimizer is None else _copied(optimizer.state_dict()))


def restore(lm: LanguageModel, fork: Fork, settings: Training | None) -> AdamW | None:
    """Bring `lm` back to `fork`, bit for bit.

    Returns:
        The optimizer of `settings` with the fork's state, or None where it has none.
    """
    with torch.no_grad():
        for name, parameter in lm.learning().items():
            local(parameter).copy_(fork.weights[name])
    if fork.optimizer is None or settings is None:
        return None
    optimizer = adamw(lm, settings)
    optimizer.load_state_dict(_copied(fork.optimizer))
    return optimizer


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
