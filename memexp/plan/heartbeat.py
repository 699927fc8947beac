"""Which sweeps are being executed on a store: each keeps a small file there that says so.

.running/<sweep>-<attempt>.json

with heartbeat(store, attempt, results=48, trials=hooks.trials):
    running(store)    # {"quickstart": [{"host": ..., "pid": ..., "trials": [{"model": ..., "loss": ...}]}]}
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from memexp.errors import MemexpError, StoreGoneError
from memexp.identity import parsed
from memexp.plan.attempts import Attempt
from memexp.signals import interrupt_main
from memexp.store import Store
from memexp.store.patience import stop_waiting

__all__ = ["died", "ended", "heartbeat", "running", "tidied", "tidy_up"]

FOLDER = ".running/"
HEARTBEAT = 5.0
"""Seconds between signs of life of a running sweep; each has the losses of its running trials as of then."""
SILENT_AFTER = 60.0
"""Seconds after which a sweep without a sign of life is taken for dead."""

_ENDS: list[Callable[[], None]] = []
"""What removes the side files of this process."""


@contextlib.contextmanager
def heartbeat(
    store: Store, attempt: Attempt, results: int, trials: Callable[[], list[dict[str, Any]]] = list
) -> Iterator[None]:
    """Keep a file in the store that says this sweep is being executed, for ``memexp status``.

    Args:
        store: where.
        attempt: whose sign of life it is.
        results: how many are to be made.
        trials: asked each time, in another thread, for what is to be told of the trials that are running.

    Raises StoreGoneError out of whatever is done in the context once the store had no answer for as long as is waited.
    """
    path = f"{FOLDER}{attempt.sweep}-{attempt.id}.json"
    stop = threading.Event()
    gone: list[StoreGoneError] = []

    def beat() -> None:
        while True:
            try:
                store.put_text(path, _sign(attempt, results, trials()))
            except StoreGoneError as error:
                gone.append(error)
                if not stop.is_set():
                    interrupt_main()  # trials would go on waiting, one after the other
                return
            except MemexpError:  # the store's other errors surface where results are written
                pass
            if stop.wait(HEARTBEAT):
                return

    thread = threading.Thread(target=beat, daemon=True)

    def end() -> None:
        stop.set()
        thread.join(HEARTBEAT)
        with contextlib.suppress(MemexpError):
            if not gone:
                store.delete(path)

    thread.start()
    with tidied(end):
        try:
            yield
        except KeyboardInterrupt:
            stop_waiting()
            if gone:
                raise gone[0] from None
            raise


def _sign(attempt: Attempt, results: int, trials: list[dict[str, Any]]) -> str:
    own = {"sweep": attempt.sweep, "host": socket.gethostname(), "pid": os.getpid(), "results": results}
    return json.dumps(own | {"time": time.time(), "trials": trials})


@contextlib.contextmanager
def tidied(end: Callable[[], None]) -> Iterator[None]:
    """Have `end` remove a side file when the context is left, also where the process ends without leaving it."""
    _ENDS.append(end)
    try:
        yield
    finally:
        _ENDS.remove(end)
        end()


def tidy_up() -> None:
    """Remove the side files of this process, which is about to end without leaving its contexts."""
    for end in list(_ENDS):
        end()


def running(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The signs of life of sweeps that are being executed, by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in store.list_text(FOLDER):
        sign = _of_the_living(store, path)
        if sign is not None:
            found.setdefault(sign["sweep"], []).append(sign)
    return found


def ended(store: Store) -> list[str]:
    """The side files that signs of life are in and that nobody renews: of sweeps that were killed."""
    return [path for path in store.list_text(FOLDER) if _of_the_living(store, path) is None]


def died(store: Store, sweep: str) -> bool:
    """Whether a process that executed this sweep ended without a word: its sign of life is there, and not renewed."""
    own = [path for path in store.list_text(FOLDER) if path.startswith(f"{FOLDER}{sweep}-")]
    return any(path.count("-") == f"{FOLDER}{sweep}-".count("-") and not _of_the_living(store, path) for path in own)


def _of_the_living(store: Store, path: str) -> dict[str, Any] | None:
    try:
        text = store.get_text(path)
        if text is not None:
            sign: dict[str, Any] = parsed(text)
            if time.time() - sign["time"] < SILENT_AFTER and isinstance(sign["sweep"], str) and not _dead(sign):
                return sign
    except (ValueError, TypeError, KeyError, OverflowError):  # not one of ours
        pass
    return None


def _dead(sign: dict[str, Any]) -> bool:
    """Whether a sweep was run on this machine, and its process is gone."""
    if sign["host"] != socket.gethostname():
        return False
    try:
        os.kill(sign["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's
        return False
    return False
