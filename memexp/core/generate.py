"""Greedy completions, batched, on any number of ranks.

Equal to completing one text at a time (tests/core/test_scoring.py compares eight architectures): left padding is
masked, and where a model would see it all the same, only cues of equal length are completed together.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import torch

from memexp.core.batch_sizes import ANSWER_ROWS, RECALL_ROWS, RECALL_TOKENS
from memexp.core.data import Row, batches_of, left_padded
from memexp.core.kv_cache import can_drop, drop, preallocate
from memexp.core.model import LanguageModel
from memexp.core.ranks import deal_to_ranks

__all__ = ["answer_greedily", "complete_greedily"]


def complete_greedily(lm: LanguageModel, cues: Sequence[Row], counts: Sequence[int]) -> list[list[int] | None]:
    """Greedy continuation of each cue by exactly as many tokens as asked; the end-of-text token is banned throughout.

    Args:
        lm: the model; all of its ranks call with the same cues.
        cues: token ids to continue, at least one each.
        counts: how many tokens to add to each.

    Returns:
        The new token ids for each cue, on every rank; None where the model's logits were not finite numbers.
    """
    batches = _batches(lm, cues, counts, RECALL_ROWS[lm.world.device.type])

    def complete(batch: list[int], steps: int) -> list[list[int] | None]:
        needed = max(counts[i] for i in batch)
        new, sound = _greedy_batch(lm, [cues[i] for i in batch], needed)
        for _ in range(steps - needed):  # passes that the other ranks of this round still need
            nothing = torch.zeros((1, 1), dtype=torch.long, device=lm.world.device)
            lm.next(nothing, None, nothing)
        return [
            row[: counts[i]] if all(flags[: counts[i]]) else None
            for row, flags, i in zip(new, sound, batch, strict=True)
        ]

    found: list[list[int] | None] = [[] for _ in cues]
    with lm.evaluating():
        longest = [max(counts[i] for i in batch) for batch in batches]
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
        for dealt in batches_of([sizes[i] for i in group], RECALL_TOKENS[lm.world.device.type], rows):
            batch = [group[at] for at in dealt]
            padded = max(len(cues[i]) for i in batch) + max(counts[i] for i in batch)
            # The longest cue with the largest count of another row may be more than the model's context holds.
            batches += [batch] if padded <= max(room, *(widths[i] for i in batch)) else [[i] for i in batch]
    return batches


def _greedy_batch(lm: LanguageModel, cues: Sequence[Row], steps: int) -> tuple[list[list[int]], list[list[bool]]]:
    """`steps` greedy tokens after every cue, with a key-value cache over left-padded cues.

    With each token, whether its logit was a finite number.
    """
    device = lm.world.device
    padded, real = left_padded(cues)
    ids, mask = torch.from_numpy(padded).to(device), torch.from_numpy(real).to(device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    is_padded = not real.all()
    banned = lm.end_tokens
    past = None
    new: list[torch.Tensor] = []
    sound: list[torch.Tensor] = []
    for step in range(steps):
        logits, past = lm.next(ids, mask if is_padded else None, positions, past)
        # Some configs keep an id beyond a vocabulary that was made smaller.
        logits[:, [i for i in banned if 0 <= i < logits.shape[1]]] = -torch.inf
        chosen = logits.argmax(-1)
        new.append(chosen)
        sound.append(_sound(logits, chosen))
        if step == 0:
            past = preallocate(past, steps)
        if step + 1 < steps:
            ids = chosen[:, None]
            mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
            positions = positions[:, -1:] + 1
    return torch.stack(new, dim=1).tolist(), torch.stack(sound, dim=1).tolist()


def _sound(logits: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
    """Whether the largest logit of each row is a finite number: among others a NaN counts as the largest."""
    return logits.gather(1, chosen[:, None])[:, 0].isfinite()


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
    room = sys.maxsize if lm.context is None else lm.context
    batches = _batches(lm, cues, limits, ANSWER_ROWS[lm.world.device.type], room)

    def answer(batch: list[int], _: int) -> list[str | None]:
        return _answer_batch(lm, [cues[i] for i in batch], [limits[i] for i in batch], [stops[i] for i in batch])

    with lm.evaluating():
        found = dict(deal_to_ranks(lm.world, batches, answer))
    return [found[i] for i in range(len(cues))]


def _answer_batch(
    lm: LanguageModel, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]]
) -> list[str | None]:
    """The answers of one batch; ranks go on together until the last of all their batches is done."""
    device, ends = lm.world.device, set(lm.end_tokens)
    shown = _special_stops(lm, stops)
    broken: set[int] = set()
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
            past_now = preallocate(past_now, max(limits))
        past = past_now
        chosen = logits.argmax(-1)
        for row, token, sound in zip(rows, chosen.tolist(), _sound(logits, chosen).tolist(), strict=True):
            if row in going:
                new[row].append(token)
                broken |= set() if sound else {row}
                over = token in ends or len(new[row]) >= limits[row] or not sound
                if over or _stopped(lm, new[row], stops[row], shown[row]):
                    going.discard(row)
        if 0 < 2 * len(going) <= len(rows) and can_drop(past):
            kept = torch.tensor([at for at, row in enumerate(rows) if row in going], device=device)
            rows = [row for row in rows if row in going]
            chosen, mask, positions = chosen[kept], mask[kept], positions[kept]
            drop(past, kept)
        ids = chosen[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], dim=1)
        positions = positions[:, -1:] + 1
    return [None if row in broken else _before(lm, tokens, stops[row], shown[row]) for row, tokens in enumerate(new)]


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
