"""Linear layers in float32 by oneDNN instead of MKL, on processors where that costs no digit.

    use_fast_linear(lm)     # once, after loading on a CPU

On some of AMD's processors MKL multiplies float32 matrices at less than half the speed of oneDNN, on others (Zen 4) at
the same. torch calls oneDNN for them only with the permission to round to bfloat16. On a processor with AMX oneDNN
makes use of the permission; elsewhere its products are as exact as MKL's. Hence the products themselves are looked at,
once a process. The choice depends on the processor alone, never on a clock, so that numbers repeat to the last bit.

Only linear layers have the permission: torch's attention would hand its many small products over one by one, at a loss.
"""

from __future__ import annotations

import contextlib
import functools
import platform
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

__all__ = ["use_fast_linear"]

# Rows, inner width, columns: one row as in recall, small and large layers, an inner width that is no multiple of 16.
SHAPES = ((1, 256, 1024), (64, 256, 256), (96, 1000, 72), (512, 1024, 4096))
FLOAT32 = 1e-5
"""Largest error of a product that passes for float32, relative to the largest entry: 4e-7 to 8e-7 was seen of either
library; TF32 gives 3e-4 and bfloat16 2e-3."""


def use_fast_linear(lm: nn.Module) -> None:
    """Have the linear layers of `lm`, GPT-2's kind included, multiply by oneDNN where it is exact."""
    if not _exact():
        return
    for module in lm.modules():
        if type(module) in _FAST:  # not a subclass, which multiplies its own way
            module.__class__ = _FAST[type(module)]


class _Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weight, self.bias)


class _Conv1D(Conv1D):
    def forward(self, x: Tensor) -> Tensor:
        return _product(x, self.weight.T, self.bias)


_FAST: dict[type[nn.Module], type[nn.Module]] = {nn.Linear: _Linear, Conv1D: _Conv1D}


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """`F.linear`: x (..., in), weight (out, in), bias (out)."""
    if torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not torch.is_grad_enabled():
        with _permitted():
            return F.linear(x, weight, bias)
    return _Product.apply(x, weight, bias)  # type: ignore[no-any-return, no-untyped-call] # untyped


class _Product(torch.autograd.Function):
    """`F.linear` with the permission in its backward pass as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        with _permitted():
            return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        of_x, of_weight, of_bias = ctx.needs_input_grad
        with _permitted():
            return (
                (grad @ weight).view(x.shape) if of_x else None,
                _gradient(weight, grad, x.reshape(-1, weight.shape[1])) if of_weight else None,
                grad.sum(0) if of_bias else None,
            )


def _gradient(weight: Tensor, grad: Tensor, x: Tensor) -> Tensor:
    """Of `weight` (out, in), which lies as it does: adding up what lies otherwise takes ten times as long.

    Either product has the same sums in the same order, of `grad` (rows, out) and `x` (rows, in).
    """
    return grad.T @ x if weight.is_contiguous() else (x.T @ grad).T


@contextlib.contextmanager
def _permitted() -> Iterator[None]:
    onednn: Any = torch.backends.mkldnn  # CUDA has a setting of its own
    before = onednn.matmul.fp32_precision
    onednn.matmul.fp32_precision = "bf16"
    try:
        yield
    finally:
        onednn.matmul.fp32_precision = before


@functools.cache
def _exact() -> bool:
    """Whether oneDNN's products are float32's though it may round. On Arm that may depend on the shape: not asked."""
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return False
    draw = torch.Generator().manual_seed(0)
    for rows, inner, columns in SHAPES:
        one, other = torch.randn(rows, inner, generator=draw), torch.randn(inner, columns, generator=draw)
        expected = one.double() @ other.double()
        with torch.inference_mode(), _permitted():
            errors = [one @ other - expected, one @ other.T.contiguous().T - expected]
        if max(float(error.abs().max()) for error in errors) > FLOAT32 * float(expected.abs().max()):
            return False
    return True
