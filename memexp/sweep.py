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
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
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
from memexp.inspection import check_forgetting, check_models, memory_per_worker, sizes
from memexp.plan import Ask, Forest, Missing, Trial
from memexp.progress import Display
from memexp.records import MADE_WITH, STAGES, SWEEPS, rows_for
from memexp.spec import Condition, Model, Name, Resources, Snapshots, spec
from memexp.status import latest_manifests
from memexp.store import Store
from memexp.summary import print_summary

if TYPE_CHECKING:
    from memexp.cluster.tune import Outcome

__all__ = ["DEFAULT_STORE", "Plan", "Sweep", "run_options"]

DEFAULT_STORE = "results"


def default_store() -> str:
    """Where results go unless ``--store`` says otherwise: MEMEXP_STORE, else ``results`` in the current folder."""
    return os.environ.get("MEMEXP_STORE") or DEFAULT_STORE


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
    conditions: Annotated[tuple[Condition, ...], BeforeValidator(_all_of), Field(min_length=1)]
    """What is to be measured."""
    resources: Resources | Callable[[Model], Resources] = Field(default_factory=Resources)
    """What each trial holds, or a function of its model."""
    snapshots: Snapshots = Field(default_factory=Snapshots)
    """How often trajectories are put down in the store, for what is killed to go on from there."""

    def grow(self) -> Forest:
        """The forest of stages. Raises SpecError, DataError or ModelError for what could never be executed."""
        forest = planning.grow(self.conditions, self.resources)
        check_forgetting(forest)
        return forest

    def plan(self, store: str | os.PathLike[str] | None = None) -> Plan:
        """What the sweep comes to, on this machine, given what `store` has. Imports neither torch nor Ray."""
        forest = self.grow()
        place = Store(store or default_store())
        missing = planning.missing(forest, place)
        trials = planning.bundle(forest, missing.asks, _slots_here)
        bases = [stage for stage in forest.stages.values() if stage.kind == "base"]
        inspected = sizes([stage.model for stage in bases])
        models = [
            {
                "model": stage.model.name,
                "method": type(stage.method).__name__.lower(),
                "parameters": inspected[stage.model.id].parameters,
                "workers": forest.resources[stage.id].workers,
                "bytes_per_worker": memory_per_worker(inspected[stage.model.id], stage, forest.resources[stage.id]),
            }
            for stage in bases
        ]
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
            models=tuple(models),
            remarks=tuple(forest.remarks),
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
        forest = self.grow()
        for line in forest.remarks:
            _say(console, line, "yellow")
        missing = planning.missing(forest, place, retry_diverged)
        _copy(missing, place)
        _say(
            console,
            f"{self.name}: {_complete(forest, missing)} of {forest.conditions} conditions are in {place.location}",
        )
        if not missing.asks:
            self._record(forest, place)
        else:
            attempt = Attempt(self.name, uuid.uuid4().hex[:12], _commit())
            try:
                with _heartbeat(place, attempt, len(missing.asks)):
                    self._execute(forest, missing, place, attempt, address, console)
            except KeyboardInterrupt:
                done = _complete(forest, planning.missing(forest, place))
                _say(console, f"stopped: {done} of {forest.conditions} conditions complete; the same command goes on")
                raise
        print_summary(place, self.name, forest, results)
        return self._conclude(forest, place, console)

    def _execute(
        self, forest: Forest, missing: Missing, store: Store, attempt: Attempt, address: str | None, console: Console
    ) -> None:
        check_models(forest, [forest.path(ask.stage)[0].model for ask in missing.asks])
        from memexp.cluster.connect import connected
        from memexp.cluster.tune import execute_trials

        needs = {forest.resources[forest.path(ask.stage)[0].id] for ask in missing.asks}
        with connected(address, needs, store) as cluster, _terminable():
            self._record(forest, store)
            trials = planning.bundle(forest, missing.asks, cluster.slots)
            trials = [dataclasses.replace(trial, snapshots=self.snapshots) for trial in trials]
            steps = sum(trial.steps for trial in trials)
            _say(console, f"executing {len(trials)} trials, {steps} steps, for {len(missing.asks)} results")
            with Display(missing.asks, steps, console) as display:
                outcome = execute_trials(trials, store, attempt, cluster, display)
        _record_lost(trials, outcome, store, attempt)
        for line in [*outcome.failures, *(f"a trial died: {why}" for why in outcome.lost.values())]:
            _say(console, line, "red")
        if outcome.failures:
            where = "" if store.location == default_store() else f"--store {store.location} "
            _say(console, f"more: memexp query {where}\"SELECT error FROM stages WHERE status = 'failed'\"")

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

    def _conclude(self, forest: Forest, store: Store, console: Console) -> bool:
        """Look once more at the store, which alone decides, and say what it has."""
        left = planning.missing(forest, store)
        if not self.snapshots.keep:
            _discard_snapshots(forest, left, store)
        lacking = {ask.condition_id for ask in _open(left)}
        diverged = {ask.condition_id for ask in left.diverged}
        line = f"{forest.conditions - len(lacking)} of {forest.conditions} conditions complete"
        if diverged:
            line += f", {len(diverged)} diverged (an outcome; --retry-diverged repeats them)"
        if lacking - diverged:
            line += (
                f", {len(lacking - diverged)} failed or skipped: `memexp status` says why, the same command tries again"
            )
        _say(console, line, "red" if lacking else "green")
        return not lacking

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

    came = threading.Event()

    def terminate(*_: object) -> None:
        came.set()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        if came.is_set():  # where Ray waits, it catches ours and raises a plain one
            raise Terminated from None
        raise
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


def _copy(missing: Missing, store: Store) -> None:
    """Give results that were measured for another condition to those who ask for them now."""

    def copy(item: planning.Copy) -> None:
        ask = item.ask
        table = store.read(ask.kind, item.source)
        items = table.select(ask.probe.schema().names)
        made_with, *_ = table.select(MADE_WITH.names).slice(0, 1).to_pylist() or [{}]  # a probe may find no items
        store.commit(ask.kind, ask.name, rows_for(items, ask.settings, ask.labels, made_with))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(copy, missing.copies))
    missing.copies.clear()


def _discard_snapshots(forest: Forest, left: Missing, store: Store) -> None:
    """Remove the snapshots that nothing needs: a trial killed after its last result leaves some."""
    wanted = [ask.stage for ask in [*left.asks, *(copy.ask for copy in left.copies)]]
    needed = {stage.trajectory for at in wanted for stage in forest.path(at)}
    done = {stage.trajectory for stage in forest.stages.values()} - needed
    for trajectory in sorted(snapshots.find(store).trajectories & done):
        snapshots.discard(store, trajectory)


def _record_lost(trials: list[Trial], outcome: Outcome, store: Store, attempt: Attempt) -> None:
    """Write the ``stages/`` rows that a dead trial could not write."""
    made_with = {
        "numerics": NUMERICS,
        "memexp": version("memexp"),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    for index, why in outcome.lost.items():
        trial = trials[index]
        left = {ask.stage for ask in trial.asks if not store.exists(ask.kind, ask.name)}
        rows = [
            stage_row(stage, attempt, made_with, "failed", f"the trial died: {why}")
            for stage in [trial.base, *trial.stages]
            if stage.id in left
        ]
        if rows:
            store.commit(
                "stages", f"{trial.base.id}-{attempt.id}lost{index}", pa.Table.from_pylist(rows, schema=STAGES)
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
