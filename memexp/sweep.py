"""A sweep: conditions and what their trials may hold. Plans, executes what is missing, says what became of it.

sweep = Sweep(name="exposures", conditions=[...], resources=Resources(cpus=1))

if __name__ == "__main__":
    raise SystemExit(sweep.main())
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field
from rich.console import Console

from memexp import plan as planning
from memexp import snapshots
from memexp.attempt import Attempt, stage_row
from memexp.errors import MemexpError, SpecError
from memexp.identity import NUMERICS
from memexp.inspection import check_contexts, check_forgetting, check_models, memory_per_worker, sizes
from memexp.manifests import latest_manifests
from memexp.plan import Ask, Forest, Missing, Stage, Trial
from memexp.progress import Display, SearchDisplay
from memexp.records import STAGES, SWEEPS
from memexp.sources import ResolvedModel, Sources
from memexp.spec import Condition, Model, Name, Resources, Search, Snapshots, spec
from memexp.store import Store, default_store, option_for
from memexp.suggestions import Ledger, Prepared, prepare
from memexp.summary import print_searches, print_summary

if TYPE_CHECKING:
    from memexp.cluster.connect import Cluster
    from memexp.cluster.tune import Outcome

__all__ = ["Plan", "Sweep", "run_options"]


def run_options(add_help: bool = False) -> argparse.ArgumentParser:
    """The options of ``memexp run``, as a parent for a sweep script's own parser.

    Example:
        parser = argparse.ArgumentParser(description=__doc__, parents=[run_options()])
    """
    parser = argparse.ArgumentParser(add_help=add_help)
    group = parser.add_argument_group("where and how")
    group.add_argument("--store", default=None, help="folder, s3://... or gs://... (default: MEMEXP_STORE or results)")
    group.add_argument("--address", help="Ray cluster: host:port, auto or local (default: RAY_ADDRESS, else local)")
    group.add_argument(
        "--retry-diverged", action="store_true", help="train again what reached a loss that is not finite"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


@dataclass(frozen=True)
class Plan:
    """What a sweep comes to, and what of it the store has."""

    conditions: int
    """Distinct conditions."""
    stages: int
    """Stages of the whole forest, bases included."""
    steps: int
    """Optimizer steps of the whole forest."""
    steps_unshared: int
    """Optimizer steps if every condition were trained by itself."""
    stored: int
    """Conditions whose every result is in the store."""
    trials: int
    """Trials that would be executed now."""
    steps_missing: int
    """Optimizer steps that would be made now."""
    copies: int
    """Results that would be copied from other conditions' files."""
    diverged: int
    """Conditions not to be had: their training diverged (repeated with ``--retry-diverged``)."""
    models: tuple[Mapping[str, Any], ...]
    """For each base: model, method, parameters, workers, bytes per worker."""
    searches: tuple[Mapping[str, Any], ...] = ()
    """For each search: name, identity, trials, those of them that are through, and optimizer steps that the others
    come to at most."""
    remarks: tuple[str, ...] = ()
    """What to know before anything is trained: texts that interference shares with study, or takes again."""

    def json(self) -> str:
        """One JSON object with these fields as keys."""
        return json.dumps(dataclasses.asdict(self), indent=2)


def _all_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) else value


