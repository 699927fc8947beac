"""How far a model's predictions are from those of the same model in another state, over the whole vocabulary.

    for each in divergences(lm, rows, other=session_of_the_base_model):
        each.cross_entropy, each.entropy

The other state's distributions are held on the host while the model is in its own: so many texts at a time that they
take no more than `HELD`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memexp.core.data import Row
from memexp.core.head import Work, losses
from memexp.core.model import LanguageModel
from memexp.core.scoring import of_each_token

__all__ = ["Divergence", "divergences"]

HELD = 256 * 2**20
"""Bytes of distributions that are there at once, unless one text has more."""
LEAST = -1e4
"""Of a log-probability: times a probability of 0 it is 0, which it is not of minus infinity."""


@dataclass(frozen=True)
class Divergence:
    """Of one text, at every token but the first, what was predicted there; shapes (tokens,), in nats."""

    nll: NDArray[np.float64]
    """NLL of the token; NaN where the outputs are no numbers, as is all the rest."""
    other_nll: NDArray[np.float64]
    """The same in the other state."""
    cross_entropy: NDArray[np.float64]
    """-sum q log p over the vocabulary: q of the other state, p of this one."""
    entropy: NDArray[np.float64]
    """-sum q log q; the cross-entropy less this is the Kullback-Leibler divergence KL(q || p)."""


def divergences(
    lm: LanguageModel, rows: Sequence[Row], other: Callable[[], AbstractContextManager[None]]
) -> list[Divergence]:
    """What `lm` predicts at every token of every row but the first, against what it predicts in another state.

    Args:
        lm: the model; all of its ranks call with the same.
        rows: token ids of each text.
        other: a context in which the model is in the other state.

    Returns:
        One for each row, on every rank; of length 0 for rows of fewer than two tokens.
    """
    found: dict[tuple[int, ...], Divergence] = {}
    for part in _parts(rows, int(lm.lm.config.vocab_size)):
        found |= _of_part(lm, part, other)
    nothing = Divergence(*(np.empty(0) for _ in range(4)))
    return [found.get(tuple(row), nothing) for row in rows]


def _of_part(
    lm: LanguageModel, part: list[tuple[int, ...]], other: Callable[[], AbstractContextManager[None]]
) -> dict[tuple[int, ...], Divergence]:
    with other():
        kept = _asked(lm, part, lambda _: _Logs())
    own = _asked(lm, part, lambda batch: _Against(torch.from_numpy(np.concatenate([kept[row] for row in batch]))))
    found = {}
    for row in part:
        other_nll = -kept[row][np.arange(len(row) - 1), row[1:]].astype(np.float64)
        found[row] = Divergence(own[row][:, 0], other_nll, own[row][:, 1], own[row][:, 2])
    return found


def _parts(rows: Sequence[Row], vocabulary: int) -> Iterator[list[tuple[int, ...]]]:
    """Different rows, as many at a time as `HELD` allows."""
    part: list[tuple[int, ...]] = []
    size = 0
    for row in dict.fromkeys(tuple(row) for row in rows if len(row) > 1):
        own = 4 * vocabulary * (len(row) - 1)
        if part and size + own > HELD:
            yield part
            part, size = [], 0
        part.append(row)
        size += own
    if part:
        yield part


Of = Callable[[Tensor], Work]


def _asked(
    lm: LanguageModel, part: list[tuple[int, ...]], of: Callable[[list[tuple[int, ...]]], Of]
) -> dict[tuple[int, ...], NDArray[np.float64]]:
    """What `of` the rows of a batch gives, row by row."""

    def ask(ids: Tensor, lengths: Tensor) -> Tensor:
        padded, real = ids.tolist(), lengths.tolist()
        return lm.nll(ids, lengths, of([tuple(row[:length]) for row, length in zip(padded, real, strict=True)]))

    return dict(zip(part, of_each_token(lm, part, ask, None), strict=True))


@dataclass(frozen=True)
class _Logs:
    """The whole distribution: (rows, vocabulary)."""

    def __call__(self, targets: Tensor) -> Work:
        return lambda logits, at: logits.log_softmax(-1)


class _Against:
    """NLL, cross-entropy and entropy beside `logs`, the other state's: (rows, 3) in float64."""

    def __init__(self, logs: Tensor) -> None:
        self.logs = logs

    def __call__(self, targets: Tensor) -> Work:
        def work(logits: Tensor, at: slice) -> Tensor:
            nll = losses(targets)(logits, at)
            q = self.logs[at].to(logits.device).clamp(min=LEAST)
            p = logits.log_softmax(-1).clamp_(min=LEAST)
            weight = q.exp()
            each = nll, -(weight * p).sum(-1, dtype=torch.float64), -(weight * q).sum(-1, dtype=torch.float64)
            return torch.stack([one.double() for one in each], -1)

        return work
