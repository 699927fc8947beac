"""Random weights as one process draws them, of which every rank keeps its own rows and no more.

own = drawn_parts(config, seed, world)              # {"lm_head.weight": this rank's rows, ...}; None: not exact

Every rank draws everything, in the order in which it is drawn where the model is whole. A parameter takes memory only
from the first operation on it to the first one on another. That is enough for what is made at one go, as often as it
may be; where an architecture comes back to a part of a parameter, rank 0 has to hold the model (see weights.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, PreTrainedConfig

from memexp.core.hollow import registering
from memexp.core.processes import World

__all__ = ["drawn_parts"]

_ANEW = ("normal_", "uniform_", "zero_", "fill_", "copy_", "bernoulli_", "log_normal_", "exponential_", "cauchy_")
"""What needs nothing of what was there before."""


def drawn_parts(config: PreTrainedConfig, seed: int, world: World) -> dict[str, Tensor] | None:
    """This rank's rows of every parameter, and the buffers that are saved; None where that would not be exact."""
    drawing = _Drawing(world)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            with registering(drawing.begun), drawing:
                lm: nn.Module = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
            return drawing.parts(lm)
        except _ComesBackError:
            return None


class _ComesBackError(Exception):
    """Something of a parameter is needed that this rank has not kept."""


class _Drawing(TorchDispatchMode):
    """While it lasts, one parameter at a time has memory."""

    def __init__(self, world: World) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch's own
        self._world = world
        self._whole: dict[int, nn.Parameter] = {}
        """Parameters by their storage."""
        self._own: dict[int, Tensor] = {}
        """This rank's rows of those that have none any more."""
        self._now: int | None = None
        """The one that has memory."""

    def begun(self, parameter: nn.Parameter) -> nn.Parameter:
        """A parameter, which has been made, with content or without; a tied one not for the first time."""
        key = _key(parameter)
        if key not in self._whole:
            self._whole[key] = parameter
            self._turn_to(key)
        return parameter

    def parts(self, lm: nn.Module) -> dict[str, Tensor]:
        """By the first names in `lm`."""
        self._turn_to(None)
        saved = lm.state_dict().keys()
        if any(_key(parameter) not in self._own for parameter in lm.parameters()):  # given other memory on the way
            raise _ComesBackError
        buffers = {name: one for name, one in lm.named_buffers() if name in saved}
        return {name: self._own[_key(parameter)] for name, parameter in lm.named_parameters()} | buffers

    def _turn_to(self, key: int | None) -> None:
        if self._now is not None:
            before = self._whole[self._now].detach()
            rows = -(-len(before) // self._world.size)
            self._own[self._now] = before[self._world.rank * rows : (self._world.rank + 1) * rows].clone()
            before.untyped_storage().resize_(0)
        self._now = key
        if key is not None:
            whole = self._whole[key]
            whole.untyped_storage().resize_(whole.nbytes)

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = dict(kwargs or {})
        if not function.is_view:
            for at, tensor in enumerate((*args, *given.values())):
                key = _key(tensor) if isinstance(tensor, Tensor) else None
                if key in self._whole and key != self._now:
                    anew = at == 0 and function.overloadpacket.__name__ in _ANEW
                    if not anew or tensor.numel() != self._whole[key].numel():
                        raise _ComesBackError
                    self._turn_to(key)
        try:
            return function(*args, **given)
        except RuntimeError as error:  # no memory to look into
            if function.is_view and any(one != self._now for one in self._tracked(args)):
                raise _ComesBackError from error
            raise

    def _tracked(self, args: Any) -> list[int]:
        return [key for key in (_key(one) for one in args if isinstance(one, Tensor)) if key in self._whole]


def _key(tensor: Tensor) -> int:
    """Of its memory, which views share; its address changes."""
    return int(tensor.untyped_storage()._cdata)