@spec
class Sweep:
    """Conditions under a name. A grid is a comprehension over `Condition`."""

    name: Name
    """Names the sweep in ``stages/`` and ``sweeps/``."""
    conditions: Annotated[tuple[Condition, ...], BeforeValidator(_all_of)] = ()
    """What is to be measured."""
    searches: Annotated[tuple[Search, ...], BeforeValidator(_all_of)] = ()
    """What is to be looked for, when the conditions are there: what they measured is told to the samplers."""
    resources: Resources | Callable[[Model], Resources] = Field(default_factory=Resources)
    """What each trial holds, or a function of its model."""
    snapshots: Snapshots = Field(default_factory=Snapshots)
    """How often trajectories are put down in the store, for what is killed to go on from there."""

    def __post_init__(self) -> None:
        if not self.conditions and not self.searches:
            raise SpecError("Sweep.conditions and Sweep.searches are both empty: there is nothing to do")
        names = [search.name for search in self.searches]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"Sweep.searches: two are called {name!r}")

    def grow(self, sources: Sources | None = None) -> Forest:
        """The forest of stages. Raises SpecError, DataError or ModelError for what could never be executed."""
        forest = planning.grow(self.conditions, self.resources, sources)
        check_forgetting(forest)
        check_contexts(forest, {})
        return forest

    def prepare(self, sources: Sources) -> list[Prepared]:
        """The searches, tried at the edges of their spaces. Raises what `grow` raises."""
        found = [prepare(search, self.resources, sources) for search in self.searches]
        for place in (place for search in found for place in search.edges):
            check_forgetting(place.forest)
            check_contexts(place.forest, {})
        return found

    def plan(self, store: str | os.PathLike[str] | None = None) -> Plan:
        """What the sweep comes to, on this machine, given what `store` has. Imports neither torch nor Ray."""
        sources = Sources()
        forest, searches = self.grow(sources), self.prepare(sources)
        place = Store(store or default_store())
        missing = planning.missing(forest, place)
        trials = planning.bundle(forest, missing.asks, _slots_here)
        return Plan(
            conditions=forest.conditions,
            stages=len(forest.stages),
            steps=forest.steps,
            steps_unshared=forest.steps_unshared,
            stored=_complete(forest, missing),
            trials=len(trials),
            steps_missing=sum(trial.steps for trial in trials),
            copies=len(missing.copies),
            diverged=len({ask.condition_id for ask in missing.diverged}),
            models=_models(_forests(forest, searches)),
            searches=tuple(_told(Ledger(search, place)) for search in searches),
            remarks=_remarks(_forests(forest, searches)),
        )

    def run(
        self,
        store: str | os.PathLike[str] | None = None,
        address: str | None = None,
        retry_diverged: bool = False,
        console: Console | None = None,
    ) -> bool:
        """Execute what is missing.

        Args:
            store: folder or URL; MEMEXP_STORE or ``results`` by default.
            address: Ray cluster, see `memexp.cluster.connect.connected`.
            retry_diverged: train again what reached a loss that is not finite.
            console: where to say what happens.

        Returns:
            Whether every condition is complete now.

        Raises:
            MemexpError: the sweep could not be started, or its store could not be written.
        """
        results = console or Console()  # tables are the answer; what happens on the way goes to stderr
        console = console or Console(stderr=True)
        place = Store(store or default_store())
        place.check_writable()
        sources = Sources()
        forest, searches = self.grow(sources), self.prepare(sources)
        for line in _remarks(_forests(forest, searches)):
            _say(console, line, "yellow")
        missing = planning.missing(forest, place, retry_diverged)
        planning.copy(missing, place)
        ledgers = [Ledger(search, place, retry_diverged) for search in searches]
        for ledger in ledgers:
            ledger.copy()
        for line in self._so_far(forest, missing, ledgers):
            _say(console, f"{self.name}: {line} are in {place.location}")
        work = _Work(forest, missing, ledgers, place, self.snapshots, retry_diverged)
        if not work.left:
            self._record(forest, place)
        else:
            attempt = Attempt(self.name, uuid.uuid4().hex[:12], _commit())
            try:
                with _heartbeat(place, attempt, len(missing.asks)):
                    self._execute(work, attempt, address, console)
            except KeyboardInterrupt:
                missing = planning.missing(forest, place)
                done = ", ".join(self._so_far(forest, missing, [Ledger(search, place) for search in searches]))
                _say(console, f"stopped: {done} complete; the same command goes on")
                raise
        print_summary(place, self.name, forest, results)
        ledgers = [Ledger(search, place) for search in searches]
        print_searches(place, ledgers, results)
        return self._conclude(forest, place, ledgers, console)

    def _so_far(self, forest: Forest, missing: Missing, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """What of the sweep is there, a part of a line for the conditions and one for each search."""
        if self.conditions:
            yield f"{_complete(forest, missing)} of {forest.conditions} conditions"
        for ledger in ledgers:
            search = ledger.prepared.search
            yield f"{ledger.done} of {search.trials} suggestions of search {search.name}"

    def _execute(self, work: _Work, attempt: Attempt, address: str | None, console: Console) -> None:
        """First the conditions, then the searches, whose samplers are told what the conditions came to."""
        for forest, bases in work.models:
            check_models(forest, bases)
        from memexp.cluster.connect import connected

        with connected(address, work.needs, work.store) as cluster, _terminable():
            self._record(work.forest, work.store)
            failures: list[str] = []
            if work.missing.asks:
                failures += _execute_conditions(work, attempt, cluster, console)
            if work.searches:
                failures += _execute_searches(work, attempt, cluster, console)
        for line in failures:
            _say(console, line, "red")
        if failures:
            where = option_for(work.store)
            _say(console, f"more: memexp query {where}\"SELECT error FROM stages WHERE status = 'failed'\"")

    def _record(self, forest: Forest, store: Store) -> None:
        """Say in ``sweeps/`` which files hold this sweep's results, unless that is what it said last."""
        now = datetime.now(UTC)
        rows = [
            {
                "sweep": self.name,
                "kind": ask.kind,
                "name": ask.name,
                "condition_id": ask.condition_id,
                "stage_id": ask.stage,
                "probe_id": ask.probe_id,
                "started": now,
            }
            for ask in forest.asks
        ]
        said = latest_manifests(store).get(self.name, [])
        if {(row["kind"], row["name"]) for row in rows} != {(row["kind"], row["name"]) for row in said}:
            name = f"{self.name}-{uuid.uuid4().hex[:12]}"
            store.commit("sweeps", name, pa.Table.from_pylist(rows, schema=SWEEPS))

    def _conclude(self, forest: Forest, store: Store, ledgers: Sequence[Ledger], console: Console) -> bool:
        """Look once more at the store, which alone decides, and say what it has."""
        left = planning.missing(forest, store)
        if not self.snapshots.keep:
            _discard_snapshots(forest, left, ledgers, store)
        lacking = {ask.condition_id for ask in _open(left)}
        diverged = {ask.condition_id for ask in left.diverged}
        short = [ledger for ledger in ledgers if ledger.done < ledger.prepared.search.trials]
        line = ", ".join(self._so_far(forest, left, ledgers)) + " complete"
        if diverged:
            line += f", {len(diverged)} diverged (an outcome; --retry-diverged repeats them)"
        if lacking - diverged:
            line += (
                f", {len(lacking - diverged)} failed or skipped: `memexp status` says why, the same command tries again"
            )
        elif short:
            line += ", others failed: `memexp status` says why, the same command tries again"
        _say(console, line, "red" if lacking or short else "green")
        return not lacking and not short

    def main(self, options: argparse.Namespace | None = None) -> int:
        """What a sweep script does when called by itself.

        Args:
            options: the options of `run_options`, by default parsed from the command line.

        Returns:
            The exit status: 0 if every condition is complete, 1 if not, 2 for bad input, 130 after Ctrl-C, 143 after
            SIGTERM.
        """
        if being_loaded():
            raise SpecError(
                "sweep.main() is called while memexp loads the script; put it under if __name__ == '__main__'"
            )
        options = options or run_options(add_help=True).parse_args()
        return guarded(
            lambda: 0 if self.run(options.store, options.address, options.retry_diverged) else 1, options.debug
        )


_loading: list[str] = []


@contextlib.contextmanager
def loading(path: str) -> Iterator[None]:
    """While the context lasts, a sweep script is executed for what it describes and not to be run."""
    _loading.append(path)
    try:
        yield
    finally:
        _loading.pop()


def being_loaded() -> bool:
    """Whether a sweep script is being executed for its description only."""
    return bool(_loading)


def guarded(work: Callable[[], int], debug: bool) -> int:
    """Exit status of `work`; its errors on purpose become a line or two on stderr, unless `debug` lets them through."""
    try:
        return work()
    except MemexpError as error:
        if debug:
            raise
        print(f"memexp: {error}", file=sys.stderr)
        return 2
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a cloud machine gets before it is taken away."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """While the context lasts, SIGTERM ends the sweep as Ctrl-C does; Ray's own handler would leave without a word."""
    if threading.current_thread() is not threading.main_thread():  # a notebook's, which no signal reaches
        yield
        return

    def terminate(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say(console: Console, line: str, style: str | None = None) -> None:
    """One line, as it is: no markup, no colour by content, no wrapping in the middle of a path."""
    console.print(line, style=style, highlight=False, markup=False, soft_wrap=True)


def _open(missing: Missing) -> list[Ask]:
    return [*missing.asks, *missing.diverged, *(copy.ask for copy in missing.copies)]


def _complete(forest: Forest, missing: Missing) -> int:
    """Conditions whose every result is in the store."""
    return forest.conditions - len({ask.condition_id for ask in _open(missing)})


def _slots_here(resources: Resources) -> int:
    """What this machine's CPUs could hold at a time, for a plan made before any cluster is asked."""
    return max(1, int((os.cpu_count() or 1) / (resources.cpus * resources.workers)))


@dataclass(frozen=True)
class _Work:
    """What of a sweep is to be executed."""

    forest: Forest
    missing: Missing
    ledgers: Sequence[Ledger]
    store: Store
    snapshots: Snapshots
    retry_diverged: bool

    @property
    def searches(self) -> list[Ledger]:
        """The searches with suggestions to make or to try."""
        return [ledger for ledger in self.ledgers if ledger.done < ledger.prepared.search.trials]

    @property
    def left(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.missing.asks or self.searches)

    @property
    def models(self) -> list[tuple[Forest, list[ResolvedModel]]]:
        """The models of what is to be done, each with a forest that has their conditions."""
        grid = [self.forest.path(ask.stage)[0].model for ask in self.missing.asks]
        places = [place.forest for ledger in self.searches for place in ledger.prepared.edges]
        return [(self.forest, grid), *((one, [one.stages[base].model for base in one.resources]) for one in places)]

    @property
    def needs(self) -> set[Resources]:
        """What its trials hold."""
        grid = {self.forest.resources[self.forest.path(ask.stage)[0].id] for ask in self.missing.asks}
        places = [place.forest for ledger in self.searches for place in ledger.prepared.edges]
        return grid.union(*(one.resources.values() for one in places))


def _execute_conditions(work: _Work, attempt: Attempt, cluster: Cluster, console: Console) -> list[str]:
    """The trials of the conditions; returns a line for every stage that failed."""
    from memexp.cluster.tune import execute_trials

    asks = work.missing.asks
    trials = planning.bundle(work.forest, asks, cluster.slots)
    trials = [dataclasses.replace(trial, snapshots=work.snapshots) for trial in trials]
    steps = sum(trial.steps for trial in trials)
    _say(console, f"executing {len(trials)} trials, {steps} steps, for {len(asks)} results")
    with Display(asks, steps, console) as display:
        return _phase_by_phase(
            trials, lambda now: execute_trials(now, work.store, attempt, cluster, display), work.store, attempt
        )


def _execute_searches(work: _Work, attempt: Attempt, cluster: Cluster, console: Console) -> list[str]:
    """The suggestions of the searches likewise."""
    from memexp.cluster.search import execute_searches

    left = sum(ledger.prepared.search.trials - ledger.done for ledger in work.searches)
    searches = "1 search" if len(work.searches) == 1 else f"{len(work.searches)} searches"
    _say(console, f"trying {left} suggestions of {searches}")
    attempt = dataclasses.replace(attempt, id=f"{attempt.id}s")  # an experiment of its own beside the conditions'
    with SearchDisplay(left, console) as display:
        trials, outcome = execute_searches(
            work.searches, work.store, attempt, cluster, display, work.snapshots, work.retry_diverged
        )
    return _recorded(trials, outcome, work.store, attempt)


def _recorded(trials: list[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> list[str]:
    """A line for all that failed, recorded in ``stages/`` where a trial died before it could."""
    _record_lost(trials, outcome, store, attempt)
    return [*dict.fromkeys(outcome.failures), *(f"a trial died: {why}" for why in outcome.lost.values())]


def _forests(forest: Forest, searches: Sequence[Prepared]) -> list[Forest]:
    """The conditions' forest and those at the edges of the searches' spaces."""
    return [forest, *(place.forest for search in searches for place in search.edges)]


def _remarks(forests: Sequence[Forest]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(line for forest in forests for line in forest.remarks))


def _models(forests: Sequence[Forest]) -> tuple[Mapping[str, Any], ...]:
    """What `Plan.models` says of every base."""
    found = {base: (forest, forest.stages[base]) for forest in forests for base in forest.resources}
    inspected = sizes([stage.model for _, stage in found.values()])
    return tuple(
        {
            "model": stage.model.name,
            "method": type(stage.method).__name__.lower(),
            "parameters": inspected[stage.model.id].parameters,
            "workers": forest.resources[stage.id].workers,
            "bytes_per_worker": memory_per_worker(inspected[stage.model.id], stage, forest.resources[stage.id]),
        }
        for forest, stage in found.values()
    )


def _told(ledger: Ledger) -> Mapping[str, Any]:
    """What `Plan.searches` says of a search."""
    search, done = ledger.prepared.search, ledger.done
    return {
        "search": search.name,
        "search_id": ledger.prepared.id,
        "trials": search.trials,
        "stored": done,
        "steps_at_most": (search.trials - done) * ledger.prepared.steps,
    }


def _discard_snapshots(forest: Forest, left: Missing, ledgers: Sequence[Ledger], store: Store) -> None:
    """Remove the snapshots that nothing needs: a trial killed after its last result leaves some, and pretraining."""
    found = snapshots.find(store).trajectories
    if not found:
        return
    wanted = [ask.stage for ask in [*left.asks, *(copy.ask for copy in left.copies)]]
    needed = {name for at in wanted for stage in forest.path(at) for name in _names(stage)}
    done = {name for stage in forest.stages.values() for name in _names(stage)}
    for ledger in ledgers:
        over = ledger.done >= ledger.prepared.search.trials
        for index, entry in ledger.entries.items():
            for stage in entry.place.forest.stages.values():
                # Suggestions to come may begin where pretraining ends.
                open_ = not ledger.through(index) or (not over and stage.kind == "pretrain")
                (needed if open_ else done).update(_names(stage))
    for trajectory in sorted(found & (done - needed)):
        snapshots.discard(store, trajectory)


def _names(stage: Stage) -> tuple[str, str]:
    """What snapshots of a stage may be called."""
    return stage.trajectory, stage.id


def _phase_by_phase(
    trials: list[Trial], execute: Callable[[list[Trial]], Outcome], store: Store, attempt: Attempt
) -> list[str]:
    """Execute the trials of each phase when those of the phase before are over; a line for all that failed."""
    failures: list[str] = []
    for phase in sorted({trial.phase for trial in trials}):
        now = [trial for trial in trials if trial.phase == phase]
        if phase:
            now = _without_failed(now, store, attempt)
        if now:
            failures += _recorded(now, execute(now), store, attempt)
    return failures


def _without_failed(trials: list[Trial], store: Store, attempt: Attempt) -> list[Trial]:
    """`trials` less what hangs below a model or a pretraining that failed just now, which is recorded as skipped."""
    from memexp.cluster.failed import recorded, without

    stages = [stage for trial in trials for stage in (trial.base, *trial.stages)]
    failed = recorded(stages, store, attempt, ("failed", "diverged"))
    # Each an attempt of its own: two trials may lack the same stage.
    attempts = [dataclasses.replace(attempt, id=f"{attempt.id}after{index}") for index in range(len(trials))]
    found = [without(trial, failed, store, own) for trial, own in zip(trials, attempts, strict=True)]
    return [trial for trial in found if trial.asks]


def _record_lost(trials: list[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> None:
    """Write the ``stages/`` rows that a dead trial could not write."""
    made_with = {
        "numerics": NUMERICS,
        "memexp": version("memexp"),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    there = {mark.trajectory for mark in snapshots.find(store).found} if outcome.lost else set()
    for index, why in outcome.lost.items():
        trial = trials[index]
        left = {ask.stage for ask in trial.asks if not store.exists(ask.kind, ask.name)} | {*trial.leaves} - there
        rows = [
            stage_row(stage, attempt, made_with, "failed", f"the trial died: {why}")
            for stage in [trial.base, *trial.stages]
            if stage.id in left
        ]
        if rows:
            store.commit(
                "stages",
                f"{trial.base.id}-{attempt.id}lost{trial.phase}x{index}",
                pa.Table.from_pylist(rows, schema=STAGES),
            )


HEARTBEAT = 10.0
"""Seconds between signs of life of a running sweep."""


@contextlib.contextmanager
def _heartbeat(store: Store, attempt: Attempt, results: int) -> Iterator[None]:
    """Keep a file in the store that says this sweep is being executed, for ``memexp status``."""
    path = f".running/{attempt.sweep}-{attempt.id}.json"
    stop = threading.Event()

    def beat() -> None:
        while True:
            sign = {"sweep": attempt.sweep, "host": socket.gethostname(), "pid": os.getpid(), "results": results}
            with contextlib.suppress(MemexpError):  # the store's own errors surface where results are written
                store.put_text(path, json.dumps(sign | {"time": time.time()}))
            if stop.wait(HEARTBEAT):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(HEARTBEAT)
        with contextlib.suppress(MemexpError):
            store.delete(path)


def _commit() -> str | None:
    """Commit of the code in the current folder, with a + where it has been changed since."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty=+", "--exclude=*"],
            capture_output=True, text=True, timeout=5, check=True,
        )  # fmt: skip
        return told.stdout.strip() or None
    return None
