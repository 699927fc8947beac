"""Greedy completions, batched, on any number of ranks.

Equal to completing one text at a time (tests/core/test_scoring.py compares eight architectures): left padding is
masked, and where a model would see it all the same, only cues of equal length are completed together. Keys and values
of what questions begin with alike are computed once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from memexp.core.copies import to_device
from memexp.core.data import Row, batches_of, left_padded
from memexp.core.kv_cache import begun, can_drop, drop, preallocate
from memexp.core.model import LanguageModel
from memexp.core.precision import CACHES
from memexp.core.prefixes import SharedPrefixes
from memexp.core.ranks import deal_to_ranks, idle

__all__ = ["answer_batch", "answer_greedily", "complete_greedily", "greedy_batch"]

UNSOUND = -1
"""Instead of a token that was chosen among logits that are no finite numbers."""


def complete_greedily(lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int] | None]:
    """Greedy continuation of each cue by exactly as many tokens as asked; the end-of-text token is banned throughout.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        counts: how many tokens to add to each.

    Returns:
        The new token ids for each cue, on every rank; None where the model's logits were not finite numbers.
    """
    batches = _batches(lm, cues, counts, lm.budget.recall_rows)

    def complete(batch: list[int], steps: int) -> list[list[int] | None]:
        order = sorted(batch, key=lambda i: -counts[i])
        new = greedy_batch(lm, [cues[i] for i in order], [counts[i] for i in order]) if batch else []
        needed = longest(batch) if batch else 0
        for _ in range(steps - needed):  # passes that the other ranks of this round still need
            idle(lm)
        completed = dict(zip(order, new, strict=True))
        return [completed[i] for i in batch]

    def longest(batch: list[int]) -> int:
        return max(counts[i] for i in batch)

    found: list[list[int] | None] = [[] for _ in cues]
    with lm.evaluating():
        for i, new in deal_to_ranks(lm.world, batches, complete, longest):
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
        for dealt in batches_of([sizes[i] for i in group], lm.budget.recall_tokens, rows):
            batch = [group[at] for at in dealt]
            padded = max(len(cues[i]) for i in batch) + max(counts[i] for i in batch)
            # The longest cue with the largest count of another row may be more than the model's context holds.
            batches += [batch] if padded <= max(room, *(widths[i] for i in batch)) else [[i] for i in batch]
    return batches


def greedy_batch(lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int] | None]:
    """`counts` greedy tokens after every cue, the largest first, with a key-value cache over left-padded cues.

    A row that has its tokens is left out of what follows: the rows that go on are always the first ones, of which the
    cache is a view. None where a logit was no finite number.
    """
    if lm.company is not None:
        return lm.company.greedy(cues, counts)
    ids, mask, positions, is_padded = _left_padded(lm, cues)
    past, steps = None, max(counts)  # of several lanes the largest need not be the first
    new: list[torch.Tensor] = []
    for step in range(steps):
        (chosen, finite), past = lm.choose(ids, mask if is_padded else None, positions, past, lm.end_tokens)
        new.append(F.pad(torch.where(finite, chosen, UNSOUND), (0, len(cues) - len(chosen)), value=UNSOUND))
        if step == 0:
            past = preallocate(past, steps, CACHES.get(lm.dtype))
        if step + 1 < steps:
            going = sum(count > step + 1 for count in counts)
            if going < len(chosen) and lm.drops_rows and can_drop(past):
                chosen, mask, positions = chosen[:going], mask[:going], positions[:going]
                drop(past, slice(going))
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
    completed = [row[:count] for row, count in zip(torch.stack(new, dim=1).tolist(), counts, strict=True)]
    return [None if UNSOUND in row else row for row in completed]


def _left_padded(lm: LanguageModel, cues: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, bool]:
    """Token ids, their mask and positions where the model computes, and whether anything is padded."""
    padded, real = left_padded(cues)
    positions = (real.cumsum(1) - 1).clip(min=0)
    ids, mask, at = to_device(lm.world.device, padded, real, positions)
    return ids, mask, at, not real.all()


def answer_greedily(
    lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]]
) -> list[str | None]:
    """Greedy continuation of each cue until it is over: by the end-of-text token, a stop string or its limit.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        limits: how many tokens each may have at most, at least 1.
        stops: the texts that end each; the answer is what stands before the first of them.

    Returns:
        The text of each continuation, on every rank; None where the model's logits were not finite numbers.
    """
    # Equal questions are answered once; off float32 others beside them could have other answers.
    asked = [(tuple(c), limit, tuple(s)) for c, limit, s in zip(cues, limits, stops, strict=True)]
    distinct = list(dict.fromkeys(asked)) if lm.dtype == "float32" else asked
    shared = _shared(lm, [cue for cue, *_ in distinct], [limit for _, limit, _ in distinct])

    def answer(batch: list[int], _: int) -> list[str | None]:
        while not batch and lm.world.any(False):
            idle(lm)
        chosen, most, until = zip(*(distinct[i] for i in batch), strict=True) if batch else ((), (), ())
        return answer_batch(lm, chosen, most, until, _begun(lm, shared, batch, chosen, max(most))) if batch else []

    batches = _answer_batches(lm, [cue for cue, *_ in distinct], [limit for _, limit, _ in distinct], shared)
    with lm.evaluating():
        found = dict(deal_to_ranks(lm.world, batches, answer))
    if distinct is asked:
        return [found[i] for i in range(len(cues))]
    answers = {one: found[i] for i, one in enumerate(distinct)}
    return [answers[one] for one in asked]


def _shared(lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int]) -> SharedPrefixes:
    """What cues begin with alike: never all of one, since the next token is predicted from a cue's own last."""
    most = [len(cue) - 1 if lm.pads_left else 0 for cue in cues]
    return SharedPrefixes(lm, cues, most, lm.budget.prefix_cost(max(limits, default=0)))


