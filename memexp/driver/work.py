"""What of a sweep is left to do, and having it done: the conditions phase by phase, then the searches.

work = Work("quickstart", forest, missing, ledgers, store, snapshots)
lines = execute(work, attempt, executor, console, hooks)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from rich.console import Console

from memexp import plan as planning
from memexp.driver.hooks import Hooks
from memexp.driver.peaks import peaks
from memexp.plan import Forest, Missing, Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.inspection import sizes
from memexp.plan.outlay import Times
from memexp.plan.retries import Outcome, concluded, execute_with_retries
from memexp.plan.room import Peak
from memexp.plan.sharing import shared
from memexp.report.progress import Display, SearchDisplay
from memexp.report.terminal import say
from memexp.search.ledger import Ledger
from memexp.sources import ResolvedModel, Stream
from memexp.spec import Resources, Snapshots
from memexp.store import Store
from memexp.wording import amount

__all__ = ["Executor", "Work", "execute"]


class Executor(Protocol):
    """Where trials are executed."""

    @property
    def plain(self) -> bool:
        """Whether what they print comes to this terminal, so that progress is shown in plain lines."""

    def slots(self, resources: Resources) -> int:
        """How many trials with these resources can execute side by side."""

    def device(self, resources: Resources) -> str:
        """On what they are, of `memexp.plan.devices.DEVICES`, or about."""

    def gpu_memory(self, resources: Resources) -> int:
        """Bytes of the smallest GPU that they may be on; 0 where that is not known yet."""

    def execute_trials(
        self, trials: Sequence[Trial], store: Store, attempt: Attempt, on_progress: Callable[[Progress], None]
    ) -> Outcome:
        """Execute trials, which depend on nothing but what is in the store, and wait for them."""

    def execute_searches(
        self,
        ledgers: Sequence[Ledger],
        attempt: Attempt,
        on_progress: Callable[[Progress], None],
        snapshots: Snapshots,
    ) -> tuple[list[Trial], Outcome]:
        """Bring searches to their number of suggestions; the trials there were, which `Outcome.lost` numbers."""


@dataclass(frozen=True)
class Work:
    """What of a sweep is to be executed."""

    sweep: str
    """Its name."""
    forest: Forest
    missing: Missing
    ledgers: Sequence[Ledger]
    store: Store
    snapshots: Snapshots

    @property
    def searches(self) -> list[Ledger]:
        """The searches with suggestions to make or to try."""
        return [ledger for ledger in self.ledgers if ledger.done < ledger.prepared.search.trials]

    @property
    def left(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.missing.asks or self.searches)

    @property
    def models(self) -> list[tuple[Forest, list[ResolvedModel]]]:
        """The models of what is to be done, each with a forest that has their conditions."""
        grid = [self.forest.base(ask.stage).model for ask in self.missing.asks]
        edges = [edge.forest for ledger in self.searches for edge in ledger.prepared.edges]
        return [(self.forest, grid), *((one, [one.stages[base].model for base in one.resources]) for one in edges)]

    @property
    def needs(self) -> set[Resources]:
        """What its trials hold."""
        grid = {self.forest.resources[self.forest.base(ask.stage).id] for ask in self.missing.asks}
        edges = [edge.forest for ledger in self.searches for edge in ledger.prepared.edges]
        return grid.union(*(one.resources.values() for one in edges))

    @property
    def peaks(self) -> list[Peak]:
        """What its trials take of memory."""
        grid = {self.forest.base(ask.stage).id: None for ask in self.missing.asks}
        edges = [edge.forest for ledger in self.searches for edge in ledger.prepared.edges]
        return peaks(
            [*((self.forest, base) for base in grid), *((one, base) for one in edges for base in one.resources)]
        )

    @property
    def reads(self) -> list[ResolvedModel | Stream]:
        """Models and streams, which its trials read from where they are executed."""
        stages = [stage for ask in self.missing.asks for stage in self.forest.path(ask.stage)]
        grid = [self.forest.streams[one] for one in {stage.corpus for stage in stages} if one in self.forest.streams]
        edges = [edge.forest for ledger in self.searches for edge in ledger.prepared.edges]
        models = {model.id: model for _, found in self.models for model in found}
        return [*models.values(), *grid, *(stream for one in edges for stream in one.streams.values())]


def execute(work: Work, attempt: Attempt, executor: Executor, console: Console, hooks: Hooks) -> list[str]:
    """First the conditions, then the searches, whose samplers are told what the conditions came to.

    Args:
        work: what is left to do.
        attempt: who does it.
        executor: where trials are executed.
        console: where it is shown how far they are.
        hooks: who else is told.

    Returns:
        A line for every stage or measurement that failed.
    """
    lines: list[str] = []
    if work.missing.asks:
        hooks.expect(work.missing.asks)
        lines += _conditions(work, attempt, executor, console, hooks)
        hooks.failed(lines)
    if work.searches:
        found = _searches(work, dataclasses.replace(attempt, part="searches"), executor, console, hooks)
        hooks.failed(found)
        lines += found
    return lines


def _conditions(work: Work, attempt: Attempt, executor: Executor, console: Console, hooks: Hooks) -> list[str]:
    asks = work.missing.asks
    inspections = sizes([model for _, models in work.models for model in models])
    forest = shared(work.forest, asks, inspections, executor)
    for line in _shares(forest):
        say(console, line)
    trials = planning.bundle(forest, asks, executor.slots, Times(inspections, executor.device))
    trials = [dataclasses.replace(trial, snapshots=work.snapshots) for trial in trials]
    steps = {stage.id: stage.steps for trial in trials for stage in trial.stages if stage.id not in trial.given}
    work_to_do = f"{amount(len(trials), 'trial')}, {amount(sum(steps.values()), 'step')}"
    say(console, f"executing {work_to_do}, for {amount(len(asks), 'result')}")
    with Display(asks, steps, console, executor.plain) as display:
        return execute_with_retries(
            trials,
            lambda now, attempt: executor.execute_trials(now, work.store, attempt, hooks.beside(display)),
            work.store,
            attempt,
        )


def _shares(forest: Forest) -> Iterator[str]:
    """A line for every base whose trials share GPUs because they were let."""
    for base, resources in forest.resources.items():
        if resources.share and resources.gpus < 1:
            stage = forest.base(base)
            method = type(stage.method).__name__.lower()
            yield f"{stage.model.name} ({method}, {stage.dtype}): {1 / resources.gpus:g} trials share a GPU"


def _searches(work: Work, attempt: Attempt, executor: Executor, console: Console, hooks: Hooks) -> list[str]:
    left = sum(ledger.prepared.search.trials - ledger.done for ledger in work.searches)
    searches = amount(len(work.searches), "search", "searches")
    say(console, f"trying {amount(left, 'suggestion')} of {searches}")
    with SearchDisplay(left, console, executor.plain) as display:
        trials, outcome = executor.execute_searches(work.searches, attempt, hooks.beside(display), work.snapshots)
        return concluded(
            trials,
            outcome,
            lambda now, attempt: executor.execute_trials(now, work.store, attempt, hooks.beside(display)),
            work.store,
            attempt,
        )
