"""Ends a process that has stopped making progress, so that a sweep is never stuck behind one worker.

with watched(minutes=60, progress=lambda: lm.passes, stuck=record_it):
    ...

A worker may hang in a probe, in a collective whose peer is gone, or in a file system; no exception tells. Whoever
started the process finds it dead and goes on.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["STUCK", "watched"]

STUCK = 75
"""Exit status of a process that ended itself: EX_TEMPFAIL."""
RECORDING = 60.0
"""Seconds it has to write down why."""
LOOKS = 20
"""How often it is looked at within the time it has."""


@contextlib.contextmanager
def watched(minutes: float, progress: Callable[[], int], stuck: Callable[[], None]) -> Iterator[None]:
    """While the context lasts, end this process when `progress` has not changed for `minutes`.

    Args:
        minutes: what is allowed without progress.
        progress: a number that changes with every bit of work.
        stuck: called before the end, from another thread: whatever it raises, the process ends.
    """
    over = threading.Event()

    def look() -> None:
        seen, since = progress(), time.monotonic()
        while not over.wait(60 * minutes / LOOKS):
            now = progress()
            if now != seen:
                seen, since = now, time.monotonic()
            elif time.monotonic() - since >= 60 * minutes:
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
