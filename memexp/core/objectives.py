"""What unlearning minimises, and what it remembers of the model as it was when it began.

objective = Unlearning(unlearn, remembered(lm, unlearn, rows))       # lm: as it is when unlearning begins
train(lm, optimizer, unlearn, batches, first, last, objective=objective)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.batches import Batch
from memexp.core.data import Row
from memexp.core.head import LOGIT_BYTES, OfTargets, Work
from memexp.core.model import LanguageModel, local
from memexp.core.scoring import token_nlls
from memexp.core.train import Made, add_gradients, make_step, predicted
from memexp.spec import Unlearn

__all__ = ["Before", "Unlearning", "as_before", "kept", "remembered"]


@dataclass(frozen=True)
class Before:
    """What is remembered of the model as it was; what a loss does not ask for is empty."""

    nll: Mapping[tuple[int, ...], float] = field(default_factory=dict)
    """Of the texts to be forgotten the sum over their tokens, in nats, by their token ids."""
    weights: dict[str, Tensor] = field(default_factory=dict)
    """This rank's part of what learns, by name; what the model has now while it is led back."""


def remembered(lm: LanguageModel, unlearn: Unlearn, rows: Sequence[Row]) -> Before:
    """What unlearning the texts `rows` will ask for of `lm`, which is as it is when that begins. All ranks call."""
    if unlearn.loss == "npo":
        sums = (float(each.sum(dtype=np.float64)) for each in token_nlls(lm, rows))
        return Before(nll=dict(zip(map(tuple, rows), sums, strict=True)))
    return Before(weights=kept(lm)) if unlearn.loss == "kl" else Before()


def kept(lm: LanguageModel) -> dict[str, Tensor]:
    """A copy of this rank's part of what learns, by name: where the optimizer's moments are."""
    learning = {name: local(parameter.detach()) for name, parameter in lm.learning().items()}
    return {name: held.to("cpu" if lm.offload else held.device, copy=True) for name, held in learning.items()}


@contextlib.contextmanager
def as_before(lm: LanguageModel, weights: dict[str, Tensor]) -> Iterator[None]:
    """`lm` with `weights`, without dropout and gradients; afterwards as it was, bit for bit. All ranks enter together.

    What it has learned is in their place meanwhile, so that nothing is there twice.
    """
    was = lm.training
    _exchange(lm, weights)
    lm.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        lm.train(was)
        _exchange(lm, weights)


PIECE = 1 << 20
"""Numbers of a tensor that are exchanged at a time."""


@torch.no_grad()
def _exchange(lm: LanguageModel, weights: Mapping[str, Tensor]) -> None:
    """Piece by piece, for which there is always room; where one fails all the same, nothing was exchanged."""
    done: list[tuple[Tensor, Tensor]] = []
    try:
        for name, parameter in lm.learning().items():
            for one, other in zip(_pieces(local(parameter)), _pieces(weights[name]), strict=True):
                _swap(one, other)
                done.append((one, other))
    except Exception:  # whatever it is, who tries again goes on from `weights`
        for one, other in done:
            _swap(one, other)
        raise


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """Views of it."""
    flat = tensor.reshape(1) if tensor.ndim == 0 else tensor
    return flat.split(max(1, PIECE // max(1, flat[0].numel()))) if len(flat) else ()


def _swap(one: Tensor, other: Tensor) -> None:
    held = one.clone()
    one.copy_(other)
    other.copy_(held)


class Unlearning:
    """A step of `Unlearn`, on texts to be forgotten and those to be kept behind them."""

    def __init__(self, unlearn: Unlearn, before: Before) -> None:
        self.unlearn, self.before = unlearn, before

    def __call__(self, lm: LanguageModel, optimizer: Optimizer, batch: Batch, clip_norm: float | None) -> Made:
        """As `memexp.core.train.update`; the loss is the mean NLL of what is to be forgotten."""
        end = len(batch.rows) - batch.retained
        (forgotten, tokens), (retained, more) = predicted(batch.rows[:end]), predicted(batch.rows[end:])
        if tokens == 0:
            return None, 0
        loss = self._forget(lm, forgotten, tokens)
        if more:
            self._retain(lm, retained, more)
        make_step(lm, optimizer, batch.lr, clip_norm)
        return lm.world.sum(loss), tokens + more

    def _forget(self, lm: LanguageModel, rows: Sequence[Row], tokens: int) -> float | Tensor:
        beta, known = self.unlearn.beta, self.before.nll

        def ascent(ids: Tensor, lengths: Tensor, _: Sequence[int]) -> tuple[Tensor, Tensor]:
            mean = lm.nll(ids, lengths).sum() / tokens
            return -mean, mean

        def npo(ids: Tensor, lengths: Tensor, at: Sequence[int]) -> tuple[Tensor, Tensor]:
            nll = lm.nll(ids, lengths)
            each = torch.stack([one.sum() for one in nll.split((lengths - 1).tolist())])
            gained = each - each.new_tensor([known[tuple(rows[i])] for i in at])
            return -2 / beta * F.logsigmoid(beta * gained).sum() / len(rows), nll.sum() / tokens

        return add_gradients(lm, rows, npo if self.unlearn.loss == "npo" else ascent)

    def _retain(self, lm: LanguageModel, rows: Sequence[Row], tokens: int) -> None:
        share = self.unlearn.weight / tokens

        def nll(ids: Tensor, lengths: Tensor, _: Sequence[int]) -> tuple[Tensor, Tensor]:
            found = lm.nll(ids, lengths).sum() * share
            return found, found

        def divergence(ids: Tensor, lengths: Tensor, _: Sequence[int]) -> tuple[Tensor, Tensor]:
            with as_before(lm, self.before.weights):
                logs = lm.nll(ids, lengths, _logs)
            found = lm.nll(ids, lengths, _divergence(logs)).sum() * share
            return found, found

        if self.unlearn.loss == "kl":
            add_gradients(lm, rows, divergence, _most(lm))
        else:
            add_gradients(lm, rows, nll)


def _most(lm: LanguageModel) -> int:
    """Tokens whose logits are there of two models at once."""
    width = getattr(lm.lm.get_output_embeddings(), "out_features", lm.lm.config.vocab_size)
    return max(1, min(lm.budget.group_tokens, LOGIT_BYTES // (2 * 4 * int(width))))


def _logs(_: Tensor) -> Work:
    """Log-probabilities of every next token, (rows, vocabulary)."""
    return lambda logits, at: logits.log_softmax(-1)


def _divergence(before: Tensor) -> OfTargets:
    """Of each row KL(before || now), in nats."""

    def of(_: Tensor) -> Work:
        return lambda logits, at: F.kl_div(logits.log_softmax(-1), before[at], reduction="none", log_target=True).sum(
            -1
        )

    return of
