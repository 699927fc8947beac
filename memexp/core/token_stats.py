"""What a model makes of every token of given texts, beside its log-likelihood: its rank, what was expected, and more.

    for each in token_stats(lm, rows, temperatures=[0.7], within=40):
        each.nll, each.rank, each.greedy, each.tempered[:, 0]

One forward pass, in the batches of `memexp.core.scoring.token_nlls`: `nll` is equal to it to the last bit.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from memexp.core.data import Row
from memexp.core.head import Work
from memexp.core.model import LanguageModel
from memexp.core.scoring import of_each_token
from memexp.errors import SpecError
from memexp.spec import TokenAsk

__all__ = ["TokenStats", "for_several", "token_stats"]

PARTS = 4
"""Of a piece of logits, one after the other: what is computed of them takes several times their memory."""
LEAST = -1e4
"""Of a log-probability: times a probability of 0 it is 0, which it is not of minus infinity."""
NUMBERS = 5
"""Of each token, whatever is asked for."""


@dataclass(frozen=True)
class TokenStats:
    """Of one text every token but the first, given those before it."""

    nll: NDArray[np.float32]
    """Negative log-likelihood in nats, shape (tokens,); NaN where the model's outputs are no numbers, and of no meaning
    there is all the rest."""
    rank: NDArray[np.int64]
    """1 for the likeliest: the number of tokens with a larger logit, and 1. Shape (tokens,)."""
    greedy: NDArray[np.bool_]
    """Whether it is the one that greedy completion takes, of several likeliest the first. Shape (tokens,)."""
    mean_log: NDArray[np.float64]
    """What log p was to be expected: the sum of p log p over the vocabulary, in nats. Shape (tokens,)."""
    variance_log: NDArray[np.float64]
    """And its variance: the sum of p log^2 p, less `mean_log` squared, in nats squared. Shape (tokens,). It is computed
    around the mean, since the difference of the two is no number of float32 where p is nearly even."""
    tempered: NDArray[np.float64]
    """Log-probability of the token at each temperature asked for, in nats, among the `within` likeliest where that was
    given: minus infinity beyond them. Shape (tokens, temperatures)."""
    top_tokens: NDArray[np.int64]
    """The likeliest tokens, the likeliest first, equally likely ones in any order. Shape (tokens, top)."""
    top_logs: NDArray[np.float64]
    """Their log-probabilities, in nats. Shape (tokens, top)."""


def token_stats(
    lm: LanguageModel, rows: Sequence[Row], temperatures: Sequence[float] = (), top: int = 0, within: int = 0
) -> list[TokenStats]:
    """What `lm` makes of every token of every row but the first.

    Args:
        lm: the model; all of its ranks call with the same.
        rows: token ids of each text. Equal ones are passed through once.
        temperatures: of a sampler, above 0.
        top: how many of the likeliest tokens to give, at most the vocabulary.
        within: how many of the likeliest tokens the sampler draws among (top-k); 0 for all.

    Returns:
        One for each row, on every rank; of length 0 for rows of fewer than two tokens.

    Raises:
        SpecError: a temperature, `top` or `within` is none.
    """
    if not all(0 < one < np.inf for one in temperatures):
        raise SpecError(f"token_stats: temperatures must be finite numbers above 0, got {list(temperatures)}")
    if min(top, within) < 0:
        raise SpecError(f"token_stats: top and within must be 0 or more, got {top} and {within}")
    of = _Stats(tuple(map(float, temperatures)), top, within)
    nothing = np.empty((0, NUMBERS + len(of.temperatures) + 2 * top))
    found = of_each_token(lm, rows, lambda ids, lengths: lm.nll(ids, lengths, of), nothing)
    return [of.read(each) for each in found]


def for_several(lm: LanguageModel, rows: Sequence[Row], asks: Collection[TokenAsk]) -> dict[TokenAsk, list[TokenStats]]:
    """`token_stats` of several asks in one pass, each equal to by itself to the last bit."""
    by_sampler: dict[int, dict[float, None]] = {}
    for ask in asks:
        by_sampler.setdefault(ask.within if ask.temperatures else -1, {}).update(dict.fromkeys(ask.temperatures))
    anyone = by_sampler.pop(-1, {})  # asks for no sampler, and is content with what any other gets
    each = [_Stats(tuple(temperatures), 0, within) for within, temperatures in (by_sampler or {0: anyone}).items()]
    of = _Several(tuple(each))
    widths = [NUMBERS + len(one.temperatures) for one in each]
    found = of_each_token(lm, rows, lambda ids, lengths: lm.nll(ids, lengths, of), np.empty((0, sum(widths))))
    parts = [np.split(numbers, np.cumsum(widths)[:-1], axis=1) for numbers in found]
    told = {}
    for ask in asks:
        at = next(i for i, one in enumerate(each) if one.within == ask.within or not ask.temperatures)
        columns = [each[at].temperatures.index(one) for one in ask.temperatures]
        stats = [each[at].read(part[at]) for part in parts]
        told[ask] = [replace(one, tempered=one.tempered[:, columns]) for one in stats]
    return told


@dataclass(frozen=True)
class _Stats:
    """What is asked of logits; equal ones may be asked of several lanes together."""

    temperatures: tuple[float, ...]
    top: int
    within: int

    def __call__(self, targets: Tensor) -> Work:
        """Of each row all numbers, side by side: (rows, numbers) in float64, which holds a token's id as well."""

        def work(logits: Tensor, at: slice) -> Tensor:
            size = max(1, -(-len(logits) // PARTS))
            parts = zip(logits.split(size), targets[at].split(size), strict=True)
            return torch.cat([self._of(*part) for part in parts])

        return work

    def _of(self, logits: Tensor, targets: Tensor) -> Tensor:
        rank = (logits > logits.gather(-1, targets[:, None])).count_nonzero(-1) + 1
        greedy = logits.argmax(-1) == targets
        logs = logits.log_softmax(-1)
        nll = -logs.gather(-1, targets[:, None])[:, 0]  # as cross_entropy has it, to the last bit
        logs.clamp_(min=LEAST)
        tempered = self._tempered(logs, nll, rank)
        likeliest = logs.topk(min(self.top, logs.shape[1]))
        p = logs.exp()
        mean = (p * logs).sum(-1)
        variance = logs.sub_(mean[:, None]).square_().mul_(p).sum(-1)
        each = [one.double() for one in (nll, rank, greedy, mean, variance)]
        return torch.cat([torch.stack(each, -1), tempered, likeliest.indices.double(), likeliest.values.double()], -1)

    def _tempered(self, logs: Tensor, nll: Tensor, rank: Tensor) -> Tensor:
        """(rows, temperatures), in float64."""
        found = nll.new_empty((len(nll), len(self.temperatures)), dtype=torch.float64)
        if not self.temperatures:
            return found
        if not 0 < self.within < logs.shape[1]:
            for column, temperature in enumerate(self.temperatures):
                found[:, column] = -nll.double() / temperature - (logs / temperature).logsumexp(-1)
            return found
        # What is not among the likeliest needs none of them; but to look which these are is to wait for a GPU.
        some = slice(None) if logs.is_cuda else (rank <= self.within).nonzero()[:, 0]
        kept = logs[some].topk(self.within).values.double()
        for column, temperature in enumerate(self.temperatures):
            own = -nll[some].double() / temperature - (kept / temperature).logsumexp(-1)
            found[:, column] = -torch.inf
            found[some, column] = own.masked_fill(rank[some] > self.within, -torch.inf)
        return found

    def read(self, numbers: NDArray[np.float64]) -> TokenStats:
        """Apart again."""
        nll, rank, greedy, mean, variance = numbers[:, :NUMBERS].T
        first = NUMBERS + len(self.temperatures)
        top = (numbers.shape[1] - first) // 2
        return TokenStats(
            nll.astype(np.float32),
            rank.astype(np.int64),
            greedy.astype(np.bool_),
            mean.copy(),
            variance.copy(),
            numbers[:, NUMBERS:first].copy(),
            numbers[:, first : first + top].astype(np.int64),
            numbers[:, first + top :].copy(),
        )


@dataclass(frozen=True)
class _Several:
    """Several of them, of the same logits."""

    each: tuple[_Stats, ...]

    def __call__(self, targets: Tensor) -> Work:
        """Of each row all numbers of all, side by side."""
        works = [of(targets) for of in self.each]
        return lambda logits, at: torch.cat([work(logits, at) for work in works], -1)
