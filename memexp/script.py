"""What sweep scripts and the command ``memexp`` have in common: options, exit statuses, signals."""

from __future__ import annotations

import argparse
import atexit
import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from memexp.errors import MemexpError, redacted, show_redacted
from memexp.report.output import spoken
from memexp.signals import asked, heeded, status, stopped_by

__all__ = [
    "OWN_OPTIONS",
    "Told",
    "add_run_options",
    "being_loaded",
    "carried_out",
    "guarded",
    "loading",
    "notice_unused",
    "run_options",
    "said_if_slow",
    "used",
]


OWN_OPTIONS = ("--store", "--address", "--local", "--ray", "--retry-diverged", "--tensorboard", "--debug")
"""Of `run_options`, as they are typed."""


def run_options(add_help: bool = False) -> argparse.ArgumentParser:
    """The options of ``memexp run``, as a parent for a sweep script's own parser.

    Example:
        parser = argparse.ArgumentParser(description=__doc__, parents=[run_options()])
    """
    example = "example: python %(prog)s --local"
    parser = argparse.ArgumentParser(add_help=add_help, epilog=example)
    group = parser.add_argument_group("where and how")
    group.add_argument("--store", default=None, help="folder, s3://... or gs://... (default: MEMEXP_STORE or results)")
    add_run_options(group)
    group.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


def add_run_options(group: Any) -> None:
    """What a run may be told by the command and by a script alike."""
    group.add_argument("--address", help="Ray cluster: host:port, auto or local (default: RAY_ADDRESS, else local)")
    where = group.add_mutually_exclusive_group()
    where.add_argument("--local", action="store_true", help="execute in this process, without Ray: to debug")
    where.add_argument("--ray", action="store_true", help="start Ray also for what takes less time than its start")
    group.add_argument(
        "--retry-diverged", action="store_true", help="train again what reached a loss that is not finite"
    )
    group.add_argument("--tensorboard", metavar="DIR", help="write losses there, for tensorboard --logdir DIR")


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


# ---------------------------------------------------------------------------------------------------------
# A script that describes a sweep and ends


@dataclass
class _Use:
    """Of the sweeps of this process."""

    noticed: bool = False
    """Whether one was made by a script that is executed by itself."""
    used: bool = False
    """Whether anything was asked of one."""


_use = _Use()


def used() -> None:
    """Something is asked of a sweep."""
    _use.used = True


def notice_unused(kind: type) -> None:
    """A sweep is made, an object of `kind`. Where ``python sweep.py`` ends and nothing was asked of it, it is said."""
    script = getattr(sys.modules.get("__main__"), "__file__", None)  # which Python takes away before the end
    if script and not _use.noticed and not _loading and not sys.flags.interactive:
        _use.noticed = True
        atexit.register(_tell_unused, kind, script)


def _tell_unused(kind: type, script: str) -> None:
    named = [name for name, value in vars(sys.modules["__main__"]).items() if isinstance(value, kind)]
    if named and not _use.used and not hasattr(sys, "last_value"):  # an error has said that it ended early
        line = f"memexp: {script} describes a sweep and does not run it: say `memexp run {script}`, or"
        print(f"{line} end the script with `raise SystemExit({named[0]}.main())`", file=sys.stderr)


# ---------------------------------------------------------------------------------------------------------
# Exit statuses


def carried_out(work: Callable[[], int], goes_on: bool, last: bool) -> int:
    """Exit status of a command that signals may stop at any moment, and that may lose whoever listens to it.

    Args:
        work: the command.
        goes_on: whether the same command goes on where it was stopped, and goes on where nobody listens.
        last: whether the process ends with it.
    """
    with heeded(last), spoken(goes_on):
        try:
            return work()
        except BaseException as error:
            if asked() is None and not isinstance(error, KeyboardInterrupt):
                raise
            if not isinstance(error, Told):
                then = "; the same command goes on" if goes_on else ""
                print(f"stopped by {stopped_by()}{then}", file=sys.stderr)
            return status()


SLOW = 0.5
"""Seconds after which one wonders."""


@contextlib.contextmanager
def said_if_slow(line: str) -> Iterator[None]:
    """Say on stderr what is being done, if it is not done at once."""
    timer = threading.Timer(SLOW, lambda: print(line, file=sys.stderr, flush=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def guarded(work: Callable[[], int], debug: bool) -> int:
    """Exit status of `work`; its errors on purpose become a line or two on stderr, unless `debug` lets them through."""
    sys.excepthook = show_redacted
    try:
        return work()
    except MemexpError as error:
        if debug or asked() is not None:  # what libraries make of an interrupt is no error of theirs
            raise
        print(f"memexp: {redacted(str(error))}", file=sys.stderr)
        return error.status


class Told(KeyboardInterrupt):
    """A stop of which a line has been said."""
