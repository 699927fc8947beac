"""``memexp run --local`` when it is interrupted, killed, and started twice: the same rows as undisturbed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from support import command, data, ended, sweep_script

from memexp.plan.attempts import Log
from memexp.store import Store

SLOW = """
import pathlib, time
from memexp.core import train as training
plain = training.update
def update(*arguments):
    time.sleep(0.05)
    pathlib.Path({mark!r}).touch()
    return plain(*arguments)
training.update = update
"""
"""Statements that make a step take its time, and leave a mark when training has begun."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the small sweep, and beside it its lists, whose paths are in the rows."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended(command("run", "--local", "--store", folder / "store", sweep_script(folder / "lists")), 0)
    return folder


def test_what_was_interrupted_and_killed_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    results = Store(tmp_path / "store")
    for how, status in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        mark = tmp_path / how.name
        script = sweep_script(undisturbed / "lists", more=SLOW.format(mark=str(mark)))
        process = command("run", "--local", "--store", results.location, script)
        while not mark.exists():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(0.05)
        os.kill(process.pid, how)
        page = ended(process, status)
        assert ("the same command goes on" in page) == (how == signal.SIGINT)
    assert len(results.names("recall")) < len(Store(undisturbed / "store").names("recall"))
    ended(command("run", "--local", "--store", results.location, sweep_script(undisturbed / "lists")), 0)
    assert data(results.location) == data(undisturbed / "store")


def test_two_at_the_same_time_leave_the_rows_of_one(tmp_path: Path, undisturbed: Path) -> None:
    script = sweep_script(undisturbed / "lists")
    both = [command("run", "--local", "--store", tmp_path / "store", script) for _ in range(2)]
    for process in both:
        ended(process, 0)
    assert data(tmp_path / "store") == data(undisturbed / "store")
    assert Log.read(Store(tmp_path / "store")).rows(status="differs") == []
