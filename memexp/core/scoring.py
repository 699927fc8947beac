"""Log-likelihoods of given tokens, batched, on any number of ranks.

Equal to handling one text at a time (tests/core/test_scoring.py compares eight architectures): right padding is never
seen by causal attention, and each text's numbers are its own. What contexts have in common is passed through once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memexp.core.data import Row, batches_of, right_padded
from memexp.core.kv_cache import fanned_out
from memexp.core.model import LanguageModel
from memexp.core.prefixes import SharedPrefixes
from memexp.core.ranks import deal_to_ranks, idle

__all__ = ["Likelihood", "continuations", "of_each_token", "token_nlls"]


def token_nlls(lm: LanguageModel, rows: Sequence[Row]) -> list[NDArray[np.float32]]:
    """Negative log-likelihood, in nats, of every token of every row but the first.

    Args:
        lm: the model; all of its ranks call with the same rows.
        rows: token ids of each text.

    Returns:
        For each row an array of length ``len(row) - 1``, on every rank; empty for rows of fewer than two tokens.
    """
    return of_each_token(lm, rows, lm.nll, np.empty(0, np.float32))


def of_each_token(
    lm: LanguageModel, rows: Sequence[Row], ask: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], nothing: Any
) -> list[Any]:
    """What `ask` says of every token of every row but the first; it is given padded ids and lengths, as `lm.nll`.

    Returns:
        For each row an array of first dimension ``len(row) - 1``, on every rank; `nothing` for rows of fewer than two
        tokens.
    """
    # Equal rows are scored once, so that their numbers are equal to the last bit and a tie stays a tie.
    distinct = list(dict.fromkeys(tuple(row) for row in rows if len(row) > 1))
    lengths = [len(row) for row in distinct]
    batches = batches_of(lengths, lm.budget.scoring_tokens, rows=len(rows))

    def score(batch: list[int], _: int) -> list[NDArray[Any]]:
        if not batch:
            return idle(lm)
        chosen = [distinct[i] for i in batch]
        lengths = torch.tensor([len(row) for row in chosen])
        each = ask(torch.from_numpy(right_padded(chosen)), lengths).cpu().numpy()
        return np.split(each, np.cumsum([len(row) - 1 for row in chosen])[:-1])

    with lm.evaluating():
        found = {distinct[i]: each for i, each in deal_to_ranks(lm.world, batches, score)}
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

    Pairs that differ in their last token only, as the letters of a multiple choice do, cost one pass together; what
    pairs begin with, as all choices begin with their question, is passed through once where that is worth it.

    Args:
        lm: the model; all of its ranks call with the same pairs.
        pairs: token ids of context and continuation, at least one each.

    Returns:
        One for each pair, on every rank.
    """
    # What goes into the model is all but the last token; who asks what of it.
    asked: dict[tuple[int, ...], list[int]] = {}
    for i, (context, continuation) in enumerate(pairs):
        asked.setdefault((*context, *continuation[:-1]), []).append(i)
    rows = list(asked)
    # What is looked at is no part of a prefix: as many positions at the end as the longest continuation has tokens.
    most = [len(row) - max(len(pairs[i][1]) for i in asked[row]) for row in rows]
    shared = SharedPrefixes(lm, rows, most, lm.budget.prefix_cost())

    def score(batch: list[int], passes: int) -> list[list[tuple[int, Likelihood]]]:
        prefix, past = shared.of(batch), None
        if prefix is not None:
            past, made = shared.past(prefix)
            past, passes = fanned_out(past, len(batch)), passes - made
        for _ in range(passes - bool(batch) if lm.world.size > 1 else 0):  # that the other ranks of this round need
            idle(lm)
        if not batch:
            return []
        begin = len(prefix.tokens) if prefix is not None else 0
        owners = [(at, i) for at, row in enumerate(batch) for i in asked[rows[row]]]
        each = lm.ends([rows[row][begin:] for row in batch], [(at, pairs[i][1]) for at, i in owners], past)
        answers: list[list[tuple[int, Likelihood]]] = [[] for _ in batch]
        for (at, i), (logs, greedy) in zip(owners, each, strict=True):
            answers[at].append((i, Likelihood(float(logs.sum()), greedy)))
        return answers

    found: dict[int, Likelihood] = {}
    with lm.evaluating():
        for _, answers in deal_to_ranks(lm.world, _batches(lm, rows, shared), score, shared.passes):
            found.update(answers)
    return [found[i] for i in range(len(pairs))]


def _batches(lm: LanguageModel, rows: Sequence[Row], shared: SharedPrefixes) -> list[list[int]]:
    """Rows that share a prefix with others of theirs, by what each has beside it; then those that share none."""
    batches: list[list[int]] = []
    left = set(range(len(rows)))
    for prefix in shared.prefixes:
        left -= set(prefix.rows)
        longest = max(len(rows[i]) for i in prefix.rows)
        rests = [len(rows[i]) - len(prefix.tokens) for i in prefix.rows]
        # Beside what is passed through there is a block's share of keys and values at a time: less than in recall.
        dealt = batches_of(rests, lm.budget.scoring_tokens, rows=max(1, lm.budget.recall_tokens // longest))
        batches += [[prefix.rows[at] for at in batch] for batch in dealt]
    alone = sorted(left)
    dealt = batches_of([len(rows[i]) for i in alone], lm.budget.scoring_tokens, rows=len(rows))
    return batches + [[alone[at] for at in batch] for batch in dealt]
