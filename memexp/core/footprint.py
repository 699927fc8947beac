"""What a token costs in training, as the model's own code has it: counted on fake tensors, which have no memory.

footprint(config)      # {"full-float32": [of a block, outside of the blocks], ...}, bytes a token
"""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import PreTrainedConfig

from memexp.core.adapter import add_adapter
from memexp.core.attention import narrow_attention
from memexp.core.hollow import exchange, hollow, seemingly_full
from memexp.core.model import LanguageModel, set_dropout
from memexp.core.precision import hold_frozen
from memexp.core.processes import World
from memexp.core.traits import Traits
from memexp.spec import Full, LoRA

__all__ = ["footprint"]

ROWS, WIDTH = 3, 61
"""Lengths that no weight has."""


def footprint(config: PreTrainedConfig) -> dict[str, list[float]]:
    """Bytes kept for backward of each token, by method and dtype: of a block, and outside of all without the logits.

    "cpu-" in front of it: on a CPU, where that is not the same (attention.py).
    """
    found = {}
    for name, method in (("full", Full()), ("lora", LoRA())):
        for dtype in ("float32", "bfloat16"):
            with narrow_attention():
                found[f"{name}-{dtype}"] = _of_a_token(config, method, dtype)
        found[f"cpu-{name}-bfloat16"] = _of_a_token(config, method, "bfloat16")
    return found


def _of_a_token(config: PreTrainedConfig, method: Full | LoRA, dtype: str) -> list[float]:
    one, two = (_kept(config, method, dtype, depth) for depth in (1, 2))
    return [two - one, 2 * one - two]


def _kept(config: PreTrainedConfig, method: Full | LoRA, dtype: str, depth: int) -> float:
    lm = hollow(_shallow(config, depth))
    lm.config.use_cache = False
    if isinstance(method, LoRA):
        with seemingly_full(lm):
            add_adapter(lm, method)
    set_dropout(lm, 0.0)
    names = [name for name, parameter in lm.named_parameters() if parameter.is_meta]
    if dtype == "bfloat16":
        hold_frozen(lm, lm.get_output_embeddings(), names)
    with FakeTensorMode(allow_non_fake_inputs=True):
        fakes = {
            id(one): nn.Parameter(torch.empty(one.shape, dtype=one.dtype), one.requires_grad) for one in lm.parameters()
        }
        exchange(lm, fakes)
        tokenizer: Any = None
        wrapped = LanguageModel(lm, tokenizer, World(0, 1, torch.device("cpu")), dtype, True, Traits())
        wrapped.train()
        own = {parameter.untyped_storage()._cdata for parameter in lm.parameters()}
        shapes = {frozenset(parameter.shape) for parameter in lm.parameters() if parameter.ndim > 1}
        kept: dict[int, Tensor] = {}

        def keep(tensor: Tensor) -> Tensor:
            cast = tensor.dtype == torch.bfloat16 and frozenset(tensor.shape) in shapes  # a weight, under autocast
            if tensor.untyped_storage()._cdata not in own and not cast:
                kept[tensor.untyped_storage()._cdata] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            nll = wrapped("nll", *map(torch.from_numpy, _asked()))
        total = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
        del nll
    logits = 4 * ROWS * (WIDTH - 1) * int(config.vocab_size)
    return (total - logits) / (ROWS * WIDTH)


def _asked() -> tuple[NDArray[np.int64], ...]:
    """Token ids, the positions whose next token is asked for, and these; of fakes no values could be looked at."""
    at = np.arange(ROWS * WIDTH).reshape(ROWS, WIDTH)
    return np.ones((ROWS, WIDTH), np.int64), at[:, :-1].ravel(), np.ones(ROWS * (WIDTH - 1), np.int64)


def _shallow(config: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """As `config`, with fewer blocks."""
    shallow = copy.deepcopy(config)
    was = shallow.num_hidden_layers
    for name, value in vars(shallow).items():
        if isinstance(value, list | tuple) and len(value) == was:  # one for each block
            setattr(shallow, name, value[:depth])
    shallow.num_hidden_layers = depth
    return shallow
