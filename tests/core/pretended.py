"""A CUDA device that is pretended: its tensors lie in this machine's memory, and behave as if they lay elsewhere.

    with pretended() as gpu:
        lm = load(model, Full(), "float32", World.current(gpus=1))
        with gpu.counted() as waits:
            update(lm, optimizer, rows, 1e-3, None)
    assert len(waits) <= 1, waits

All numbers are those of the CPU, whose kernels compute them. What is otherwise as on a GPU: ``.device`` says cuda:0; an
operation on tensors from both places raises `Mixed`; whatever makes the host wait for the device is noted with the line
of memexp that did it; a copy to pinned memory is there after the next wait only. Left out: NCCL, streams, and numbers.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import memexp

__all__ = ["CUDA", "Mixed", "Pretended", "pretended"]

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
NAME = "Pretended GPU"
PACKAGE = str(Path(memexp.__file__).parent)

_BY_INDEX = {"aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"}
_WAITING = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select", "aten::_unique2"}
"""Operations whose result, or its size, the host needs at once."""
_WAITING_CALLS = {
    torch.Tensor.item: "item",
    torch.Tensor.__float__: "float",
    torch.Tensor.__int__: "int",
    torch.Tensor.__bool__: "bool",
    torch.Tensor.__index__: "index",
    torch.Tensor.tolist: "tolist",
    torch.Tensor.equal: "equal",
    torch.Tensor.nonzero: "nonzero",
    torch.Tensor.masked_select: "masked_select",
    torch.equal: "equal",
    torch.nonzero: "nonzero",
    torch.masked_select: "masked_select",
}
_READING_CALLS = {torch.Tensor.numpy, torch.Tensor.__array__}
"""What only the host's own tensors can do."""
_TRANSFERS = {torch.Tensor.to, torch.Tensor.cuda, torch.Tensor.cpu, torch.tensor, torch.as_tensor, torch.asarray}
"""Calls that, given a device, bring numbers to it; others make new ones there."""


class Mixed(RuntimeError):
    """An operation on tensors of two devices, or one that needs what has not arrived."""


class Pretended:
    """The device: what lies on it, and what the host has waited for."""

    def __init__(self, memory: int) -> None:
        """`memory`: bytes it claims to have."""
        self.memory = memory
        self.fraction = 1.0
        """Of its memory that this process may take."""
        self.waits: list[str] = []
        """What the host waited for, and where in memexp: ``item at train.py:120``."""
        self._here: set[StorageWeakRef] = set()
        self._pinned: set[StorageWeakRef] = set()
        self._coming: set[StorageWeakRef] = set()
        self.thread = _Thread()

    # What lies where

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor is on the device."""
        return _key(tensor) in self._here

    def held(self) -> int:
        """Bytes on the device."""
        alive = [key for key in self._here if not key.expired()]
        return sum(torch.UntypedStorage._new_with_weak_ptr(key.cdata).nbytes() for key in alive)

    def put(self, value: Any) -> Any:
        """`value`, all of whose tensors are on the device from now on."""
        self._here |= {key for tensor in _tensors(value) if (key := _key(tensor)) is not None}
        return value

    def pin(self, tensor: Tensor) -> Tensor:
        """A copy in pinned memory."""
        copy = tensor.clone()
        self._pinned.add(StorageWeakRef(copy.untyped_storage()))
        return copy

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether it is in pinned memory."""
        return _key(tensor) in self._pinned

    # Waiting

    def wait(self, what: str) -> None:
        """The host waits; whatever was on its way arrives."""
        self._coming.clear()
        if not self.thread.counted:
            self.waits.append(f"{what} at {_caller()}")

    @contextlib.contextmanager
    def counted(self) -> Iterator[list[str]]:
        """The waits within, known afterwards."""
        before, found = len(self.waits), list[str]()
        yield found
        found += self.waits[before:]

    def copied(self, target: Tensor, source: Tensor, at_once: bool) -> None:
        """Numbers of `source` went to `target`; the host waited unless that was not asked for, and memory is pinned."""
        if self.holds(target) == self.holds(source):
            return
        host = source if self.holds(target) else target
        if at_once or not self.is_pinned(host):
            self.wait(f"copy {'to' if host is source else 'from'} the device")
        elif host is target:
            self._coming.add(StorageWeakRef(host.untyped_storage()))

    def check_arrived(self, tensors: Iterable[Tensor], what: str) -> None:
        """Raise Mixed where one of the host's tensors is read before it has arrived."""
        if self._coming and any(_key(tensor) in self._coming for tensor in tensors):
            raise Mixed(f"{what} at {_caller()}: reads a copy from the device before anything has waited for it")

    # Moving

    def moved(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], to_device: bool) -> Any:
        """The outcome of a call that names a device."""
        swapped = [CPU if _names(value, "cuda") else value for value in args]
        out = func(*swapped, **{key: CPU if _names(value, "cuda") else value for key, value in kwargs.items()})
        if not isinstance(out, Tensor) or (self.holds(out) == to_device and func not in _TRANSFERS):
            return out
        given = [tensor for tensor in _tensors(args) if func in _TRANSFERS]
        source = given[0] if given else None
        if source is not None and self.holds(source) == to_device:
            return out
        if any(_key(tensor) == _key(out) for tensor in _tensors(args)):
            out = out.clone()
        (self._here.add if to_device else self._here.discard)(StorageWeakRef(out.untyped_storage()))
        if func in _TRANSFERS:
            self._transferred(out, source, soon=bool(kwargs.get("non_blocking", False)))
        return out

    def _transferred(self, out: Tensor, source: Tensor | None, soon: bool) -> None:
        if source is None:  # numbers of Python; none at all are not copied
            if self.holds(out) and out.numel():
                self.wait("copy to the device")
            return
        if soon and not self.holds(out):  # torch takes pinned memory by itself here
            self._pinned.add(StorageWeakRef(out.untyped_storage()))
        self.copied(out, source, not soon)


