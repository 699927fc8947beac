"""Forgetting: some blocks get back what they had before study, all others keep what they have learned.

reset(lm, Forget(from_layer=2), pretrained, seed=0)          # for good
with ablated(lm, Forget(from_layer=2), pretrained): ...      # for a measurement

Zhang, Li & Wu 2024 (arXiv 2409.14057) do this to LoRA adapters from a block upward.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from memexp.core import fork
from memexp.core.data import key_seed
from memexp.core.fork import Fork
from memexp.core.model import LanguageModel, blocks, local, own_part
from memexp.errors import SpecError
from memexp.spec import Forget

__all__ = ["ablated", "block_of", "reset"]


@torch.no_grad()
def reset(lm: LanguageModel, forget: Forget, pretrained: Fork, seed: int) -> None:
    """Reset what `forget` says. All ranks call.

    Args:
        lm: the model, changed in place.
        forget: which blocks; with neither layer nothing changes.
        pretrained: what the model was before study, for full finetuning.
        seed: with the parameter's name it keys what fresh adapters are drawn from, so that all forgetting layers
            give a block the same one.

    Raises:
        SpecError: the model has no such block.
    """
    for name, parameter in _chosen(lm, forget):
        adapter = re.search(r"\.lora_(embedding_)?(A|B)\b", name)
        if adapter is None:
            local(parameter).copy_(pretrained.weights[name])
        elif adapter[0].endswith((".lora_B", "embedding_A")):  # zero at first, so that nothing is added
            local(parameter).zero_()
        else:
            drawn = _fresh(parameter.shape, key_seed(seed, "forget", name), normal=adapter[1] is not None)
            local(parameter).copy_(own_part(parameter, drawn))


@contextlib.contextmanager
def ablated(lm: LanguageModel, forget: Forget, pretrained: Fork) -> Iterator[None]:
    """`lm` without what the blocks that `forget` names have learned; afterwards with it again, bit for bit.

    Zhang, Li & Wu 2024, section 4: the learned deltas are taken away block by block. All ranks enter together.

    Args:
        lm: the model.
        forget: which blocks; with neither layer nothing is taken away.
        pretrained: what the model was before study; of an adapter what it was drawn as, which adds nothing.

    Raises:
        SpecError: the model has no such block.
    """
    chosen = _chosen(lm, forget)
    # Lanes may all be at it, beside the gradients of all: on a device there is no room for that.
    aside = torch.clone if lm.seat is None else fork.on_host
    kept = [(parameter, aside(local(parameter).detach())) for _, parameter in chosen]
    try:
        with torch.no_grad():
            for name, parameter in chosen:
                local(parameter).copy_(pretrained.weights[name])
        yield
    finally:
        with torch.no_grad():
            for parameter, learned in kept:
                local(parameter).copy_(learned)  # asked again: sharding may pad what it holds in the first pass


def _chosen(lm: LanguageModel, forget: Forget) -> list[tuple[str, nn.Parameter]]:
    """The learning parameters of the side that `forget` names.

    Raises SpecError where the model has no such block, or not all of a block in one place (XLM).
    """
    if forget.layer is None:
        return []
    stack = blocks(lm.lm)
    depth = len(stack)
    if not 0 <= forget.layer < depth + (forget.side == "lower"):
        raise SpecError(f"Forget: layer {forget.layer} is outside {type(lm.lm).__name__}, which has {depth} blocks")
    inside = set(stack.modules())
    others = (m for m in lm.lm.modules() if isinstance(m, nn.ModuleList) and len(m) == depth and m not in inside)
    if any(next(other.parameters(), None) is not None for other in others):
        kind = type(lm.lm).__name__
        raise SpecError(f"Forget: {kind} keeps its blocks in several lists, of which nobody knows what to reset")
    chosen = []
    for name, parameter in lm.learning().items():
        block = block_of(lm, name)
        upper = block is not None and block >= forget.layer
        if upper == (forget.side == "upper"):
            chosen.append((name, parameter))
    return chosen


def block_of(lm: LanguageModel, name: str) -> int | None:
    """The block that a parameter of `lm` belongs to, counting from 0; None outside of all blocks."""
    stack = blocks(lm.lm)
    prefix = next(path for path, module in lm.named_modules() if module is stack)
    found = re.match(rf"{re.escape(prefix)}\.(\d+)\.", name)
    return int(found[1]) if found else None


def _fresh(shape: torch.Size, seed: int, normal: bool) -> Tensor:
    """What of a new adapter is not zero, drawn as peft draws it: for an embedding from a normal distribution."""
    drawn, generator = torch.empty(shape), torch.Generator().manual_seed(seed)
    if normal:
        return nn.init.normal_(drawn, generator=generator)
    return nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
