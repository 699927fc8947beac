"""What sweep scripts and the command ``memexp`` have in common: options, exit statuses, signals."""

from __future__ import annotations

import argparse
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator

from memexp.errors import MemexpError

__all__ = ["Terminated", "being_loaded", "guarded", "loading", "run_options", "terminable"]


def run_options(add_help: bool = False) -> argparse.ArgumentParser:
    """The options of ``memexp run``, as a parent for a sweep script's own parser.

    Example:
        parser = argparse.ArgumentParser(description=__doc__, parents=[run_options()])
    """
    parser = argparse.ArgumentParser(add_help=add_help)
    group = parser.add_argument_group("where and how")
    group.add_argument("--store", default=None, help="folder, s3://... or gs://... (default: MEMEXP_STORE or results)")
    group.add_argument("--address", help="Ray cluster: host:port, auto or local (default: RAY_ADDRESS, else local)")
    group.add_argument("--local", action="store_true", help="execute in this process, without Ray: to debug")
    group.add_argument(
        "--retry-diverged", action="store_true", help="train again what reached a loss that is not finite"
    )
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


_loading: list[str] = []


@contextlib.contextmanager
def loading(path: str) -> Iterator[None]:
    """While the context lasts, a sweep script is executed for what it describes and not to be run."""
    _loading.append(path)
    try:
        yield
    finally:
        _loading.pop()


def being_loaded() -> bool:
    """Whether a sweep script is being executed for its description only."""
    return bool(_loading)


def guarded(work: Callable[[], int], debug: bool) -> int:
    """Exit status of `work`; its errors on purpose become a line or two on stderr, unless `debug` lets them through."""
    try:
        return work()
    except MemexpError as error:
        if debug:
            raise
        print(f"memexp: {error}", file=sys.stderr)
        return 2
    except Terminated:
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a cloud machine gets before it is taken away."""


@contextlib.contextmanager
def terminable() -> Iterator[None]:
    """While the context lasts, SIGTERM ends the sweep as Ctrl-C does; Ray's own handler would leave without a word."""
    if threading.current_thread() is not threading.main_thread():  # a notebook's, which no signal reaches
        yield
        return

    came = threading.Event()

    def terminate(*_: object) -> None:
        came.set()
        raise Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    except KeyboardInterrupt:
        if came.is_set():  # where Ray waits, it catches ours and raises a plain one
            raise Terminated from None
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
