"""The searches of a sweep as one Tune experiment.

Each search has an OptunaSearch of its own, and they take turns in filling the cluster. A suggestion is stored before it
becomes a trial; its value is read from the store when its rows are there. Of Tune's two hooks `_Suggester` hands out
trials and hears how they ended, `_Referee` ends those that a rule of stopping gives up.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.search.optuna import OptunaSearch

from memexp import plan as planning
from memexp.cluster.connect import Cluster
from memexp.cluster.experiment import NUMBER, Listener, Outcome, execute_trial, fit, placement, send_probes
from memexp.plan import Ask, Trial
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.failed import recorded
from memexp.search.samplers import SPREAD, Sampler, distributions
from memexp.search.suggestions import Entry, Ledger, Place, elsewhere, file_of, record_stopped, remember
from memexp.spec import ASHA, MedianStopping, Point, Resources, Snapshots
from memexp.store import Store
from memexp.store.snapshots import find

__all__ = ["Line", "execute_searches"]

VALUE, AT, ORDER = "memexp_value", "memexp_at", "training_iteration"
FAR = 2**40
"""Further than any axis: its last condition ends a suggestion, not a rule."""


def execute_searches(
    ledgers: Sequence[Ledger],
    store: Store,
    attempt: Attempt,
    cluster: Cluster,
    on_progress: Callable[[Progress], None],
    snapshots: Snapshots,
    retry_diverged: bool = False,
) -> tuple[list[Trial], Outcome]:
    """Bring every search to its number of trials, and wait.

    Returns:
        The trials that were started, and how they ended; `Outcome.lost` has their numbers in that list.
    """
    desk = _Desk([Line(ledger, store, attempt, on_progress, retry_diverged) for ledger in ledgers], cluster, snapshots)
    send_probes(ask for line in desk.lines for ask in line.example.forest.asks)
    listener = Listener(on_progress)
    settings = tune.TuneConfig(
        search_alg=_Suggester(desk),
        scheduler=_Referee(desk),
        num_samples=sum(len(line.queue) for line in desk.lines),
        # The worker group of a stopped trial notices nothing; it goes with the process that drove it.
        reuse_actors=all(line.resources.workers == 1 for line in desk.lines),
    )
    try:
        fit(
            lambda config: _work(config, store, attempt),
            lambda config: placement(config["needs"], cluster),
            attempt,
            listener,
            settings,
        )
    except Exception:
        if desk.error is None:
            raise
    if desk.error is not None:  # Tune would tell it with a traceback of its own
        raise desk.error
    return desk.started, Outcome(listener.failures, listener.lost)


def _work(config: dict[str, Any], store: Store, attempt: Attempt) -> None:
    """What a Tune trial does. Texts come one by one: all suggestions of a search share them."""
    texts = {text: ray.get(ref) for text, ref in config["texts"].items()}
    execute_trial(dataclasses.replace(ray.get(config["trial"]), texts=texts), config[NUMBER], store, attempt)


@dataclass(frozen=True)
class _Key:
    """Stands in for the Tune trial of a suggestion where one of Ray's rules is asked."""

    trial_id: str


@dataclass
class Going:
    """A suggestion that is being tried."""

    index: int
    """Its number in its search."""
    place: Place
    """Its trajectory."""
    asks: list[Ask]
    """What its trial is to measure."""
    lacking: list[set[str]]
    """For each condition the files that are not there yet."""
    pretraining: frozenset[str] = frozenset()
    """The pretrain stages that its trial is to leave in the store before its first result."""
    values: dict[int, float | None] = field(default_factory=dict)
    """The metric of the conditions that are complete, by their number."""
    given_up: bool = False
    """Whether the rule of the search has given it up: Ray's rules take no further value then."""

    def take(self, files: Iterable[str]) -> list[int]:
        """The numbers of the conditions that `files` complete, in order."""
        files = set(files)
        if files:
            self.pretraining = frozenset()
        for lacking in self.lacking:
            lacking.difference_update(files)
        return [number for number, lacking in enumerate(self.lacking) if not lacking and number not in self.values]

    @property
    def busy(self) -> set[str]:
        """What it is about to write: files, and pretraining that others begin after."""
        return set(self.pretraining).union(*self.lacking)

    @property
    def stopped(self) -> bool:
        """Whether it ends before its last condition."""
        return self.given_up and len(self.place.stops) - 1 not in self.values

    @property
    def key(self) -> _Key:
        """What the rule knows it by."""
        return _Key(str(self.index))


