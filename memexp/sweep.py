"""A sweep: conditions and what their trials may hold. Plans, executes what is missing, says what became of it.

sweep = Sweep(name="exposures", conditions=[...], resources=Resources(cpus=1))

if __name__ == "__main__":
    raise SystemExit(sweep.main())
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field
from rich.console import Console

from memexp import plan as planning
from memexp.driver.outlook import Plan, Purchase, plan_of
from memexp.driver.run import Choose, Open, Run
from memexp.driver.short import way_of
from memexp.driver.work import Executor, Work
from memexp.errors import SpecError
from memexp.events import Event, Hook
from memexp.plan import Forest
from memexp.plan.model_checks import check_contexts, check_forgetting
from memexp.report.ending import say_page
from memexp.report.output import spoken
from memexp.report.terminal import print_searches, print_summary, say
from memexp.results import Results, open_store
from memexp.script import being_loaded, carried_out, guarded, notice_unused, run_options, said_if_slow, used
from memexp.search.candidates import Prepared, prepare
from memexp.signals import heeded
from memexp.sources import Sources
from memexp.spec import Condition, Model, Name, Resources, Search, Snapshots, spec
from memexp.store import Store, default_store
from memexp.store.patience import told

__all__ = ["Plan", "Sweep"]


def _all_of(value: Any) -> Any:
    return tuple(value) if isinstance(value, Iterable) else value


LONGEST_NAME = 200
"""Characters; names of files begin with it, go on with what tells its starts apart, and have 255 bytes."""


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
    """How often trajectories are saved to the store, for what is killed to go on from there."""
    on_event: Callable[[Event], None] | None = None
    """Called in the process that was started with what happens, for a tracker of your own: see `memexp.events`."""

    def __post_init__(self) -> None:
        if len(self.name) > LONGEST_NAME:
            raise SpecError(f"Sweep.name: names files, so at most {LONGEST_NAME} characters, got {len(self.name)}")
        if not self.conditions and not self.searches:
            raise SpecError("Sweep.conditions and Sweep.searches are both empty: there is nothing to do")
        names = [search.name for search in self.searches]
        for name in names:
            if names.count(name) > 1:
                raise SpecError(f"Sweep.searches: two are called {name!r}")
        notice_unused(Sweep)

    def grow(self, sources: Sources | None = None) -> Forest:
        """The forest of stages. Raises SpecError, DataError or ModelError for what could never be executed."""
        used()
        forest = planning.grow(self.conditions, self.resources, sources)
        check_forgetting(forest)
        check_contexts(forest, {})
        return forest

    def prepare(self, sources: Sources) -> list[Prepared]:
        """The searches, tried at the edges of their spaces. Raises what `grow` raises."""
        used()
        found = [prepare(search, self.resources, sources) for search in self.searches]
        for edge in (edge for search in found for edge in search.edges):
            check_forgetting(edge.forest)
            check_contexts(edge.forest, {})
        return found

    def plan(
        self,
        store: str | os.PathLike[str] | None = None,
        purchase: Purchase = Purchase(),  # noqa: B008 - frozen
    ) -> Plan:
        """What the sweep comes to, on this machine, given what `store` has. Imports neither torch nor Ray."""
        sources = Sources()
        forest, searches = self.grow(sources), self.prepare(sources)
        return plan_of(self.name, forest, searches, Store(store or default_store()), purchase, _cluster(None))

    def results(self, kind: str, store: str | os.PathLike[str] | None = None, copies: bool = False) -> Results:
        """The rows of a kind that belong to this sweep as it was last started; see `memexp.results.Opened.results`.

        Raises StoreError where there is no such store, or none of the sweep's results are in it.
        """
        used()
        return open_store(store).results(kind, self.name, copies)

    def weights(
        self, condition: str, folder: str | os.PathLike[str], store: str | os.PathLike[str] | None = None
    ) -> Path:
        """Write the weights of one of the conditions, in this process; see `memexp.trial.weight_folder.write_weights`.

        Args:
            condition: its ``condition_id``, a column of its rows, or the beginning of it.
            folder: where to, in the format of transformers, or of LoRA in that of PEFT; must not be there, or be empty.
            store: whose snapshots are begun from, where it has kept some (`Snapshots(keep=True)`).

        Raises what `write_weights` raises.
        """
        forest = self.grow()
        from memexp.local import write_weights

        return write_weights(forest, condition, Store(store or default_store()), Path(folder))

    def run(
        self,
        store: str | os.PathLike[str] | None = None,
        address: str | None = None,
        retry_diverged: bool = False,
        console: Console | None = None,
        local: bool = False,
        tensorboard: str | os.PathLike[str] | None = None,
        ray: bool = False,
    ) -> bool:
        """Execute what is missing: by Ray, or in this process where that is over before Ray would have started.

        Args:
            store: folder or URL; MEMEXP_STORE or ``results`` by default.
            address: Ray cluster, see `memexp.cluster.connect.connected`.
            retry_diverged: train again what reached a loss that is not finite.
            console: where to say what happens.
            local: execute in this process, one trial after another and without Ray: for a debugger or a notebook.
            tensorboard: folder to write losses to, for ``tensorboard --logdir``.
            ray: by Ray, however short it is.

        Returns:
            Whether every condition is complete now.

        Raises:
            MemexpError: the sweep could not be started, or its store could not be written.
        """
        if local and address is not None:
            raise SpecError("local executes in this process, where a cluster's address has no use: give one of the two")
        if local and ray:
            raise SpecError("local executes in this process, ray by Ray: give one of the two")
        with heeded(), spoken(goes_on=True):
            choose = _locally if local else _by_ray(address) if ray else _by_length(address)
            return self._run(store, retry_diverged, console, choose, self._hooks(tensorboard))

    def _hooks(self, tensorboard: str | os.PathLike[str] | None) -> list[Hook]:
        hooks = [] if self.on_event is None else [self.on_event]
        if tensorboard is not None:
            from memexp.report.tensorboard import TensorBoard

            hooks.append(TensorBoard(tensorboard))
        return hooks

    def _run(
        self,
        store: str | os.PathLike[str] | None,
        retry_diverged: bool,
        console: Console | None,
        choose: Choose,
        hooks: Sequence[Hook],
    ) -> bool:
        answers = console or Console()  # tables are the answer; what happens on the way goes to stderr
        console = console or Console(stderr=True)
        with told(lambda line: say(console, line, "yellow")):
            results = Store(store or default_store())
            with results.without_trace():
                results.check_writable()
                sources = Sources()
                with said_if_slow("reading texts and models ..."):
                    forest, searches = self.grow(sources), self.prepare(sources)
                run = Run(self.name, forest, searches, results, self.snapshots, retry_diverged, console, hooks)
                with run.closing():
                    run.execute(run.begin(), choose)
                    print_summary(results, self.name, run.forest, answers)
                    print_searches(run.ledgers(), answers)
                    return run.conclude()

    def main(self, options: argparse.Namespace | None = None) -> int:
        """What a sweep script does when called by itself.

        Args:
            options: the options of `run_options`, by default parsed from the command line.

        Returns:
            The exit status: 0 if every condition is complete, 1 if not, 2 for bad input, 130 after Ctrl-C, 143 after
            SIGTERM, 129 after SIGHUP.
        """
        used()
        if being_loaded():
            raise SpecError(
                "sweep.main() is called while memexp loads the script; put it under if __name__ == '__main__'"
            )
        last, options = options is None, options or run_options(add_help=True).parse_args()

        def run() -> int:
            how = {name: getattr(options, name) for name in ("local", "tensorboard", "ray")}
            whole = self.run(options.store, options.address, options.retry_diverged, **how)
            say_page(Store(options.store or default_store()), self.name, Console(stderr=True))
            return 0 if whole else 1

        return carried_out(lambda: guarded(run, options.debug), goes_on=True, last=last)


def _locally(work: Work) -> tuple[Open, str]:
    return _in_this_process(debugged=True), "loading torch ..."


def _by_ray(address: str | None) -> Choose:
    """Says before Ray is imported what takes the seconds that it takes."""
    from memexp.cluster.addresses import address_of

    where = address_of(address)
    starting = "starting Ray ..." if where == "local" else f"joining the Ray cluster at {where} ..."
    return lambda work: (_on_cluster(address), starting)


def _cluster(address: str | None) -> str | None:
    """Why a cluster is to execute it in any case."""
    from memexp.cluster.addresses import is_connected, is_told

    if is_connected():
        return "this process is connected to it"
    return "the address of a cluster is set" if is_told(address) else None


def _by_length(address: str | None) -> Choose:
    """In this process where that is over before Ray would have started."""

    def chosen(work: Work) -> tuple[Open, str]:
        way = way_of(work, _cluster(address))
        if not way.here:
            return _by_ray(address)(work)
        return _in_this_process(debugged=False), f"in this process: {way.why} (--ray starts it); loading torch ..."

    return chosen


def _in_this_process(debugged: bool) -> Open:
    def opened(work: Work) -> AbstractContextManager[Executor]:
        from memexp.local import in_this_process

        return in_this_process(work.needs, work.searches, work.peaks, debugged)

    return opened


def _on_cluster(address: str | None) -> Open:
    def opened(work: Work) -> AbstractContextManager[Executor]:
        from memexp.cluster.executor import on_cluster

        return on_cluster(address, work.needs, work.store, work.reads, work.peaks)

    return opened
