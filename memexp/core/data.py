"""From texts to token rows, and from token rows to batches that waste little on padding.

Everything here is a function of its arguments: no state, no device, no rank.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

__all__ = ["Row", "batches_of", "encode", "ends_of", "groups", "key_seed", "left_padded", "order", "right_padded"]

Row = Sequence[int]


def encode(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], block_size: int) -> list[list[int]]:
    """Token ids of each text with the special tokens the tokenizer puts there by itself, truncated to `block_size`."""
    rows = tokenizer(list(texts), truncation=True, max_length=block_size, return_attention_mask=False)["input_ids"]
    return [list(row) for row in rows]


def key_seed(*parts: object) -> int:
    """A 63-bit seed from what keys a draw, such as ``(seed, "study", exposure)``: never from history."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def order(count: int, *key: object) -> list[int]:
    """A permutation of ``range(count)`` drawn from `key` alone."""
    generator = torch.Generator().manual_seed(key_seed(*key, "order"))
    return [int(i) for i in torch.randperm(count, generator=generator)]


def right_padded(rows: Sequence[Row]) -> NDArray[np.int64]:
    """Rows padded with 0 on the right to the longest: (rows, longest). Causal attention never sees the padding."""
    padded = np.zeros((len(rows), max(map(len, rows))), np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return padded


def left_padded(rows: Sequence[Row]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows padded with 0 on the left, so that all end together, and the mask of real tokens: both (rows, longest)."""
    longest = max(map(len, rows))
    padded, mask = np.zeros((len(rows), longest), np.int64), np.zeros((len(rows), longest), np.int64)
    for i, row in enumerate(rows):
        padded[i, longest - len(row) :] = row
        mask[i, longest - len(row) :] = 1
    return padded, mask


def ends_of(rows: Sequence[Row], asked: Sequence[tuple[int, Row]]) -> tuple[list[NDArray[np.int64]], torch.Tensor]:
    """Where to look for how likely continuations are, each at the end of a row.

    Args:
        rows: token ids of a context with all but the last token of a continuation.
        asked: which row, and all tokens of the continuation.

    Returns:
        The positions that are looked at, counted through the padded rows; for each token asked for which of them, and
        the token, both in order of position. And that order of the tokens.
    """
    counts = np.ones(len(rows), np.int64)
    for row, tokens in asked:
        counts[row] = max(counts[row], len(tokens))
    lengths = np.array([len(row) for row in rows], np.int64)
    width = lengths.max()
    keep = np.concatenate([i * width + np.arange(lengths[i] - counts[i], lengths[i]) for i in range(len(rows))])
    behind = counts.cumsum()  # of each row, where in `keep` its positions end
    of = np.concatenate([np.arange(behind[row] - len(tokens), behind[row]) for row, tokens in asked])
    wanted = np.concatenate([np.asarray(tokens, np.int64) for _, tokens in asked])
    order = np.argsort(of, kind="stable")
    return [keep, of[order], wanted[order]], torch.from_numpy(order)


def batches_of(lengths: Sequence[int], tokens: int, rows: int) -> list[list[int]]:
    """Indices of items in batches of like length, for work in any order.

    Args:
        lengths: length of each item.
        tokens: padded tokens a batch may have; a longer item is a batch of its own.
        rows: items a batch may have.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (lengths[i], i)):
        last = batches[-1] if batches else []
        if last and len(last) < rows and (len(last) + 1) * lengths[index] <= tokens:
            last.append(index)
        else:
            batches.append([index])
    return batches


def groups(lengths: Sequence[int], overhead: int, tokens: int, ranks: int = 1) -> list[list[list[int]]]:
    """One training batch as micro-groups of like length with the least padded work.

    Every micro-group costs its padded tokens and `overhead`; the cheapest split of the length-sorted batch is found by
    dynamic programming. The gradient does not depend on the split, since the loss is a token-weighted sum.

    Args:
        lengths: length of each item of the batch.
        overhead: what starting a micro-group costs, in padded tokens.
        tokens: padded tokens a micro-group may have on one rank, if it has more than one row there.
        ranks: processes that work side by side. Neighbours in length are dealt to different ranks, so that all ranks
            have the same number of micro-groups of the same width.

    Returns:
        For every micro-group, for every rank, the indices of its items; an empty list where nothing is left for a rank.
    """
    by_length = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    deals = [by_length[i : i + ranks] for i in range(0, len(by_length), ranks)]
    widths = [lengths[deal[-1]] for deal in deals]
    best: list[tuple[float, int]] = [(0.0, 0)]  # cost of the first n deals, and where their last micro-group begins
    for end in range(1, len(deals) + 1):
        options = [
            (best[start][0] + overhead + (end - start) * widths[end - 1], start)
            for start in range(end)
            if (end - start) * widths[end - 1] <= tokens or end - start == 1
        ]
        best.append(min(options))
    cuts = [len(deals)]
    while cuts[-1] > 0:
        cuts.append(best[cuts[-1]][1])
    return [
        [[deal[rank] for deal in deals[start:end] if rank < len(deal)] for rank in range(ranks)]
        for end, start in reversed(list(itertools.pairwise(cuts)))
    ]
