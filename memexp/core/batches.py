"""What a stage of training takes at each step: a function of its settings, its keys and the step's number alone.

So a stage may begin at any step, on any number of ranks, and make the steps it would have made anyway:

    batches = StudyBatches(study, rows, seed=0)
    batches(1)          # the first step's rows, learning rate and draws
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from memexp.core.data import Row, order
from memexp.spec import Interference, Study

__all__ = ["Batch", "Batches", "PassingBatches", "StudyBatches", "learning_rate"]


@dataclass(frozen=True)
class Batch:
    """What one optimizer step needs to know."""

    rows: Sequence[Row]
    """Token ids of its texts."""
    exposure: int
    """Which pass over the corpus it belongs to, counting from 1."""
    lr: float
    """Its learning rate."""
    draws: tuple[object, ...] | None
    """What keys dropout from this step on; None goes on with the draws of the step before."""


class Batches(Protocol):
    """The batches of a stage."""

    what: str
    """What the stage does, for messages."""

    def __call__(self, step: int) -> Batch:
        """The batch of a step, counting from 1."""


class StudyBatches:
    """The study list once per exposure, in an order of its own each time."""

    what = "study"

    def __init__(self, study: Study, rows: Sequence[Row], seed: int) -> None:
        """`rows`: token ids of each text; `seed` with the exposure keys order and dropout: conditions stay paired."""
        self.study, self.rows, self.seed = study, rows, seed
        self.per_exposure = math.ceil(len(rows) / study.batch_size)
        self._shuffled: tuple[int, list[int]] = (0, [])

    def __call__(self, step: int) -> Batch:
        exposure, position = (step - 1) // self.per_exposure + 1, (step - 1) % self.per_exposure
        if exposure != self._shuffled[0]:
            self._shuffled = exposure, order(len(self.rows), self.seed, "study", exposure)
        size = self.study.batch_size
        chosen = self._shuffled[1][position * size : (position + 1) * size]
        return Batch(
            rows=[self.rows[i] for i in chosen],
            exposure=exposure,
            lr=learning_rate(self.study, step, self.study.exposures * self.per_exposure),
            draws=(self.seed, "study", exposure, "dropout") if position == 0 else None,
        )


class PassingBatches:
    """Unrelated texts, pass after pass, each in an order of its own; no text comes twice before all have come once."""

    what = "interference"

    def __init__(self, settings: Interference, rows: Sequence[Row], seed: int) -> None:
        """`rows`: token ids of each text; `seed` keys the order of every pass and the dropout of every step."""
        self.settings, self.rows, self.seed = settings, rows, seed
        self.per_pass = math.ceil(len(rows) / settings.batch_size)
        self._shuffled: tuple[int, list[int]] = (0, [])

    def __call__(self, step: int) -> Batch:
        turn, position = (step - 1) // self.per_pass + 1, (step - 1) % self.per_pass
        if turn != self._shuffled[0]:
            self._shuffled = turn, order(len(self.rows), self.seed, self.what, turn)
        size = self.settings.batch_size
        chosen = self._shuffled[1][position * size : (position + 1) * size]
        return Batch(
            rows=[self.rows[i] for i in chosen],
            exposure=turn,
            lr=self.settings.lr,
            draws=(self.seed, self.what, step, "dropout"),
        )


def learning_rate(study: Study, step: int, total: int) -> float:
    """Learning rate of the `step`-th of `total` steps, from 1, as transformers' schedules of these names give it."""
    warmup = math.ceil(study.warmup_ratio * total) if study.warmup_ratio else study.warmup_steps
    before = step - 1
    if before < warmup:
        return study.lr * before / warmup
    if study.schedule == "linear":
        return study.lr * max(0.0, (total - before) / max(1, total - warmup))
    return study.lr
