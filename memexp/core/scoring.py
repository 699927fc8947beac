"""What every probe stands on: log-likelihoods of given texts and greedy completions, batched, on any number of ranks.

Equal to handling one text at a time (tests/core/test_scoring.py compares eight architectures): right padding is never
seen by causal attention, left padding is masked, and each text's numbers are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from memexp.core.data import Row, batches_of, left_padded, right_padded
from memexp.core.kv import with_room
from memexp.core.model import LanguageModel
from memexp.core.world import World

__all__ = ["complete_greedily", "end_tokens", "token_nlls"]

# Padded tokens in a batch. Small on a CPU, where larger ones fall out of the cache (8,192 was 3 times slower).
SCORING_TOKENS = {"cpu": 1_024, "cuda": 16_384}
RECALL_TOKENS = {"cpu": 6_144, "cuda": 32_768}
RECALL_ROWS = {"cpu": 96, "cuda": 512}

R = TypeVar("R")


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
        found = {distinct[i]: nll for i, nll in _on_all_ranks(lm.world, batches, score)}
    nothing = np.empty(0, np.float32)
    return [found.get(tuple(row), nothing) for row in rows]


def complete_greedily(lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
    """Greedy continuation of each cue by exactly as many tokens as asked; the end-of-text token is banned throughout.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        counts: how many tokens to add to each.

    Returns:
        The new token ids for each cue, on every rank.
    """
    device = lm.world.device.type
    rows = RECALL_ROWS[device]
    order = [i for i, count in enumerate(counts) if count > 0]
    widths = [len(cues[i]) + counts[i] for i in order]
    batches: list[list[int]] = []
    if not lm.pads_left:
        by_cue: dict[int, list[int]] = {}
        for i, index in enumerate(order):
            by_cue.setdefault(len(cues[index]), []).append(i)
        batches = [group[at : at + rows] for _, group in sorted(by_cue.items()) for at in range(0, len(group), rows)]
    for batch in batches_of(widths, RECALL_TOKENS[device], rows) if lm.pads_left else []:
        padded = max(len(cues[order[i]]) for i in batch) + max(counts[order[i]] for i in batch)
        # The longest cue with the largest count of another row may be more than the model's context holds.
        batches += [batch] if padded <= max(widths[i] for i in batch) else [[i] for i in batch]

    def complete(batch: list[int], steps: int) -> list[list[int]]:
        chosen = [order[i] for i in batch]
        needed = max(counts[i] for i in chosen)
        new = _greedy_batch(lm, [cues[i] for i in chosen], needed)
        for _ in range(steps - needed):  # passes that the other ranks of this round still need
            nothing = torch.zeros((1, 1), dtype=torch.long, device=lm.world.device)
            lm.next(nothing, None, nothing)
        return [row[: counts[i]] for row, i in zip(new, chosen, strict=True)]

    found: list[list[int]] = [[] for _ in cues]
    with lm.evaluating():
        longest = [max(counts[order[i]] for i in batch) for batch in batches]
        for i, new in _on_all_ranks(lm.world, batches, complete, longest):
            found[order[i]] = new
    return found


def _greedy_batch(lm: LanguageModel, cues: Sequence[Row], steps: int) -> list[list[int]]:
    """`steps` greedy tokens after every cue, with a key-value cache over left-padded cues."""
    device = lm.world.device
    padded, real = left_padded(cues)
    ids, mask = torch.from_numpy(padded).to(device), torch.from_numpy(real).to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    is_padded = not real.all()
    banned = end_tokens(lm)
    past = None
    new: list[torch.Tensor] = []
    for step in range(steps):
        logits, past = lm.next(ids, mask if is_padded else None, positions, past)
        # Some configs keep an id beyond a vocabulary that was made smaller.
        logits[:, [i for i in banned if 0 <= i < logits.shape[1]]] = -torch.inf
        chosen = logits.argmax(-1)
        new.append(chosen)
        if step == 0:
            past = with_room(past, steps)
        if step + 1 < steps:
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
    rows: list[list[int]] = torch.stack(new, dim=1).tolist()
    return rows


def end_tokens(lm: LanguageModel) -> list[int]:
    """The ids that would end a text: the generation config's, else the model's, else the tokenizer's."""
    for source in (lm.lm.generation_config, lm.lm.config, lm.tokenizer):
        ends = getattr(source, "eos_token_id", None)
        if ends is not None:
            return [int(i) for i in (ends if isinstance(ends, list | tuple) else [ends])]
    return []


def _on_all_ranks(
    world: World,
    batches: Sequence[list[int]],
    work: Callable[[list[int], int], Sequence[R]],
    sizes: Sequence[int] | None = None,
) -> list[tuple[int, R]]:
    """Deal `batches` to the ranks in rounds and collect (item, result) of all of them, on every rank.

    Every rank works in every round, since sharded models need all ranks for every pass: one left without a batch
    repeats the first and throws the result away. `sizes` (steps of a batch) is evened out to the round's largest.
    """
    mine: list[tuple[int, R]] = []
    for start in range(0, len(batches), world.size):
        turn = range(start, min(start + world.size, len(batches)))
        size = max(sizes[i] for i in turn) if sizes is not None else 0
        at = start + world.rank
        results = work(batches[at if at in turn else start], size)
        if at in turn:
            mine += zip(batches[at], results, strict=True)
    return [pair for part in world.gather(mine) for pair in part]
