"""Where the model of a trial is on its way, and the states it will have to go back to.

state = State(lm, base.id, untaught)
state.keep("0123456789abcdef")                 # where the path forks
state.go_back("0123456789abcdef", settings)    # as often as something begins there
state.last_child("0123456789abcdef")           # at most one thing more begins there: the copy goes with it
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.optim import Optimizer

from memexp.core import fork
from memexp.core.fork import Fork
from memexp.core.model import LanguageModel
from memexp.core.train import Objective
from memexp.plan import Stage, TrainingStage
from memexp.spec import Training

__all__ = ["State"]


class State:
    """A model, its optimizer, and copies of both at the stages that are needed again."""

    def __init__(self, lm: LanguageModel, base: str, loaded: Fork) -> None:
        self.lm = lm
        self.optimizer: Optimizer | None = None
        """As the stage `at` left it, None before the first step."""
        self.at: str | None = base
        """The stage after which the model is; None where it is of no use as it is."""
        self.base = base
        self.forks: dict[str, Fork] = {base: loaded}
        """States by stage: the base, the end of pretraining, and where the path forks."""
        self.untaught: dict[str, Fork] = {base: loaded}
        """What forgetting goes back to, by stage: the weights of the base and of the end of pretraining."""
        self.aims: dict[str, Objective] = {}
        """What is minimised along a line of training, by its trajectory, where its beginning has to be remembered."""
        self._once: set[str] = set()
        """Stages whose last child is under way."""

    def with_model(self, lm: LanguageModel, loaded: Fork) -> State:
        """The same copies for another model, which is as it was loaded."""
        renewed = State(lm, self.base, loaded)
        renewed.forks = {**self.forks, self.base: loaded}
        renewed.untaught = {**self.untaught, self.base: loaded}
        renewed._once, renewed.aims = self._once, self.aims
        return renewed

    def beside(self, lm: LanguageModel) -> State:
        """The same copies, whoever takes or lets go of one, for another lane, which is nowhere yet."""
        other = State(lm, self.base, self.forks[self.base])
        other.forks, other.untaught, other._once = self.forks, self.untaught, self._once
        other.nowhere()
        return other

    def keep(self, stage: str, untaught: bool) -> None:
        """Copy the state, which is that after `stage`; of one that is `untaught` the weights stay until `let_go`."""
        needed = stage not in self._once
        if needed or untaught:
            taken = fork.take(self.lm, self.optimizer if needed else None)
            if needed:
                self.forks[stage] = taken
            if untaught:
                self.untaught[stage] = Fork(dict(taken.weights), None)

    def last_child(self, stage: str) -> None:
        """At most one thing more begins after `stage`: what is copied of it is not needed once that is under way."""
        if stage == self.base:  # which serves the next trial too
            return
        self._once.add(stage)
        if self.at == stage:
            self.forks.pop(stage, None)

    def let_go(self, stage: Stage) -> None:
        """What is kept of the end of `stage`, and of the line that begins with it, is not needed any more."""
        self.forks.pop(stage.id, None)
        self.untaught.pop(stage.id, None)
        self._once.discard(stage.id)
        if isinstance(stage, TrainingStage) and stage.parent == stage.start:
            self.aims.pop(stage.trajectory, None)

    def nowhere(self) -> None:
        """The model is of no use as it is, and its optimizer goes."""
        self.at = self.optimizer = None

    def go_back(self, stage: str, settings: Training | None) -> None:
        """Make the model what it was after `stage`, of which there is a copy, for training by `settings`."""
        self.nowhere()
        if stage in self._once:
            self.optimizer = fork.spend(self.lm, self.forks.pop(stage), settings)
        else:
            self.optimizer = fork.restore(self.lm, self.forks[stage], settings)
        self.at = stage

    @contextlib.contextmanager
    def aside(self, settings: Training | None) -> Iterator[None]:
        """The model may be led elsewhere while the context lasts; afterwards it is where it was."""
        here, at = fork.take(self.lm, self.optimizer), self.at
        self.optimizer = None
        try:
            yield
        finally:
            self.nowhere()
            self.optimizer = fork.spend(self.lm, here, settings)
            self.at = at