class Line:
    """One search while it is executed: what is to be tried next, and all that its sampler and its rule are told."""

    def __init__(
        self,
        ledger: Ledger,
        store: Store,
        attempt: Attempt,
        on_progress: Callable[[Progress], None] = lambda _: None,
        retry_diverged: bool = False,
    ) -> None:
        self.prepared, self.search = ledger.prepared, ledger.prepared.search
        self.store, self.attempt, self.on_progress = store, attempt, on_progress
        self.gone = set[str]() if retry_diverged else planning.diverged(store)
        self.example = self.prepared.edges[0]
        self.sampler = Sampler(self.search)
        self.places = {index: entry.place for index, entry in ledger.entries.items()}
        indices = range(self.search.trials)
        begun = [index for index in indices if index in self.places and not ledger.through(index)]
        self.begun = set(begun)  # by an earlier process, and not yet here
        self.optuna = OptunaSearch(
            distributions(self.search),
            metric=VALUE,
            mode=self.search.mode,
            sampler=self.sampler,
            points_to_evaluate=[dict(self.places[index].point) for index in begun],  # what it suggests first
        )
        self.rule = _rule(self.search.stopping, self.search.mode)
        self.asked: set[int] = set()  # suggestions that optuna made in this process and waits for
        self.going: dict[int, Going] = {}
        self.queue = deque([*begun, *(index for index in indices if index not in ledger.entries)])
        for number, entry in enumerate([*ledger.entries.values(), *elsewhere(ledger)]):
            if entry.state != "open":
                self._learn(entry)
                self._weigh(entry, _Key(f"past {number}"))

    @property
    def resources(self) -> Resources:
        """What one of its trials holds."""
        return next(iter(self.example.forest.resources.values()))

    def next(self, busy: set[str]) -> Going | None:
        """The next suggestion to start a trial for, None where none is to be started now.

        Args:
            busy: what trials are about to write; a suggestion that wants some of it waits.
        """
        while self.queue and len(self.going) < self._at_once(self.queue[0]):
            index = self.queue[0]
            if index not in self.places:
                self.places[index] = self._suggest(index)
            elif index in self.begun:
                self.begun.remove(index)
                self._ask(index)
            place = self.places[index]
            if not busy.isdisjoint(_pretraining(place)) or any(stop.files & busy for stop in place.stops):
                return None
            self.queue.popleft()
            going = self._begin(index, place)
            if going.asks and not going.stopped:
                self.going[index] = going
                return going
            self.end(going)
        return None

    def _at_once(self, index: int) -> int:
        """How many suggestions may be tried together with this one.

        A sampler learns from those only that are through; evenly spread and random points wait for nothing.
        """
        free = self.search.trials if self.search.sampler == "random" else SPREAD
        return self.search.concurrent or (free if index < free else max(1, self.search.trials // 8))

    def _ask(self, index: int) -> Point:
        """The point of a suggestion: what the sampler chooses, or for one that was begun before what it was then."""
        self.sampler.at(index)
        self.asked.add(index)
        point: Point = self.optuna.suggest(str(index))
        return point

    def _suggest(self, index: int) -> Place:
        """A new suggestion, stored before anything else; that of another process where one was first."""
        point = self._ask(index)
        wanted = self.prepared.place({name: point[name] for name in self.search.space})
        place = remember(self.store, self.attempt.sweep, self.prepared, index, wanted)
        if place is not wanted:
            self.asked.remove(index)
            self.optuna.on_trial_complete(str(index), error=True)
        return place

    def _begin(self, index: int, place: Place) -> Going:
        missing = planning.find_missing(place.forest, self.store, gone=self.gone)
        planning.copy_results(missing, self.store)
        lacking = {file_of(ask) for ask in (*missing.asks, *missing.diverged)}
        pretraining = _pretraining(place)
        if pretraining:
            pretraining -= {mark.trajectory for mark in find(self.store).found}
        going = Going(index, place, missing.asks, [set(stop.files & lacking) for stop in place.stops], pretraining)
        if self.rule is not None:
            self.rule.on_trial_add(None, going.key)
        self.hear(going, ())  # what an earlier process, or another sweep, had measured
        return going

    def hear(self, going: Going, files: Iterable[str]) -> None:
        """Take notice of new files: of the values of the conditions they complete, sampler and rule are told."""
        for number in going.take(files):
            stop = going.place.stops[number]
            value = going.values[number] = self.prepared.value(stop, self.store)
            if going.index in self.asked and value is not None:
                self.optuna.on_trial_result(str(going.index), {VALUE: value, ORDER: number})
            going.given_up = going.given_up or self._gives_up(going.key, stop.at, value)

    def end(self, going: Going, crashed: bool = False) -> None:
        """A suggestion is over: as the store has it now, so the sampler is told."""
        self.going.pop(going.index, None)
        if not going.stopped and len(going.values) < len(going.place.stops):  # its last report may have died with it
            self.hear(going, [file_of(ask) for ask in going.asks if self.store.exists(ask.kind, ask.name)])
        entry = Entry(going.index, going.place, "complete", [going.values[n] for n in sorted(going.values)])
        if going.stopped:
            entry.state = "stopped"
            reached = max(going.values)
            record_stopped(self.store, self.attempt, self.prepared, going.index, going.place, reached)
        elif len(going.values) < len(going.place.stops):
            self.gone |= planning.diverged(self.store)
            left = planning.find_missing(going.place.forest, self.store, gone=self.gone)
            entry.state = "diverged" if left.diverged and not left.asks and not crashed else "open"
        self.on_progress(Progress(suggestions=int(entry.state != "open")))
        [base] = [stage for stage in going.place.forest.stages.values() if stage.parent is None]
        if entry.state == "open" and recorded([base], self.store, self.attempt):
            self.queue.clear()  # without its model nothing can be tried, and the sampler would suggest in the dark
        if going.index not in self.asked:
            if entry.state != "open":
                self._learn(entry)
            return
        self.asked.remove(going.index)
        result = None if entry.value is None else {VALUE: entry.value}
        self.optuna.on_trial_complete(str(going.index), result, error=entry.state == "open")

    def _learn(self, entry: Entry) -> None:
        """Tell the sampler of a suggestion that it has not made in this process."""
        known = [value for value in entry.values if value is not None]
        last = known[-1] if known else None
        self.optuna.add_evaluated_point(
            dict(entry.place.point), last, pruned=entry.value is None, intermediate_values=known
        )

    def _weigh(self, entry: Entry, key: _Key) -> None:
        """Tell the rule of a suggestion that is through, as far as it would have let it come."""
        if self.rule is not None:
            self.rule.on_trial_add(None, key)
        for stop, value in zip(entry.place.stops, entry.values, strict=False):
            if self._gives_up(key, stop.at, value):
                break

    def _gives_up(self, key: _Key, at: int, value: float | None) -> bool:
        """Whether the rule gives up a suggestion that has come to this value."""
        if self.rule is None or value is None:
            return False
        return bool(self.rule.on_trial_result(None, key, {AT: at, VALUE: value}) == TrialScheduler.STOP)


def _rule(stopping: ASHA | MedianStopping | None, mode: str) -> TrialScheduler | None:
    """Ray's implementation of a rule, which is asked by `Line._gives_up` only."""
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


def _pretraining(place: Place) -> frozenset[str]:
    """The pretrain stages of a trajectory: one that another trial leaves in the store need not be trained again."""
    return frozenset(stage.id for stage in place.forest.stages.values() if stage.kind == "pretrain")


class _Desk:
    """The searches of an experiment and the Tune trials that try their suggestions."""

    def __init__(self, lines: Sequence[Line], cluster: Cluster, snapshots: Snapshots) -> None:
        self.lines, self.cluster, self.snapshots = deque(lines), cluster, snapshots
        self.started: list[Trial] = []
        self.trials: dict[str, tuple[Line, Going]] = {}
        self.texts: dict[str, ray.ObjectRef] = {}
        self.error: Exception | None = None

    @contextlib.contextmanager
    def noting(self) -> Iterator[None]:
        """Keep an error that passes through Tune, which may swallow it: of a user's function, a metric, the store."""
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    @property
    def finished(self) -> bool:
        """Whether no suggestion is left to be started."""
        return not any(line.queue for line in self.lines)

    def start(self, trial_id: str) -> dict[str, Any] | None:
        """What a new Tune trial is to do, None where none is to be started now. The searches take turns."""
        busy = {name for _, going in self.trials.values() for name in going.busy}
        for line in list(self.lines):
            if not self._has_room(line.resources):
                continue
            going = line.next(busy)
            if going is not None:
                self.lines.remove(line)
                self.lines.append(line)
                self.trials[trial_id] = line, going
                return self._config(line, going)
        return None

    def end(self, trial_id: str, crashed: bool) -> None:
        """A Tune trial is over."""
        line, going = self.trials.pop(trial_id)
        with self.noting():
            line.end(going, crashed)

    def _has_room(self, resources: Resources) -> bool:
        """Whether a trial could start at once: a sampler that knows more values suggests better."""
        used = sum(1 / self.cluster.slots(line.resources) for line, _ in self.trials.values())
        return not self.trials or used + 1 / self.cluster.slots(resources) < 1 + 1e-9

    def _config(self, line: Line, going: Going) -> dict[str, Any]:
        trial = planning.whole(going.place.forest, going.asks)
        trial.stoppable, trial.snapshots = line.rule is not None, self.snapshots
        self.started.append(trial)
        for text in trial.texts:
            if text not in self.texts:
                self.texts[text] = ray.put(trial.texts[text])
        return {
            NUMBER: len(self.started) - 1,
            "trial": ray.put(dataclasses.replace(trial, texts={})),
            "texts": {text: self.texts[text] for text in trial.texts},
            "needs": trial.resources,
        }


class _Suggester(Searcher):  # type: ignore[misc] # untyped
    """What Tune asks for trials."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()  # without a metric, which Tune would look for in every report
        self.desk = desk

    def __getstate__(self) -> dict[str, Any]:
        """Tune keeps what it could restore an experiment from; here the store does."""
        return {}

    def suggest(self, trial_id: str) -> Any:
        with self.desk.noting():
            config = self.desk.start(trial_id)
        return Searcher.FINISHED if config is None and self.desk.finished else config

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self.desk.end(trial_id, crashed=error)

    def save_to_dir(self, checkpoint_dir: str, session_str: str = "default") -> None:
        return None


class _Referee(FIFOScheduler):  # type: ignore[misc] # untyped
    """What Tune asks whether a trial is to go on. The first of its hooks to see a report."""

    def __init__(self, desk: _Desk) -> None:
        super().__init__()
        self.desk = desk

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def on_trial_result(self, controller: Any, trial: TuneTrial, result: dict[str, Any]) -> str:
        line, going = self.desk.trials[trial.trial_id]
        with self.desk.noting():
            line.hear(going, result.get("answered", ()))
        return str(TrialScheduler.STOP if going.stopped else TrialScheduler.CONTINUE)

    def choose_trial_to_run(self, controller: Any) -> TuneTrial | None:
        for trial in controller.get_trials():
            # Where a process does not let go of its last trial in time, the next one ends without a word.
            if trial.status == TuneTrial.ERROR and trial.trial_id in self.desk.trials:
                self.desk.end(trial.trial_id, crashed=True)
        return super().choose_trial_to_run(controller)
