"""Study on the side, for a measurement: how fast is something learned, by a model that is then brought back?

with session.restudying(study, rows, seed=0) as restudy:
    restudy(1)                     # one step more, and the session measures what has come of it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from memexp.core.batches import StudyBatches
from memexp.core.data import Row
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.train import train
from memexp.spec import Study

__all__ = ["restudier"]


def restudier(lm: LanguageModel, study: Study, rows: Sequence[Row], seed: int) -> Callable[[int], None]:
    """A function that has `lm` study so many steps more, with a fresh optimizer; it changes the model in place.

    Args:
        lm: the model; all of its ranks call with the same.
        study: its settings, with a constant schedule; pass after pass, whatever its exposures say.
        rows: token ids of each text.
        seed: keys the order of each pass.

    Raises (the function, not this one):
        Diverged: a loss is not finite.
    """
    optimizer, batches, done = fresh_optimizer(lm, study), StudyBatches(study, rows, seed), 0

    def restudy(steps: int) -> None:
        nonlocal done
        train(lm, optimizer, study, batches, done + 1, done + steps)
        done += steps

    return restudy
