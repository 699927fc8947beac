"""Activation checkpointing: training keeps what goes into each block, and computes the rest anew when it is due.

checkpoint_blocks(lm)      # before it is sharded
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from memexp.core.model import blocks, drops

__all__ = ["checkpoint_blocks"]


def checkpoint_blocks(lm: PreTrainedModel) -> None:
    """Checkpoint every block of `lm`, in place; no number changes, dropout included.

    Inside of what sharding does to a block: weights that are gathered for its gradients serve for computing anew too.
    Raises ModelError where the architecture has no list of blocks.
    """
    for block in blocks(lm):
        block.forward = functools.partial(_checkpointed, block, block.forward)


def _checkpointed(block: nn.Module, plain: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if not (torch.is_grad_enabled() and block.training):
        return plain(*args, **kwargs)
    # The generator's state is looked at only where something is drawn: a GPU would be waited for.
    return checkpoint(plain, *args, use_reentrant=False, preserve_rng_state=drops(block), **kwargs)