class _Thread(threading.local):
    """What is under way in this thread."""

    inside = False
    """A call with a tensor of the device: what its C++ makes by itself is there too."""
    counted = False
    """A wait that is noted already."""


class _Operations(TorchDispatchMode):
    """Sees what is computed."""

    def __init__(self, device: Pretended) -> None:
        super().__init__()
        self.device = device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self.device, kwargs or {}
        if torch.is_inference_mode_enabled():  # elsewhere torch has taken apart already what is made of others
            with self:
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        name = func.name().partition(".")[0]
        tensors = [*_tensors(args), *_tensors(kwargs)]
        here = [device.holds(tensor) for tensor in tensors]
        if any(here):
            self._check(name, tensors, here)
            self._note(name, args, kwargs)
        if device._coming and name not in ("aten::copy_", "aten::detach"):
            device.check_arrived((tensor for tensor, at in zip(tensors, here, strict=True) if not at), name)
        out = func(*args, **kwargs)
        if name != "aten::copy_" and (any(here) or (not tensors and device.thread.inside)):
            device.put(out)
        return out

    def _check(self, name: str, tensors: list[Tensor], here: list[bool]) -> None:
        elsewhere = [tensor for tensor, at in zip(tensors, here, strict=True) if not at and tensor.dim() > 0]
        if elsewhere and name not in ("aten::copy_", "aten::_to_copy") and not (name in _BY_INDEX and here[0]):
            places = ", ".join(
                f"{'cuda' if at else 'cpu'} {tuple(t.shape)}" for t, at in zip(tensors, here, strict=True)
            )
            raise Mixed(f"{name} at {_caller()}: expected all tensors to be on the same device, got {places}")

    def _note(self, name: str, args: Any, kwargs: Any) -> None:
        device = self.device
        if name == "aten::copy_":
            soon = bool(kwargs.get("non_blocking", args[2] if len(args) > 2 else False))
            device.copied(args[0], args[1], not soon)
        elif name in _WAITING:
            device.wait(name.removeprefix("aten::"))
        elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
            device.wait("repeat_interleave")
        elif name in _BY_INDEX:
            for index in _tensors(args[1]):
                if index.dtype in (torch.bool, torch.uint8):
                    device.wait("a mask as index")
                elif not device.holds(index):
                    device.wait("an index of the host")


