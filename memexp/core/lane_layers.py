"""Layers that learn, for the rows of several lanes in one pass: each lane's rows meet that lane's weights.

seats = Seats()
by_lane(lm, seats)                   # in place: layers whose weights are stacked, (lanes, *shape) instead of (*shape)
with seats.taken([0, 2, 3]):         # the rows of a pass are theirs, as many of each, lane after lane
    lm(input_ids=ids)

All that does not learn is left as it is: the base's products are made over the rows of all lanes.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.pytorch_utils import Conv1D

from memexp.errors import ModelError

__all__ = ["Seats", "by_lane"]


class Seats:
    """Whose rows a pass is made of."""

    def __init__(self) -> None:
        self.lanes: Sequence[int] = ()
        """The lanes of the pass, in the order of their rows."""
        self.rows = 0
        """Rows of the pass."""
        self.asked: Sequence[int] = ()
        """Of each lane how many positions the head is asked about."""

    @contextlib.contextmanager
    def taken(self, lanes: Sequence[int]) -> Iterator[None]:
        """Passes are of these lanes meanwhile, backward ones included."""
        before, self.lanes = self.lanes, lanes
        try:
            yield
        finally:
            self.lanes = before

    def weights(self, stacked: Tensor) -> Tensor:
        """What `stacked` (all lanes, ...) holds for the lanes of the pass: (lanes, ...), of neighbours no copy."""
        first, count = self.lanes[0], len(self.lanes)
        if list(self.lanes) == list(range(first, first + count)):
            return stacked[first : first + count]
        return stacked[list(self.lanes)]

    def split(self, x: Tensor) -> Tensor:
        """(rows of all lanes, ..., width) as (lanes, rest, width)."""
        return x.reshape(len(self.lanes), -1, x.shape[-1])

    def of_rows(self, at: slice) -> Iterator[tuple[int, slice]]:
        """Of a piece `at` of the positions that the head is asked about: which lane, and its part of the piece."""
        end = 0
        for lane, count in enumerate(self.asked):
            start, end = end, end + count
            first, last = max(start, at.start), min(end, at.stop)
            if first < last:
                yield lane, slice(first - at.start, last - at.start)


def by_lane(lm: nn.Module, head: nn.Module | None, seats: Seats, stacked: set[int]) -> None:
    """Have the layers of `lm` whose parameters are among `stacked` (their `id`) compute lane by lane, in place.

    Raises ModelError where a parameter belongs to no layer that can.
    """
    for path, module in list(lm.named_modules()):
        own = dict(module.named_parameters(recurse=False))
        learns = [name for name, parameter in own.items() if id(parameter) in stacked]
        if not learns:
            continue
        if isinstance(module, nn.ParameterDict | nn.ParameterList) or len(learns) < len(own):
            raise ModelError(f"{path}: {type(module).__name__} cannot compute for several lanes")
        kind = type(module)
        vars(module)["seats"] = seats
        if issubclass(kind, nn.Linear) and _computes_as(kind, nn.Linear):
            module.__class__ = _Linear
            vars(module)["parts"] = partial(_parts, module) if module is head else None
        elif issubclass(kind, Conv1D) and _computes_as(kind, Conv1D):
            module.__class__ = _Conv1D
        elif kind is nn.Embedding:
            module.__class__ = _Embedding
        elif kind is nn.LayerNorm:
            module.__class__ = _LayerNorm
        else:
            vars(module)["forward"] = _Each(module, seats)


def _computes_as(kind: type[nn.Module], plain: type[nn.Module]) -> bool:
    """Whether a class computes what `plain` does: itself, or one of matmul.py's, which multiply faster."""
    return kind is plain or kind.__module__ == "memexp.core.matmul"


Parts: TypeAlias = tuple[Sequence[Tensor], Sequence[Tensor | None]]
"""Weights (out, in) and biases (out,), lane by lane."""


class _Linear(nn.Linear):
    """`nn.Linear` with weights (lanes, out, in) and biases (lanes, out)."""

    seats: Seats
    parts: Callable[[], Parts] | None
    """Where it is the head, its weights for all pieces of a pass. Taken for each, the gradient of a piece would be as
    large as all lanes' weights."""

    def forward(self, x: Tensor, at: slice | None = None, of: Parts | None = None) -> Tensor:
        """Where it is the head, `at`: which of the positions that it is asked about the rows of `x` are, and `of`: its
        `parts`."""
        if at is None or of is None:
            return _product(self, x, self.weight.transpose(1, 2))
        weights, biases = of
        return torch.cat([F.linear(x[rows], weights[lane], biases[lane]) for lane, rows in self.seats.of_rows(at)])


