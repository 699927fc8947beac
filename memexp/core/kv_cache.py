"""A key-value cache with space ahead; transformers' own copies everything it holds for every token that is added.

past = preallocate(past, steps, torch.bfloat16)      # after the first pass, before the others
if can_drop(past):
    drop(past, rows)               # when others of the batch are finished
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["can_drop", "drop", "preallocate"]


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


def drop(past: Any, rows: Tensor) -> None:
    """Keep only `rows` (indices) of the batch in `past`."""
    for layer in past.layers:
        layer.keep(rows)


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

    def keep(self, rows: Tensor) -> None:
        """Only these rows of the batch."""
        length = self.get_seq_length()
        self._all_keys, self._all_values = self._all_keys[rows], self._all_values[rows]
        self.keys, self.values = self._all_keys[..., :length, :], self._all_values[..., :length, :]


def _extended(held: Tensor, steps: int, dtype: torch.dtype | None) -> Tensor:
    extended = held.new_empty((*held.shape[:-2], held.shape[-2] + steps, held.shape[-1]), dtype=dtype)
    extended[..., : held.shape[-2], :] = held
    return extended
