"""A key-value cache with room ahead; transformers' own copies everything it holds for every token that is added.

past = with_room(past, steps)      # after the first pass, before the others
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

__all__ = ["with_room"]


def with_room(past: Any, steps: int) -> Any:
    """`past` with room for `steps` more tokens, or `past` as it is where it is not of the plain kind."""
    if type(past) is DynamicCache:
        layers = [layer for layer in past.layers if isinstance(layer, DynamicLayer) and layer.is_initialized]
        plain = [layer for layer in layers if type(layer) is DynamicLayer]  # others drop what slides out of sight
        if len(plain) == len(past.layers):
            past.layers = [_Roomy(layer, steps) for layer in plain]
    return past


class _Roomy(DynamicLayer):
    """One block's keys and values, (rows, heads, tokens, width): views of the filled part of larger tensors."""

    def __init__(self, layer: DynamicLayer, steps: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # transformers' own
        assert layer.keys is not None and layer.values is not None  # it has been initialised
        vars(self).update(vars(layer))  # whatever else a layer of this version of transformers keeps
        self._all_keys, self._all_values = _room(layer.keys, steps), _room(layer.values, steps)

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Add tokens and return all there are, as `DynamicLayer.update` does."""
        begin = self.get_seq_length()
        end = begin + key_states.shape[-2]
        self._all_keys[..., begin:end, :] = key_states
        self._all_values[..., begin:end, :] = value_states
        self.keys, self.values = self._all_keys[..., :end, :], self._all_values[..., :end, :]
        return self.keys, self.values


def _room(held: Tensor, steps: int) -> Tensor:
    room = held.new_empty((*held.shape[:-2], held.shape[-2] + steps, held.shape[-1]))
    room[..., : held.shape[-2], :] = held
    return room
