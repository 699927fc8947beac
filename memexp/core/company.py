"""What a model that is one of several lanes asks of the others: `memexp.trial.lockstep` does it for all that ask.

lm.company.nll(ids, lengths, losses)       # None where the model is by itself
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

from torch import Tensor
from torch.optim import Optimizer

from memexp.core.data import Row
from memexp.core.head import OfTargets

__all__ = ["Company", "Ends"]

Ends: TypeAlias = list[tuple[Tensor, bool]]
"""As `memexp.core.model.LanguageModel.ends` has it."""


class Company(Protocol):
    """The other lanes."""

    def nll(self, ids: Tensor, lengths: Tensor, of: OfTargets, /) -> Tensor:
        """As `LanguageModel.nll`."""

    def ends(self, rows: Sequence[Row], asked: Sequence[tuple[int, Row]], /) -> Ends:
        """As `LanguageModel.ends`."""

    def greedy(self, cues: Sequence[Row], counts: Sequence[int], /) -> list[list[int] | None]:
        """As `memexp.core.generate.greedy_batch`."""

    def answers(
        self, cues: Sequence[Row], limits: Sequence[int], stops: Sequence[Sequence[str]], /
    ) -> list[str | None]:
        """As `memexp.core.generate.answer_batch`."""

    def update(
        self,
        optimizer: Optimizer,
        batch: Sequence[Row],
        lr: float,
        clip_norm: float | None,
        dropout: float | None,
        seed: int | None,
        /,
    ) -> tuple[float | Tensor | None, int]:
        """As `memexp.core.train.update`, with what `memexp.core.lane_steps.Update` says of draws."""
