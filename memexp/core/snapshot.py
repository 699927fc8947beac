"""The state of a trajectory between two stages: what it learned, and its optimizer.

In memory for forks, on disk to outlive the process. Random state is no part of it: every stage seeds its own.

    fork = take(lm, optimizer)          # later: optimizer = restore(lm, fork, study)
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import AdamW

from memexp.core.model import LanguageModel, local
from memexp.core.train import adamw
from memexp.spec import Study

__all__ = ["Snapshot", "load", "restore", "save", "take"]

_LEARNED = StateDictOptions(ignore_frozen_params=True)


@dataclass(frozen=True)
class Snapshot:
    """This rank's part of what a trajectory has learned, copied; on the CPU, so that forks cost no GPU memory."""

    weights: dict[str, Tensor]
    """The learning parameters by name (of a sharded model the local shard)."""
    optimizer: dict[str, Any] | None
    """The optimizer's state, None before the first step."""


def take(lm: LanguageModel, optimizer: AdamW | None) -> Snapshot:
    """Copy what `lm` and `optimizer` have learned so far."""
    weights = {name: local(parameter).detach().to("cpu", copy=True) for name, parameter in lm.learning().items()}
    return Snapshot(weights, None if optimizer is None else _copied(optimizer.state_dict()))


def restore(lm: LanguageModel, snapshot: Snapshot, study: Study | None) -> AdamW | None:
    """Bring `lm` back to `snapshot`, bit for bit.

    Returns:
        The optimizer of `study` with the snapshot's state, or None where it has none.
    """
    with torch.no_grad():
        for name, parameter in lm.learning().items():
            local(parameter).copy_(snapshot.weights[name])
    if snapshot.optimizer is None or study is None:
        return None
    optimizer = adamw(lm, study)
    optimizer.load_state_dict(_copied(snapshot.optimizer))
    return optimizer


def save(folder: Path, lm: LanguageModel, optimizer: AdamW) -> None:
    """Write what has been learned to `folder`, which appears whole or not at all. All ranks call.

    Through torch.distributed.checkpoint: each rank writes its shards, and any number of ranks can read them again.
    """
    state = {
        "model": get_model_state_dict(lm, options=_LEARNED),
        "optimizer": get_optimizer_state_dict(lm, optimizer, options=_LEARNED),
    }
    partial = folder.with_name(f".{folder.name}.partial")
    if lm.world.leads:
        shutil.rmtree(partial, ignore_errors=True)
    lm.world.broadcast(None)  # nobody writes before the leftovers of a dead attempt are gone
    state_dict_saver.save(state, checkpoint_id=str(partial), no_dist=lm.world.size == 1)
    if lm.world.leads:
        try:
            os.replace(partial, folder)
        except OSError:
            if not folder.is_dir():
                raise
            shutil.rmtree(partial)  # another attempt was first, with the same state
    lm.world.broadcast(None)


def load(folder: Path, lm: LanguageModel, study: Study) -> AdamW:
    """Bring `lm` to what `save` wrote to `folder`, and return the optimizer as it was. All ranks call."""
    optimizer = adamw(lm, study)
    state: dict[str, Any] = {
        "model": get_model_state_dict(lm, options=_LEARNED),
        "optimizer": get_optimizer_state_dict(lm, optimizer, options=_LEARNED),
    }
    state_dict_loader.load(state, checkpoint_id=str(folder), no_dist=lm.world.size == 1)
    set_model_state_dict(lm, state["model"], options=StateDictOptions(strict=False))
    set_optimizer_state_dict(lm, optimizer, optim_state_dict=state["optimizer"], options=_LEARNED)
    return optimizer


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return value
