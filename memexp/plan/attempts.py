"""What is said in ``stages/`` about an attempt at a stage, by the trial itself or by the driver that lost it."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from memexp.plan import Stage

__all__ = ["Attempt", "Progress", "stage_row"]


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
    suggestions: int = 0
    """Suggestions of a search that are through."""
    said: tuple[str, ...] = ()
    """Lines that a user's own probe printed, each with its name in front."""


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
