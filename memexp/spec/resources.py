"""What a trial may hold, and how often it is saved: never part of an identity."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

from memexp.errors import SpecError
from memexp.spec.fields import NonNegative, Positive, Rate, spec
from memexp.spec.models import Model

__all__ = ["Resources", "ResourcesFor", "Snapshots"]

AUTO = 8
"""Lanes that ``Resources(lanes="auto")`` may come to."""


@spec
class Resources:
    """What one trial holds. Never part of an identity; recorded in every row."""

    workers: Positive = 1
    """Processes over which one model is sharded (FSDP2)."""
    cpus: Rate = 1.0
    """CPUs of each worker, and its number of threads (rounded up)."""
    gpus: NonNegative = 0.0
    """GPUs of each worker, one at most; a fraction is one worker's share of a GPU, and of its memory."""
    share: bool = False
    """Whether two or four trials may be on one GPU where a step of the model leaves it idle for so long that they do
    not wait for each other, their memory suffices, and there are trials and CPUs for it; each gets its part of the
    memory. For trials of one worker and ``gpus=1``. Trials with lanes fill a GPU by themselves, those of searches have
    one each: give these ``gpus=0.25`` where you know that they fit."""
    spread: bool = False
    """Whether the workers of a trial may be on several nodes. They exchange all weights at every step, for which the
    network between nodes is often slow."""
    stall_minutes: Rate = 60.0
    """A worker that makes no forward pass for so long, while it loads, trains or measures, is taken to hang: it is
    ended, what it was at is recorded as failed, and the rest goes on. Waiting for the hub or object storage does not
    count."""
    checkpointing: bool = False
    """Whether training keeps the states between blocks only and computes the rest anew: no number changes, a step takes
    a third longer, and a batch a fraction of the memory."""
    offload: bool = False
    """Whether the moments of the optimizer are in the host's memory instead of a GPU's: no number changes, a step takes
    as long as they travel."""
    lanes: Positive | Literal["auto"] = 1
    """Conditions of one base model that a worker trains and measures in one pass, LoRA or full: they share its frozen
    weights and nothing else. Numbers are those of each by itself up to the last digits, not bit for bit, as with any
    other size of a batch. Worth it where one condition leaves a GPU idle; a CPU has nothing idle. Trials with a probe
    of your own, or that are tried again after they took their process along, have one lane all the same. ``"auto"``: on
    a GPU up to eight, as many as a short trial of the model and its batch finds worth it; on a CPU one."""

    def __post_init__(self) -> None:
        if self.gpus > 1:
            raise SpecError(
                f"Resources.gpus: a worker computes on one GPU, got {self.gpus:g}; to shard a model over several "
                "give as many workers, each with gpus=1"
            )
        if self.workers > 1 and 0 < self.gpus < 1:
            raise SpecError(
                f"Resources.gpus: {self.workers} workers with {self.gpus:g} GPUs each would meet on one GPU, which "
                f"NCCL refuses; give gpus=1, or one worker with gpus={self.gpus:g}"
            )
        if self.share and not (self.gpus and self.workers == 1):
            raise SpecError(
                f"Resources.share: trials of one worker with a GPU may share it, got workers={self.workers}, "
                f"gpus={self.gpus:g}; give gpus=1, or leave share out"
            )
        if self.lanes not in (1, "auto") and self.workers > 1:
            raise SpecError(
                f"Resources.lanes: {self.lanes} lanes are of a model on one worker, got {self.workers} workers; give "
                "workers=1 or lanes=1"
            )
        if self.lanes not in (1, "auto") and self.offload:
            raise SpecError(
                "Resources.lanes: lanes keep their moments where they compute; give offload=False or lanes=1"
            )

    @property
    def most_lanes(self) -> int:
        """Lanes that a trial has at most."""
        if self.lanes != "auto":
            return self.lanes
        return AUTO if self.gpus and self.workers == 1 and not self.offload else 1

    @property
    def threads(self) -> int:
        """Threads of each worker: decided here and not by the machine's load, since it changes the last digits."""
        return max(1, math.ceil(self.cpus))


@spec
class Snapshots:
    """How often a trajectory is saved to the store in the middle of training: a crash costs what came since.

    What is kept is exact: the same command goes on as if nothing had happened. Of each trajectory only the newest is
    kept, and none when all that was asked of it is measured. Never part of an identity.
    """

    minutes: Rate | None = 10.0
    """Training time between two; None does not go by time."""
    steps: Positive | None = None
    """Optimizer steps between two; None does not count them."""
    keep: bool = False
    """Whether the last ones stay when everything is measured, for conditions that may be added later."""


ResourcesFor = Resources | Callable[[Model], Resources]
