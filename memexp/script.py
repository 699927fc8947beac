"""What sweep scripts and the command ``memexp`` have in common: options, exit statuses, signals."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator

from memexp.errors import MemexpError, redacted, show_redacted
from memexp.report.output import spoken
from memexp.signals import asked, heeded, status, stopped_by

__all__ = ["Told", "being_loaded", "carried_out", "guarded", "loading", "run_options"]


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
