"""Models without their weights: all there is but the parameters, which have a shape and nothing in it.

lm = hollow(config)
with seemingly_full(lm): add_adapter(lm, LoRA(r=8))   # what looks at the parameters' device is content
exchange(lm, {id(old): new})                       # one parameter after another gets its content
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

__all__ = ["exchange", "hollow", "registering", "seemingly_full"]


def hollow(config: PreTrainedConfig) -> PreTrainedModel:
    """The model of `config` in float32, its parameters on the meta device, its buffers as it is made with them.

    Buffers of rotary embeddings, masks and the like are computed, not loaded. Draws no random number.
    """
    with registering(_emptied), torch.random.fork_rng(devices=[]):
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm.eval()
    return lm


@contextlib.contextmanager
def registering(change: Callable[[nn.Parameter], nn.Parameter]) -> Iterator[None]:
    """Parameters that modules get meanwhile are what `change` makes of them; a tied one comes once for each place."""
    kind: Any = nn.Module
    plain = kind.register_parameter

    def register(module: nn.Module, name: str, param: nn.Parameter | None) -> None:
        plain(module, name, None if param is None else change(param))

    kind.register_parameter = register
    try:
        yield
    finally:
        kind.register_parameter = plain


def _emptied(parameter: nn.Parameter) -> nn.Parameter:
    """Without its content: memory that was never written to takes no room. One that has none stays the same."""
    return parameter if parameter.is_meta else nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)


@contextlib.contextmanager
def seemingly_full(lm: nn.Module) -> Iterator[None]:
    """The hollow parameters of `lm` look like those of a model on the CPU, though they take no memory.

    peft puts an adapter onto the device of what it sits on, where its draws would be lost.
    """
    hollows = {id(parameter): parameter for parameter in lm.parameters() if parameter.is_meta}
    seeming = {key: nn.Parameter(torch.zeros(()).expand(one.shape), one.requires_grad) for key, one in hollows.items()}
    exchange(lm, seeming)
    try:
        yield
    finally:
        for key, one in seeming.items():
            hollows[key].requires_grad_(one.requires_grad)
        exchange(lm, {id(one): hollows[key] for key, one in seeming.items()})


def exchange(lm: nn.Module, parameters: Mapping[int, nn.Parameter]) -> None:
    """Put other parameters in the place of those with these ids, wherever they are tied to."""
    for module in lm.modules():
        for name, held in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if id(held) in parameters:
                setattr(module, name, parameters[id(held)])
