"""What is tried again, how often and why: the one policy of a run, which executors and `memexp.driver` ask.

| what happened | what follows in the same run |
|---|---|
| a stage or a measurement failed and was recorded | it is left out, what hangs below it is skipped, the rest goes on |
| its loss was not finite (diverged) | the same; an outcome, repeated only by ``--retry-diverged`` |
| a worker made no progress for ``stall_minutes`` | it records that and ends itself; then as a recorded failure |
| a process or worker group died without a word (kill -9, a lost node, no memory) | the rest of its trial once more |
| it died again | every tree of the trial once, in a trial of its own: what kills its process costs itself only |
| a tree of its own died twice, or a trial of one tree | recorded as failed |
| a worker group found no place | `PLACEMENTS` times, since an autoscaler may be starting nodes |
| a snapshot could not be written | training goes on; the next one is due in time |

Whatever is left when a run ends is tried by the next run of the same command, but for what diverged.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

from memexp.plan.attempts import Attempt, Failed, failures, row, skipped, write
from memexp.plan.forest import Forest
from memexp.plan.trials import Trial, apart
from memexp.records import versions
from memexp.store import Store
from memexp.store.snapshots import find

__all__ = [
    "DEATHS",
    "PLACEMENTS",
    "Execute",
    "Outcome",
    "concluded",
    "execute_with_retries",
    "leave_out",
    "still_missing",
]

DEATHS = 1
"""How often a trial is started again after a process or worker group that died without a word."""
PLACEMENTS = 12
"""How often a worker group looks for its place, five minutes each."""


@dataclass
class Outcome:
    """How trials ended."""

    failures: list[str] = field(default_factory=list)
    """One line for every stage or measurement that a trial recorded as failed."""
    lost: dict[int, str] = field(default_factory=dict)
    """Trials, by number, that died without recording it, and why."""


Execute = Callable[[Sequence[Trial], Attempt], Outcome]
"""What an executor does: on a cluster, or in this process."""


def leave_out(trial: Trial, failed: Collection[Failed], store: Store, attempt: Attempt) -> Trial:
    """`trial` less what failed and everything below failed stages, which is recorded as skipped."""
    parents = {stage.id: stage.parent for stage in trial.stages}

    def lost(at: str | None) -> bool:
        while at is not None:
            if (at, None) in failed:
                return True
            at = parents.get(at)
        return False

    write(store, attempt, [skipped(stage, attempt) for stage in trial.stages if lost(stage.parent)])
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not lost(ask.stage) and (ask.stage, ask.probe_id) not in failed],
        stages=[stage for stage in trial.stages if not lost(stage.id)],
        leaves=tuple(stage for stage in trial.leaves if not lost(stage)),
    )


def still_missing(trial: Trial, store: Store) -> Trial:
    """What of a trial is not in the store."""
    there = {mark.trajectory for mark in find(store).found}
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not store.exists(ask.kind, ask.name)],
        leaves=tuple(leaf for leaf in trial.leaves if leaf not in there),
    )


def execute_with_retries(
    forest: Forest, trials: Sequence[Trial], execute: Execute, store: Store, attempt: Attempt
) -> list[str]:
    """Execute trials, phase by phase: those of a phase begin when those of the one before are over.

    Returns:
        A line for all that failed.
    """
    lines: list[str] = []
    for phase in sorted({trial.phase for trial in trials}):
        now = [trial for trial in trials if trial.phase == phase]
        if phase:
            now = _without_failed(now, store, attempt)
        if now:
            lines += _execute_phase(forest, now, execute, store, attempt)
    return lines


def _execute_phase(
    forest: Forest, trials: Sequence[Trial], execute: Execute, store: Store, attempt: Attempt
) -> list[str]:
    """The trials of one phase. Of those that died every tree gets a trial of its own, where there are several."""
    outcome = execute(trials, attempt)
    again: list[Trial] = []
    for number in list(outcome.lost):
        trees = apart(forest, still_missing(trials[number], store))
        if len(trees) > 1:
            del outcome.lost[number]
            again += trees
    lines = concluded(trials, outcome, store, attempt)
    if again:
        again = _without_failed(again, store, attempt)
    if again:
        attempt = dataclasses.replace(attempt, part="apart")
        lines += concluded(again, execute(again, attempt), store, attempt)
    return lines


def _without_failed(trials: Sequence[Trial], store: Store, attempt: Attempt) -> list[Trial]:
    """`trials` less what failed just now and all that hangs below it."""
    stages = [stage for trial in trials for stage in (trial.base, *trial.stages)]
    failed = failures(store, attempt, stages, ("failed", "diverged"))
    found = [leave_out(trial, failed, store, attempt) for trial in trials]
    return [trial for trial in found if trial.asks or trial.leaves]


def concluded(trials: Sequence[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> list[str]:
    """A line for all that failed, recorded in ``stages/`` where a trial died before it could."""
    for number, why in outcome.lost.items():
        trial = still_missing(trials[number], store)
        ends = {*(ask.stage for ask in trial.asks), *trial.leaves}
        own = attempt.of_trial(trial.phase, number)
        stages = [stage for stage in (trial.base, *trial.stages) if stage.id in ends]
        write(store, own, [row(stage, own, "failed", versions(), f"the trial died: {why}") for stage in stages])
    return [*dict.fromkeys(outcome.failures), *(f"a trial died: {why}" for why in outcome.lost.values())]