def _answer_batches(
    lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int], shared: SharedPrefixes
) -> list[list[int]]:
    """Batches of those that share a prefix, one prefix after the other; then of those that share none."""
    room = sys.maxsize if lm.context is None else lm.context
    together = [list(prefix.rows) for prefix in shared.prefixes]
    together.append(sorted(set(range(len(cues))).difference(*together)))
    return [
        [group[at] for at in batch]
        for group in together
        for batch in _batches(lm, [cues[i] for i in group], [limits[i] for i in group], lm.budget.answer_rows, room)
    ]


def _begun(lm: LanguageModel, shared: SharedPrefixes, batch: Sequence[int], cues: Sequence[Row], steps: int) -> Any:
    """The cache of what all cues of a batch begin with, padded as they will be; None where they share nothing."""
    prefix = shared.of(batch)
    if prefix is None:
        return None
    if not shared.holds(prefix):
        _over(lm, going=True)  # its pass is one that other ranks go along with
    past, _ = shared.past(prefix)
    lengths = np.array([len(cue) for cue in cues])
    (shifts,) = to_device(lm.world.device, lengths.max() - lengths)
    return begun(past, shifts, int(lengths.max()) - len(prefix.tokens) + steps)


def answer_batch(
    lm: LanguageModel,
    cues: Sequence[Row],
    limits: Sequence[int],
    stops: Sequence[Sequence[str]],
    past: Any = None,
) -> list[str | None]:
    """The answers of one batch; ranks go on together until the last of all their batches is done.

    `past`: see `_begun`.
    """
    if lm.company is not None:
        return lm.company.answers(cues, limits, stops)
    ends = set(lm.end_tokens)
    shown = _special_stops(lm, stops)
    broken: set[int] = set()
    ids, mask, positions, is_padded = _left_padded(lm, cues)
    ids, positions = (one[:, 0 if past is None else past.get_seq_length() :] for one in (ids, positions))
    new: list[list[int]] = [[] for _ in cues]
    rows = list(range(len(cues)))  # which row of the batch each row of `ids` is
    going = set(rows)
    while not _over(lm, bool(going)):
        if not going:  # a pass that other ranks need
            idle(lm)
            continue
        (chosen, finite), past_now = lm.choose(ids, mask if is_padded else None, positions, past)
        past = preallocate(past_now, max(limits), CACHES.get(lm.dtype)) if past is None else past_now
        # The one wait a token: whether an answer is over is seen in its text.
        for row, (token, sound) in zip(rows, torch.stack([chosen, finite.long()], dim=1).tolist(), strict=True):
            if row in going:
                new[row].append(token)
                broken |= set() if sound else {row}
                over = token in ends or len(new[row]) >= limits[row] or not sound
                if over or _stopped(lm, new[row], stops[row], shown[row]):
                    going.discard(row)
        if 0 < 2 * len(going) <= len(rows) and lm.drops_rows and can_drop(past):
            (kept,) = to_device(lm.world.device, np.flatnonzero([row in going for row in rows]))
            rows = [row for row in rows if row in going]
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            drop(past, kept)
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return [None if row in broken else _before(lm, tokens, stops[row], shown[row]) for row, tokens in enumerate(new)]


def _over(lm: LanguageModel, going: bool) -> bool:
    """Whether no rank goes on. All ranks ask; one that goes on itself knows, and does not wait to be told."""
    if lm.world.size == 1:
        return not going
    (own,) = to_device(lm.world.device, np.array([int(going)]))
    everywhere = lm.world.sum(own.double())
    return not going and not float(everywhere)


def _text(lm: LanguageModel, tokens: Row, special: bool = False) -> str:
    """With `special`, special tokens are spelt out."""
    return str(lm.tokenizer.decode(list(tokens), skip_special_tokens=not special))


def _special_texts(lm: LanguageModel) -> set[str]:
    """How the special tokens are spelt."""
    added = lm.tokenizer.added_tokens_decoder.values()
    return {*map(str, lm.tokenizer.all_special_tokens), *(token.content for token in added if token.special)}


def _special_stops(lm: LanguageModel, stops: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each row the stop strings with a special token in them, but for end tokens, which need no looking for."""
    ends = {_text(lm, [token], special=True) for token in lm.end_tokens}
    special = _special_texts(lm) - {""}
    found = {
        stop: stop not in ends and any(text in stop for text in special)
        for stop in {one for row in stops for one in row}
    }
    return [[stop for stop in row if found[stop]] for row in stops]


def _stopped(lm: LanguageModel, tokens: Row, stops: Sequence[str], shown: Sequence[str]) -> bool:
    """Whether a stop string is in the text; `shown` are those that a text without special tokens cannot hold."""
    # Looked for near the end first, which is cheap: a token has at least a byte, nearly always more.
    near = tokens[-max(map(len, stops), default=0) - 2 :]
    if shown and (tail := _text(lm, near, special=True)) and any(stop in tail for stop in shown):
        return True
    tail = _text(lm, near)
    return any(stop in tail for stop in stops) and any(stop in _text(lm, tokens) for stop in stops)


def _before(lm: LanguageModel, tokens: Row, stops: Sequence[str], shown: Sequence[str]) -> str:
    """What stands before the first stop string, without special tokens."""
    text = _text(lm, tokens)
    spelt = _text(lm, tokens, special=True) if shown else ""
    if any(stop in spelt for stop in shown):
        for stop in shown:
            spelt = spelt.partition(stop)[0]
        for special in _special_texts(lm):
            spelt = spelt.replace(special, "")
        text = spelt
    for stop in stops:
        text = text.partition(stop)[0]
    return text
