"""The weights that a model was loaded with, to go back to before every trajectory: read again from its own files.

    loaded = original(lm)     # a Fork
    restore(lm, loaded, None)

A copy of them would take as much of the host as the checkpoint for as long as a trial lasts, to be looked at a few
times. What is small, drawn or pickled is copied all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from memexp.core import fork
from memexp.core.fork import Fork
from memexp.core.model import LanguageModel
from memexp.core.slices import hold
from memexp.core.tensor_files import fill_from_whole, room_to_read
from memexp.errors import ModelError
from memexp.sources import Stored

__all__ = ["original"]

SMALL = 1 << 26
"""Bytes of weights that may as well be copied."""


def original(lm: LanguageModel) -> Fork:
    """What `lm`, which has just been loaded, learns with as it is now. All ranks call."""
    learning, stored = lm.learning(), lm.stored
    large = sum(parameter.nbytes for parameter in learning.values()) > SMALL
    if stored is not None and large and learning.keys() <= stored.keys():
        return Fork(_FromFiles(lm, {name: stored[name] for name in learning}), None)
    return Fork({name: _halved(fork.on_host(parameter.detach())) for name, parameter in learning.items()}, None)


def _halved(tensor: Tensor) -> Tensor:
    """In half the memory where nothing is lost, as with weights that were stored in 16 bits."""
    for dtype in (torch.bfloat16, torch.float16):
        half = tensor.to(dtype)
        if tensor.dtype == torch.float32 and torch.equal(half.float(), tensor):
            return half
    return tensor


class _FromFiles(Mapping[str, Tensor]):
    """This rank's part of each learning parameter, read when it is asked for."""

    def __init__(self, lm: LanguageModel, stored: Mapping[str, Stored]) -> None:
        self._stored = stored
        self._parts = {name: (held.box, held.tensor.dtype) for name, held in hold(lm.world, lm.learning()).items()}
        self._stamps = {file: _stamp(file) for file in {one.file for one in stored.values()}}

    def __getitem__(self, name: str) -> Tensor:
        one, (box, dtype) = self._stored[name], self._parts[name]
        part = torch.empty(box.lengths, dtype=dtype)
        try:
            if _stamp(one.file) != self._stamps[one.file]:
                raise ValueError("it was changed")
            with one.file.open("rb") as stream:
                fill_from_whole(stream, one, box, part, room_to_read())
        except (OSError, ValueError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise ModelError(
                f"{one.file} cannot be read again: {said}; leave a model as it is while it is used"
            ) from error
        return part

    def __iter__(self) -> Iterator[str]:
        return iter(self._parts)

    def __len__(self) -> int:
        return len(self._parts)


def _stamp(file: Path) -> tuple[int, int]:
    found = os.stat(file)
    return found.st_size, found.st_mtime_ns
