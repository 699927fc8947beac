"""Weights of few bits, as a deployed model has them, for a measurement: rounded, and widened again.

with rounded(lm, bits=4, group=64): ...      # afterwards as it was, bit for bit

Round to nearest without calibration: what a model learned may be lost in it, and what it unlearned may come back (Zhang
et al. 2024, arXiv 2410.16454). No number is computed in few bits: it is the weights that have few values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers.pytorch_utils import Conv1D

from memexp.core.fork import on_host
from memexp.core.model import LanguageModel, blocks, local, own_part

__all__ = ["nearest", "rounded"]

_ADAPTER = "default"
"""How peft calls the one adapter."""


def nearest(weight: Tensor, bits: int, group: int) -> Tensor:
    """`weight` on a grid of 2^bits - 1 values for each `group` of neighbouring inputs of an output.

    Symmetric: the grid's ends are the group's largest weight and its opposite, 0 is in its middle and stays 0. So there
    is one number to keep beside a group, and weights far smaller than the largest become 0 instead of some offset.

    Args:
        weight: (outputs, inputs).
        bits: at least 2.
        group: inputs that share a grid, at least 1; the last group of a row may have fewer.
    """
    inputs, most = weight.shape[1], 2 ** (bits - 1) - 1
    group = min(group, inputs)
    groups = F.pad(weight, (0, -inputs % group)).unflatten(1, (-1, group))
    step = groups.abs().amax(-1, keepdim=True) / most
    found = (groups / torch.where(step > 0, step, 1)).round_() * step
    whole: Tensor = found.flatten(1)[:, :inputs]
    return whole


@contextlib.contextmanager
def rounded(lm: LanguageModel, bits: int, group: int) -> Iterator[None]:
    """`lm` with the linear layers of its blocks as `nearest` has them; afterwards as it was, bit for bit.

    Embeddings, norms, biases and the head stay. Of a layer with an adapter the sum of both is rounded, which is what
    one deploys, and the adapter adds nothing meanwhile. Weights that are held in bfloat16 hold the outcome in it. All
    ranks enter together; each gathers one matrix at a time, so that a group is the same however the model is sharded.

    What was there is in the host's memory meanwhile. An adapter's frozen weights change: lanes that share them must not
    be asked then (`memexp.Probe.changes_frozen`).

    Args:
        lm: the model.
        bits, group: as for `nearest`.
    """
    kept: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.no_grad():
            for layer, adapter in _layers(lm):
                weight: Tensor = layer.weight
                whole = _whole(weight).float()
                turned = isinstance(layer, Conv1D)  # GPT-2's kind has (inputs, outputs)
                whole = whole.T if turned else whole
                if adapter is not None:
                    up: Tensor = adapter.lora_B[_ADAPTER].weight
                    whole = whole + _delta(adapter)
                    kept.append((up, on_host(up.detach())))
                    local(up).zero_()
                kept.append((weight, on_host(weight.detach())))
                found = nearest(whole, bits, group)
                local(weight).copy_(own_part(weight, found.T.contiguous() if turned else found))
        yield
    finally:
        with torch.no_grad():
            for held, before in kept:
                local(held).copy_(before)


def _layers(lm: LanguageModel) -> list[tuple[nn.Linear | Conv1D, Any]]:
    """The linear layers of the blocks, each once, with peft's module that has an adapter beside it, or None."""
    stack = blocks(lm.lm)
    adapters = {id(one.base_layer): one for one in stack.modules() if hasattr(one, "base_layer")}
    found = dict[int, tuple[nn.Linear | Conv1D, Any]]()
    for path, module in stack.named_modules():
        if isinstance(module, nn.Linear | Conv1D) and ".lora_" not in path:
            found.setdefault(id(module.weight), (module, adapters.get(id(module))))
    return list(found.values())


def _delta(adapter: Any) -> Tensor:
    """What an adapter adds to its layer's weights, (outputs, inputs)."""
    down, up = (_whole(side[_ADAPTER].weight).float() for side in (adapter.lora_A, adapter.lora_B))
    return float(adapter.scaling[_ADAPTER]) * (up @ down)


def _whole(weight: Tensor) -> Tensor:
    """All of it, on every rank."""
    return weight.full_tensor() if isinstance(weight, DTensor) else weight
