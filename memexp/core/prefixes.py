"""Beginnings that several rows share, passed through once: their keys and values stand before every row's own rest.

    shared = SharedPrefixes(lm, rows, most, cost)
    past, made = shared.past(prefix)        # of a batch whose rows begin with shared.of(batch)

Rows are compared by their tokens, whatever their texts. The shots of a prompt are drawn anew for every question, so
that the questions of a test share little; the choices of one question share all of it, and tasks of
lm-evaluation-harness with fixed shots have them in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from memexp.core.copies import to_device
from memexp.core.data import Row
from memexp.core.model import LanguageModel

__all__ = ["Prefix", "SharedPrefixes", "shared_prefixes"]


@dataclass(frozen=True)
class Prefix:
    """Tokens that rows begin with."""

    tokens: tuple[int, ...]
    rows: tuple[int, ...]
    """Indices of the rows, in order of their tokens."""


class SharedPrefixes:
    """What rows share, and the keys and values of the prefix that was asked for last."""

    def __init__(self, lm: LanguageModel, rows: Sequence[Row], most: Sequence[int], cost: int) -> None:
        """As `shared_prefixes`; nothing is shared where the model's cache cannot be, between lanes, which make their
        passes in company, and off float32, whose coarser numbers would be others."""
        able = lm.caches and lm.traits.shares and lm.company is None and lm.dtype == "float32"
        self._lm = lm
        self.prefixes = shared_prefixes(rows, most, cost) if able else []
        self._of = {row: prefix for prefix in self.prefixes for row in prefix.rows}
        self._held: tuple[Prefix, Any] | None = None

    def of(self, batch: Sequence[int]) -> Prefix | None:
        """What the rows of a batch begin with; all of them share one prefix, or none."""
        return self._of.get(batch[0]) if batch else None

    def passes(self, batch: Sequence[int]) -> int:
        """Forward passes that the batch may take: its prefix's comes before its own."""
        return 1 if self.of(batch) is None else 2

    def holds(self, prefix: Prefix) -> bool:
        """Whether `past` takes no pass."""
        return self._held is not None and self._held[0] is prefix

    def past(self, prefix: Prefix) -> tuple[Any, int]:
        """The cache of one row of the prefix, and how many passes were made for it now: one or none."""
        if self._held is not None and self.holds(prefix):
            return self._held[1], 0
        self._held = None  # not two at a time
        ids, at = to_device(self._lm.world.device, np.array([prefix.tokens]), np.arange(len(prefix.tokens))[None])
        _, past = self._lm.next(ids, None, at)
        self._held = prefix, past
        return past, 1


@dataclass
class _Node:
    """Neighbours in order that have `depth` tokens in common: a node of the tree of all rows."""

    depth: int
    first: int
    """Its first row, in order."""
    saved: int = 0
    """Most tokens that need not be passed through if those below it share by themselves."""
    found: list[tuple[int, int, int]] = field(default_factory=list)
    """How: first row, behind the last, tokens."""

    def take(self, other: _Node) -> None:
        """Put one below this."""
        self.saved += other.saved
        self.found += other.found


def shared_prefixes(rows: Sequence[Row], most: Sequence[int], cost: int) -> list[Prefix]:
    """The prefixes by which most tokens need not be passed through again; none is the beginning of another.

    Args:
        rows: token ids of each.
        most: how many of a row's first tokens may be shared.
        cost: what a prefix costs by itself, in tokens; it has to save more.
    """
    if not rows:
        return []
    keys = [tuple(row[:n]) for row, n in zip(rows, most, strict=True)]
    order = sorted(range(len(rows)), key=lambda i: (keys[i], i))
    open_: list[_Node] = []  # from the root down to the newest row, each deeper than the one before
    for end in range(1, len(order) + 1):
        depth = _common(keys[order[end - 1]], keys[order[end]]) if end < len(order) else 0
        done = _Node(0, end - 1)
        while open_ and open_[-1].depth > depth:
            node = open_.pop()
            node.take(done)
            saved = (end - node.first - 1) * node.depth - cost
            done = node
            if saved > node.saved:
                done = _Node(node.depth, node.first, saved, [(node.first, end, node.depth)])
        if not open_ or open_[-1].depth < depth:
            open_.append(_Node(depth, done.first))
        open_[-1].take(done)
    (root,) = open_
    return [Prefix(keys[order[first]][:n], tuple(order[first:end])) for first, end, n in root.found]


def _common(first: Row, second: Row) -> int:
    """How many tokens two rows begin with alike."""
    for i, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return i
    return min(len(first), len(second))
