"""What every probe stands on: log-likelihoods of given tokens and greedy completions, batched, on any number of ranks.

Equal to handling one text at a time (tests/core/test_scoring.py compares eight architectures): right padding is never
seen by causal attention, left padding is masked, and each text's numbers are its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from memexp.core.data import Row, batches_of, left_padded, right_padded
from memexp.core.kv_cache import can_drop, drop, with_room
from memexp.core.model import LanguageModel
from memexp.core.world import World

__all__ = ["Likelihood", "answer_greedily", "complete_greedily", "continuations", "end_tokens", "token_nlls"]

# Padded tokens in a batch. Small on a CPU, where larger ones fall out of the cache (8,192 was 3 times slower).
SCORING_TOKENS = {"cpu": 1_024, "cuda": 16_384}
RECALL_TOKENS = {"cpu": 6_144, "cuda": 32_768}
RECALL_ROWS = {"cpu": 96, "cuda": 512}
ANSWER_ROWS = {"cpu": 48, "cuda": 512}
"""Rows of a batch. Answers end one by one, and a batch goes on to its last: 40 to 64 were some 8 % faster than 96."""

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
        for _, answers in _on_all_ranks(lm.world, batches, score):
            found.update(answers)
    return [found[i] for i in range(len(pairs))]


def _likelihood(logs: torch.Tensor, best: torch.Tensor, tokens: Row) -> Likelihood:
    """Of `tokens`, from the log-probabilities (ends, vocabulary) and the likeliest tokens (ends,) before them."""
    wanted = torch.tensor(tokens, device=logs.device)
    each = logs[-len(tokens) :].gather(1, wanted[:, None])
    return Likelihood(float(each.double().sum()), bool((best[-len(tokens) :] == wanted).all()))


def complete_greedily(lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int]]:
    """Greedy continuation of each cue by exactly as many tokens as asked; the end-of-text token is banned throughout.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        counts: how many tokens to add to each.

    Returns:
        The new token ids for each cue, on every rank.
    """
    batches = _batches(lm, cues, counts, RECALL_ROWS[lm.world.device.type])

    def complete(batch: list[int], steps: int) -> list[list[int]]:
        needed = max(counts[i] for i in batch)
        new = _greedy_batch(lm, [cues[i] for i in batch], needed)
        for _ in range(steps - needed):  # passes that the other ranks of this round still need
            nothing = torch.zeros((1, 1), dtype=torch.long, device=lm.world.device)
            lm.next(nothing, None, nothing)
        return [row[: counts[i]] for row, i in zip(new, batch, strict=True)]

    found: list[list[int]] = [[] for _ in cues]
    with lm.evaluating():
        longest = [max(counts[i] for i in batch) for batch in batches]
        for i, new in _on_all_ranks(lm.world, batches, complete, longest):
            found[i] = new
    return found


def _batches(
    lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int], rows: int, room: int = 0
) -> list[list[int]]:
    """Which cues are continued together: those of like length, or of equal length where the model needs that.

    Args:
        lm: the model.
        cues: token ids of each.
        counts: how many tokens each may get; a cue that gets none is in no batch.
        rows: cues a batch may have.
        room: tokens that any row may have, padding included. It may always have as many as its batch's longest needs.
    """
    widths = [len(cue) + count for cue, count in zip(cues, counts, strict=True)]
    sizes = widths if lm.pads_left else list(map(len, cues))
    groups: dict[int, list[int]] = {}
    for i, count in enumerate(counts):
        if count > 0:
            groups.setdefault(0 if lm.pads_left else sizes[i], []).append(i)
    batches: list[list[int]] = []
    for _, group in sorted(groups.items()):
        for dealt in batches_of([sizes[i] for i in group], RECALL_TOKENS[lm.world.device.type], rows):
            batch = [group[at] for at in dealt]
            padded = max(len(cues[i]) for i in batch) + max(counts[i] for i in batch)
            # The longest cue with the largest count of another row may be more than the model's context holds.
            batches += [batch] if padded <= max(room, *(widths[i] for i in batch)) else [[i] for i in batch]
    return batches


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


def answer_greedily(
    lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]]
) -> list[str]:
    """Greedy continuation of each cue until it is over: by the end-of-text token, a stop string or its limit.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        limits: how many tokens each may have at most, at least 1.
        stops: the texts that end each; the answer is what stands before the first of them.

    Returns:
        The text of each continuation, on every rank.
    """
    room = sys.maxsize if lm.context is None else lm.context
    batches = _batches(lm, cues, limits, ANSWER_ROWS[lm.world.device.type], room)

    def answer(batch: list[int], _: int) -> list[str]:
        return _answer_batch(lm, [cues[i] for i in batch], [limits[i] for i in batch], [stops[i] for i in batch])

    with lm.evaluating():
        found = dict(_on_all_ranks(lm.world, batches, answer))
    return [found[i] for i in range(len(cues))]


def _answer_batch(
    lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]]
) -> list[str]:
    """The answers of one batch; ranks go on together until the last of all their batches is done."""
    device, ends = lm.world.device, set(end_tokens(lm))
    padded, real = left_padded(cues)
    ids, mask = torch.from_numpy(padded).to(device), torch.from_numpy(real).to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    is_padded = not real.all()
    new: list[list[int]] = [[] for _ in cues]
    rows = list(range(len(cues)))  # which row of the batch each row of `ids` is
    going = set(rows)
    past = None
    nothing = torch.zeros((1, 1), dtype=torch.long, device=device)
    while lm.world.any(bool(going)):
        if not going:  # a pass that other ranks need
            lm.next(nothing, None, nothing)
            continue
        logits, past_now = lm.next(ids, mask if is_padded else None, positions, past)
        if past is None:
            past_now = with_room(past_now, max(limits))
        past = past_now
        chosen = logits.argmax(-1)
        for row, token in zip(rows, chosen.tolist(), strict=True):
            if row in going:
                new[row].append(token)
                if token in ends or len(new[row]) >= limits[row] or _stopped(lm, new[row], stops[row]):
                    going.discard(row)
        if 0 < 2 * len(going) <= len(rows) and can_drop(past):
            kept = torch.tensor([at for at, row in enumerate(rows) if row in going], device=device)
            rows = [row for row in rows if row in going]
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            drop(past, kept)
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return [_before(_text(lm, tokens), stop) for tokens, stop in zip(new, stops, strict=True)]


def _text(lm: LanguageModel, tokens: Row) -> str:
    return str(lm.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _stopped(lm: LanguageModel, tokens: Row, stops: Sequence[str]) -> bool:
    """Whether a stop string is in the text. Looked for near the end first, which is cheap."""
    tail = _text(lm, tokens[-max(map(len, stops), default=0) - 2 :])  # a token has at least a byte, nearly always more
    return any(stop in tail for stop in stops) and any(stop in _text(lm, tokens) for stop in stops)


def _before(text: str, stops: Sequence[str]) -> str:
    for stop in stops:
        text = text.partition(stop)[0]
    return text


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
