"""Dealing batches of items to the ranks that share a model, and collecting what comes of them.

found = dict(deal_to_ranks(world, batches, work))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from memexp.core.processes import World

__all__ = ["deal_to_ranks"]

R = TypeVar("R")


def deal_to_ranks(
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
