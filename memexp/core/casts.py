"""Under autocast what several linear layers take is rounded once for all of them, not once for each.

    share_casts(lm, head)       # once, after loading

A block's queries, keys and values take the same tensor, and with an adapter there are two layers for each: autocast
would make, and training keep, a rounded copy for every one.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["share_casts"]


def share_casts(lm: nn.Module, head: nn.Module | None) -> None:
    """Have the linear layers of `lm` share their rounded inputs; not the `head`, which is not in autocast."""
    last = _Last()
    for module in lm.modules():
        if isinstance(module, nn.Linear | Conv1D) and module is not head:
            module.register_forward_pre_hook(last)
        if hasattr(module, "cast_input_dtype_enabled"):  # peft would widen what its adapter rounds again
            module.cast_input_dtype_enabled = False  # type: ignore[assignment] # a setting of peft's layers


class _Last:
    """A hook that knows what it rounded last.

    The copy is kept until the next one: of a block that is computed anew nothing else holds it, and of two copies
    gradients would be added up otherwise.
    """

    def __init__(self) -> None:
        self._known: tuple[weakref.ref[Tensor], Tensor, tuple[bool, int | None]] | None = None

    def __reduce__(self) -> tuple[type[_Last], tuple[()]]:
        """A copy, that of another model, knows nothing yet."""
        return _Last, ()

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        taken = inputs[0] if inputs else None
        if not isinstance(taken, Tensor) or taken.dtype != torch.float32:
            return None
        kind = taken.device.type
        if not torch.is_autocast_enabled(kind):
            return None
        # Written to in place it is another tensor; inference mode keeps no count of that.
        state = torch.is_grad_enabled(), None if taken.is_inference() else taken._version
        if self._known is not None:
            source, rounded, before = self._known
            if source() is taken and before == state:
                return (rounded, *inputs[1:])
        made = taken.to(torch.get_autocast_dtype(kind))
        self._known = weakref.ref(taken), made, state
        return (made, *inputs[1:])
