"""What a user's own probe prints while it measures, for the terminal and for a log in the store.

printed = Printed(probe)
with printed:
    items = probe.measure(session, texts)
Progress(said=printed.written(store, ".logs/mine/surprise-0123.txt"))
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Any, Protocol, TextIO, cast

from memexp.errors import redacted, writable
from memexp.spec import Probe, written_by_user
from memexp.wording import amount

__all__ = ["Printed", "Sink"]

SAID = 1000
"""Lines of one measurement that go to the terminal."""
LOGGED = 100_000
"""Lines of it that go to the log."""
WIDEST = 500
"""Characters of a line."""


class Sink(Protocol):
    """Where logs go; `memexp.store.Store` is one."""

    def put_text(self, path: str, text: str) -> None:
        """Write a side file."""


class Printed:
    """A context in which what Python code prints is kept, and printed as ever; of memexp's own probes nothing is kept.

    What is printed by other threads of the process meanwhile is kept as well; what C code prints is not.
    """

    def __init__(self, probe: Probe) -> None:
        self.name = type(probe).__name__
        self.keeps = written_by_user(type(probe))
        self.lines: list[str] = []
        self.count = 0
        """Lines printed; not all of them may be in `lines`."""
        self.streams: list[_Tee] = []
        self.redirected = contextlib.ExitStack()

    def __enter__(self) -> None:
        if self.keeps:
            self.streams = [_Tee(self, sys.stdout), _Tee(self, sys.stderr)]
            out, err = (cast(TextIO, stream) for stream in self.streams)
            self.redirected.enter_context(contextlib.redirect_stdout(out))
            self.redirected.enter_context(contextlib.redirect_stderr(err))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.redirected.close()
        for stream in self.streams:
            stream.end()

    def take(self, line: str) -> None:
        """One line; of those that were overwritten, as progress bars are, the last."""
        line = line.rstrip("\r").rpartition("\r")[2].rstrip()
        if line:
            self.count += 1
            if self.count <= LOGGED:
                self.lines.append(writable(redacted(line)))

    def written(self, sink: Sink, log: str) -> tuple[str, ...]:
        """The lines for the terminal, after all of them are in `sink` as the side file `log`; none where none are."""
        if not self.lines:
            return ()
        lost = [f"... and {amount(self.count - LOGGED, 'more line')}"] if self.count > LOGGED else []
        sink.put_text(log, "\n".join([*self.lines, *lost]) + "\n")
        said = [line[:WIDEST] for line in self.lines[:SAID]]
        if self.count > SAID:
            said.append(f"... and {amount(self.count - SAID, 'more line')} in {log}")
        return tuple(f"{self.name}: {line}" for line in said)


class _Tee:
    """A stream that hands its lines on; in all else it is the stream it stands for."""

    def __init__(self, printed: Printed, stream: TextIO) -> None:
        self.printed, self.stream, self.begun = printed, stream, ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def write(self, text: str) -> int:
        *whole, self.begun = (self.begun + text).split("\n")
        for line in whole:
            self.printed.take(line)
        self.stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def end(self) -> None:
        """The last line, where nothing ended it."""
        self.printed.take(self.begun)
        self.begun = ""
