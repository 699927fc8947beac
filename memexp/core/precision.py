"""What a declared dtype means for the arithmetic, on each kind of device; weights and optimizer stay float32.

with arithmetic(dtype, device): ...         # around a forward pass
with products(dtype, device): ...           # around what is no forward pass: backward
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from memexp.core.attention import wide_attention
from memexp.errors import SpecError

__all__ = ["CACHES", "Gathered", "arithmetic", "check", "columns", "gathered", "hold_frozen", "products", "widened"]

CACHES = {"bfloat16": torch.bfloat16}
"""Of keys and values where it is not float32: attention rounds them to it in any case."""

_PRODUCTS = {"float32": "ieee", "tf32": "tf32", "bfloat16": "tf32"}
"""Products of float32 matrices on a GPU. In bfloat16 these are the head's alone, of states that are no more exact."""


def check(dtype: str, device: torch.device) -> None:
    """Refuse what the device does not have. Raises SpecError."""
    if dtype == "tf32" and device.type == "cpu":
        raise SpecError(
            "Study.dtype: tf32 is arithmetic of GPUs and this worker has none; give float32, or Resources.gpus"
        )


@contextlib.contextmanager
def arithmetic(dtype: str, device: torch.device) -> Iterator[None]:
    """Forward passes in `dtype`."""
    with torch.autocast(device.type, torch.bfloat16, enabled=dtype == "bfloat16"), products(dtype, device):
        yield


@contextlib.contextmanager
def products(dtype: str, device: torch.device) -> Iterator[None]:
    """Products of float32 matrices as `dtype` says, whatever the process had set; afterwards that again.

    Attention on a CPU is float32 in bfloat16, see attention.py.
    """
    settings: Any = torch.backends.cuda.matmul  # CPUs have a setting of their own
    if device.type == "cpu":
        with wide_attention() if dtype == "bfloat16" else contextlib.nullcontext():
            yield
        return
    if settings.fp32_precision == _PRODUCTS[dtype]:
        yield
        return
    before = settings.fp32_precision
    settings.fp32_precision = _PRODUCTS[dtype]
    try:
        yield
    finally:
        settings.fp32_precision = before


@dataclass(frozen=True)
class Gathered:
    """In what the ranks give each other the slices of a sharded model; gradients are added up in float32."""

    blocks: MixedPrecisionPolicy = field(default_factory=MixedPrecisionPolicy)
    apart: dict[nn.Module, MixedPrecisionPolicy] = field(default_factory=dict)
    """Modules outside of the blocks that are gathered by themselves; what is left stays as it is held."""


def gathered(lm: PreTrainedModel, dtype: str) -> Gathered:
    """How `lm` is sharded for `dtype`.

    In bfloat16 the weights travel and lie in it, since autocast would make copies of gathered float32 ones and keep
    them for backward. As on one rank, the residual stream and the head are float32.
    """
    if dtype != "bfloat16":
        return Gathered()
    coarse: Any = {"param_dtype": torch.bfloat16, "reduce_dtype": torch.float32, "cast_forward_inputs": False}
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    apart = {}
    if isinstance(embedding, nn.Embedding) and isinstance(head, nn.Linear) and head.weight is not embedding.weight:
        apart = {
            embedding: MixedPrecisionPolicy(**coarse, output_dtype=torch.float32),
            head: MixedPrecisionPolicy(),
        }
    for module in lm.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = _WidenedNorm
    return Gathered(MixedPrecisionPolicy(**coarse), apart)


class _WidenedNorm(nn.LayerNorm):
    """A norm in float32 of weights that were gathered in bfloat16; on a CPU torch does not mix the two."""

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = self.weight
        bias: Any = self.bias
        weight, bias = (None if part is None else part.float() for part in (weight, bias))
        return F.layer_norm(x.float(), self.normalized_shape, weight, bias, self.eps)


def hold_frozen(root: nn.Module, head: nn.Module | None, stored: Collection[str]) -> None:
    """Hold in bfloat16 what neither learns nor loses by it: the frozen matrices of `root` that are `stored` in it.

    For arithmetic in bfloat16, which rounds them to it in any case. What comes out of an embedding is float32 again,
    since the residual stream is; for the `head` see head.py.
    """
    adapted = set() if head is None or isinstance(head, nn.Linear) else set(head.modules())
    named = dict(root.named_parameters())
    matrices = {id(named[name]) for name in stored if name in named and not named[name].requires_grad}
    for module in root.modules():
        if not isinstance(module, nn.Linear | Conv1D | nn.Embedding) or module in adapted:
            continue
        weight: Any = module.weight
        if id(weight) in matrices:
            weight.data = weight.data.to(torch.bfloat16)
            if isinstance(module, nn.Embedding):
                module.register_forward_hook(lambda _, __, found: found.float())


@contextlib.contextmanager
def widened() -> Iterator[None]:
    """Passes in float32, whatever the weights are held or gathered in: to ask what a model does, not how exactly."""
    with _Widened():
        yield


class _Widened(TorchFunctionMode):
    """Products of a float32 and a bfloat16 tensor are float32's."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _PRODUCTS_OF:
            args = tuple(
                one.float() if isinstance(one, Tensor) and one.dtype == torch.bfloat16 else one for one in args
            )
        return func(*args, **(kwargs or {}))


_PRODUCTS_OF = {F.linear, F.conv1d, torch.addmm, torch.matmul, torch.bmm, Tensor.matmul, Tensor.__matmul__}


def columns(dtype: str, device: torch.device) -> dict[str, str | None]:
    """The columns ``precision``, ``cuda`` and ``cudnn`` of every row."""
    head = ", head float32" if device.type == "cpu" else ", head tf32"
    cudnn = torch.backends.cudnn.version() if device.type == "cuda" else None
    return {
        "precision": dtype + (head if dtype == "bfloat16" else ""),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": None if cudnn is None else str(cudnn),
    }
