"""Who is told what happens in a run: hooks of the user's, TensorBoard, and the sign of life that `status` shows.

hooks = Hooks("quickstart", [tell], console)
with heartbeat(store, attempt, results, hooks.trials):
    hooks(progress)            # of a trial
hooks.ended(whole=True)
"""

from __future__ import annotations

import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from memexp.errors import one_line
from memexp.events import ConditionComplete, Event, Failed, Hook, Losses, SweepEnded, TrialEnded, TrialStarted
from memexp.plan import Ask
from memexp.plan.attempts import Progress
from memexp.report.terminal import say

__all__ = ["Hooks"]

MOST_TRIALS = 64
"""That a sign of life tells of: it is written every few seconds."""
FORGOTTEN_AFTER = 3600.0
"""Seconds without a word after which a trial is taken to be over: those that die do not say so."""


class Hooks:
    """Tells hooks what trials report, and what follows from it; one for each run."""

    def __init__(self, sweep: str, hooks: Sequence[Hook], console: Console) -> None:
        self.sweep, self.hooks, self.console = sweep, hooks, console
        self._mute: set[int] = set()
        """Which of the hooks have raised something, of which no more is said."""
        self._running: dict[str, dict[str, Any]] = {}
        self._asks: dict[str, Ask] = {}
        self._open: Counter[str] = Counter()
        self._conditions = 0
        self._over = False

    def expect(self, asks: Sequence[Ask]) -> None:
        """What the trials to come are to measure."""
        self._asks = {ask.file: ask for ask in asks}
        self._open = Counter(ask.condition_id for ask in asks)
        self._conditions = len(self._open)

    def beside(self, display: Callable[[Progress], None]) -> Callable[[Progress], None]:
        """A `display` that hears of progress together with the hooks."""

        def both(progress: Progress) -> None:
            display(progress)
            self(progress)

        return both

    def __call__(self, progress: Progress) -> None:
        """Tell what a trial reports, and which conditions are complete with it."""
        for event in progress.events:
            self._note(event)
            self.tell(event)
        for file in progress.answered:
            ask = self._asks.pop(file, None)
            if ask is None:
                continue
            self._open[ask.condition_id] -= 1
            if not self._open[ask.condition_id]:
                complete = sum(not left for left in self._open.values())
                settings = {name: value for name, value in ask.settings.items() if name != "condition_id"}
                settings |= ask.labels
                self.tell(ConditionComplete(self.sweep, ask.condition_id, settings, complete, self._conditions))

    def failed(self, lines: Sequence[str]) -> None:
        """Tell what failed, when nothing of it is tried again."""
        self._running.clear()
        for line in lines:
            self.tell(Failed(self.sweep, line))

    def ended(self, whole: bool) -> None:
        """Tell that the run is over, once."""
        if not self._over:
            self._over = True
            self.tell(SweepEnded(self.sweep, whole))

    def tell(self, event: Event) -> None:
        """Call the hooks. What one raises is said once; it is called again all the same: it may have been the net."""
        for number, hook in enumerate(self.hooks):
            try:
                hook(event)
            except Exception as error:  # a user's own code may raise anything
                if number not in self._mute:
                    self._mute.add(number)
                    say(self.console, f"{_where(hook, error)}; the sweep goes on, and this is said once", "yellow")

    def _note(self, event: Event) -> None:
        if isinstance(event, TrialEnded):
            self._running.pop(event.trial, None)
        if isinstance(event, TrialStarted):
            self._running[event.trial] = {"trial": event.trial, "model": event.model, "time": time.time()}
        if isinstance(event, Losses):
            self._running[event.trial] = {
                **{name: getattr(event, name) for name in ("trial", "model", "kind", "lr", "seed", "last")},
                **{"step": event.steps[-1], "loss": event.losses[-1], "time": time.time()},
            }

    def trials(self) -> list[dict[str, Any]]:
        """The trials that are running, each as it was last heard of, the latest first; called from another thread."""
        recent = [one for one in list(self._running.values()) if time.time() - one["time"] < FORGOTTEN_AFTER]
        return sorted(recent, key=lambda one: -float(one["time"]))[:MOST_TRIALS]


def _where(hook: Hook, error: Exception) -> str:
    """Which hook raised what, and in which line."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    name = getattr(hook, "__qualname__", type(hook).__name__)
    what = f"{type(error).__name__}: {one_line(error, 200)}"
    return f"on_event: {name}: {what} ({Path(last.filename).name}, line {last.lineno})"