class _Calls(TorchFunctionMode):
    """Sees what is called: where tensors are asked to be, and what reads them."""

    def __init__(self, device: Pretended) -> None:
        super().__init__()
        self.device = device
        self.answers: dict[Any, Callable[..., Any]] = {
            torch.Tensor.device.__get__: lambda t: CUDA if device.holds(t) else _own(t, "device"),
            torch.Tensor.is_cuda.__get__: device.holds,
            torch.Tensor.is_cpu.__get__: lambda t: not device.holds(t) and _own(t, "is_cpu"),
            torch.Tensor.get_device: lambda t: 0 if device.holds(t) else -1,
            torch.Tensor.is_pinned: lambda t, *_: device.is_pinned(t),
            torch.Tensor.pin_memory: lambda t, *_: device.pin(t),
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        device, kwargs = self.device, kwargs or {}
        if func in self.answers:
            return self.answers[func](*args, **kwargs)
        if func is torch.device or getattr(func, "__name__", "") == "_parse_to":
            return func(*args, **kwargs)
        tensors = [*_tensors(args), *_tensors(kwargs)]
        here = any(map(device.holds, tensors))
        if func in _READING_CALLS or func in _WAITING_CALLS:
            self._read(func, args[0])
        before = device.thread.inside, device.thread.counted
        device.thread.inside = here
        device.thread.counted = before[1] or (here and func in _WAITING_CALLS)
        try:
            return self._called(func, args, kwargs, here)
        finally:
            device.thread.inside, device.thread.counted = before

    def _read(self, func: Any, tensor: Any) -> None:
        """The host looks at the numbers of a tensor."""
        if not isinstance(tensor, Tensor):
            return
        if not self.device.holds(tensor):
            self.device.check_arrived([tensor], func.__name__)
        elif func in _READING_CALLS:
            raise TypeError(f"can't convert cuda:0 device type tensor to numpy at {_caller()}: use Tensor.cpu() first")
        else:
            self.device.wait(_WAITING_CALLS[func])

    def _called(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], here: bool) -> Any:
        device = self.device
        if func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):  # where the other one is
            args = (args[0], CUDA if device.holds(args[1]) else CPU, args[1].dtype, *args[2:])
        if func in (torch.Tensor.cuda, torch.Tensor.cpu):
            args = (args[0], CUDA if func is torch.Tensor.cuda else CPU)
            func = torch.Tensor.to
        named = [*args, *kwargs.values()]
        if any(_names(value, "cuda") for value in named):
            return device.moved(func, args, kwargs, to_device=True)
        if any(_names(value, "cpu") for value in named):
            return device.moved(func, args, kwargs, to_device=False)
        pinned = kwargs.pop("pin_memory", False)
        out = func(*args, **kwargs)
        if func is torch.Tensor.__deepcopy__ and here:
            device.put(out)
        return device.pin(out) if pinned else out


def _key(tensor: Tensor) -> StorageWeakRef | None:
    """What is the same for all views of the same numbers; None where there are none, as of a sparse tensor."""
    try:
        return StorageWeakRef(tensor.untyped_storage())
    except (NotImplementedError, RuntimeError):  # what torch raises where there is no storage
        return None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        yield from _tensors(list(value.values()))


def _names(value: Any, kind: str) -> bool:
    """Whether an argument names a device of this kind."""
    if isinstance(value, torch.device):
        return value.type == kind
    return isinstance(value, str) and value.partition(":")[0] == kind


def _own(tensor: Tensor, name: str) -> Any:
    """What torch says of a tensor."""
    with torch._C.DisableTorchFunction():
        return getattr(tensor, name)


def _caller() -> str:
    """The line of memexp that is being executed, or else of whatever called this module."""
    frame, first = sys._getframe(1), ""
    while frame is not None and not frame.f_code.co_filename.startswith(PACKAGE):
        if not first and frame.f_code.co_filename != __file__ and "torch" not in frame.f_code.co_filename:
            first = _line(frame)
        frame = frame.f_back  # type: ignore[assignment] # None at the outermost
    return _line(frame) if frame is not None else first


