"""Errors after which a process can make no more use of its GPU, told from those that end a stage only.

if ends_process(error):
    ...

CUDA keeps such an error: whatever the process asks of the device from then on fails likewise, the next trial as well.
Where memory ran out nothing is broken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

__all__ = ["ends_process", "of_memory"]

_OF_A_DEVICE = re.compile(
    r"\b(CUDA|HIP|CUDA driver|cuDNN|cuBLAS|cuSOLVER|cuSPARSE|cuFFT|NCCL|RCCL) error"
    r"|\b(CUBLAS|CUDNN|CUSOLVER|CUSPARSE|HIPBLAS|MIOPEN)_STATUS_|\bncclUnhandledCudaError"
    r"|device-side assert|an illegal memory access|unspecified launch failure",
    re.IGNORECASE,
)
"""What torch writes of errors of CUDA and its libraries, for which it has no types but `torch.AcceleratorError`."""
_OF_MEMORY = re.compile(r"out of memory|_STATUS_ALLOC_FAILED", re.IGNORECASE)


def of_memory(error: BaseException) -> bool:
    """Whether the memory of a device ran out, which torch has a type for, but not its libraries."""
    return isinstance(error, torch.OutOfMemoryError) or (
        _is_torchs(error) and _OF_MEMORY.search(str(error)) is not None and _speaks_of_device(error)
    )


def ends_process(error: BaseException) -> bool:
    """Whether `error`, or one that it comes from, is one of the device's and not for want of memory."""
    return any(_is_of_device(one) for one in _chain(error))


def _is_of_device(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError) or _OF_MEMORY.search(str(error)):
        return False
    return _is_torchs(error) and _speaks_of_device(error)


def _is_torchs(error: BaseException) -> bool:
    """The text of another, as a user's own, may speak of CUDA as well."""
    return type(error) is RuntimeError or type(error).__module__.startswith("torch")


def _speaks_of_device(error: BaseException) -> bool:
    return isinstance(error, torch.AcceleratorError) or _OF_A_DEVICE.search(str(error)) is not None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error, and those it comes from."""
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        seen.add(id(at))
        yield at
        at = at.__cause__ or at.__context__
