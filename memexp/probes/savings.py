"""Savings: how much less study does it take to learn a text once more than to learn it for the first time?

Ebbinghaus 1885: what can no longer be recalled or recognised may still show in how soon it is learned again. A copy of
the model studies the list until each text meets a criterion, and the step at which it first does is its row; the
trajectory goes on as if nothing had been measured. Against a model that never saw the list:

    memexp.stats.savings(rows, by=["model", "retention_steps"])     # rows of 0 exposures are those that never saw it

The order of texts depends on the probe's seed alone, so that all conditions study alike.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from memexp.spec import SGD, AdamW, Condition, Corpus, Count, Headline, Positive, Probe, Study, spec
from memexp.spec.fields import Rate

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["Savings"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("nll_before", pa.float64()),
        ("steps", pa.int64()),
        ("criterion", pa.float64()),
        ("most", pa.int64()),
        ("diverged", pa.bool_()),
    ]
)
"""One row per text. ``tokens``: of the truncated text; ``nll_before``: mean NLL per predicted token before restudy, in
nats; ``steps``: optimizer steps of restudy over the list after which it was first at or below ``criterion``, 0 where it
was so before, NULL where it was not after ``most``, or not before the loss of restudy was no number (``diverged``: give
a smaller ``lr``). Of texts of one token, and where the model's outputs are no
numbers, ``nll_before`` is NULL as well."""


@spec
class Savings(Probe):
    """Steps of restudy of a list after which each of its texts meets a criterion, in a copy of the model.

    Restudy has a constant learning rate, a fresh optimizer, no weight decay, no clipping and no dropout but an
    adapter's own; where a text falls back later its first step counts.
    """

    kind: ClassVar[str] = "savings"
    headline: ClassVar[Headline] = Headline(
        "mean steps of restudy to the criterion, as many as were made where it was not met",
        "CASE WHEN nll_before IS NOT NULL THEN coalesce(steps, most) END",
        why_null="texts of one token have nothing to measure, nor has a model whose outputs are no numbers",
    )

    corpus: Corpus | None = None
    """Texts to study again; by default the study list."""
    criterion: Rate = 0.5
    """Mean NLL per predicted token, in nats, at or below which a text is learned: 0.5 is a probability of .61 a token.
    A measure of each text alone, which no text near chance meets by luck, as it may in a choice of two."""
    most: Positive = 100
    """Steps after which restudy ends, where it does not end because all texts have met the criterion."""
    every: Positive = 1
    """Steps after which all texts are looked at again. To look takes about a third of a pass over the list; steps are
    then told in multiples of it."""
    lr: Rate | None = None
    """Learning rate; by default study's."""
    batch_size: Positive | None = None
    """Texts per optimizer step; by default study's."""
    block_size: Annotated[int, Field(ge=2)] | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""
    optimizer: AdamW | SGD | None = None
    """By default study's."""
    seed: Count = 0
    """Keys the order of every pass, the same for all conditions."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Savings:
        """With the study list and study's settings where none are given."""
        study = condition.study
        return dataclasses.replace(
            self,
            corpus=self.corpus or study.corpus,
            lr=self.lr or study.lr,
            batch_size=self.batch_size or study.batch_size,
            block_size=self.block_size or study.block_size,
            optimizer=self.optimizer or study.optimizer,
        )

    def readings(self) -> float:
        """Before restudy and whenever it looks, at most."""
        return 1 + math.ceil(self.most / self.every)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text, in the order of the list."""
        from memexp.core.train import Diverged

        study = self._study()
        rows = session.encode(texts["corpus"], study.block_size)
        before = _means(session.token_nlls(rows))
        steps: list[int | None] = [0 if _met(nll, self.criterion) else None for nll in before]
        able = [item for item, nll in enumerate(before) if nll is not None]
        done, diverged = 0, False
        with session.restudying(study, rows, self.seed) as restudy, contextlib.suppress(Diverged):
            diverged = True  # unless it ends otherwise
            while done < self.most and any(steps[item] is None for item in able):
                restudy(made := min(self.every, self.most - done))
                done += made
                for item, nll in enumerate(_means(session.token_nlls(rows))):
                    if steps[item] is None and _met(nll, self.criterion):
                        steps[item] = done
            diverged = False
        return pa.table(
            {
                "item": range(len(rows)),
                "text": session.decode(rows),
                "tokens": [len(row) for row in rows],
                "nll_before": before,
                "steps": steps,
                "criterion": [self.criterion] * len(rows),
                "most": [self.most] * len(rows),
                "diverged": [diverged] * len(rows),
            },
            schema=SCHEMA,
        )

    def _study(self) -> Study:
        """Restudy's settings."""
        assert self.corpus and self.lr and self.batch_size and self.block_size and self.optimizer  # bound
        return Study(
            self.corpus,
            exposures=1,
            lr=self.lr,
            batch_size=self.batch_size,
            block_size=self.block_size,
            dropout=0.0,
            optimizer=self.optimizer,
        )


def _means(nlls: Sequence[NDArray[np.float32]]) -> list[float | None]:
    """Of each text, in float64; None of nothing and of no numbers."""
    found = [float(nll.astype(np.float64).mean()) if nll.size else np.nan for nll in nlls]
    return [None if np.isnan(mean) else mean for mean in found]


def _met(nll: float | None, criterion: float) -> bool:
    return nll is not None and nll <= criterion
