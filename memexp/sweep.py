"""A sweep: conditions and what their trials may hold. Plans, executes what is missing, says what became of it.

sweep = Sweep(name="exposures", conditions=[...], resources=Resources(cpus=1))

if __name__ == "__main__":
    raise SystemExit(sweep.main())
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
from pydantic import BeforeValidator, Field
from rich.console import Console

from memexp import plan as planning
from memexp.errors import SpecError
from memexp.execution import (
    Work,
    commit_of_code,
    discard_snapshots,
    execute_conditions,
    execute_searches_of,
    say,
)
from memexp.plan import Ask, Forest, Missing
from memexp.plan.attempts import Attempt
from memexp.plan.checks import check_contexts, check_forgetting, check_models
from memexp.plan.heartbeat import heartbeat
from memexp.plan.inspection import sizes
from memexp.plan.memory import memory_per_worker
from memexp.records import SWEEPS
from memexp.report.terminal import print_searches, print_summary
from memexp.script import being_loaded, guarded, run_options, terminable
from memexp.search.suggestions import Ledger, Prepared, prepare, through
from memexp.sources import Sources
from memexp.spec import Condition, Model, Name, Resources, Search, Snapshots, spec
from memexp.store import Store, default_store, option_for
from memexp.store.manifests import latest_manifests

if TYPE_CHECKING:
    pass

__all__ = ["Plan", "Sweep"]


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
        missing = planning.find_missing(forest, place)
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
            say(console, line, "yellow")
        missing = planning.find_missing(forest, place, retry_diverged)
        planning.copy_results(missing, place)
        ledgers = [Ledger(search, place, retry_diverged) for search in searches]
        for ledger in ledgers:
            ledger.copy()
        for line in self._so_far(forest, missing, ledgers):
            say(console, f"{self.name}: {line} are in {place.location}")
        work = Work(forest, missing, ledgers, place, self.snapshots, retry_diverged)
        if not work.left:
            self._record(forest, place)
        else:
            attempt = Attempt(self.name, uuid.uuid4().hex[:12], commit_of_code())
            try:
                with heartbeat(place, attempt, len(missing.asks)):
                    self._execute(work, attempt, address, console)
            except KeyboardInterrupt:
                missing = planning.find_missing(forest, place)
                done = ", ".join(self._so_far(forest, missing, [Ledger(search, place) for search in searches]))
                say(console, f"stopped: {done} complete; the same command goes on")
                raise
        print_summary(place, self.name, forest, results)
        ledgers = [Ledger(search, place) for search in searches]
        print_searches(ledgers, results)
        return self._conclude(forest, place, ledgers, console)

    def _so_far(self, forest: Forest, missing: Missing, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """What of the sweep is there, a part of a line for the conditions and one for its searches."""
        if self.conditions:
            yield f"{_complete(forest, missing)} of {forest.conditions} conditions"
        if ledgers:
            searches = [(ledger.prepared.search, ledger.done) for ledger in ledgers]
            yield through({search.name: (done, search.trials) for search, done in searches})

    def _execute(self, work: Work, attempt: Attempt, address: str | None, console: Console) -> None:
        """First the conditions, then the searches, whose samplers are told what the conditions came to."""
        for forest, bases in work.models:
            check_models(forest, bases)
        from memexp.cluster.connect import connected

        with connected(address, work.needs, work.store) as cluster, terminable():
            self._record(work.forest, work.store)
            failures: list[str] = []
            if work.missing.asks:
                failures += execute_conditions(work, attempt, cluster, console)
            if work.searches:
                failures += execute_searches_of(work, attempt, cluster, console)
        for line in failures:
            say(console, line, "red")
        if failures:
            where = option_for(work.store)
            say(console, f"more: memexp query {where}\"SELECT error FROM stages WHERE status = 'failed'\"")

    def _record(self, forest: Forest, store: Store) -> None:
        """Say in ``sweeps/`` which files hold this sweep's results, unless that is what it said last."""
        said = latest_manifests(store).get(self.name, [])
        # The latest is the one that counts, also where the clock has been set back since.
        started = max([datetime.now(UTC), *(row["started"] + timedelta(microseconds=1) for row in said)])
        rows = [
            {
                "sweep": self.name,
                "kind": ask.kind,
                "name": ask.name,
                "condition_id": ask.condition_id,
                "stage_id": ask.stage,
                "probe_id": ask.probe_id,
                "started": started,
            }
            for ask in forest.asks
        ]
        if {(row["kind"], row["name"]) for row in rows} != {(row["kind"], row["name"]) for row in said}:
            name = f"{self.name}-{uuid.uuid4().hex[:12]}"
            store.commit("sweeps", name, pa.Table.from_pylist(rows, schema=SWEEPS))

    def _conclude(self, forest: Forest, store: Store, ledgers: Sequence[Ledger], console: Console) -> bool:
        """Look once more at the store, which alone decides, and say what it has."""
        left = planning.find_missing(forest, store)
        if not self.snapshots.keep:
            discard_snapshots(forest, left, ledgers, store)
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
        say(console, line, "red" if lacking or short else "green")
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


def _open(missing: Missing) -> list[Ask]:
    return [*missing.asks, *missing.diverged, *(copy.ask for copy in missing.copies)]


def _complete(forest: Forest, missing: Missing) -> int:
    """Conditions whose every result is in the store."""
    return forest.conditions - len({ask.condition_id for ask in _open(missing)})


def _slots_here(resources: Resources) -> int:
    """What this machine's CPUs could hold at a time, for a plan made before any cluster is asked."""
    return max(1, int((os.cpu_count() or 1) / (resources.cpus * resources.workers)))


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
            "bytes_per_worker": memory_per_worker(inspected[stage.model.id], stage.method, forest.resources[stage.id]),
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
