"""Attention masks that a GPU is not waited for.

    with unwatched(world.device): ...       # forward passes

transformers looks at the values of a mask, to leave it away where it hides nothing, and at positions, for texts packed
one behind the other. Each look has the CPU wait for the GPU, once a pass. memexp gives a mask only where something is
padded, and packs nothing, so that both answers are known.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import masking_utils

__all__ = ["unwatched"]

_ANSWERS: dict[str, Any] = {
    "fast_all": lambda mask: False,
    "find_packed_sequence_indices": lambda positions: None,
}


@contextlib.contextmanager
def unwatched(device: torch.device) -> Iterator[None]:
    """On a GPU without those looks, as far as this version of transformers has them where they were; on a CPU with."""
    known = {name: answer for name, answer in _ANSWERS.items() if hasattr(masking_utils, name)}
    if device.type == "cpu" or not known:
        yield
        return
    before = {name: getattr(masking_utils, name) for name in known}
    vars(masking_utils).update(known)
    try:
        yield
    finally:
        vars(masking_utils).update(before)
