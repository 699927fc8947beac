"""Executing what of a sweep is missing, on a connected cluster: conditions phase by phase, then searches.

work = Work(forest, missing, ledgers, store, snapshots, retry_diverged=False)
failures = execute_conditions(work, attempt, cluster, console) + execute_searches_of(work, attempt, cluster, console)
"""

from __future__ import annotations

import contextlib
import dataclasses
import subprocess
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING

import pyarrow as pa
from rich.console import Console

from memexp import plan as planning
from memexp.identity import NUMERICS
from memexp.plan import Forest, Missing, Stage, Trial
from memexp.plan.attempts import Attempt, stage_row
from memexp.plan.heartbeat import running
from memexp.records import STAGES
from memexp.report.progress import Display, SearchDisplay
from memexp.search.ledger import Ledger
from memexp.sources import ResolvedModel
from memexp.spec import Resources, Snapshots
from memexp.store import Store, snapshots

if TYPE_CHECKING:
    from memexp.cluster.connect import Cluster
    from memexp.cluster.experiment import Outcome

__all__ = [
    "Work",
    "commit_of_code",
    "discard_snapshots",
    "execute_conditions",
    "execute_searches_of",
    "say",
]


def say(console: Console, line: str, style: str | None = None) -> None:
    """One line, as it is: no markup, no colour by content, no wrapping in the middle of a path."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


@dataclass(frozen=True)
class Work:
    """What of a sweep is to be executed."""

    forest: Forest
    missing: Missing
    ledgers: Sequence[Ledger]
    store: Store
    snapshots: Snapshots
    retry_diverged: bool

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
        grid = [self.forest.path(ask.stage)[0].model for ask in self.missing.asks]
        edges = [candidate.forest for ledger in self.searches for candidate in ledger.prepared.edges]
        return [(self.forest, grid), *((one, [one.stages[base].model for base in one.resources]) for one in edges)]

    @property
    def needs(self) -> set[Resources]:
        """What its trials hold."""
        grid = {self.forest.resources[self.forest.path(ask.stage)[0].id] for ask in self.missing.asks}
        edges = [candidate.forest for ledger in self.searches for candidate in ledger.prepared.edges]
        return grid.union(*(one.resources.values() for one in edges))


def execute_conditions(work: Work, attempt: Attempt, cluster: Cluster, console: Console) -> list[str]:
    """The trials of the conditions; returns a line for every stage that failed."""
    from memexp.cluster.experiment import execute_trials

    asks = work.missing.asks
    trials = planning.bundle(work.forest, asks, cluster.slots)
    trials = [dataclasses.replace(trial, snapshots=work.snapshots) for trial in trials]
    steps = sum(trial.steps for trial in trials)
    say(console, f"executing {len(trials)} trials, {steps} steps, for {len(asks)} results")
    with Display(asks, steps, console) as display:
        return _phase_by_phase(
            work.forest,
            trials,
            lambda now, attempt: execute_trials(now, work.store, attempt, cluster, display),
            work.store,
            attempt,
        )


def execute_searches_of(work: Work, attempt: Attempt, cluster: Cluster, console: Console) -> list[str]:
    """The suggestions of the searches likewise."""
    from memexp.cluster.searches import execute_searches

    left = sum(ledger.prepared.search.trials - ledger.done for ledger in work.searches)
    searches = "1 search" if len(work.searches) == 1 else f"{len(work.searches)} searches"
    say(console, f"trying {left} suggestions of {searches}")
    attempt = dataclasses.replace(attempt, id=f"{attempt.id}s")  # an experiment of its own beside the conditions'
    with SearchDisplay(left, console) as display:
        trials, outcome = execute_searches(
            work.searches, work.store, attempt, cluster, display, work.snapshots, work.retry_diverged
        )
    return _recorded(trials, outcome, work.store, attempt)


def _recorded(trials: list[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> list[str]:
    """A line for all that failed, recorded in ``stages/`` where a trial died before it could."""
    _record_lost(trials, outcome, store, attempt)
    return [*dict.fromkeys(outcome.failures), *(f"a trial died: {why}" for why in outcome.lost.values())]


def discard_snapshots(forest: Forest, left: Missing, ledgers: Sequence[Ledger], store: Store) -> None:
    """Remove the snapshots that nothing needs: a trial killed after its last result leaves some, and pretraining."""
    found = snapshots.find(store).trajectories
    if not found or running(store):  # another sweep may count on the same pretraining
        return
    wanted = [ask.stage for ask in [*left.asks, *(copy.ask for copy in left.copies)]]
    needed = {name for at in wanted for stage in forest.path(at) for name in _names(stage)}
    done = {name for stage in forest.stages.values() for name in _names(stage)}
    for ledger in ledgers:
        over = ledger.done >= ledger.prepared.search.trials
        for index, entry in ledger.entries.items():
            for stage in entry.candidate.forest.stages.values():
                # Suggestions to come may begin where pretraining ends.
                open_ = not ledger.is_over(index) or (not over and stage.kind == "pretrain")
                (needed if open_ else done).update(_names(stage))
    for trajectory in sorted(found & (done - needed)):
        snapshots.discard(store, trajectory)


def _names(stage: Stage) -> tuple[str, str]:
    """What snapshots of a stage may be called."""
    return stage.trajectory, stage.id


Execute = Callable[[list[Trial], Attempt], "Outcome"]


def _phase_by_phase(forest: Forest, trials: list[Trial], execute: Execute, store: Store, attempt: Attempt) -> list[str]:
    """Execute the trials of each phase when those of the phase before are over; a line for all that failed."""
    failures: list[str] = []
    for phase in sorted({trial.phase for trial in trials}):
        now = [trial for trial in trials if trial.phase == phase]
        if phase:
            now = _without_failed(now, store, attempt)
        if now:
            failures += _executed(forest, now, execute, store, attempt)
    return failures


def _executed(forest: Forest, trials: list[Trial], execute: Execute, store: Store, attempt: Attempt) -> list[str]:
    """Execute trials. What kills its process is to cost itself only: the trees that shared one get one each."""
    outcome = execute(trials, attempt)
    again: list[Trial] = []
    for number in list(outcome.lost):
        trees = planning.apart(forest, _left(trials[number], store))
        if len(trees) > 1:
            del outcome.lost[number]
            again += trees
    failures = _recorded(trials, outcome, store, attempt)
    if again:
        again = _without_failed(again, store, attempt)
    if again:
        attempt = dataclasses.replace(attempt, id=f"{attempt.id}again")
        failures += _recorded(again, execute(again, attempt), store, attempt)
    return failures


def _left(trial: Trial, store: Store) -> Trial:
    """What of a trial is not in the store."""
    there = {mark.trajectory for mark in snapshots.find(store).found}
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not store.exists(ask.kind, ask.name)],
        leaves=tuple(leaf for leaf in trial.leaves if leaf not in there),
    )


def _without_failed(trials: list[Trial], store: Store, attempt: Attempt) -> list[Trial]:
    """`trials` less what failed just now and all that hangs below it, which is recorded as skipped."""
    from memexp.plan.failed import recorded, without

    stages = [stage for trial in trials for stage in (trial.base, *trial.stages)]
    failed = recorded(stages, store, attempt, ("failed", "diverged"))
    # Each an attempt of its own: two trials may lack the same stage.
    attempts = [dataclasses.replace(attempt, id=f"{attempt.id}after{uuid.uuid4().hex[:8]}") for _ in trials]
    found = [without(trial, failed, store, own) for trial, own in zip(trials, attempts, strict=True)]
    return [trial for trial in found if trial.asks or trial.leaves]


def _record_lost(trials: list[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> None:
    """Write the ``stages/`` rows that a dead trial could not write."""
    made_with = {
        "numerics": NUMERICS,
        "memexp": version("memexp"),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    for index, why in outcome.lost.items():
        trial = _left(trials[index], store)
        ends = {*(ask.stage for ask in trial.asks), *trial.leaves}
        rows = [
            stage_row(stage, attempt, made_with, "failed", f"the trial died: {why}")
            for stage in [trial.base, *trial.stages]
            if stage.id in ends
        ]
        if rows:
            store.commit(
                "stages",
                f"{trial.base.id}-{attempt.id}lost{trial.phase}x{index}",
                pa.Table.from_pylist(rows, schema=STAGES),
            )


def commit_of_code() -> str | None:
    """Commit of the code in the current folder, with a + where it has been changed since."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return told.stdout.strip() or None
    return None
