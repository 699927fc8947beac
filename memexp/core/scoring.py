"""Log-likelihoods of given tokens, batched, on any number of ranks.

Equal to handling one text at a time (tests/core/test_scoring.py compares eight architectures): right padding is never
seen by causal attention, and each text's numbers are its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memexp.core.batch_sizes import SCORING_TOKENS
from memexp.core.data import Row, batches_of, right_padded
from memexp.core.model import LanguageModel
from memexp.core.ranks import deal_to_ranks

__all__ = ["Likelihood", "continuations", "token_nlls"]


def token_nlls(lm: LanguageModel, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
    """Negative log-likelihood, in nats, of every token of every row but the first.

    Args:
        lm: the model; all of its ranks call with the same rows.
        rows: token ids of each text.

    Returns:
        For each row an array of length ``len(row) - 1``, on every rank; empty for rows of fewer than two tokens.
    """
    # Equal rows are scored once, so that their numbers are equal to the last bit and a tie stays a tie.
    distinct = list(dict.fromkeys(tuple(row) for row in rows if len(row) > 1))
    lengths = [len(row) for row in distinct]
    batches = batches_of(lengths, SCORING_TOKENS[lm.world.device.type], rows=len(rows))

    def score(batch: list[int], _: int) -> list[NDArray[np.float32]]:
        chosen = [distinct[i] for i in batch]
        device = lm.world.device
        ids = torch.from_numpy(right_padded(chosen)).to(device)
        counts = torch.tensor([len(row) for row in chosen], device=device)
        nll = lm.nll(ids, counts).cpu().numpy()
        return np.split(nll, np.cumsum([len(row) - 1 for row in chosen])[:-1])

    with lm.evaluating():
        found = {distinct[i]: nll for i, nll in deal_to_ranks(lm.world, batches, score)}
    nothing = np.empty(0, np.float32)
    return [found.get(tuple(row), nothing) for row in rows]


@dataclass(frozen=True)
class Likelihood:
    """How likely a continuation is after its context."""

    log_likelihood: float
    """Sum over its tokens, in nats."""
    greedy: bool
    """Whether greedy completion of the context gives it."""


def continuations(lm: LanguageModel, pairs: Sequence[tuple[Row, Row]]) -> list[Likelihood]:
    """Log-likelihood of continuations after their contexts.

    Pairs that differ in their last token only, as the letters of a multiple choice do, cost one pass together.

    Args:
        lm: the model; all of its ranks call with the same pairs.
        pairs: token ids of context and continuation, at least one each.

    Returns:
        One for each pair, on every rank.
    """
    # What goes into the model is all but the last token; who asks what of it, and how many of its ends are needed.
    asked: dict[tuple[int, ...], list[int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        asked.setdefault((*context, *continuation[:-1]), []).append(i)
    rows = list(asked)
    ends = [max(len(pairs[i][1]) for i in asked[row]) for row in rows]
    batches = batches_of(list(map(len, rows)), SCORING_TOKENS[lm.world.device.type], rows=len(rows))

    def score(batch: list[int], _: int) -> list[list[tuple[int, Likelihood]]]:
        device = lm.world.device
        ids = torch.from_numpy(right_padded([rows[i] for i in batch])).to(device)
        lengths, counts = (
            torch.tensor([size[i] for i in batch], device=device) for size in (list(map(len, rows)), ends)
        )
        logits = lm.ends(ids, lengths, counts)
        per_row = zip(
            logits.log_softmax(-1).split(counts.tolist()), logits.argmax(-1).split(counts.tolist()), strict=True
        )
        return [
            [(i, _likelihood(logs, best, pairs[i][1])) for i in asked[rows[row]]]
            for row, (logs, best) in zip(batch, per_row, strict=True)
        ]

    found: dict[int, Likelihood] = {}
    with lm.evaluating():
        for _, answers in deal_to_ranks(lm.world, batches, score):
            found.update(answers)
    return [found[i] for i in range(len(pairs))]


def _likelihood(logs: torch.Tensor, best: torch.Tensor, tokens: Row) -> Likelihood:
    """Of `tokens`, from the log-probabilities (ends, vocabulary) and the likeliest tokens (ends,) before them."""
    wanted = torch.tensor(tokens, device=logs.device)
    each = logs[-len(tokens) :].gather(1, wanted[:, None])
    return Likelihood(float(each.double().sum()), bool((best[-len(tokens) :] == wanted).all()))
