"""Standard output that cannot be written: a sweep goes quiet and goes on, an answer ends as usual tools do."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle
from rich.console import Console
from rich.progress import Progress

from memexp.errors import MemexpError
from memexp.report.output import spoken
from memexp.report.terminal import say


@contextlib.contextmanager
def standing_in(monkeypatch: pytest.MonkeyPatch, out: Any, err: Any = None) -> Iterator[None]:
    """`out` is what the process has for standard output while the context lasts."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        patch.setattr(sys, "stderr", err or io.StringIO())
        yield


def broken_pipe() -> io.TextIOWrapper:
    """A pipe that nobody reads."""
    end, begin = os.pipe()
    os.close(end)
    return os.fdopen(begin, "w")


def full_disk() -> io.TextIOWrapper:
    """A file without room for anything."""
    return open("/dev/full", "w")


def closed() -> io.TextIOWrapper:
    stream = open(os.devnull, "w")  # noqa: SIM115 # its user's
    stream.close()
    return stream


LOST = {"a reader that left": broken_pipe, "a full disk": full_disk, "closed": closed, "none": lambda: None}


@pytest.mark.parametrize("lost", LOST.values(), ids=LOST)
def test_a_sweep_goes_on(lost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    done = 0
    for both in (False, True):
        with standing_in(monkeypatch, lost(), lost() if both else None), spoken(goes_on=True):
            for console in (Console(), Console(stderr=True), Console(force_terminal=True, stderr=True)):
                with Progress(console=console) as bars:
                    bar = bars.add_task("steps", total=1)
                    print("by Python", flush=True)
                    say(console, "by rich, " + 100_000 * "much")
                    bars.update(bar, completed=1)
                sys.stderr.write("by itself")
                sys.stdout.writelines(["a line\n", "another\n"])
                done += 1
        assert done == 3 + 3 * both


@pytest.mark.parametrize("lost", [broken_pipe, full_disk])
def test_what_python_still_has_to_write_at_the_end_goes_nowhere(lost: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = lost()
    with standing_in(monkeypatch, stream), spoken(goes_on=True):
        print("in a buffer until the end")
    stream.write("and some more, by whoever has it")
    stream.close()


def test_an_answer_nobody_reads_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    for write in (print, Console().print, lambda line: csv.writer(sys.stdout).writerow([line])):
        with (
            standing_in(monkeypatch, broken_pipe(), err := io.StringIO()),
            pytest.raises(SystemExit) as left,
            spoken(goes_on=False),
        ):
            write("something")
        assert (left.value.code, err.getvalue()) == (141, "")


def test_half_an_answer_on_a_full_disk_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        standing_in(monkeypatch, full_disk()),
        pytest.raises(MemexpError, match=r"^cannot write to standard output: no space left on device$"),
        spoken(goes_on=False),
    ):
        print("something")


def test_an_answer_is_for_standard_output(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    with standing_in(monkeypatch, out, broken_pipe()), spoken(goes_on=False):
        print("progress", file=sys.stderr, flush=True)
        print("answer")
    assert out.getvalue() == "answer\n"


def test_other_faults_are_raised(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with (
        open(tmp_path / "plain", "w", encoding="ascii") as stream,
        standing_in(monkeypatch, stream),
        spoken(goes_on=True),
        pytest.raises(UnicodeEncodeError),
    ):
        print("\N{SNOWMAN}")
    with pytest.raises(OSError, match="elsewhere"), spoken(goes_on=True):
        raise OSError("elsewhere")


def test_a_script_that_holds_a_stream_can_travel() -> None:
    with spoken(goes_on=True):
        for stream in (sys.stdout, sys.stderr):
            assert cloudpickle.loads(cloudpickle.dumps(stream)) is stream


COMMAND = """
import sys
from memexp.cli import main
main.__globals__["_run"] = lambda options: [print("line", number, flush=True) for number in range(100_000)] and 1
sys.exit(main())
"""


def head(*arguments: str, **streams: Any) -> tuple[int, bytes, bytes]:
    """Exit status of a command whose reader leaves after a line, that line, and standard error."""
    command = [sys.executable, "-c", COMMAND, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        said = process.stderr.read()
    return process.returncode, line, said


def test_a_reader_that_really_leaves(tmp_path: Path) -> None:
    assert head("run", "sweep.py") == (1, b"line 0\n", b"")


DEAF = """
import os, sys
from memexp.cli import main
main.__globals__["_run"] = lambda options: print("into nowhere") or os.open(os.devnull, os.O_RDWR)
sys.exit(main())
"""


def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    closed = subprocess.Popen([sys.executable, "-c", DEAF, "run", "x.py"], preexec_fn=lambda: os.closerange(0, 2))
    assert closed.wait(60) > 2
