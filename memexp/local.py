"""Trials in this process, one after another, without Ray: the other of the two kinds that `memexp.driver` knows.

    memexp run --local sweeps/quickstart.py
    sweep.run(local=True)              # in a notebook, or with a breakpoint() in a probe of one's own

The same trial code as on a cluster gives the same rows, bit for bit; the base model stays loaded between trials. What
ends this process ends the sweep, and what hangs is not ended: a debugger may take its time. Short sweeps come here
without being told to (`memexp.driver.short`); what hangs of them ends the process.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memexp.errors import DeviceError, SpecError
from memexp.plan import Forest, Trial, whole
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.devices import known_as
from memexp.plan.retries import Outcome
from memexp.plan.room import Peak, here, refuse
from memexp.search.ledger import Ledger
from memexp.signals import Stopped, put_off, stopped_by
from memexp.spec import Resources, Snapshots
from memexp.store import Store

if TYPE_CHECKING:
    from memexp.trial.base import WarmBase

__all__ = ["LocalExecutor", "in_this_process", "write_weights"]


class LocalExecutor:
    """Executes trials here."""

    def __init__(self, base: WarmBase, debugged: bool = True) -> None:
        self._base, self.plain, self._watch = base, debugged, not debugged
        self._lost = False
        """Whether the GPU of this process is of no more use."""

    def slots(self, resources: Resources) -> int:
        """One: there is one process."""
        return 1

    def device(self, resources: Resources) -> str:
        """A CPU, or the GPU that trials of GPUs would be on."""
        import torch

        return known_as(torch.cuda.get_device_name()) if resources.gpus else "cpu"

    def gpu_memory(self, resources: Resources) -> int:
        """Of the GPU of this process."""
        import torch

        return int(torch.cuda.get_device_properties(0).total_memory) if resources.gpus else 0

    def execute_trials(
        self, trials: Sequence[Trial], store: Store, attempt: Attempt, on_progress: Callable[[Progress], None]
    ) -> Outcome:
        """Execute trials in their order. An error that cannot be recorded ends the sweep, so no trial is lost."""
        outcome = Outcome()
        for number, trial in enumerate(trials):
            own = attempt.of_trial(trial.phase, number).begun()
            self._execute(trial, store, own, on_progress, outcome)
        return outcome

    def execute_searches(
        self,
        ledgers: Sequence[Ledger],
        attempt: Attempt,
        on_progress: Callable[[Progress], None],
        snapshots: Snapshots,
    ) -> tuple[list[Trial], Outcome]:
        """Try the suggestions of one search after the other, each when the one before it is over."""
        # Samplers and rules are those of Ray's library; no cluster is started for them.
        from memexp.cluster.active_search import ActiveSearch

        outcome, trials = Outcome(), list[Trial]()
        for ledger in ledgers:
            search = ActiveSearch(ledger, attempt, on_progress)
            while (running := search.next(set())) is not None:
                trial = whole(running.candidate.forest, running.asks)
                trial.stoppable, trial.snapshots = ledger.prepared.search.stopping is not None, snapshots
                own = attempt.of_trial(trial.phase, len(trials)).begun()
                trials.append(trial)

                def report(progress: Progress, search: Any = search, running: Any = running) -> None:
                    on_progress(progress)
                    search.observe(running, progress.answered)
                    if running.stopped:
                        raise _Stopped

                with contextlib.suppress(_Stopped):
                    self._execute(trial, ledger.store, own, report, outcome)
                search.end(running)
                if self._lost:
                    return trials, outcome
        return trials, outcome

    def _execute(
        self,
        trial: Trial,
        store: Store,
        attempt: Attempt,
        report: Callable[[Progress], None],
        outcome: Outcome,
    ) -> None:
        """One trial, and what failed of it; none where the GPU of this process is lost: there is no other process."""
        from memexp.core.processes import World
        from memexp.trial.execute import execute
        from memexp.trial.leaving import Leaving, Notice

        if self._lost:
            return
        world, notice = World.current(trial.resources.gpus), Notice()

        def saves_first() -> bool:
            notice.give(stopped_by())
            return notice.trainings > 0

        try:
            with put_off(saves_first):
                outcome.failures += execute(
                    trial, store, world, attempt, report, self._base, watch=self._watch, notice=notice
                )
        except Leaving:
            raise Stopped from None
        except DeviceError as error:
            self._lost = True
            outcome.failures += [*error.lines, f"{error}: say the same command again for the rest"]
        if notice.why is not None:  # the trial was over before it heard of it
            raise Stopped


class _Stopped(BaseException):
    """The rule of a search ends a trial: no failure of what it is raised through."""


@contextlib.contextmanager
def in_this_process(
    needs: Collection[Resources], searches: Sequence[Ledger], peaks: Sequence[Peak] = (), debugged: bool = True
) -> Iterator[LocalExecutor]:
    """Make ready to execute trials here; the base model is let go of with the context.

    Args:
        needs: the resources of the trials to come.
        searches: the searches to come.
        peaks: what trials take of memory.
        debugged: whether probes print to this terminal and may take their time, as under a debugger.

    Raises:
        ClusterError: this machine has not the memory.
        SpecError: a trial needs several workers, or a GPU that is not here, or a search may try several suggestions
            at a time.
    """
    for resources in needs:
        if resources.workers > 1:
            raise SpecError(
                f"Resources.workers: {resources.workers} workers are several processes, --local is one: run without it"
            )
    for search in (ledger.prepared.search for ledger in searches):
        if search.concurrent != 1:
            raise SpecError(
                f"search {search.name}: its suggestions are tried several at a time, which --local cannot; "
                "run without it, or give Search.concurrent=1"
            )
    _set_threads(max(resources.threads for resources in needs))
    import torch

    from memexp.trial.base import WarmBase

    if any(resources.gpus for resources in needs) and not torch.cuda.is_available():
        raise SpecError("Resources.gpus: this process finds no GPU; leave gpus out, or run on a cluster that has some")
    refuse(peaks, [here()])
    yield LocalExecutor(WarmBase(), debugged)


def write_weights(forest: Forest, condition: str, store: Store, folder: Path) -> Path:
    """As `memexp.trial.weight_folder.write_weights`, which see."""
    resources = forest.resources.values()
    _set_threads(max((one.threads for one in resources), default=1))
    from memexp.trial.weight_folder import write_weights

    return write_weights(forest, condition, store, folder)


def _set_threads(threads: int) -> None:
    """As Ray does it for its workers, before torch is loaded: afterwards not all of its libraries listen."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    # Threads that spin while they wait cost others on the same cores up to four times their speed.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
