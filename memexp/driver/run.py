"""One run of a sweep: what is there is counted, the missing part executed, and the store asked what became of it.

run = Run("quickstart", forest, searches, Store("results"), Snapshots(), retry_diverged=False, console=Console())
run.execute(run.begin(), lambda work: (on_cluster(None), "starting Ray ..."))
whole = run.conclude()
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from rich.console import Console

from memexp import plan as planning
from memexp.driver.cleaning import discard_snapshots
from memexp.driver.hooks import Hooks
from memexp.driver.outlook import remarks
from memexp.driver.pruning import check_not_pruned
from memexp.driver.work import Executor, Work, execute
from memexp.errors import MemexpError
from memexp.events import Hook
from memexp.plan import Forest, Missing
from memexp.plan.attempts import Attempt, commit_of_code
from memexp.plan.heartbeat import heartbeat
from memexp.plan.model_checks import check_models
from memexp.report.terminal import say
from memexp.script import Told, said_if_slow
from memexp.search.candidates import Prepared
from memexp.search.ledger import Ledger, progress_of
from memexp.signals import asked, stopped_by
from memexp.spec import Snapshots
from memexp.store import Store, option_for
from memexp.store.manifests import Manifest, write_manifest
from memexp.wording import amount

__all__ = ["Choose", "Open", "Run"]

Open = Callable[[Work], AbstractContextManager[Executor]]
"""Makes ready what executes some work. Raises ClusterError or SpecError where that cannot execute it."""

Choose = Callable[[Work], tuple[Open, str]]
"""What is to execute some work, and a line about what that takes seconds for. Asked when models have been looked at."""


@dataclass(frozen=True)
class Run:
    """A sweep on its way through one process."""

    name: str
    """Of the sweep."""
    forest: Forest
    searches: Sequence[Prepared]
    store: Store
    snapshots: Snapshots
    retry_diverged: bool
    console: Console
    """Where what happens is said."""
    hooks: Sequence[Hook] = ()
    """Who else is told."""

    @functools.cached_property
    def _hooks(self) -> Hooks:
        return Hooks(self.name, self.hooks, self.console)

    @contextlib.contextmanager
    def closing(self) -> Iterator[None]:
        """Tell hooks of the end when the context is left, if it was left before `conclude` told it."""
        try:
            yield
        finally:
            self._hooks.ended(whole=False)

    def begin(self) -> Work:
        """Take what other conditions' files have; returns what is left to do."""
        self.store.check_writable()
        check_not_pruned(self.store)
        for line in remarks(self.forest, self.searches):
            say(self.console, line, "yellow")
        missing = planning.find_missing(self.forest, self.store, self.retry_diverged)
        planning.copy_results(missing, self.store)
        ledgers = self.ledgers(self.retry_diverged)
        for ledger in ledgers:
            ledger.copy()
        for line in self._so_far(missing, ledgers):
            are = "is" if " of 1 " in line else "are"
            say(self.console, f"{self.name}: {line} {are} in {self.store.location}")
        return Work(self.name, self.forest, missing, ledgers, self.store, self.snapshots)

    def execute(self, work: Work, choose: Choose) -> None:
        """Execute what is left to do, and say what failed; an interruption says how far it came.

        Args:
            work: what is left.
            choose: says what executes it.
        """
        if not work.left:
            self._record()
            return
        attempt = Attempt(self.name, uuid.uuid4().hex[:12], commit_of_code())
        try:
            with heartbeat(self.store, attempt, len(work.missing.asks), self._hooks.trials):
                with said_if_slow("looking at models ..."):
                    for forest, bases in work.models:
                        check_models(forest, bases)
                open_executor, starting = choose(work)
                say(self.console, starting)
                with open_executor(work) as executor:
                    self._record()
                    failures = execute(work, attempt, executor, self.console, self._hooks)
        except BaseException as error:
            if asked() is None and not isinstance(error, KeyboardInterrupt):
                raise
            self._tell_of_stop()
            raise Told from error
        for line in failures:
            say(self.console, line, "red")
        if failures:
            where = option_for(self.store)
            say(self.console, f"more: memexp query {where}\"SELECT error FROM stages WHERE status = 'failed'\"")

    def _tell_of_stop(self) -> None:
        """The line of a stop, with how far it came where the store can still be asked."""
        how = f"stopped by {stopped_by()}"
        with contextlib.suppress(MemexpError):
            how += (
                f": {', '.join(self._so_far(planning.find_missing(self.forest, self.store), self.ledgers()))} complete"
            )
        say(self.console, f"{how}; the same command goes on")

    def ledgers(self, retry_diverged: bool = False) -> list[Ledger]:
        """The searches as the store has them now."""
        return [Ledger(search, self.store, retry_diverged) for search in self.searches]

    def conclude(self) -> bool:
        """Look once more at the store, which alone decides, and say what it has; whether that is all."""
        left, ledgers = planning.find_missing(self.forest, self.store), self.ledgers()
        if not self.snapshots.keep:
            discard_snapshots(self.forest, left, ledgers, self.store)
        lacking = {ask.condition_id for ask in left.open}
        diverged = {ask.condition_id for ask in left.diverged}
        short = [ledger for ledger in ledgers if ledger.done < ledger.prepared.search.trials]
        line = ", ".join(self._so_far(left, ledgers)) + " complete"
        if diverged:
            line += f", {len(diverged)} diverged (an outcome; --retry-diverged repeats them)"
        if lacking - diverged:
            line += (
                f", {len(lacking - diverged)} failed or skipped: `memexp status` says why, the same command tries again"
            )
        elif short:
            line += ", others failed: `memexp status` says why, the same command tries again"
        say(self.console, line, "red" if lacking or short else "green")
        whole = not lacking and not short
        self._hooks.ended(whole)
        return whole

    def _so_far(self, missing: Missing, ledgers: Sequence[Ledger]) -> Iterator[str]:
        """What of the sweep is there, a part of a line for the conditions and one for its searches."""
        if self.forest.asks:
            whole = self.forest.conditions
            yield f"{whole - missing.conditions} of {amount(whole, 'condition')}"
        if ledgers:
            searches = [(ledger.prepared.search, ledger.done) for ledger in ledgers]
            yield progress_of({search.name: (done, search.trials) for search, done in searches})

    def _record(self) -> None:
        """Say in ``sweeps/`` which files hold this sweep's results."""
        asks = self.forest.asks
        write_manifest(
            self.store,
            self.name,
            [Manifest(ask.kind, ask.name, ask.condition_id, ask.stage, ask.probe_id) for ask in asks],
        )
