"""Dealing batches of items to the ranks that share a model, and collecting what comes of them.

found = dict(deal_to_ranks(world, batches, work))      # where `work` calls idle(lm) for an empty batch
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from memexp.core.model import LanguageModel
from memexp.core.processes import World

__all__ = ["deal_to_ranks", "evened", "idle"]

R = TypeVar("R")


def deal_to_ranks(
    world: World,
    batches: Sequence[list[int]],
    work: Callable[[list[int], int], Sequence[R]],
    steps: Callable[[list[int]], int] = lambda _: 0,
) -> list[tuple[int, R]]:
    """Deal `batches` to the ranks in rounds and collect (item, result) of all of them, on every rank.

    Every rank works in every round, since sharded models need all ranks for every pass; one for which nothing is left
    gets an empty batch, and makes its passes over a single token (`idle`).

    Args:
        world: the ranks.
        batches: items of each.
        work: takes a batch and the steps of the round.
        steps: of a batch; those of a round are its largest.
    """
    mine: list[tuple[int, R]] = []
    dealt = evened(batches, world.size)
    for start in range(0, len(dealt), world.size):
        turn = dealt[start : start + world.size]
        batch = turn[world.rank] if world.rank < len(turn) else []
        results = work(batch, max(map(steps, turn)))
        mine += zip(batch, results, strict=True)
    return [pair for part in world.gather(mine) for pair in part]


def idle(lm: LanguageModel) -> list[Any]:
    """A pass over a single token, that other ranks need; what comes of it is nothing."""
    nothing = torch.zeros((1, 1), dtype=torch.long, device=lm.world.device)
    lm.next(nothing, None, nothing)
    return []


def evened(batches: Sequence[list[int]], size: int) -> list[list[int]]:
    """`batches` with those of the last round cut, the largest first, until each of `size` ranks has one."""
    last = len(batches) // size * size
    turn = list(batches[last:])
    while turn and len(turn) < size:
        at = max(range(len(turn)), key=lambda i: len(turn[i]))
        half = (len(turn[at]) + 1) // 2
        if half == len(turn[at]):  # single items, all of them
            break
        turn[at : at + 1] = [turn[at][:half], turn[at][half:]]
    return [*batches[:last], *turn]
