"""Executing one trial: what of it has no file yet is trained, measured and handed to the store.

failures = execute(trial, Store("results"), World.current(), Attempt("sweep", "0123456789ab"), base=WarmBase())
"""

from __future__ import annotations

from memexp.core.processes import World
from memexp.events import TrialEnded, TrialStarted
from memexp.plan import Ask, Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.forest import TrainingStage
from memexp.plan.missing import lacking
from memexp.store.snapshots import Marks, find
from memexp.trial.base import WarmBase
from memexp.trial.failing import lost_devices
from memexp.trial.leaving import Leaving, Notice
from memexp.trial.reporting import Report
from memexp.trial.rows import Sink
from memexp.trial.walk import Walk

__all__ = ["Report", "Sink", "WarmBase", "execute"]


def execute(
    trial: Trial,
    sink: Sink,
    world: World,
    attempt: Attempt,
    report: Report = lambda _: None,
    base: WarmBase | None = None,
    watch: bool = True,
    notice: Notice | None = None,
) -> list[str]:
    """Train and measure what of `trial` is not in `sink` yet. All ranks of `world` call.

    What fails is recorded in ``stages/`` and left, and everything that does not depend on it goes on. With several
    ranks an error is recorded and raised, since the ranks that do not have it wait for the one that has.

    Args:
        trial: what is to be done.
        sink: where records and snapshots go.
        world: the ranks that hold the model together.
        attempt: who executes it, for ``stages/``.
        report: called with the progress made, on every rank equally often.
        base: keeps the base model for the next trial of this process; by default it is let go of.
        watch: whether a process that makes no progress for ``Resources.stall_minutes`` ends itself.
        notice: given when this process is about to be taken away.

    Returns:
        One line for every stage or measurement that failed; empty where all is complete.

    Raises:
        DeviceError: this process can make no more use of its GPU; what failed of it is recorded.
        Leaving: there was `notice` for this rank or another; what was trained is saved.
        StoreError: nothing can be recorded.
    """
    asks = _outstanding(trial, sink, world)
    left = {ask.file for ask in asks}
    report(Progress(answered=tuple(ask.file for ask in trial.asks if ask.file not in left)))
    marks, leaves = world.broadcast((_marks(trial, sink), trial.lacking_leaves(sink)) if world.leads else (Marks(), ()))
    if not asks and not leaves:
        return []
    notice = notice or Notice()
    if world.any(notice.why is not None):  # before a model is loaded for nothing
        raise Leaving
    walk = Walk(trial, asks, leaves, marks, sink, world, attempt, report, notice)
    report(Progress(events=(TrialStarted(attempt.sweep, attempt.of, trial.base.model.name),)))
    with lost_devices(world):
        try:
            lines = walk.run(base or WarmBase(), trial.resources.stall_minutes if watch else None)
        except Leaving:
            walk.notes.commit()
            raise
    report(Progress(events=(TrialEnded(attempt.sweep, attempt.of, len(lines)),)))
    return lines


def _outstanding(trial: Trial, sink: Sink, world: World) -> list[Ask]:
    """The asks without a file: an earlier attempt or another sweep may have answered some. Rank 0 decides for all."""
    left: set[str] = set()
    if world.leads:
        left = {ask.file for ask in lacking(trial.asks, sink)}
    left = world.broadcast(left)
    return [ask for ask in trial.asks if ask.file in left]


def _marks(trial: Trial, sink: Sink) -> Marks:
    """Of the trajectories of the trial, and of what its pretraining leaves."""
    stages = [stage for stage in trial.stages if isinstance(stage, TrainingStage)]
    ends = {stage.id for stage in stages if stage.kind == "pretrain"}
    return find(sink, ends | {stage.trajectory for stage in stages})
