"""The searches of a sweep as one Tune experiment.

    trials, outcome = execute_searches(ledgers, store, attempt, cluster, on_progress, snapshots)

Each search is a `memexp.cluster.active_search.ActiveSearch` of its own, and they take turns in filling the cluster. Of
Tune's two hooks the searcher hands out trials and is told how they ended, the scheduler ends those whose suggestion a
rule of stopping gives up. Both leave everything to `_Experiment`.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from memexp import plan as planning
from memexp.cluster.active_search import ActiveSearch, RunningSuggestion
from memexp.cluster.connect import Cluster
from memexp.cluster.experiment import NUMBER, Listener, fit, placement, tune_trial
from memexp.cluster.sending import Sender, send_probes
from memexp.plan import Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.retries import Outcome
from memexp.search.ledger import Ledger
from memexp.spec import Resources, Snapshots

__all__ = ["run_searches"]


def run_searches(
    ledgers: Sequence[Ledger],
    attempt: Attempt,
    cluster: Cluster,
    on_progress: Callable[[Progress], None],
    snapshots: Snapshots,
) -> tuple[list[Trial], Outcome]:
    """Bring every search to its number of trials, and wait.

    Returns:
        The trials that were started, and how they ended; `Outcome.lost` has their numbers in that list.
    """
    searches = [ActiveSearch(ledger, attempt, on_progress) for ledger in ledgers]
    store = ledgers[0].store
    experiment = _Experiment(searches, cluster, snapshots)
    send_probes(ask for search in searches for ask in search.example.forest.asks)
    listener = Listener(on_progress, attempt, experiment.started)
    settings = tune.TuneConfig(
        search_alg=_SuggestionSearcher(experiment),
        scheduler=_StoppingScheduler(experiment),
        num_samples=sum(len(search.queue) for search in searches),
        # The worker group of a stopped trial notices nothing; it goes with the process that drove it.
        reuse_actors=all(search.resources.workers == 1 for search in searches),
    )
    try:
        fit(
            lambda config: tune_trial(config["trial"].received(), config[NUMBER], store, attempt),
            lambda config: placement(config["needs"], cluster),
            attempt,
            listener,
            settings,
        )
    except Exception:  # whatever Tune makes of the error that is kept, and raised next; any other is raised as it is
        if experiment.error is None:
            raise
    if experiment.error is not None:  # Tune would tell it with a traceback of its own
        raise experiment.error
    return experiment.started, Outcome(listener.failures, listener.lost)


class _Experiment:
    """The searches of an experiment and the Tune trials that try their suggestions."""

    def __init__(self, searches: Sequence[ActiveSearch], cluster: Cluster, snapshots: Snapshots) -> None:
        self.searches, self.cluster, self.snapshots = deque(searches), cluster, snapshots
        self.started: list[Trial] = []
        self.running: dict[str, tuple[ActiveSearch, list[RunningSuggestion]]] = {}  # by the id of the Tune trial
        self.sender = Sender()
        self.error: Exception | None = None

    @contextlib.contextmanager
    def keeping_errors(self) -> Iterator[None]:
        """Keep an error that passes through Tune, which may swallow it: of a user's function, a metric, the store."""
        try:
            yield
        except Exception as error:  # a user's function may raise anything; `run_searches` raises it again
            self.error = error
            raise

    @property
    def finished(self) -> bool:
        """Whether no suggestion is left to be started."""
        return not any(search.queue for search in self.searches)

    def start(self, trial_id: str) -> dict[str, Any] | None:
        """What a new Tune trial is to do, None where none is to be started now. The searches take turns."""
        busy = {name for _, some in self.running.values() for suggestion in some for name in suggestion.busy}
        for search in list(self.searches):
            if not self._has_room(search.resources):
                continue
            suggestions = search.together(busy, self.cluster.slots(search.resources))
            if suggestions:
                self.searches.remove(search)
                self.searches.append(search)
                self.running[trial_id] = search, suggestions
                return self._config(search, suggestions)
        return None

    def end(self, trial_id: str, crashed: bool) -> None:
        """A Tune trial is over."""
        search, suggestions = self.running.pop(trial_id)
        with self.keeping_errors():
            for suggestion in suggestions:
                search.end(suggestion, crashed)

    def observe(self, trial_id: str, files: Sequence[str]) -> bool:
        """A Tune trial has written these files. Returns whether it is to end."""
        search, suggestions = self.running[trial_id]
        with self.keeping_errors():
            for suggestion in suggestions:
                search.observe(suggestion, {ask.file for ask in suggestion.asks}.intersection(files))
        return all(suggestion.stopped for suggestion in suggestions)

    def _has_room(self, resources: Resources) -> bool:
        """Whether a trial could start at once: a sampler that knows more values suggests better."""
        used = sum(1 / self.cluster.slots(search.resources) for search, _ in self.running.values())
        return not self.running or used + 1 / self.cluster.slots(resources) < 1 + 1e-9

    def _config(self, search: ActiveSearch, suggestions: Sequence[RunningSuggestion]) -> dict[str, Any]:
        """What the process of a Tune trial is given."""
        trial = planning.merged([planning.whole(one.candidate.forest, one.asks) for one in suggestions])
        trial.stoppable, trial.snapshots = search.search.stopping is not None, self.snapshots
        self.started.append(trial)
        return {NUMBER: len(self.started) - 1, "trial": self.sender.send(trial), "needs": trial.resources}


class _SuggestionSearcher(Searcher):  # type: ignore[misc] # untyped
    """What Tune asks for trials."""

    def __init__(self, experiment: _Experiment) -> None:
        super().__init__()  # without a metric, which Tune would look for in every report
        self.experiment = experiment

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps what it could restore an experiment from; here the store does."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        with self.experiment.keeping_errors():
            config = self.experiment.start(trial_id)
        return Searcher.FINISHED if config is None and self.experiment.finished else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.experiment.end(trial_id, crashed=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None


class _StoppingScheduler(FIFOScheduler):  # type: ignore[misc] # untyped
    """What Tune asks whether a trial is to go on. The first of its hooks to see a report."""

    def __init__(self, experiment: _Experiment) -> None:
        super().__init__()
        self.experiment = experiment

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        stops = self.experiment.observe(trial.trial_id, result.get("answered", ()))
        return str(TrialScheduler.STOP if stops else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, controller: Any) -> TuneTrial | None:
        for trial in controller.get_trials():
            # Where a process does not let go of its last trial in time, the next one ends without a word.
            if trial.status == TuneTrial.ERROR and trial.trial_id in self.experiment.running:
                self.experiment.end(trial.trial_id, crashed=True)
        return super().choose_trial_to_run(controller)
