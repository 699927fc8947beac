"""Signals: a line that says what was asked for, the exit status that shells expect, from the first moment on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray
from support import on_a_terminal

from memexp import signals
from memexp.cli import main
from memexp.cluster import connect, servers
from memexp.errors import StoreError
from memexp.plan import Trial
from memexp.plan.retries import Outcome
from memexp.store import Store

BY = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}


@pytest.fixture(autouse=True)
def heeding() -> Iterator[None]:
    """Where the tests were started with nohup, SIGHUP is ignored; here it ends them, where nobody heeds it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


STRUCK = """
import atexit, os, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, getattr(signal, sys.argv.pop(1)))
number, moment = int(sys.argv.pop(1)), sys.argv.pop(1)
class Strike:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            atexit.register(os.kill, os.getpid(), number)  # and once more at the very end
            os.kill(os.getpid(), number)
            print("it goes on")
sys.meta_path.insert(0, Strike())
from memexp.cli import main
sys.exit(main())
"""
"""A command that is struck by a signal when it first imports a module."""


def struck(number: int, moment: str, *arguments: str, hup: str = "SIG_DFL") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", STRUCK, hup, str(int(number)), moment, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(
    ("number", "moment", "line"),
    [
        (signal.SIGTERM, "memexp.sweep", "stopped by SIGTERM; the same command goes on"),
        (signal.SIGINT, "pydantic", "stopped by Ctrl-C; the same command goes on"),
        (signal.SIGHUP, "pyarrow", "stopped by SIGHUP; the same command goes on"),
    ],
)
def test_in_the_middle_of_the_imports(number: int, moment: str, line: str) -> None:
    found = struck(number, moment, "run", "nothing.py")
    said = found.stderr.removeprefix("reading nothing.py ...\n")  # where it took long
    assert (found.returncode, found.stdout, said) == (128 + number, "", f"{line}\n")


def test_an_answer_that_is_stopped_does_not_go_on() -> None:
    found = struck(signal.SIGTERM, "pyarrow", "status")
    assert (found.returncode, found.stderr) == (143, "stopped by SIGTERM\n")


def test_what_nohup_ignores_stays_ignored() -> None:
    found = struck(signal.SIGHUP, "pydantic", "run", "nothing.py", hup="SIG_IGN")
    assert (found.returncode, found.stdout) == (2, "it goes on\n")
    assert found.stderr.splitlines()[-1].startswith("memexp: nothing.py: no such sweep script in ")


SLOW = """
import pathlib, time
try:
    pathlib.Path("begun").touch()
    while True:
        time.sleep(0.01)
except BaseException:
    try:
        print("is anybody there?", flush=True)
        pathlib.Path("spoken").touch()
    except OSError as error:
        pathlib.Path("deaf").write_text(str(error))
    raise
"""


