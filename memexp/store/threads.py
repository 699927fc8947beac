"""Many small files at a time: each of them is mostly waiting.

tables = threaded(lambda name: store.read("recall", name), names)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from memexp.store.patience import stop_waiting

__all__ = ["THREADS", "threaded"]

T = TypeVar("T")
R = TypeVar("R")

THREADS = 16
"""Files read or written at a time."""


def threaded(work: Callable[[T], R], items: Iterable[T], threads: int = THREADS) -> list[R]:
    """Results in the order of `items`; raises what the first failing one of them raised, and begins no other then."""
    with ThreadPoolExecutor(threads) as pool:
        begun = [pool.submit(work, item) for item in items]
        try:
            return [one.result() for one in begun]
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):  # which reaches this thread only
                stop_waiting()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
