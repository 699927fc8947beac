"""What is said in ``stages/`` about an attempt at a stage, by the trial itself or by the driver that lost it."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from memexp.plan import Stage, Trial
from memexp.records import STAGES
from memexp.store import Store

__all__ = ["Attempt", "Failed", "Progress", "recorded", "stage_row", "without"]


@dataclass(frozen=True)
class Attempt:
    """Who executes a trial."""

    sweep: str
    """Name of the sweep."""
    id: str
    """Distinguishes this attempt's rows in ``stages/`` from those of any other."""
    commit: str | None = None
    """Version of the user's code."""


@dataclass(frozen=True)
class Progress:
    """What has been done since the last report."""

    answered: tuple[str, ...] = ()
    """Result files that exist now, as ``kind/name``."""
    steps: int = 0
    """Optimizer steps made."""


def stage_row(
    stage: Stage, attempt: Attempt, made_with: Mapping[str, Any], status: str, error: str | None = None
) -> dict[str, Any]:
    """One row of ``stages/`` (see `memexp.records.STAGES`), without what it cost."""
    return {
        "stage_id": stage.id,
        "parent_id": stage.parent,
        "kind": stage.kind,
        "sweep": attempt.sweep,
        "model": stage.model.name,
        "status": status,
        "error": error,
        "finished": datetime.now(UTC),
        "host": socket.gethostname(),
        "commit": attempt.commit,
        **made_with,
    }


Failed = tuple[str, str | None]
"""A stage that failed, or with the identity of a probe its measurement by that probe."""


def recorded(store: Store, attempt: Attempt, *statuses: str) -> dict[Failed, str]:
    """What of an attempt ended so, and a line for each."""
    found: dict[Failed, str] = {}
    for name in store.names("stages"):
        if attempt.id in name:
            for row in store.read("stages", name).to_pylist():
                if row["status"] in statuses:
                    why = row["error"].splitlines()[0]
                    found[row["stage_id"], row["probe_id"]] = (
                        f"{row['model']}, {row['kind']} {row['stage_id']} {row['status']}: {why}"
                    )
    return found


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
        store.commit("stages", f"{skipped[0].id}-{attempt.id}skipped", pa.Table.from_pylist(rows, schema=STAGES))
    return dataclasses.replace(
        trial,
        asks=[ask for ask in trial.asks if not lost(ask.stage) and (ask.stage, ask.probe_id) not in failed],
        stages=[stage for stage in trial.stages if not lost(stage.id)],
        leaves=tuple(stage for stage in trial.leaves if not lost(stage)),
    )