def _line(frame: Any) -> str:
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class _Event:
    """An event, or a stream, of the device."""

    def __init__(self, device: Pretended) -> None:
        self.device = device

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *_, **__: self  # record, wait_stream and the like order what is ordered here anyway

    def __enter__(self) -> _Event:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        self.device.wait("synchronize")

    def query(self) -> bool:
        self.device._coming.clear()
        return True


def _functions(device: Pretended) -> dict[str, Any]:
    """Those of `torch.cuda` that would reach for a driver."""

    def properties(_: Any = None) -> Any:
        return SimpleNamespace(name=NAME, total_memory=device.memory, major=9, minor=0, multi_processor_count=1)

    def limit(fraction: float, _: Any = None) -> None:
        device.fraction = fraction

    return {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda _: None,
        "device": lambda _: contextlib.nullcontext(),
        "get_device_name": lambda _=None: NAME,
        "get_device_properties": properties,
        "get_device_capability": lambda _=None: (9, 0),
        "mem_get_info": lambda _=None: (device.memory - device.held(), device.memory),
        "memory_allocated": lambda _=None: device.held(),
        "max_memory_allocated": lambda _=None: device.held(),
        "reset_peak_memory_stats": lambda _=None: None,
        "set_per_process_memory_fraction": limit,
        "empty_cache": lambda: None,
        "is_bf16_supported": lambda *_: True,
        "synchronize": lambda _=None: device.wait("synchronize"),
        "Event": lambda *_, **__: _Event(device),
        "Stream": lambda *_, **__: _Event(device),
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": lambda _=None: _Event(device),
        "manual_seed_all": lambda _: None,
        "get_rng_state": lambda _=None: torch.get_rng_state(),
        "set_rng_state": lambda state, _=None: torch.set_rng_state(state),
    }


@contextlib.contextmanager
def pretended(memory: int = 80 * 10**9) -> Iterator[Pretended]:
    """As long as it lasts, there is one CUDA device of `memory` bytes, in this thread and in those it starts."""
    device = Pretended(memory)
    calls, backward = _Calls(device), torch.autograd._engine_run_backward
    run, begin = threading.Thread.run, torch.autocast.__init__

    def run_there(self: threading.Thread) -> None:
        with _Operations(device), _Calls(device):
            run(self)

    def run_backward(*args: Any, **kwargs: Any) -> Any:
        with calls:  # torch has left it, to call what it sees; a checkpointed block is called again in here
            return backward(*args, **kwargs)

    def autocast(self: Any, device_type: str, *args: Any, **kwargs: Any) -> None:
        begin(self, _real(device_type), *args, **kwargs)

    with contextlib.ExitStack() as stack:
        for name, function in _functions(device).items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        stack.enter_context(patch.object(threading.Thread, "run", run_there))
        stack.enter_context(patch.object(torch.autograd, "_engine_run_backward", run_backward))
        stack.enter_context(patch.object(torch.autocast, "__init__", autocast))
        for name in ("is_autocast_enabled", "get_autocast_dtype", "set_autocast_enabled", "set_autocast_dtype"):
            stack.enter_context(patch.object(torch, name, _of_type(getattr(torch, name))))
        grouped = torch._C._group_tensors_by_device_and_dtype
        stack.enter_context(patch.object(torch._C, grouped.__name__, _grouped_by_place(device, grouped)))
        stack.enter_context(_Operations(device))
        stack.enter_context(calls)
        yield device


def _real(device_type: str) -> str:
    return "cpu" if device_type == "cuda" else device_type


def _of_type(function: Any) -> Any:
    """A function that is given a type of device first: of the pretended one it tells what the CPU does."""
    return lambda *args: function(*(_real(one) if isinstance(one, str) else one for one in args))


def _grouped_by_place(device: Pretended, grouped: Any) -> Any:
    """As optimizers and clipping group their tensors, for loops over many at once."""

    def group(lists: Any, with_indices: bool = False) -> dict[Any, Any]:
        found = grouped(lists, with_indices)
        if any(device.holds(t) for t in lists[0]) and not all(device.holds(t) for t in lists[0]):
            raise Mixed(f"tensors of two devices at {_caller()}")
        here = any(map(device.holds, lists[0]))
        return {(CUDA if here else place, dtype): tensors for (place, dtype), tensors in found.items()}

    return group
