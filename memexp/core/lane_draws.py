"""Dropout in a pass of several lanes: each lane draws what it would draw by itself, for its own rows.

with Draws([state_of_one, state_of_other], [(rows, tokens), (rows, tokens)]):
    lm(input_ids=ids)                  # lane after lane, each padded to the most rows and tokens of any
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["Draws", "generator_state", "set_generator_state"]

_TOKENS = {3: (1,), 4: (2, 3)}
"""By number of dimensions which of them run through tokens: (rows, tokens, width), (rows, heads, tokens, tokens)."""


class Draws(TorchFunctionMode):
    """Splits whatever draws dropout by lanes, and gives each lane's part the lane's own generator."""

    def __init__(self, states: Sequence[Tensor], shapes: Sequence[tuple[int, int]]) -> None:
        """Of each lane the state of its generator, which is kept up to date here, and its rows and tokens."""
        super().__init__()
        self.states, self.shapes = list(states), shapes
        self.rows, self.tokens = (max(sizes) for sizes in zip(*shapes, strict=True))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func is F.scaled_dot_product_attention and _attention_draws(*args, **given):
            return self._attend(func, *args, **given)
        if func in (F.dropout, torch.dropout) and _draws(*args, **given):
            return self._drop(func, *args, **given)
        return func(*args, **given)

    def _drop(self, func: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        flat = x.ndim == 2  # rows and tokens in one
        whole = x.view(-1, self.tokens, x.shape[-1]) if flat else x
        along = _TOKENS[whole.ndim]
        parts = (func(self._cut(whole, lane, along), *args, **kwargs) for lane in self._lanes(x.device))
        found = torch.cat([self._padded(part, along) for part in parts])
        return found.view(x.shape) if flat else found

    def _attend(
        self,
        func: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        *args: Any,
        **more: Any,
    ) -> Tensor:
        found = []
        for lane in self._lanes(query.device):
            heads = (self._cut(one, lane, (2,)) for one in (query, key, value))
            mask = None if attn_mask is None else self._cut(attn_mask, lane, (2, 3))
            found.append(self._padded(func(*heads, mask, *args, **more), (2,)))
        return torch.cat(found)

    def _lanes(self, device: torch.device) -> Any:
        """Each lane's number, while torch draws from its generator."""
        for lane, state in enumerate(self.states):
            set_generator_state(device, state)
            yield lane
            self.states[lane] = generator_state(device)

    def _cut(self, x: Tensor, lane: int, along: tuple[int, ...]) -> Tensor:
        """What a lane has by itself of `x`, whose dimensions `along` run through tokens."""
        rows, tokens = self.shapes[lane]
        part = x if len(x) == 1 else x[lane * self.rows : lane * self.rows + rows]
        for dimension in along:
            part = part.narrow(dimension, 0, tokens)
        return part.contiguous()

    def _padded(self, part: Tensor, along: tuple[int, ...]) -> Tensor:
        """A lane's part with as many rows and tokens as all have."""
        missing = [0] * part.ndim
        missing[0] = self.rows - len(part)
        for dimension in along:
            missing[dimension] = self.tokens - part.shape[dimension]
        return F.pad(part, [size for amount in reversed(missing) for size in (0, amount)])


def _draws(x: Tensor, p: float = 0.5, training: bool = True, *_: Any, **more: Any) -> bool:
    return bool(more.get("train", training)) and p > 0


def _attention_draws(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *_: Any,
    **__: Any,
) -> bool:
    return dropout_p > 0


def generator_state(device: torch.device) -> Tensor:
    """Of what torch draws from on `device`."""
    return torch.get_rng_state() if device.type == "cpu" else torch.cuda.get_rng_state(device)


def set_generator_state(device: torch.device, state: Tensor) -> None:
    """What torch draws from on `device` is in this state."""
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        torch.cuda.set_rng_state(state, device)
