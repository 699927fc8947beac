"""Standard output and error that can no longer be written: a reader that left, a full disk, a terminal that is gone.

with spoken(goes_on=True):      # a sweep: goes quiet and goes on
    ...
with spoken(goes_on=False):     # an answer: ends as usual tools do
    ...
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO, cast

from memexp.errors import MemexpError

__all__ = ["binary", "spoken"]

Lost = Callable[[OSError], None]
"""Told that a stream cannot be written."""


@contextlib.contextmanager
def spoken(goes_on: bool) -> Iterator[None]:
    """While the context lasts, no write to standard output or error raises what the writer could not help.

    What cannot be written once goes nowhere from then on, whoever writes it.

    Args:
        goes_on: whether the work goes on though nobody hears of it. Otherwise a reader that left ends the process
            quietly, with the exit status of SIGPIPE, and any other fault of standard output raises MemexpError.
    """
    if isinstance(sys.stdout, _Stream):
        yield
        return
    _open_descriptors()
    before = sys.stdout, sys.stderr
    out, err = (_Stream(stream or open(os.devnull, "w")) for stream in before)  # noqa: SIM115 # lives as long as they
    if not goes_on:
        out.lost = _ends
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
        out.flush()
    finally:
        out.lost = _goes_on
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def binary(data: bytes) -> None:
    """Write bytes to standard output, as if `print` could; what cannot be written is dealt with as `spoken` says."""
    sys.stdout.flush()
    with sys.stdout._noticed() if isinstance(sys.stdout, _Stream) else contextlib.nullcontext():
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _goes_on(error: OSError) -> None:
    """A sweep is not for being watched."""


def _ends(error: OSError) -> None:
    """Half an answer is none."""
    if isinstance(error, BrokenPipeError):
        raise SystemExit(128 + signal.SIGPIPE)
    raise MemexpError(f"cannot write to standard output: {(error.strerror or str(error)).lower()}") from error


class _Stream:
    """A stream whose faults are told to `lost`; in all else it is the stream it stands for."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self.lost: Lost = _goes_on

    def __reduce__(self) -> tuple[Callable[[bool], TextIO], tuple[bool]]:
        """A sweep script that holds on to a stream may travel to a worker, which has its own."""
        return _of_this_process, (self is sys.stderr,)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        with self._noticed():
            return self.stream.write(text)
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        with self._noticed():
            self.stream.flush()

    @contextlib.contextmanager
    def _noticed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._to_nowhere()
            self.lost(error)
        except ValueError:
            if not self.stream.closed:
                raise

    def _to_nowhere(self) -> None:
        """What is written from now on, what Python still has to write, and what code below Python writes."""
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)


def _of_this_process(error: bool) -> TextIO:
    return sys.stderr if error else sys.stdout


def _open_descriptors() -> None:
    """A standard stream that was closed by whoever started us: the next file would take its place, and its output."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
