"""Counts the bytes of all tensors there are, while code runs: of real ones, and of fake ones that have no memory.

    with Meter() as meter:
        meter.note(*lm.parameters())
        with meter.phase("training") as phase:
            update(...)
    phase.peak, phase.now

What is made by `memexp.core.fork.on_host` counts as the host's, all else as the device's.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memexp.core import fork
from memexp.core.attention import narrow_attention

__all__ = ["Meter", "Phase"]


_LOOKS = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default}
"""Operations that give a value, which a fake tensor has not: it is taken for zero."""


@dataclass
class Phase:
    """What was counted while something ran."""

    peak: int = 0
    """Most bytes on the device at any time."""
    now: int = 0
    """Bytes on the device afterwards."""
    host: int = 0
    """Most bytes on the host."""


class Meter(TorchDispatchMode):
    """A mode in which storages are counted as operations bring them about, until they die."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = {"device": 0, "host": 0}
        self._side = "device"
        self._known: dict[int, tuple[weakref.ref[Any], str, int]] = {}
        self._phases: list[Phase] = []
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> Meter:
        on_host, resize = fork.on_host, torch.UntypedStorage.resize_

        def noted(tensor: torch.Tensor) -> torch.Tensor:
            with self.side("host"):
                made = on_host(tensor)
                self.note(made)
            return made

        def resized(storage: Any, size: int) -> Any:  # how FSDP gives back what it gathered
            found = resize(storage, size)
            self._see(storage)
            return found

        self._patches.enter_context(narrow_attention())  # as on the GPU that the device stands for
        self._patches.enter_context(mock.patch.object(fork, "on_host", noted))
        self._patches.enter_context(mock.patch.object(torch.UntypedStorage, "resize_", resized))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _LOOKS and isinstance(args[0], FakeTensor):
            return 0.0 if args[0].is_floating_point() else 0
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves((args, made)):
            if isinstance(tensor, torch.Tensor):
                self.note(tensor)
        return made

    @contextlib.contextmanager
    def side(self, side: str) -> Iterator[None]:
        """What is made meanwhile is there."""
        before, self._side = self._side, side
        try:
            yield
        finally:
            self._side = before

    @contextlib.contextmanager
    def phase(self) -> Iterator[Phase]:
        """Counts what happens meanwhile."""
        phase = Phase(peak=self.bytes["device"], host=self.bytes["host"])
        self._phases.append(phase)
        try:
            yield phase
        finally:
            self._phases.remove(phase)
            phase.now = self.bytes["device"]

    def note(self, *tensors: torch.Tensor) -> None:
        """Count these, which were there before."""
        for tensor in tensors:
            if tensor.device.type == "meta":  # a shape and nothing in it
                continue
            held: Any = tensor._local_tensor if isinstance(tensor, DTensor) else tensor
            held = getattr(held, "elem", held)  # a tensor that a collective has yet to fill
            self._see(held.untyped_storage())

    def _see(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        known = self._known.get(key)
        if known is not None and known[0]() is None:  # another one at the same place
            known = None
        side = self._side if known is None else known[1]
        if known is None or known[2] != size:
            self._count(side, size - (0 if known is None else known[2]))
            reference = weakref.ref(storage, self._gone(key)) if known is None else known[0]
            self._known[key] = reference, side, size

    def _gone(self, key: int) -> Callable[[Any], None]:
        def gone(reference: Any) -> None:
            known = self._known.get(key)
            if known is not None and known[0] is reference:
                del self._known[key]
                self._count(known[1], -known[2])

        return gone

    def _count(self, side: str, change: int) -> None:
        self.bytes[side] += change
        for phase in self._phases:
            phase.peak = max(phase.peak, self.bytes["device"])
            phase.host = max(phase.host, self.bytes["host"])