def test_a_terminal_that_is_closed(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    process, terminal = on_a_terminal("run", "slow.py", folder=tmp_path)
    while not (tmp_path / "begun").exists():
        assert process.poll() is None
        time.sleep(0.01)
    os.close(terminal)
    assert process.wait(timeout=60) == 128 + signal.SIGHUP
    assert not (tmp_path / "deaf").exists() and (tmp_path / "spoken").exists()


# In the middle of a sweep


SCRIPT = """
from memexp import Condition, Model, Pair, Recognition, Study, Sweep
pair = Pair({targets!r}, {foils!r})
condition = Condition(Model("tiny-s"), Study(pair.targets, 1, 1e-3), probes=[Recognition(pair)])
sweep = Sweep(name="small", conditions=[condition])
"""


class Executor:
    """Is sent signals instead of executing anything."""

    plain = True
    numbers: Sequence[int] = ()

    def slots(self, resources: object) -> int:
        return 1

    def device(self, resources: object) -> str:
        return "cpu"

    def execute_trials(self, trials: Sequence[Trial], *rest: object) -> Outcome:
        for number in self.numbers:
            os.kill(os.getpid(), number)
        return Outcome(["something failed"])


@pytest.fixture
def sweep(tmp_path: Path, pair: Any, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(
        "memexp.sweep._in_this_process", lambda debugged: lambda work: contextlib.nullcontext(Executor())
    )
    monkeypatch.setattr("memexp.driver.run.check_models", lambda forest, models: None)
    Path("small.py").write_text(SCRIPT.format(targets=pair.targets.path, foils=pair.foils.path))
    return "small.py"


def stopped(sweep: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit status, and what is said after the sweep has begun."""
    status = main(["run", "--local", sweep])
    lines = capsys.readouterr().err.splitlines()
    return status, lines[[line.startswith("executing") for line in lines].index(True) + 1 :]


@pytest.mark.parametrize("number", BY, ids=BY.get)
def test_a_signal_says_how_far_it_came(
    number: int, sweep: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Executor, "numbers", [number])
    line = f"stopped by {BY[signal.Signals(number)]}: 0 of 1 condition complete; the same command goes on"
    assert stopped(sweep, capsys) == (128 + number, [line])
    assert not list(Path("results/.running").glob("*"))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, "what was before is again"


def test_three_times_ctrl_c(sweep: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(Executor, "numbers", [signal.SIGINT])

    def struck() -> str:  # while the line is made
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
        return signals.stopped_by()

    monkeypatch.setattr("memexp.driver.run.stopped_by", struck)
    line = "stopped by Ctrl-C: 0 of 1 condition complete; the same command goes on"
    assert stopped(sweep, capsys) == (130, [line])


def test_libraries_that_turn_an_interrupt_into_something_else(
    sweep: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrapped(self: Executor, *rest: object) -> Outcome:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException as error:
            raise RuntimeError("cancelled") from error
        raise AssertionError

    monkeypatch.setattr(Executor, "execute_trials", wrapped)
    line = "stopped by SIGTERM: 0 of 1 condition complete; the same command goes on"
    assert stopped(sweep, capsys) == (143, [line])


@pytest.mark.parametrize("error", [StoreError("the query failed"), RuntimeError("interrupted"), SystemExit(1)])
def test_errors_that_are_made_of_an_interrupt(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(options: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setitem(main.__globals__, "_status", interrupted)
    assert (main(["status"]), capsys.readouterr().err) == (143, "stopped by SIGTERM\n")


def test_a_store_that_cannot_be_asked_any_more(
    sweep: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: object) -> None:
        raise StoreError("cannot open store")

    def struck(self: Executor, *rest: object) -> Outcome:
        monkeypatch.setattr("memexp.driver.run.planning.find_missing", refused)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError

    monkeypatch.setattr(Executor, "execute_trials", struck)
    assert stopped(sweep, capsys) == (143, ["stopped by SIGTERM; the same command goes on"])


def test_who_insists_is_obeyed_at_once(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(signals, "INSISTENCE", -1.0)

    def left(status: int) -> None:
        raise SystemExit(status)

    monkeypatch.setattr("os._exit", left)
    with pytest.raises(SystemExit, match=r"^143$"), signals.heeded():
        with pytest.raises(signals.Stopped):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert capfd.readouterr().err == "stopped by SIGTERM at once\n"


def test_a_stop_that_is_put_off_comes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where Ctrl-C is ignored, as in what a shell's script starts in the background."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.heeded(), signals.put_off(lambda: True):
            os.kill(os.getpid(), signal.SIGTERM)
            assert signals.asked() == signal.SIGTERM
            with pytest.raises(signals.Stopped):
                signals.stop_now()
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_stop_that_is_put_off_does_not_wait_for_what_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "GRACE", 0.2)
    with signals.heeded(), pytest.raises(signals.Stopped), signals.put_off(lambda: True):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
        raise AssertionError


def test_ctrl_c_does_not_wait_for_a_stop_that_was_put_off() -> None:
    with signals.heeded(), signals.put_off(lambda: True):
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(signals.Stopped):
            os.kill(os.getpid(), signal.SIGINT)
        signals.stop_now()  # it has come already
    with signals.heeded(), signals.put_off(lambda: True), pytest.raises(signals.Stopped):
        os.kill(os.getpid(), signal.SIGINT)
    with signals.heeded(), signals.put_off(lambda: False), pytest.raises(signals.Stopped):
        os.kill(os.getpid(), signal.SIGTERM)


# With Ray


def test_ray_sets_no_handler_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:  # begins as Ray's does
        ray._private.utils.set_sigterm_handler(lambda number, frame: sys.exit(number))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(connect.ray, "init", init)
    monkeypatch.setattr(connect.ray, "is_initialized", lambda: False)
    with signals.heeded(), pytest.raises(signals.Stopped), connect.connected("local", [], Store("nothing")):
        pass


def test_servers_that_a_closed_terminal_takes_with_it_did_not_just_die(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers.ray, "shutdown", lambda: None)
    (tmp_path / "raylet").write_text("#!/bin/sh\nread line\n")
    (tmp_path / "raylet").chmod(0o755)
    with signals.heeded(), subprocess.Popen([tmp_path / "raylet"], stdin=subprocess.PIPE) as child:
        with pytest.raises(KeyboardInterrupt), servers.watched() as found:
            found.settle()
            child.kill()
            try:
                while True:
                    time.sleep(servers.LOOK_EVERY)
            except KeyboardInterrupt:  # of the server's death
                os.kill(os.getpid(), signal.SIGHUP)
        assert signals.status() == 129
