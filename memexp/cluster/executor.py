"""A connected cluster as what executes trials, one of the two kinds that `memexp.driver` knows.

with on_cluster(None, needs={Resources()}, store=Store("results")) as executor:
    executor.execute_trials(trials, store, attempt, display)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from memexp.cluster.connect import Cluster, connected
from memexp.cluster.experiment import run_trials
from memexp.cluster.searches import run_searches
from memexp.plan import Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.retries import Outcome
from memexp.plan.room import Peak
from memexp.search.ledger import Ledger
from memexp.sources import ResolvedModel, Stream
from memexp.spec import Resources, Snapshots
from memexp.store import Store

__all__ = ["ClusterExecutor", "on_cluster"]


@dataclass(frozen=True)
class ClusterExecutor:
    """Executes trials and searches as Tune experiments."""

    cluster: Cluster
    plain: bool = False

    def slots(self, resources: Resources) -> int:
        """How many trials with these resources can execute side by side."""
        return self.cluster.slots(resources)

    def device(self, resources: Resources) -> str:
        """See `memexp.cluster.connect.Cluster.device`."""
        return self.cluster.device(resources)

    def gpu_memory(self, resources: Resources) -> int:
        """See `memexp.cluster.connect.Cluster.gpu_memory`."""
        return self.cluster.gpu_memory(resources)

    def execute_trials(
        self, trials: Sequence[Trial], store: Store, attempt: Attempt, on_progress: Callable[[Progress], None]
    ) -> Outcome:
        """See `memexp.cluster.experiment.run_trials`."""
        return run_trials(trials, store, attempt, self.cluster, on_progress)

    def execute_searches(
        self,
        ledgers: Sequence[Ledger],
        attempt: Attempt,
        on_progress: Callable[[Progress], None],
        snapshots: Snapshots,
    ) -> tuple[list[Trial], Outcome]:
        """See `memexp.cluster.searches.run_searches`."""
        return run_searches(ledgers, attempt, self.cluster, on_progress, snapshots)


@contextlib.contextmanager
def on_cluster(
    address: str | None,
    needs: Iterable[Resources],
    store: Store,
    reads: Iterable[ResolvedModel | Stream] = (),
    peaks: Sequence[Peak] = (),
) -> Iterator[ClusterExecutor]:
    """Connect for the time of the context; see `memexp.cluster.connect.connected` for arguments and errors."""
    with connected(address, needs, store, reads, peaks) as cluster:
        yield ClusterExecutor(cluster)
