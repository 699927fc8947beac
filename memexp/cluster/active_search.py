"""One search while it is executed: which suggestion is next, and all that its sampler and its rule are told.

    search = ActiveSearch(ledger, attempt)
    while (running := search.next(busy=set())) is not None:
        ...  # train and measure running.asks
        search.observe(running, files)  # as often as new files are there
        search.end(running)
    search.together(busy=set(), places=1)  # several that one trial tries in lanes

A suggestion is stored before it becomes a trial; its value is read from the store when its rows are there. No process
of Ray is needed, but Ray's classes are: OptunaSearch, and in `memexp.cluster.stopping` the rules.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from ray.tune.search.optuna import OptunaSearch

from memexp import plan as planning
from memexp.cluster.stopping import StoppingRule
from memexp.plan import Ask
from memexp.plan.attempts import Attempt, Log, Progress, failures
from memexp.search.candidates import Candidate
from memexp.search.ledger import Entry, Ledger, measured_elsewhere, record_stopped, remember, stored_value
from memexp.search.samplers import SPREAD, Sampler, distributions
from memexp.spec import Point, Resources
from memexp.store.snapshots import find

__all__ = ["ActiveSearch", "RunningSuggestion"]

VALUE, ORDER = "memexp_value", "training_iteration"
"""What OptunaSearch is told of a condition: its metric, and its place among the conditions of its suggestion."""


@dataclass
class RunningSuggestion:
    """A suggestion that is being tried."""

    index: int
    """Its number in its search."""
    candidate: Candidate
    """Its point and its trajectory."""
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
        """Take note of new files. Returns the numbers of the conditions that they complete, in order."""
        files = set(files)
        if files:
            self.pretraining = frozenset()
        for lacking in self.lacking:
            lacking.difference_update(files)
        return [number for number, lacking in enumerate(self.lacking) if not lacking and number not in self.values]

    @property
    def base(self) -> str:
        """The base model that it is tried with."""
        [base] = self.candidate.forest.resources
        return base

    @property
    def busy(self) -> set[str]:
        """What it is about to write: files, and pretraining that others begin after."""
        return set(self.pretraining).union(*self.lacking)

    @property
    def complete(self) -> bool:
        """Whether all its conditions have been measured."""
        return len(self.values) == len(self.candidate.stops)

    @property
    def stopped(self) -> bool:
        """Whether it ends before its last condition."""
        return self.given_up and len(self.candidate.stops) - 1 not in self.values


class ActiveSearch:
    """A search of which suggestions are made and tried. One for each search and process."""

    def __init__(
        self, ledger: Ledger, attempt: Attempt, on_progress: Callable[[Progress], None] = lambda _: None
    ) -> None:
        self.prepared, self.search = ledger.prepared, ledger.prepared.search
        self.store, self.attempt, self.on_progress = ledger.store, attempt, on_progress
        self.gone = set[str]() if ledger.retry_diverged else Log.read(self.store).diverged
        self.example = self.prepared.edges[0]
        self.sampler = Sampler(self.search)
        self.candidates = {index: entry.candidate for index, entry in ledger.entries.items()}
        indices = range(self.search.trials)
        begun = [index for index in indices if index in self.candidates and not ledger.is_over(index)]
        self.begun = set(begun)  # by an earlier process, and not yet here
        self.optuna = OptunaSearch(
            distributions(self.search),
            metric=VALUE,
            mode=self.search.mode,
            sampler=self.sampler,
            points_to_evaluate=[dict(self.candidates[index].point) for index in begun],  # what it suggests first
        )
        self.rule = StoppingRule(self.search.stopping, self.search.mode)
        self.asked: set[int] = set()  # suggestions that optuna made in this process and waits for
        self.running: dict[int, RunningSuggestion] = {}
        self.queue = deque([*begun, *(index for index in indices if index not in ledger.entries)])
        for number, entry in enumerate([*ledger.entries.values(), *measured_elsewhere(ledger)]):
            if entry.state != "open":
                self._tell_sampler(entry)
                self._tell_rule(entry, f"past {number}")

    @property
    def resources(self) -> Resources:
        """What one of its trials holds."""
        return next(iter(self.example.forest.resources.values()))

    @property
    def lanes(self) -> int:
        """Suggestions that one of its trials may try in one pass; one where a rule may end each of them."""
        whole = planning.whole(self.example.forest, self.example.forest.asks)
        return 1 if self.search.stopping is not None else whole.most_lanes

    def together(self, busy: set[str], places: int) -> list[RunningSuggestion]:
        """The next suggestions to start a trial for: of one base model, as many as its lanes; none where none is to be
        started now.

        Args:
            busy: as for `next`; those of one trial may have a pretraining in common.
            places: trials that the cluster can execute at a time, of which none is to stay empty for lanes.
        """
        first = self.next(busy)
        if first is None:
            return []
        found, most = [first], min(self.lanes, self._concurrent(first.index) // places)
        while len(found) < most:
            beside = set[str]().union(*(files for one in found for files in one.lacking))
            another = self.next(busy | beside, first.base)
            if another is None:
                break
            found.append(another)
        return found

    def next(self, busy: set[str], base: str | None = None) -> RunningSuggestion | None:
        """The next suggestion to start a trial for, None where none is to be started now.

        Args:
            busy: what trials are about to write; a suggestion that wants some of it waits.
            base: the base model that it has to have, by default any.
        """
        while self.queue and len(self.running) < self._concurrent(self.queue[0]):
            index = self.queue[0]
            if index not in self.candidates:
                self.candidates[index] = self._suggest(index)
            elif index in self.begun:
                self.begun.remove(index)
                self._ask(index)
            candidate = self.candidates[index]
            if base is not None and base not in candidate.forest.resources:
                return None
            if not busy.isdisjoint(_pretraining(candidate)) or any(stop.files & busy for stop in candidate.stops):
                return None
            self.queue.popleft()
            running = self._begin(index, candidate)
            if running.asks and not running.stopped:
                self.running[index] = running
                return running
            self.end(running)
        return None

    def _concurrent(self, index: int) -> int:
        """How many suggestions may be tried together with this one.

        A sampler learns only from those that are over; evenly spread and random points wait for nothing.
        """
        free = self.search.trials if self.search.sampler == "random" else SPREAD
        lanes = 1 if self.resources.lanes == "auto" else self.lanes
        learning = max(lanes, self.search.trials // 8)
        return self.search.concurrent or (max(free, lanes) if index < free else learning)

    def _ask(self, index: int) -> Point:
        """The point of a suggestion: what the sampler chooses, or for one that was begun before what it was then."""
        self.sampler.start(index)
        self.asked.add(index)
        point: Point = self.optuna.suggest(str(index))
        return point

    def _suggest(self, index: int) -> Candidate:
        """A new suggestion, stored before anything else; that of another process where one was first."""
        point = self._ask(index)
        wanted = self.prepared.candidate({name: point[name] for name in self.search.space})
        candidate = remember(self.store, self.attempt.sweep, self.prepared, index, wanted)
        if candidate is not wanted:
            self.asked.remove(index)
            self.optuna.on_trial_complete(str(index), error=True)
        return candidate

    def _begin(self, index: int, candidate: Candidate) -> RunningSuggestion:
        """A suggestion with what is left to be measured, given what the store has by now."""
        missing = planning.find_missing(candidate.forest, self.store, gone=self.gone)
        planning.copy_results(missing, self.store)
        lacking = {ask.file for ask in (*missing.asks, *missing.diverged)}
        pretraining = _pretraining(candidate)
        if pretraining:
            pretraining -= {mark.trajectory for mark in find(self.store, pretraining).found}
        left = [set(stop.files & lacking) for stop in candidate.stops]
        running = RunningSuggestion(index, candidate, missing.asks, left, pretraining)
        self.rule.add(str(index))
        self.observe(running, ())  # what an earlier process, or another sweep, had measured
        return running

    def observe(self, running: RunningSuggestion, files: Iterable[str]) -> None:
        """Take notice of new files: of the values of the conditions they complete, sampler and rule are told."""
        for number in running.take(files):
            stop = running.candidate.stops[number]
            value = running.values[number] = stored_value(self.prepared, self.store, stop)
            if running.index in self.asked and value is not None:
                self.optuna.on_trial_result(str(running.index), {VALUE: value, ORDER: number})
            running.given_up = running.given_up or self.rule.gives_up(str(running.index), stop.at, value)

    def end(self, running: RunningSuggestion, crashed: bool = False) -> None:
        """A suggestion is over: as the store has it now, so the sampler is told."""
        self.running.pop(running.index, None)
        if not running.stopped and not running.complete:  # its last report may have died with it
            self.observe(running, [ask.file for ask in running.asks if self.store.exists(ask.kind, ask.name)])
        entry = Entry(running.index, running.candidate, "complete", [running.values[n] for n in sorted(running.values)])
        if running.stopped:
            entry.state = "stopped"
            reached = max(running.values)
            record_stopped(self.store, self.attempt, self.prepared, running.index, running.candidate, reached)
        elif not running.complete:
            self.gone |= Log.read(self.store).diverged
            left = planning.find_missing(running.candidate.forest, self.store, gone=self.gone)
            entry.state = "diverged" if left.diverged and not left.asks and not crashed else "open"
        self.on_progress(Progress(suggestions=int(entry.state != "open")))
        [base] = [stage for stage in running.candidate.forest.stages.values() if stage.parent is None]
        if entry.state == "open" and failures(self.store, self.attempt, [base]):
            self.queue.clear()  # without its model nothing can be tried, and the sampler would suggest in the dark
        if running.index not in self.asked:
            if entry.state != "open":
                self._tell_sampler(entry)
            return
        self.asked.remove(running.index)
        result = None if entry.value is None else {VALUE: entry.value}
        self.optuna.on_trial_complete(str(running.index), result, error=entry.state == "open")

    def _tell_sampler(self, entry: Entry) -> None:
        """Tell the sampler of a suggestion that it has not made in this process."""
        known = [value for value in entry.values if value is not None]
        last = known[-1] if known else None
        self.optuna.add_evaluated_point(
            dict(entry.candidate.point), last, pruned=entry.value is None, intermediate_values=known
        )

    def _tell_rule(self, entry: Entry, name: str) -> None:
        """Tell the rule of a suggestion that is over, as far as it would have let it come."""
        self.rule.add(name)
        for stop, value in zip(entry.candidate.stops, entry.values, strict=False):
            if self.rule.gives_up(name, stop.at, value):
                break


def _pretraining(candidate: Candidate) -> frozenset[str]:
    """The pretrain stages of a trajectory: one that another trial leaves in the store need not be trained again."""
    return frozenset(stage.id for stage in candidate.forest.stages.values() if stage.kind == "pretrain")
