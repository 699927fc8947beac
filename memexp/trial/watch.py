"""Ends a process that has stopped making progress, so that a sweep is never stuck behind one worker.

with watched(minutes=60, activity=activity, stuck=record_it):
    ...

A worker may hang in a probe, in a collective whose peer is gone, or in a file system; no exception tells. Whoever
started the process finds it dead and goes on. Waiting for object storage is no hang: `memexp.store.patience` says how
long that lasts.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from memexp.plan import Ask, Stage
from memexp.store.patience import seconds, waiting

__all__ = ["STUCK", "Activity", "allowed", "watched"]

STUCK = 75
"""Exit status of a process that ended itself: EX_TEMPFAIL."""
RECORDING = 60.0
"""Seconds it has to write down why."""
LOOKS = 20
"""How often it is looked at within the time it has."""


@dataclass
class Activity:
    """What a trial is at, for whoever watches it."""

    stage: Stage
    """The stage under way."""
    ask: Ask | None = None
    """The measurement under way, if it is one."""
    began: float = field(default_factory=time.monotonic)
    """When it began."""
    work: Callable[[], int] = lambda: 0
    """A number that changes with every bit of work, such as the forward passes made so far."""
    begins: Callable[[Stage, Ask | None], None] = lambda stage, ask: None
    """Told of every stage and measurement that begins."""
    waiting: bool = False
    """Whether it waits for others, which know themselves when to give up: hours of that are no hang of its own."""

    def turn_to(self, stage: Stage, ask: Ask | None = None) -> float:
        """Another stage or measurement begins; returns when."""
        self.begins(stage, ask)
        self.stage, self.ask, self.began = stage, ask, time.monotonic()
        return self.began

    @contextlib.contextmanager
    def waits(self) -> Iterator[None]:
        """While the context lasts, it waits for the hub or for the driver."""
        self.waiting = True
        try:
            yield
        finally:
            self.waiting = False


def allowed(minutes: float | None, ranks: int, is_local: bool) -> float | None:
    """Minutes without progress after which a rank is ended, of several or alone.

    One of several may wait for another that waits for object storage, where the store is: as long as that may last.
    """
    return minutes if minutes is None or ranks == 1 or is_local else minutes + seconds() / 60


@contextlib.contextmanager
def watched(minutes: float | None, activity: Activity, stuck: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, end this process when `activity` has made no progress for `minutes`.

    Args:
        minutes: what is allowed without progress; None watches nothing.
        activity: what is looked at.
        stuck: called before the end, from another thread: whatever it raises, the process ends.
    """
    if minutes is None:
        yield
        return
    limit, over = 60 * minutes, threading.Event()

    def look() -> None:
        seen, since = activity.work(), time.monotonic()
        while not over.wait(limit / LOOKS):
            now = activity.work()
            if now != seen or activity.waiting or waiting():
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= limit:
                recorder = threading.Thread(target=stuck, daemon=True)
                recorder.start()
                recorder.join(RECORDING)  # what hangs may be what it writes to
                os._exit(STUCK)

    thread = threading.Thread(target=look, daemon=True, name="memexp-watch")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
