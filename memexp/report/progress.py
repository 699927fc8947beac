"""How far a sweep is: a live bar on a terminal, one line in a notebook, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import (
    Progress as Bars,
)

from memexp.plan import Ask
from memexp.plan.attempts import Progress
from memexp.store.patience import passed_on
from memexp.wording import amount, span

__all__ = ["Display", "SearchDisplay", "counted"]

T = TypeVar("T")

PLAIN_EVERY = 10.0
"""Seconds between lines where there is no terminal."""
RENEWED_EVERY = 1.0
"""Seconds before a notebook's line is another."""
KNOWN_SHARE, KNOWN_AFTER = 0.1, 20.0
"""Of the work, and seconds of it, before anything is said of the time left: the first trials to start are too few, and
the first steps of each too slow, to tell of the others."""


class _Shown:
    """Bars on a terminal, a line that changes in a notebook; elsewhere, or where bars are to be `plain`, a line now and
    then."""

    def __init__(self, console: Console, plain: bool) -> None:
        self.console = console
        self.here, self.plain = plain, plain or not console.is_terminal
        self.begun = self.last = time.monotonic()
        self.line: Any = None
        """The one of a notebook, once there is something to say."""
        self.latest = ""
        self.bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=self.plain,
        )

    def __enter__(self) -> Self:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.bars.stop()
        if self.line is not None:
            self.line.update({"text/plain": self.latest}, raw=True)

    def _pass_on(self, said: Sequence[str]) -> None:
        """What other processes say, above the bars; what is said here is on the terminal already."""
        for line in said if not self.here else ():
            if not passed_on(line):
                self.console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)

    @property
    def _passed(self) -> str:
        """What plain lines say of the time; bars have a column for it."""
        return f"{span(time.monotonic() - self.begun)} so far"

    def _say(self, line: str) -> None:
        if self.console.is_jupyter:
            self._renew(line)
        elif self.plain and time.monotonic() - self.last > PLAIN_EVERY:
            self.last = time.monotonic()
            self.console.print(line, highlight=False, soft_wrap=True)

    def _renew(self, line: str) -> None:
        """Show a line in a notebook, in place of the one before."""
        from IPython.display import display

        self.latest = line
        if self.line is None:
            self.line = display({"text/plain": line}, raw=True, display_id=True)
        elif time.monotonic() - self.last > RENEWED_EVERY:
            self.line.update({"text/plain": line}, raw=True)
        else:
            return
        self.last = time.monotonic()


class Display(_Shown):
    """Shows conditions, optimizer steps and time left while trials execute.

    Use as a context and hand it to `execute_trials`: it is called with each trial's `Progress`.
    """

    def __init__(self, asks: Sequence[Ask], steps: Mapping[str, int], console: Console, plain: bool = False) -> None:
        """`steps`: of every stage that is to be trained."""
        super().__init__(console, plain)
        self.open = Counter(ask.condition_id for ask in asks)
        self.waiting = {ask.file: ask.condition_id for ask in asks}
        self.reached = dict.fromkeys(steps, 0)
        self.conditions, self.steps = len(self.open), sum(steps.values())
        self.complete = self.made = 0
        self.first: tuple[float, int] | None = None  # when work was first seen, and how much of it
        self.rows = [
            self.bars.add_task("conditions", total=self.conditions, left=""),
            self.bars.add_task("steps", total=self.steps or 1, left=""),
        ]

    def __call__(self, progress: Progress) -> None:
        """Count what a trial reports; a file or a step that a restarted trial reports again counts once."""
        self._pass_on(progress.said)
        for file in progress.answered:
            condition = self.waiting.pop(file, None)
            if condition is not None:
                self.open[condition] -= 1
                self.complete += self.open[condition] == 0
        for stage, steps in progress.reached.items():
            if stage in self.reached:
                self.reached[stage] = max(self.reached[stage], steps)
        self.made = sum(self.reached.values())
        self.bars.update(self.rows[0], completed=self.complete)
        left = self._left(time.monotonic())
        self.bars.update(self.rows[1], completed=self.made if self.steps else 1, left=left)
        whole = f"{self.complete} of {amount(self.conditions, 'condition')}"
        self._say(", ".join(filter(None, [whole, f"{self.made} of {amount(self.steps, 'step')}", self._passed, left])))

    def _left(self, now: float) -> str:
        """Time left at the pace since the first sign of work: before it, the cluster and torch were starting. Empty
        until enough is known."""
        done, whole = (self.made, self.steps) if self.steps else (self.complete, self.conditions)
        if self.first is None:
            self.first = (now, done)
        since, before = self.first
        if done - before < KNOWN_SHARE * whole or now - since < KNOWN_AFTER:
            return ""
        return f"about {span((now - since) * max(0, whole - done) / (done - before))} left"


class SearchDisplay(_Shown):
    """Shows how many suggestions are over while searches are executed; used as `Display` is."""

    def __init__(self, suggestions: int, console: Console, plain: bool = False) -> None:
        super().__init__(console, plain)
        self.total, self.over, self.made = suggestions, 0, 0
        self.row = self.bars.add_task("suggestions", total=suggestions, left="")

    def __call__(self, progress: Progress) -> None:
        """Count what a trial reports."""
        self._pass_on(progress.said)
        self.over += progress.suggestions
        self.made += progress.steps
        self.bars.update(self.row, completed=self.over, left=amount(self.made, "step"))
        self._say(f"{self.over} of {amount(self.total, 'suggestion')}, {amount(self.made, 'step')}, {self._passed}")


def counted(items: Iterable[T], done: str, total: int) -> Iterator[T]:
    """`items`, while stderr shows how many of `total` files are `done` ("read", "written")."""
    console = Console(stderr=True)
    bars = Bars(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    last = time.monotonic()
    with bars:
        bar = bars.add_task(f"files {done}", total=total)
        for count, item in enumerate(items, start=1):
            yield item
            bars.update(bar, completed=count)
            if not console.is_terminal and time.monotonic() - last > PLAIN_EVERY:
                last = time.monotonic()
                console.print(f"{count} of {amount(total, 'file')} {done}", highlight=False, soft_wrap=True)
