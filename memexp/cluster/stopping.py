"""The rules that end a suggestion before its last condition: Ray's own, asked by a search instead of by Tune.

rule = StoppingRule(search.stopping, search.mode)
rule.add("3")
rule.gives_up("3", at=1, value=4.2)
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ray.tune.schedulers import AsyncHyperBandScheduler, MedianStoppingRule, TrialScheduler

from memexp.spec import ASHA, MedianStopping

__all__ = ["StoppingRule"]

VALUE, AT = "memexp_value", "memexp_at"
FAR = 2**40
"""Further than any axis: its last condition ends a suggestion, not a rule."""


@dataclass(frozen=True)
class _NamedTrial:
    """Stands in for the Tune trial of a suggestion: all that Ray's rules ask of one is that its name is its own."""

    trial_id: str


class StoppingRule:
    """What the rule of a search has been told; a search without one gives nothing up."""

    def __init__(self, stopping: ASHA | MedianStopping | None, mode: str) -> None:
        self.scheduler = _scheduler(stopping, mode)

    def add(self, name: str) -> None:
        """A suggestion begins. A name is added once, before its first value."""
        if self.scheduler is not None:
            self.scheduler.on_trial_add(None, _NamedTrial(name))

    def gives_up(self, name: str, at: int, value: float | None) -> bool:
        """Take note of the value that a suggestion has come to, and say whether it is to end.

        Args:
            name: as added. One that was given up takes no further value.
            at: the exposures or the retention steps of the condition.
            value: the metric of the condition; None, where it is no number, is not weighed.
        """
        if self.scheduler is None or value is None:
            return False
        found = self.scheduler.on_trial_result(None, _NamedTrial(name), {AT: at, VALUE: value})
        return bool(found == TrialScheduler.STOP)


def _scheduler(stopping: ASHA | MedianStopping | None, mode: str) -> TrialScheduler | None:
    """Ray's implementation of a rule, set up so that it stops trials and does nothing else."""
    common = {"time_attr": AT, "metric": VALUE, "mode": mode}
    if isinstance(stopping, ASHA):
        return AsyncHyperBandScheduler(
            max_t=FAR,
            grace_period=stopping.grace,
            reduction_factor=stopping.reduction,
            stop_last_trials=False,
            **common,
        )
    if isinstance(stopping, MedianStopping):
        # min_time_slice: with fewer samples it would pause a trial to let others come up, which began anew then.
        return MedianStoppingRule(
            grace_period=stopping.grace, min_samples_required=stopping.samples, min_time_slice=math.inf, **common
        )
    return None
