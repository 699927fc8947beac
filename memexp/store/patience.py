"""Waiting for object storage: what it does not answer for a reason that passes is asked again, for ten minutes.

    patience = patience_with("s3://bucket/results")
    patience.asked(lambda: obstore.get(store, key).bytes())

    with told(lambda line: console.print(line)):    # once an outage: what happened, and how long it will be waited
        ...

MEMEXP_STORE_RETRY_S says for how many seconds. Asked again is what the storage answered with 500, 502 to 504 or 429,
what found no connection and what took too long; never a refusal, nor that something is not there or is there already.
The client's own retries would end after seconds, and nobody would know why nothing happens.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from obstore.exceptions import BaseError, GenericError

from memexp.errors import StoreError, StoreGoneError
from memexp.store.medium import reason
from memexp.wording import span

__all__ = ["Patience", "may_pass", "passed_on", "patience_with", "seconds", "stop_waiting", "told", "waiting"]

T = TypeVar("T")
Told = Callable[[str], None]

SETTING = "MEMEXP_STORE_RETRY_S"
DEFAULT = 600.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 15.0
"""Seconds between the first two tries, doubled after each, and at most; a random part of it is left out."""
SAID_AFTER = 2.0
"""Seconds of waiting that nobody needs to know of."""

_PASSES = re.compile(
    r"status code: (50[0234]|52\d|429|408)|<Code>(SlowDown|RequestTimeout|InternalError)</Code>"
    r"|error sending request|timed out|HTTP error|error decoding response body"
)
_CREDENTIALS = re.compile("/latest/api/token|/latest/meta-data|/computeMetadata/")
"""Without credentials a machine outside of a cloud asks for some where nobody answers."""


def seconds() -> float:
    """How long is waited. Raises StoreError where MEMEXP_STORE_RETRY_S is no number of seconds."""
    text = os.environ.get(SETTING) or str(DEFAULT)
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < float("inf"):
        raise StoreError(f"{SETTING}: {text!r} is no number of seconds; 600 is the default")
    return found


def may_pass(error: Exception, answered: bool) -> bool:
    """Whether what a client of object storage raised may be gone in a while.

    `answered`: whether this storage has answered before, so that there are credentials.
    """
    text = str(error).split("Debug source")[0]
    passes = isinstance(error, GenericError) and _PASSES.search(text)  # others are refused, not there, or there already
    return bool(passes) and (answered or not _CREDENTIALS.search(text))


# ---------------------------------------------------------------------------------------------------------
# Who is told, and who ends it

_listeners: list[Told] = []
_stopped = threading.Event()
_waiting = 0
_last_said = ""
_lock = threading.Lock()


@contextlib.contextmanager
def told(listener: Told) -> Iterator[None]:
    """While the context lasts, `listener` is told what is waited for, from whichever thread waits; else stderr is."""
    _stopped.clear()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def waiting() -> bool:
    """Whether a thread of this process waits for object storage, be it for the answer that is under way."""
    return _waiting > 0


def stop_waiting() -> None:
    """End all waiting at once, now and until somebody is `told` again: this process has been told to end."""
    _stopped.set()


def passed_on(line: str) -> bool:
    """Tell what another process waits for, unless it was told last; whether `line` says such a thing at all."""
    if not line.startswith(("s3://", "gs://")):
        return False
    _say(line)
    return True


def _say(line: str) -> None:
    global _last_said
    with _lock:
        known, _last_said = _last_said == line, line
    if known:
        return
    if _listeners:
        _listeners[-1](line)
    else:
        print(f"memexp: {line}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _counted() -> Iterator[None]:
    global _waiting
    with _lock:
        _waiting += 1
    try:
        yield
    finally:
        with _lock:
            _waiting -= 1


# ---------------------------------------------------------------------------------------------------------
# Waiting


class Patience:
    """With one place in object storage, for all threads of this process."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.answered = False
        self._since: float | None = None
        """When it failed first after its last answer."""
        self._last = 0.0
        """When it failed last."""
        self._failing: set[int] = set()
        """The threads that wait for it."""
        self._said = False

    def asked(self, work: Callable[[], T], at_once: bool = False) -> T:
        """What `work` returns or raises once the storage has an answer.

        `work` may have been done although it failed: its answer was lost. `at_once`: the first failure is told.

        Raises:
            StoreGoneError: it had none for `seconds`; after that each failure is one at once, until there is an answer.
        """
        began: float | None = None
        with _counted(), self._over_at_the_end():
            for turn in itertools.count():
                try:
                    found = _interruptible(work)
                except (BaseError, FileNotFoundError) as error:
                    if not may_pass(error, self.answered):
                        self._answered()
                        raise
                    began = time.monotonic() if began is None else began
                    self._wait(error, began, turn, at_once)
                else:
                    self._answered()
                    return found
        raise AssertionError  # a count has no end

    @contextlib.contextmanager
    def _over_at_the_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            with _lock:
                self._failing.discard(threading.get_ident())

    def _wait(self, error: Exception, began: float, turn: int, at_once: bool) -> None:
        """Before what failed, first when it `began`, is tried again; raises StoreGoneError where it is not."""
        now = time.monotonic()
        with _lock:
            if self._since is None or now - self._last > seconds():  # nobody knows what came of one so long ago
                self._since = now
            self._last = now
            self._failing.add(threading.get_ident())
            # Where nothing has been answered for long, others have waited for it already.
            left = seconds() - (now - min(began, self._since))
        if left <= 0 or _stopped.is_set():
            raise StoreGoneError(self._vain(error, seconds() - left)) from error
        if at_once or now - began >= min(SAID_AFTER, seconds() / 4):
            self._tell(error)
        _stopped.wait(min(left, _pause(turn)))

    def _answered(self) -> None:
        self.answered = True
        with _lock:
            self._since = None
            self._failing.discard(threading.get_ident())
            over = self._said and not self._failing  # one answer among many failures is no end
            self._said = self._said and not over
        if over:
            _say(f"{self.location}: the object storage answers again")

    def _tell(self, error: Exception) -> None:
        with _lock:
            said, self._said = self._said, True
        if not said:
            _say(f"{self.location}: {reason(error)}; waiting for it, {span(seconds())} at most")

    def _vain(self, error: Exception, waited: float) -> str:
        told = f"waited {span(waited)} in vain" if waited >= 1 and not _stopped.is_set() else "no longer waited for"
        return f"cannot reach {self.location}: {reason(error)}; {told}, the same command goes on"


@functools.cache
def patience_with(location: str) -> Patience:
    """The one of this process with a place."""
    return Patience(location)


def _pause(turn: int) -> float:
    # 2.0 ** 1100 is no float.
    return random.uniform(0.5, 1.0) * min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(turn, 20))


def _interruptible(work: Callable[[], T]) -> T:
    """What `work` returns or raises; a signal need not wait for it, as the client's code heeds none."""
    if threading.current_thread() is not threading.main_thread():
        return work()
    ended: Future[T] = Future()

    def do() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:  # it is raised where it was asked for
            ended.set_exception(error)

    thread = threading.Thread(target=do, daemon=True, name="memexp-store")
    thread.start()
    while thread.is_alive():
        thread.join(0.2)  # without an end it would not heed `_thread.interrupt_main`
    return ended.result()
