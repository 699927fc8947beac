"""``memexp run --local``: without Ray; interrupted, killed and started twice the same rows as undisturbed."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
from drills.strikes import Fault, under_fault
from support import command, data, ended, on_a_terminal, sweep_script

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


MEET = """
import dataclasses, pathlib, time
from memexp.core import train as training
plain, calls = training.update, []
def update(*arguments):
    calls.append(arguments)
    if len(calls) > {free}:
        pathlib.Path({mine!r}).touch()
        while not pathlib.Path({other!r}).exists():
            time.sleep(0.02)
    return plain(*arguments)
training.update = update
sweep = dataclasses.replace(sweep, name={name!r})
"""
"""Statements that make two sweeps wait for each other after so many steps."""


WITNESS = '''
import os, pathlib
from typing import ClassVar
import pyarrow as pa
from memexp import Probe
from memexp.spec import spec

@spec
class Witness(Probe):
    """Where it is measured, and what has been imported there."""
    kind: ClassVar[str] = "witness"
    @classmethod
    def schema(cls):
        return pa.schema([("pid", pa.int64()), ("ray", pa.bool_()), ("omp", pa.string())])
    def measure(self, session, texts):
        import sys
        row = {"pid": os.getpid(), "ray": "ray" in sys.modules, "omp": os.environ["OMP_NUM_THREADS"]}
        return pa.Table.from_pylist([row])

import dataclasses
sweep = dataclasses.replace(sweep, conditions=[dataclasses.replace(one, probes=[*one.probes, Witness()])
                                               for one in sweep.conditions])
'''
"""A probe that tells which process it is in, and what has been imported there."""


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the small sweep, and beside it its lists, whose paths are in the rows."""
    folder = tmp_path_factory.mktemp("undisturbed")
    ended(command("run", "--local", "--store", folder / "store", sweep_script(folder / "lists")), 0)
    return folder


def test_what_was_interrupted_and_killed_goes_on(tmp_path: Path, undisturbed: Path) -> None:
    results = Store(tmp_path / "store")
    _on_a_terminal_that_is_closed(results, undisturbed)
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


def test_a_short_sweep_that_is_killed_here_is_finished_by_ray(tmp_path: Path, undisturbed: Path) -> None:
    """Whatever it died of, which may be its own doing."""
    store, script = Store(tmp_path / "store"), sweep_script(undisturbed / "lists")
    third = Fault("os:link", path="/recall/", nth=3, act="kill")
    with under_fault(script, tmp_path / "store", third, where=()) as struck:
        status, page = struck.ended()
    assert status == -signal.SIGKILL and struck.pids == [struck.process.pid] and "in this process: up to " in page
    assert 0 < len(store.names("recall")) < len(Store(undisturbed / "store").names("recall"))
    page = ended(command("run", script, "--store", store.location), 0)
    assert "starting Ray ..." in page and "in this process" not in page
    assert data(store.location) == data(undisturbed / "store")
    assert ended(command("plan", script, "--store", store.location), 0).count("executed") == 0, "nothing is left"


def _on_a_terminal_that_is_closed(results: Store, undisturbed: Path) -> None:
    mark = Path(results.location).parent / "terminal"
    wait = MEET.format(mine=str(mark), other=str(mark.with_name("nobody")), name="small", free=4)
    script = sweep_script(undisturbed / "lists", more=f"{wait}\nfrom memexp import signals\nsignals.GRACE = 2\n")
    process, terminal = on_a_terminal("run", "--local", "--store", results.location, script)
    while not mark.exists():
        assert process.poll() is None
        time.sleep(0.05)
    before = results.names("recall")
    os.close(terminal)
    assert process.wait(60) == 129
    assert before and results.names("recall") >= before
    assert not list(Path(results.location, ".running").glob("*"))


def test_two_sweeps_that_overlap_at_the_same_time(tmp_path: Path) -> None:
    """Some conditions are of both, others have a prefix in common, others nothing."""
    grids = {"one": ((0, 1, 2), (1e-3, 3e-3)), "other": ((0, 1, 3), (3e-3, 1e-2))}
    scripts = {}
    for (name, (exposures, lrs)), other in zip(grids.items(), ("other", "one"), strict=True):
        meet = MEET.format(mine=str(tmp_path / name), other=str(tmp_path / other), name=name, free=0)
        script = sweep_script(tmp_path / "lists", exposures, lrs, more=meet)
        scripts[name] = script.rename(script.with_name(f"{name}.py"))
    both = {name: command("run", "--local", "--store", tmp_path / "both", script) for name, script in scripts.items()}
    for name, process in both.items():
        assert "6 of 6 conditions complete" in ended(process, 0), name
    for script in scripts.values():
        ended(command("run", "--local", "--store", tmp_path / "turns", script), 0)
    assert data(tmp_path / "both") == data(tmp_path / "turns")
    store = Store(tmp_path / "both")
    assert Log.read(store).rows(status="differs") == [] and store.verify().problems == ()
    assert len(store.names("recognition")) == 6 + 6 - 2


def test_two_at_the_same_time_leave_the_rows_of_one(tmp_path: Path, undisturbed: Path) -> None:
    script = sweep_script(undisturbed / "lists")
    both = [command("run", "--local", "--store", tmp_path / "store", script) for _ in range(2)]
    for process in both:
        ended(process, 0)
    assert data(tmp_path / "store") == data(undisturbed / "store")
    assert Log.read(Store(tmp_path / "store")).rows(status="differs") == []


@pytest.fixture(scope="module")
def witnessed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The store of the small sweep, and beside it its lists, whose paths are in the rows."""
    folder = tmp_path_factory.mktemp("witnessed")
    script = sweep_script(folder / "lists", more=WITNESS)
    process = command("run", "--local", "--store", folder / "store", script)
    page = ended(process, 0)
    assert "6 of 6 conditions complete" in page
    (folder / "pid").write_text(str(process.pid))
    return folder


def test_trials_are_executed_in_the_process_that_was_started_and_without_ray(witnessed: Path) -> None:
    table = Store(witnessed / "store").scan("witness")
    assert table is not None
    assert set(table.column("pid").to_pylist()) == {int((witnessed / "pid").read_text())}
    assert set(table.column("ray").to_pylist()) == {False}
    assert set(table.column("omp").to_pylist()) == {"1"}


def test_a_second_time_nothing_is_done(witnessed: Path) -> None:
    store = Store(witnessed / "store")
    kinds = set(store.kinds()) - {"sweeps"}  # of which the probe is no part now
    before = {kind: store.names(kind) for kind in kinds}
    ended(command("run", "--local", "--store", store.location, sweep_script(witnessed / "lists")), 0)
    assert {kind: store.names(kind) for kind in kinds} == before
