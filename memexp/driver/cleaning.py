"""Removing the snapshots that nothing needs any more, when a sweep has been executed."""

from __future__ import annotations

from collections.abc import Sequence

from memexp.plan import Forest, Missing, Stage
from memexp.plan.heartbeat import running
from memexp.search.ledger import Ledger
from memexp.store import Store, snapshots

__all__ = ["discard_snapshots"]


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
