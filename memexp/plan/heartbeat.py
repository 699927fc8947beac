"""Which sweeps are being executed on a store: each keeps a small file there that says so.

.running/<sweep>-<attempt>.json

with heartbeat(store, attempt, results=48):
    running(store)    # {"quickstart": [{"host": ..., "pid": ...}]}
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from memexp.errors import MemexpError
from memexp.plan.attempts import Attempt
from memexp.store import Store

__all__ = ["heartbeat", "running"]

HEARTBEAT = 10.0
"""Seconds between signs of life of a running sweep."""
SILENT_AFTER = 60.0
"""Seconds after which a sweep without a sign of life is taken for dead."""


@contextlib.contextmanager
def heartbeat(store: Store, attempt: Attempt, results: int) -> Iterator[None]:
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


def running(store: Store) -> dict[str, list[dict[str, Any]]]:
    """The signs of life of sweeps that are being executed, by name."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in store.list_text(".running/"):
        text = store.get_text(path)
        if text is None:
            continue
        try:
            sign = json.loads(text)
            if time.time() - sign["time"] < SILENT_AFTER and not _dead(sign):
                found.setdefault(sign["sweep"], []).append(sign)
        except (ValueError, TypeError, KeyError):  # not one of ours
            continue
    return found


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
