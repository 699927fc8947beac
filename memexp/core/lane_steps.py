"""An optimizer step of several lanes: one pass forward and one back for each micro-group, then each lane's own step.

made = updates(joint, weights, generators, [(0, Update(...)), (3, Update(...))])
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.data import Row, groups, right_padded
from memexp.core.lane_draws import Draws, generator_state
from memexp.core.lane_weights import LaneWeights
from memexp.core.precision import products

if TYPE_CHECKING:
    from memexp.core.lanes import JointModel

__all__ = ["NOTHING", "Generators", "Update", "updates"]

NOTHING: Row = (0,)
"""A row that predicts nothing, where a lane has fewer than others."""


class Update(NamedTuple):
    """What a lane gives for one step."""

    optimizer: Optimizer
    rows: Sequence[Row]
    """Its batch."""
    lr: float
    clip_norm: float | None
    dropout: float | None
    """As in `memexp.core.model.set_dropout`."""
    seed: int | None
    """Of its draws from this step on; None goes on with those of its step before."""

    @property
    def predicting(self) -> list[Row]:
        """The rows that predict something."""
        return [row for row in self.rows if len(row) > 1]


class Generators:
    """Where each lane's draws have come to."""

    def __init__(self, count: int, device: torch.device) -> None:
        self.device = device
        self._states = [generator_state(device)] * count

    def __getitem__(self, lane: int) -> Tensor:
        return self._states[lane]

    def __setitem__(self, lane: int, state: Tensor) -> None:
        self._states[lane] = state

    def seed(self, lane: int, seed: int | None) -> None:
        """Begin anew, but for None."""
        if seed is not None:
            self._states[lane] = torch.Generator(self.device).manual_seed(seed).get_state()


def updates(
    joint: JointModel,
    weights: LaneWeights,
    generators: Generators | None,
    asked: Sequence[tuple[int, Update]],
) -> list[tuple[float | Tensor | None, int]]:
    """One step of each of `asked`, lanes with their batches.

    Args:
        joint: the model of all lanes, in training mode.
        weights: what they learn.
        generators: of their draws; None where nothing is drawn.
        asked: lanes, each once. None of their weights is changed where a pass fails.

    Returns:
        As `memexp.core.train.update`: of each the mean loss of its batch, None where nothing is predicted, and the
        number of predicted tokens.
    """
    live = [(lane, one) for lane, one in asked if one.predicting]
    tokens = {lane: sum(len(row) - 1 for row in one.predicting) for lane, one in live}
    losses: dict[int, float | Tensor] = dict.fromkeys(tokens, 0.0)
    states = {} if generators is None else {lane: generators[lane] for lane in tokens}
    weights.clear([lane for lane, _ in live])
    for part in _passes(joint, [(lane, one.predicting) for lane, one in live], drawing=generators is not None):
        _pass(joint, part, tokens, losses, states)
    for lane, one in live:
        weights.step(lane, one.optimizer, one.lr, one.clip_norm)
    if generators is not None:
        for lane, state in states.items():
            generators[lane] = state
    return [(losses.get(lane), tokens.get(lane, 0)) for lane, _ in asked]


Part = list[tuple[int, list[Row]]]
"""Lanes, and of each its rows of one pass."""


def _pass(
    joint: JointModel, part: Part, tokens: dict[int, int], losses: dict[int, float | Tensor], states: dict[int, Tensor]
) -> None:
    """Forward and backward, adding up gradients and `losses`; `states` of the lanes' generators go on."""
    lanes, most = [lane for lane, _ in part], max(len(rows) for _, rows in part)
    padded = [row for _, rows in part for row in (*rows, *[NOTHING] * (most - len(rows)))]
    draws: contextlib.AbstractContextManager[Draws | None] = contextlib.nullcontext()
    if states:
        draws = Draws([states[lane] for lane in lanes], [(len(rows), max(map(len, rows))) for _, rows in part])
    with joint.seats.taken(lanes):
        with draws as drawn:
            nll = joint.nll(torch.from_numpy(right_padded(padded)), torch.tensor([len(row) for row in padded]))
        counts = [sum(len(row) - 1 for row in rows) for _, rows in part]
        sums = [one.sum() / tokens[lane] for lane, one in zip(lanes, nll.split(counts), strict=True)]
        with products(joint.dtype, joint.world.device):
            torch.stack(sums).sum().backward()
    on_gpu = joint.world.device.type == "cuda"
    for lane, loss in zip(lanes, sums, strict=True):
        losses[lane] = losses[lane] + (loss.detach().double() if on_gpu else float(loss.detach()))
    if drawn is not None:
        states.update(zip(lanes, drawn.states, strict=True))


def _passes(joint: JointModel, batches: Sequence[tuple[int, list[Row]]], drawing: bool) -> list[Part]:
    """The batches of several lanes in micro-groups.

    By itself a lane would have micro-groups of its own, to which it keeps where it draws, or it would draw otherwise.
    Else all have the same, cut where it is cheapest for all of them, the longest rows of one beside those of others.
    """
    if not batches:
        return []
    overhead, most = joint.budget.group_overhead, joint.budget.group_tokens
    ordered = [(lane, sorted(rows, key=len)) for lane, rows in batches]
    if not drawing:
        count = max(len(rows) for _, rows in ordered)
        spread = [(lane, [None] * (count - len(rows)) + list(rows)) for lane, rows in ordered]
        widths = [
            max(len(row) for row in column if row is not None) for column in zip(*(r for _, r in spread), strict=True)
        ]
        cuts = groups(widths, overhead // len(ordered), max(1, most // len(ordered)))
        parts = [
            [(lane, [row for at in cut if (row := rows[at]) is not None]) for lane, rows in spread] for (cut,) in cuts
        ]
        return [[(lane, rows) for lane, rows in part if rows] for part in parts]
    own = []
    for lane, rows in batches:
        cuts = groups([len(row) for row in rows], overhead, most)
        own.append([(lane, [rows[at] for at in cut]) for (cut,) in cuts])
    return [[one for one in column if one is not None] for column in itertools.zip_longest(*own)]
