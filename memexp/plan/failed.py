"""What a dead process recorded as failed, to be left out when another does the rest of its trial."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable

import pyarrow as pa

from memexp.plan import Stage, Trial
from memexp.plan.attempts import Attempt, stage_row
from memexp.records import STAGES
from memexp.store import Store

__all__ = ["recorded", "without"]

Failed = tuple[str, str | None]
"""A stage that failed, or with the identity of a probe its measurement by that probe."""


def recorded(
    stages: Iterable[Stage], store: Store, attempt: Attempt, statuses: Collection[str] = ("failed",)
) -> dict[Failed, str]:
    """Which of these stages ended so in an attempt, and a line for each; not one that it completed elsewhere."""
    found: dict[Failed, str] = {}
    complete: set[Failed] = set()
    wanted = {stage.id for stage in stages}
    for name in store.names("stages"):
        if attempt.id in name:
            for row in store.read("stages", name).to_pylist():
                if row["status"] == "complete":
                    complete.add((row["stage_id"], None))
                if row["status"] in statuses and row["stage_id"] in wanted:
                    why = row["error"].splitlines()[0]
                    found[row["stage_id"], row["probe_id"]] = (
                        f"{row['model']}, {row['kind']} {row['stage_id']} {row['status']}: {why}"
                    )
    return {what: why for what, why in found.items() if what not in complete}


def without(trial: Trial, failed: Collection[Failed], store: Store, attempt: Attempt) -> Trial:
    """`trial` less what failed and everything below failed stages, which is recorded as skipped."""
    parents = {stage.id: stage.parent for stage in trial.stages}

    def lost(at: str | None) -> bool:
        while at is not None:
            if (at, None) in failed:
                return True
            at = parents.get(at)
        return False

    skipped = [stage for stage in trial.stages if lost(stage.parent)]
    if skipped:
        rows = [stage_row(stage, attempt, {}, "skipped", "a stage before it did not complete") for stage in skipped]
        store.commit("stages", f"{trial.base.id}-{attempt.id}skipped", pa.Table.from_pylist(rows, schema=STAGES))
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not lost(ask.stage) and (ask.stage, ask.probe_id) not in failed],
        stages=[stage for stage in trial.stages if not lost(stage.id)],
        leaves=tuple(stage for stage in trial.leaves if not lost(stage)),
    )
