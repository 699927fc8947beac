"""What happens while a sweep runs, for trackers of one's own: ``Sweep(..., on_event=tell)``.

def tell(event: Event) -> None:
    if isinstance(event, Losses):
        tracker.log({f"loss/{event.kind}": event.losses[-1]}, step=event.steps[-1])

The function is called in the process that was started, one event at a time and in its main thread, and the sweep waits
for it. What it raises is said once and ends nothing. Results are in the store, not in events.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["ConditionComplete", "Event", "Failed", "Hook", "Losses", "SweepEnded", "TrialEnded", "TrialStarted"]


@dataclass(frozen=True)
class TrialStarted:
    """A trial begins, or is begun again by another process after the one before it died."""

    sweep: str
    """Name of the sweep."""
    trial: str
    """Its name, which no other trial of this run of the command has."""
    model: str
    """The model it is about."""


@dataclass(frozen=True)
class Losses:
    """Optimizer steps that were made: some at a time, of one stage of training."""

    sweep: str
    trial: str
    model: str
    kind: Literal["pretrain", "study", "filler", "restudy", "then", "unlearn", "interference"]
    """Which part of a condition it is."""
    line: str
    """Identity of the line of training that `steps` are counted along: all exposures of a study are one."""
    corpus: str
    """What is trained on."""
    lr: float
    """Peak learning rate."""
    batch_size: int
    seed: int
    steps: tuple[int, ...]
    """The steps, in order, counted from 1 since the line began."""
    losses: tuple[float | None, ...]
    """Of each step the mean negative log-likelihood of the batch's tokens before it, in nats; None where there is none
    to predict."""
    last: int
    """The step that this stage ends with."""


@dataclass(frozen=True)
class TrialEnded:
    """A trial is over; one whose process died, or which the rule of a search ended, has no such event."""

    sweep: str
    trial: str
    failures: int
    """How many of its stages and measurements failed."""


@dataclass(frozen=True)
class ConditionComplete:
    """The last result of a condition is in the store; not told of suggestions of a search."""

    sweep: str
    condition_id: str
    """The column ``condition_id`` of its rows."""
    settings: Mapping[str, Any]
    """The other setting columns of its rows, and its labels."""
    complete: int
    """How many conditions this run has completed."""
    conditions: int
    """How many it is to complete."""


@dataclass(frozen=True)
class Failed:
    """A stage or a measurement failed. Told when all conditions, or all searches, have been tried: until then it may be
    tried again."""

    sweep: str
    error: str
    """What failed, and why, in a line."""


@dataclass(frozen=True)
class SweepEnded:
    """The run is over, whatever ended it: a tracker can be closed."""

    sweep: str
    whole: bool
    """Whether every condition and search is complete."""


Event = TrialStarted | Losses | TrialEnded | ConditionComplete | Failed | SweepEnded
Hook = Callable[[Event], None]
"""Who is told."""
