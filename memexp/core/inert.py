"""Probing is inert: what a user's probe does to torch, to random numbers and to the model is undone, or else told.

guard = Inert(lm, weights=True)
with guard:
    items = probe.measure(session, texts)
guard.changed                # the first parameter or buffer that is not what it was; then the model is of no more use
"""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from memexp.core.model import LanguageModel, local

__all__ = ["Inert"]

_AS_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By bytes of a number: the type whose sums tell every bit, and take no room for another one."""

_STATES: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_default_device, torch.set_default_device),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (lambda: torch.is_autocast_enabled("cpu"), lambda on: torch.set_autocast_enabled("cpu", on)),
    (lambda: torch.is_autocast_enabled("cuda"), lambda on: torch.set_autocast_enabled("cuda", on)),
]
"""What torch keeps for all: how it is asked for, and how it is set."""
_RANDOM: list[tuple[Callable[[], Any], Callable[[Any], object]]] = [
    (random.getstate, random.setstate),
    (np.random.get_state, np.random.set_state),
]


class Inert:
    """A context after which torch and the model are as before, and random numbers go on where they were."""

    def __init__(self, lm: LanguageModel, weights: bool) -> None:
        """`weights`: look for changed ones as well, which takes about as long as reading the model twice."""
        self.lm, self.weights = lm, weights
        self.changed: str | None = None
        """What of the model is not as it was."""
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        before = _sums(self.lm) if self.weights else {}
        undo = self._undo
        undo.callback(self._compare, before)
        for get, put in _STATES:
            undo.callback(_put_back, get, put, get())
        for get, put in _RANDOM:
            undo.callback(put, get())
        device = self.lm.world.device
        undo.enter_context(torch.random.fork_rng(devices=[device] if device.type == "cuda" else []))
        for module in self.lm.modules():
            undo.callback(setattr, module, "training", module.training)
            for hooks in (module._forward_hooks, module._forward_pre_hooks):
                undo.callback(_remove_new, hooks, set(hooks))
        for parameter in self.lm.parameters():
            undo.callback(parameter.requires_grad_, parameter.requires_grad)
            undo.callback(setattr, parameter, "grad", parameter.grad)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._undo.close()

    def _compare(self, before: dict[str, list[Tensor]]) -> None:
        """Last of all, when torch is as it was."""
        after = _sums(self.lm) if self.weights else {}
        for name in before | after:
            pairs = itertools.zip_longest(before.get(name, []), after.get(name, []))
            if not all(one is not None and two is not None and torch.equal(one, two) for one, two in pairs):
                self.changed = name
                return


def _put_back(get: Callable[[], Any], put: Callable[[Any], object], value: Any) -> None:
    if get() != value:
        put(value)


def _remove_new(hooks: dict[int, Any], before: set[int]) -> None:
    for key in set(hooks) - before:
        del hooks[key]


@torch.no_grad()
def _sums(lm: LanguageModel) -> dict[str, list[Tensor]]:
    """Of every parameter and buffer its rows added up, and every other column of these, as integers.

    Torch's own counters of versions know nothing of what is done to ``parameter.data``.
    """
    found = {}
    for name, held in itertools.chain(lm.named_parameters(), lm.named_buffers()):
        tensor = local(held).detach()
        dtype = _AS_INTEGERS.get(tensor.element_size())
        if dtype is None or not tensor.numel():
            continue
        rows = torch.atleast_1d(torch.view_as_real(tensor) if tensor.is_complex() else tensor).contiguous()
        numbers = rows.view(dtype)
        found[name] = [numbers.sum(-1, dtype=dtype), numbers[..., ::2].sum(-1, dtype=dtype)]
    return found
