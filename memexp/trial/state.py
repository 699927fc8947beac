"""Where the model of a trial is on its way, and the states it will have to go back to.

state = State(lm, base.id, untaught)
state.keep("0123456789abcdef")                 # where the path forks
state.go_back("0123456789abcdef", settings)    # as often as something begins there
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.optim import AdamW

from memexp.core import fork
from memexp.core.fork import Fork
from memexp.core.model import LanguageModel
from memexp.spec import Training

__all__ = ["State"]


class State:
    """A model, its optimizer, and copies of both at the stages that are needed again."""

    def __init__(self, lm: LanguageModel, base: str, loaded: Fork) -> None:
        self.lm = lm
        self.optimizer: AdamW | None = None
        """As the stage `at` left it, None before the first step."""
        self.at: str | None = base
        """The stage after which the model is; None where it is of no use as it is."""
        self.forks: dict[str, Fork] = {base: loaded}
        """States by stage: the base, the end of pretraining, and where the path forks."""

    def keep(self, stage: str) -> None:
        """Copy the state, which is that after `stage`."""
        self.forks[stage] = fork.take(self.lm, self.optimizer)

    def let_go(self, stage: str) -> None:
        """The copy after `stage`, if there is one, is not needed any more."""
        self.forks.pop(stage, None)

    def go_back(self, stage: str, settings: Training | None) -> None:
        """Make the model what it was after `stage`, of which there is a copy, for training by `settings`."""
        self.optimizer = fork.restore(self.lm, self.forks[stage], settings)
        self.at = stage

    @contextlib.contextmanager
    def aside(self, settings: Training | None) -> Iterator[None]:
        """The model may be led elsewhere while the context lasts; afterwards it is where it was."""
        here, at = fork.take(self.lm, self.optimizer), self.at
        try:
            yield
        finally:
            self.optimizer = fork.restore(self.lm, here, settings)
            self.at = at
