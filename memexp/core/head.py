"""The output embedding of a model: logits in float32, and never many of them at once.

A vocabulary of 128,000 makes half a megabyte of logits a token. Whatever is asked of them is asked piece by piece, and
training computes a piece anew when its gradient is due. A model that does more than its head with them (Gemma 2 caps
them) makes all of a batch at once.

    nll = over(lm, hidden, losses(targets))
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

__all__ = ["LOGIT_BYTES", "OfTargets", "Work", "float32_logits", "likeliest", "likelihoods", "losses", "over"]

LOGIT_BYTES = 256 * 2**20
"""Of logits that are there at once, in one piece; a loss and its gradient need as much again, each."""
SLAB_BYTES = 64 * 2**20
"""Of a head held in bfloat16 that are there in float32 at once."""

Work = Callable[[Tensor, slice], Any]
"""Takes the logits (rows, vocabulary) of some rows, and which rows these are; gives a tensor, or a tuple of them, that
goes on with what it gives of the next."""
OfTargets = Callable[[Tensor], Work]
"""Takes the token that each row is asked about, (rows,), as `losses` does."""


def over(lm: PreTrainedModel, hidden: Tensor, work: Work) -> Any:
    """`work` on the logits of the rows of `hidden`, for a model whose logits are its head's and nothing more."""
    head: Any = lm.get_output_embeddings()
    rows = max(1, LOGIT_BYTES // (4 * int(getattr(head, "out_features", lm.config.vocab_size))))
    with _as(head, lambda plain: lambda hidden: _in_pieces(head, plain, hidden, work, rows)):
        # One call, whatever the number of pieces: sharding gathers the weights before it.
        return head(hidden)


def losses(targets: Tensor) -> Work:
    """Of each row the negative log-likelihood of its target, in nats."""
    return lambda logits, at: F.cross_entropy(logits, targets[at], reduction="none")


def likelihoods(of: Tensor, wanted: Tensor, sorted_of: NDArray[np.int64]) -> Work:
    """Of each token of `wanted` its log-likelihood in the row `of`, and 1 where it is the likeliest: (tokens, 2).

    `sorted_of`: `of` on the CPU, in ascending order.
    """

    def work(logits: Tensor, at: slice) -> Tensor:
        first, last = (int(i) for i in np.searchsorted(sorted_of, [at.start, at.stop]))
        mine, tokens = of[first:last] - at.start, wanted[first:last]
        greedy = logits.argmax(-1)[mine] == tokens
        return torch.stack([logits.log_softmax(-1)[mine, tokens].double(), greedy.double()], dim=-1)

    return work


def likeliest(banned: Collection[int]) -> Work:
    """Of each row the likeliest token that is not `banned`, and whether its logit is a finite number."""

    def work(logits: Tensor, _: slice) -> tuple[Tensor, Tensor]:
        for token in banned:
            if 0 <= token < logits.shape[1]:  # some configs keep an id beyond a vocabulary that was made smaller
                logits[:, token] = -torch.inf
        chosen = logits.argmax(-1)
        return chosen, logits.gather(1, chosen[:, None])[:, 0].isfinite()  # among others a NaN counts as the largest

    return work


@contextlib.contextmanager
def float32_logits(lm: PreTrainedModel) -> Iterator[None]:
    """Passes of `lm` itself compute its logits outside of autocast."""
    head: Any = lm.get_output_embeddings()
    if head is None:
        yield
        return
    with _as(head, lambda plain: lambda hidden: _logits(head, plain, hidden)):
        yield


@contextlib.contextmanager
def _as(head: nn.Module, make: Callable[[Any], Any]) -> Iterator[None]:
    """With another `forward` of the head, made of its own."""
    head.forward = make(head.forward)
    try:
        yield
    finally:
        del head.forward  # what hides the class's own


def _in_pieces(head: nn.Module, plain: Any, hidden: Tensor, work: Work, rows: int) -> Any:
    # Of a head that several lanes learn, each has its own for its own rows.
    parts: Any = getattr(head, "parts", None)
    lanes = {"of": parts()} if parts is not None else {}

    def piece(hidden: Tensor, at: slice) -> Any:
        own = functools.partial(plain, at=at, **lanes) if lanes else plain
        return work(_logits(head, own, hidden).float(), at)

    starts = range(0, len(hidden), rows)
    if len(starts) <= 1:
        return piece(hidden, slice(0, len(hidden)))
    found = []
    for start in starts:
        at = slice(start, min(start + rows, len(hidden)))
        if torch.is_grad_enabled():
            # Draws are kept for an adapter of the head that drops some: to look at them has a GPU waited for.
            draws = any(isinstance(module, nn.Dropout) and module.p > 0 for module in head.modules())
            found.append(checkpoint(piece, hidden[at], at, use_reentrant=False, preserve_rng_state=draws))
        else:
            found.append(piece(hidden[at], at))
    return tuple(map(torch.cat, zip(*found, strict=True))) if isinstance(found[0], tuple) else torch.cat(found)


def _logits(head: nn.Module, plain: Any, hidden: Tensor) -> Any:
    """Outside of autocast: at logits of 64 to 128 bfloat16 has steps of one half, and ties."""
    if not torch.is_autocast_enabled(hidden.device.type):
        return plain(hidden)
    with torch.autocast(hidden.device.type, enabled=False):
        weight: Any = getattr(head, "weight", None)
        if isinstance(head, nn.Linear) and weight.dtype == torch.bfloat16:
            logits: Any = _Widened.apply(hidden.float(), weight)  # type: ignore[no-untyped-call] # torch's own
            return logits if head.bias is None else logits + head.bias.float()
        return plain(hidden.float())


class _Widened(torch.autograd.Function):
    """`F.linear` in float32 with a frozen weight that is held in bfloat16, of which no copy is kept."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return torch.cat([F.linear(hidden, slab.float()) for slab in _slabs(weight)], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None]:
        (weight,) = ctx.saved_tensors
        of_hidden, at = grads[0].new_zeros((*grads[0].shape[:-1], weight.shape[1])), 0
        for slab in _slabs(weight):
            of_hidden += grads[0][..., at : at + len(slab)] @ slab.float()
            at += len(slab)
        return of_hidden, None


def _slabs(weight: Tensor) -> tuple[Tensor, ...]:
    slabs: tuple[Tensor, ...] = weight.split(max(1, SLAB_BYTES // (4 * weight.shape[1])))
    return slabs
