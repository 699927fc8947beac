"""A key-value cache with space ahead; transformers' own copies everything it holds for every token that is added.

past = preallocate(past, steps, torch.bfloat16)      # after the first pass, before the others
if can_drop(past):
    drop(past, rows)               # when others of the batch are finished
if can_share(past):                # of one row, which several begin with
    fanned_out(past, rows)         # for one pass
    begun(past, shifts, steps)     # for completions
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["begun", "can_drop", "can_share", "drop", "fanned_out", "preallocate"]


def preallocate(past: Any, steps: int, dtype: torch.dtype | None = None) -> Any:
    """`past` with space for `steps` more tokens, or `past` as it is where it is not of the plain kind.

    Kept in `dtype` from then on, by default in what it is in: under autocast some models give keys in float32, though
    attention rounds them.
    """
    if type(past) is DynamicCache:
        plain = [layer for layer in past.layers if type(layer) is DynamicLayer]  # others drop what slides out of sight
        if len(plain) == len(past.layers) and all(layer.is_initialized for layer in plain):
            for at in range(len(plain)):  # of one block at a time there are two
                past.layers[at] = _PreallocatedLayer(plain.pop(0), steps, dtype)
    return past


def can_drop(past: Any) -> bool:
    """Whether rows can be taken out of `past`: only where it is of the kind that `preallocate` makes."""
    return type(past) is DynamicCache and all(isinstance(layer, _PreallocatedLayer) for layer in past.layers)


def drop(past: Any, rows: Tensor | slice) -> None:
    """Keep only `rows` (indices, copied; or a slice, of which nothing is) of the batch in `past`."""
    for layer in past.layers:
        layer.keep(rows)


def can_share(past: Any) -> bool:
    """Whether what one row left in `past` can stand in front of others: only where all of it is kept, and plainly."""
    return (
        type(past) is DynamicCache
        and len(past.layers) > 0
        and all(
            type(layer) is DynamicLayer and layer.is_initialized and layer.keys is not None and layer.keys.ndim == 4
            for layer in past.layers
        )
    )


def fanned_out(past: Any, rows: int) -> Any:
    """`past` of one row as that of so many, for one pass, which adds nothing to it: copied block by block."""
    return _made_of(past, lambda layer: _BorrowedLayer(layer, rows))


def begun(past: Any, shifts: Tensor, steps: int) -> Any:
    """`past` of one row as that of several left-padded ones, with space for `steps` more tokens.

    Args:
        past: keys and values of one row.
        shifts: for every row how many tokens of padding it has, (rows,). It begins with so many fewer tokens of `past`,
            and what stands in their place is to be masked: all rows are as long as `past`.
        steps: tokens to come.
    """
    return _made_of(past, lambda layer: _PreallocatedLayer(_shifted(layer, shifts), steps, None))


def _made_of(past: Any, make: Callable[[Any], DynamicLayer]) -> Any:
    made = copy.copy(past)
    made.layers = [make(layer) for layer in past.layers]
    return made


def _shifted(layer: Any, shifts: Tensor) -> Any:
    length = layer.keys.shape[-2]
    at = (torch.arange(length, device=shifts.device)[None] - shifts[:, None]).clamp(min=0)
    made = copy.copy(layer)
    made.keys, made.values = (held[0][:, at].transpose(0, 1) for held in (layer.keys, layer.values))
    return made


class _BorrowedLayer(DynamicLayer):
    """One block's keys and values of one row, seen by several; what they add is theirs alone, and not kept."""

    def __init__(self, layer: Any, rows: int) -> None:
        """As `layer`, for so many rows."""
        super().__init__()  # type: ignore[no-untyped-call] # transformers' own
        vars(self).update(vars(layer))
        self.keys, self.values = (held.expand(rows, -1, -1, -1) for held in (layer.keys, layer.values))

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """All there are with these, as `DynamicLayer.update` gives them."""
        keys: Any = self.keys
        values: Any = self.values
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class _PreallocatedLayer(DynamicLayer):
    """One block's keys and values, (rows, heads, tokens, width): views of the filled part of larger tensors."""

    def __init__(self, layer: DynamicLayer, steps: int, dtype: torch.dtype | None) -> None:
        """As `layer`, which holds keys and values, in `dtype` and with space for `steps` more tokens."""
        super().__init__()  # type: ignore[no-untyped-call] # transformers' own
        vars(self).update(vars(layer))  # whatever else a layer of this version of transformers keeps
        keys: Any = layer.keys
        values: Any = layer.values
        self._all_keys, self._all_values = _extended(keys, steps, dtype), _extended(values, steps, dtype)
        length = keys.shape[-2]
        self.keys, self.values = self._all_keys[..., :length, :], self._all_values[..., :length, :]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens and return all there are, as `DynamicLayer.update` does."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        self._all_keys[..., begin:end, :] = key_states
        self._all_values[..., begin:end, :] = value_states
        self.keys, self.values = self._all_keys[..., :end, :], self._all_values[..., :end, :]
        return self.keys, self.values

    def keep(self, rows: Tensor | slice) -> None:
        """Only these rows of the batch."""
        length = self.get_seq_length()
        self._all_keys, self._all_values = self._all_keys[rows], self._all_values[rows]
        self.keys, self.values = self._all_keys[..., :length, :], self._all_values[..., :length, :]


def _extended(held: Tensor, steps: int, dtype: torch.dtype | None) -> Tensor:
    extended = held.new_empty((*held.shape[:-2], held.shape[-2] + steps, held.shape[-1]), dtype=dtype)
    extended[..., : held.shape[-2], :] = held
    return extended
