"""Signals that ask this process to stop: Ctrl-C, SIGTERM of a machine to be taken away, SIGHUP of a closed terminal.

with heeded():
    ...          # `Stopped`, a KeyboardInterrupt, comes out of here
asked()          # which signal it was
with put_off(to_come):
    ...          # `to_come` is asked whether the stop comes by itself (`stop_now`), once what is at hand is saved, for
                 # which it has `GRACE`

The first signal raises in the main thread. Whoever catches what code of others raises asks here whether a stop was
asked for meanwhile: libraries catch interrupts and raise something else.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType

__all__ = [
    "GRACE",
    "Interrupted",
    "Stopped",
    "asked",
    "heeded",
    "interrupt_main",
    "put_off",
    "status",
    "stop",
    "stop_now",
    "stopped_by",
]

HEEDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INSISTENCE = 10.0
"""Seconds that stopping may take. Signals that come meanwhile change nothing, later ones end the process at once."""
GRACE = 20.0
"""Seconds for which a stop is put off: who kills the process afterwards waits for thirty."""


class Interrupted(KeyboardInterrupt):
    """The main thread is not to go on with what it is at."""


class Stopped(Interrupted):
    """A signal asked the process to stop."""


@dataclass
class _State:
    """Of this process."""

    asked: signal.Signals | None = None
    since: float = 0.0
    """When it was asked."""
    contexts: int = 0
    """How many of `heeded` are open."""
    interrupted: bool = False
    """Whether the interrupt to come is of our own making."""
    to_come: Callable[[], bool] = lambda: False
    """Whether the stop that is asked for comes by itself."""
    due: bool = False
    """Whether that has been said, and it has not come."""
    patience: threading.Timer | None = None
    """Ends when it has not come for too long."""
    now: bool = False
    """Whether the signal to come is `stop_now`'s."""


_state = _State()


def asked() -> signal.Signals | None:
    """The signal that asked this process to stop, if one did."""
    return _state.asked


def stopped_by() -> str:
    """Who asked, for people."""
    return "Ctrl-C" if _state.asked in (None, signal.SIGINT) else _state.asked.name


def status() -> int:
    """The exit status of a process that was asked to stop."""
    return 128 + (_state.asked or signal.SIGINT)


def interrupt_main() -> None:
    """Raise `Interrupted` in the main thread though nobody asked for a stop. Without `heeded` KeyboardInterrupt."""
    _state.interrupted = True
    _thread.interrupt_main()


@contextlib.contextmanager
def heeded(last: bool = False) -> Iterator[None]:
    """While the context lasts, signals stop the process as Ctrl-C does. What was ignored from outside (nohup) stays so.

    Contexts may lie in each other. In another thread than the main one, as a notebook's may be, no signal arrives.

    Args:
        last: whether the process ends with it: a stop that was asked for is then heeded to its very end, or a second
            Ctrl-C would fall upon Python's own clearing up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _state.contexts:
        _state.asked, _state.interrupted = None, False
    before = {number: signal.getsignal(number) for number in HEEDED}
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, _heed)
    _state.contexts += 1
    try:
        yield
    finally:
        _state.contexts -= 1
        if not (last and _state.asked):
            for number, handler in before.items():
                signal.signal(number, handler)
            if not _state.contexts:
                _state.asked = None


@contextlib.contextmanager
def put_off(to_come: Callable[[], bool]) -> Iterator[None]:
    """While the context lasts, a signal that is not Ctrl-C raises nothing where `to_come`, asked then, says so.

    What is at hand is then to raise `Stopped` soon, or another thread to call `stop_now`; what hangs is stopped after
    `GRACE`. Ctrl-C is not put off: who presses it waits.
    """
    before, _state.to_come = _state.to_come, to_come
    try:
        yield
    finally:
        if _state.patience is not None:
            _state.patience.cancel()
        _state.to_come, _state.due, _state.patience = before, False, None


def stop_now() -> None:
    """Raise the `Stopped` that was put off, in the main thread, by the signal that was put off."""
    if _state.asked is not None:  # no interrupt: where Ctrl-C is ignored from outside that would be, too
        _state.now = True
        os.kill(os.getpid(), _state.asked)


def stop(number: int) -> None:
    """Note that a stop is asked for, and by what."""
    _state.asked, _state.since = signal.Signals(number), time.monotonic()


def _heed(number: int, frame: FrameType | None) -> None:
    if number == signal.SIGINT and _state.interrupted:
        _state.interrupted = False
        if _state.asked is None:
            raise Interrupted
    elif _state.now:
        _state.now = False
        _raise_if_due()
    elif _state.asked is None:
        stop(number)
        _state.due = number != signal.SIGINT and _state.to_come()
        if not _state.due:
            raise Stopped
        _state.patience = threading.Timer(GRACE, stop_now)
        _state.patience.daemon = True
        _state.patience.start()
    elif number == signal.SIGINT and _state.due:
        _raise_if_due()
    elif time.monotonic() - _state.since > INSISTENCE:
        with contextlib.suppress(OSError):
            os.write(2, f"stopped by {stopped_by()} at once\n".encode())
        os._exit(status())


def _raise_if_due() -> None:
    if _state.due:
        _state.due = False
        raise Stopped


@atexit.register  # early, so that it comes late
def _deaf() -> None:
    """In the end Python gives signals back their usual meaning, and one that came then would be the exit status."""
    if _state.asked is not None:
        for number in HEEDED:
            signal.signal(number, signal.SIG_IGN)
