"""Trials in this process, one after another, without Ray: the other of the two kinds that `memexp.driver` knows.

    memexp run --local sweeps/quickstart.py
    sweep.run(local=True)              # in a notebook, or with a breakpoint() in a probe of one's own

The same trial code as on a cluster gives the same rows, bit for bit; the base model stays loaded between trials. What
ends this process ends the sweep, and what hangs is not ended: a debugger may take its time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from memexp.errors import SpecError
from memexp.plan import Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.retries import Outcome
from memexp.search.suggestions import Ledger
from memexp.spec import Resources, Snapshots
from memexp.store import Store

if TYPE_CHECKING:
    from memexp.trial.base import WarmBase

__all__ = ["LocalExecutor", "in_this_process"]


class LocalExecutor:
    """Executes trials here."""

    plain = True

    def __init__(self, base: WarmBase) -> None:
        self._base = base

    def slots(self, resources: Resources) -> int:
        """One: there is one process."""
        return 1

    def execute_trials(
        self, trials: Sequence[Trial], store: Store, attempt: Attempt, on_progress: Callable[[Progress], None]
    ) -> Outcome:
        """Execute trials in their order. An error that cannot be recorded ends the sweep, so no trial is lost."""
        from memexp.core.world import World
        from memexp.trial.execute import execute

        outcome = Outcome()
        for number, trial in enumerate(trials):
            own = attempt.of_trial(trial.phase, number).begun()
            world = World.current(trial.resources.gpus)
            outcome.failures += execute(trial, store, world, own, on_progress, self._base, watch=False)
        return outcome

    def execute_searches(
        self,
        ledgers: Sequence[Ledger],
        store: Store,
        attempt: Attempt,
        on_progress: Callable[[Progress], None],
        snapshots: Snapshots,
        retry_diverged: bool,
    ) -> tuple[list[Trial], Outcome]:
        """Refused by `in_this_process`."""
        raise NotImplementedError


@contextlib.contextmanager
def in_this_process(needs: Collection[Resources], searches: Sequence[Ledger]) -> Iterator[LocalExecutor]:
    """Make ready to execute trials here; the base model is let go of with the context.

    Args:
        needs: the resources of the trials to come.
        searches: the searches to come.

    Raises:
        SpecError: a trial needs several workers, or there is a search.
    """
    for resources in needs:
        if resources.workers > 1:
            raise SpecError(
                f"Resources.workers: {resources.workers} workers are several processes, --local is one: run without it"
            )
    for ledger in searches:
        raise SpecError(f"search {ledger.prepared.search.name}: {ledger.prepared.search.trials}")
    _set_threads(max(resources.threads for resources in needs))
    from memexp.trial.base import WarmBase

    yield LocalExecutor(WarmBase())


def _set_threads(threads: int) -> None:
    """As Ray does it for its workers, before torch is loaded: afterwards not all of its libraries listen."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that spin while they wait cost others on the same cores up to four times their speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