def _parts(layer: Any) -> Parts:
    weights = layer.seats.weights(layer.weight).unbind(0)
    return weights, [None] * len(weights) if layer.bias is None else layer.seats.weights(layer.bias).unbind(0)


class _Conv1D(Conv1D):
    """GPT-2's kind, with weights (lanes, in, out)."""

    seats: Seats

    def forward(self, x: Tensor) -> Tensor:
        return _product(self, x, self.weight)


def _product(layer: Any, x: Tensor, weight: Tensor) -> Tensor:
    """`x` (rows, ..., in) times each lane's `weight` (all lanes, in, out)."""
    seats: Seats = layer.seats
    weight = seats.weights(weight)
    bias = None if layer.bias is None else seats.weights(layer.bias)
    parts = seats.split(x)
    found = torch.bmm(parts, weight) if bias is None else torch.baddbmm(bias[:, None], parts, weight)
    return found.view(*x.shape[:-1], weight.shape[-1])


class _Embedding(nn.Embedding):
    """`nn.Embedding` with weights (lanes, number, width)."""

    seats: Seats

    def forward(self, ids: Tensor) -> Tensor:
        if len(ids) != self.seats.rows:  # positions, the same for all rows
            ids = ids.expand(self.seats.rows, *ids.shape[1:])
        # One by one: the gradient of a part taken by index would be as large as all lanes' weights, for every lane.
        weights = self.seats.weights(self.weight).unbind(0)
        parts = ids.chunk(len(weights))
        return torch.cat([F.embedding(part, weight) for part, weight in zip(parts, weights, strict=True)])


class _LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` with weights and biases (lanes, width)."""

    seats: Seats

    def forward(self, x: Tensor) -> Tensor:
        bias: Any = self.bias
        weight = self.seats.weights(self.weight)[:, None]
        bias = None if bias is None else self.seats.weights(bias)[:, None]
        found: Tensor = _Normed.apply(self.seats.split(x).float(), weight, bias, self.eps)  # type: ignore[no-untyped-call] # torch's own
        return found.view(x.shape)


class _Normed(torch.autograd.Function):
    """Layer normalisation of each lane; for backward it keeps what torch's own does, and not what is normed as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
        """`x` (lanes, rest, width), the others (lanes, 1, width)."""
        normed, mean, scale = torch.native_layer_norm(x, x.shape[-1:], None, None, eps)
        ctx.save_for_backward(x, mean, scale, weight)
        ctx.biased = bias is not None
        return normed * weight if bias is None else torch.addcmul(bias, normed, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, scale, weight = ctx.saved_tensors
        of_weight = (x - mean).mul_(scale).mul_(given).sum(1, keepdim=True)
        of_bias = given.sum(1, keepdim=True) if ctx.biased else None
        of_x, *_ = torch.ops.aten.native_layer_norm_backward(
            given * weight, x, x.shape[-1:], mean, scale, None, None, (True, False, False)
        )
        return of_x, of_weight, of_bias, None


class _Each:
    """Any other layer: as it computes with weights of one lane, over all lanes (torch.func.vmap)."""

    def __init__(self, layer: nn.Module, seats: Seats) -> None:
        self.seats, self.plain = seats, copy.copy(layer)  # which still computes as its class does

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        weights = {name: self.seats.weights(held) for name, held in self.plain.named_parameters(recurse=False)}
        lanes, rows = len(self.seats.lanes), self.seats.rows

        def parted(given: Any) -> Any:
            if not isinstance(given, Tensor) or given.ndim == 0 or len(given) % lanes:
                return given
            return given.view(lanes, -1, *given.shape[1:])

        def one(weights: dict[str, Tensor], args: Any, kwargs: Any) -> Any:
            return torch.func.functional_call(self.plain, weights, args, kwargs)

        args = tuple(_widened(parted, given, rows) for given in args)
        kwargs = {name: _widened(parted, given, rows) for name, given in kwargs.items()}
        axes = tuple(0 if isinstance(given, Tensor) and given.ndim > 0 else None for given in args)
        named = {name: 0 if isinstance(given, Tensor) and given.ndim > 0 else None for name, given in kwargs.items()}
        found: Any = torch.func.vmap(one, in_dims=(0, axes, named))(weights, args, kwargs)
        return found.flatten(0, 1)


def _widened(parted: Callable[[Any], Any], given: Any, rows: int) -> Any:
    """An argument by lanes; one that is the same for all rows is given to each row."""
    if isinstance(given, Tensor) and given.ndim > 0 and len(given) == 1 and rows > 1:
        given = given.expand(rows, *given.shape[1:]).contiguous()
    return parted(given)
