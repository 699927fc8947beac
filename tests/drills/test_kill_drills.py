"""Whole commands whose processes are killed, stopped or put to sleep: the same command again ends up with the data
columns of an undisturbed sweep, bit for bit. Every drill first shows that its fault really struck.

One drill per mechanism is in `make test` already, without Ray: killed in training and in the middle of a tree
(core/test_durable.py), on two ranks again and again (dist/test_two_ranks.py), a commit that is taken twice or killed
(unit/test_store.py), a process that hangs (unit/test_watch.py), a loss that is not finite and a stage that runs out of
memory (core/test_trial.py).
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from drills.strikes import (
    FILES,
    FORTY,
    ON_RAY,
    WITHOUT_RAY,
    Fault,
    finish,
    grid,
    held,
    kill,
    marked,
    results,
    rows,
    same,
    steps_made,
    under_fault,
    until,
)
from support import command, data, ended, sweep_script

from memexp.cluster.servers import SERVERS
from memexp.store import Store
from memexp.store.snapshots import find

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

Tables = dict[str, pa.Table]


def test_the_comparison_notices_a_last_digit(undisturbed: Tables) -> None:
    table = undisturbed["recognition"]
    nll = table.column("target_nll").to_pylist()
    nll[7] += 1e-12
    at = table.schema.get_field_index("target_nll")
    assert not table.set_column(at, "target_nll", pa.array(nll)).equals(table)


def shorten(store: Path) -> None:
    """Cut the newest snapshot of the trajectory that was held."""
    (mark,) = [mark for mark in find(Store(store)).found if mark.step == 40]
    for file in (store / ".snapshots" / mark.trajectory).glob("000000040-*/*.safetensors"):
        file.write_bytes(file.read_bytes()[:-1])


@pytest.mark.parametrize("truncated", [False, True], ids=["", "and a truncated snapshot"])
def test_kill_9_of_the_driver(script: Path, undisturbed: Tables, tmp_path: Path, truncated: bool) -> None:
    where = WITHOUT_RAY if truncated else ON_RAY
    with held(script, tmp_path, where=where) as struck:
        struck.process.kill()
        until(lambda: not marked(struck.mark))  # its local cluster goes down with it
    assert results(tmp_path) < FILES
    if truncated:
        shorten(tmp_path)
    after = "kill -9 of the driver" + ", snapshot truncated" * truncated
    assert finish(script, tmp_path, after, where=where) == (0, FILES)
    assert same(tmp_path, undisturbed)
    # Of the 50 steps from the last result on, those since the snapshot; all of them where it was of no use.
    assert (30 in steps_made(tmp_path, "interference")) is not truncated


def test_kill_9_of_a_trials_process(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    with held(script, tmp_path) as struck:
        (pid,) = struck.pids
        assert results(tmp_path) < FILES
        os.kill(pid, signal.SIGKILL)
        status, page = struck.ended()
    assert status == 0, page  # Tune starts a crashed trial once more by itself
    assert "Traceback" not in page
    assert 30 in steps_made(tmp_path, "interference")
    assert same(tmp_path, undisturbed)


def test_a_trial_that_dies_twice_is_recorded_and_the_same_command_goes_on(
    script: Path, undisturbed: Tables, tmp_path: Path
) -> None:
    # Each time it is about to publish this snapshot, which so remains half an one.
    fault = dataclasses.replace(FORTY, after=False, act="kill", times=6)
    with under_fault(script, tmp_path, fault) as struck:
        status, page = struck.ended()
        assert status == 1, page
        assert page.count("3 trials died") == 1
        assert len(set(struck.pids)) == 6
    assert "failed" in [row["status"] for row in rows(tmp_path, "stages")]
    assert results(tmp_path) < FILES
    assert finish(script, tmp_path, "three trials that died twice") == (0, FILES)
    assert same(tmp_path, undisturbed)


MOMENTS = {
    "in training": Fault("memexp.core.train:update", nth=15),
    "in a probe": Fault("memexp.core.session:Session.complete", nth=2),
    "between write and publication": Fault("os:link", path="/recall/"),
    "in a snapshot": Fault("os:fsync", path="/.snapshots/", nth=4),
}


def test_power_cuts_at_exact_moments(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    """One after the other in one store: every recovery but the last is itself cut."""
    for moment, fault in MOMENTS.items():
        with held(script, tmp_path, fault, where=WITHOUT_RAY) as struck:
            kill(struck.mark)
        assert len(struck.pids) == 1, moment
        assert results(tmp_path) < FILES, moment
        assert Store(tmp_path).verify().problems == (), moment
    assert list((tmp_path / ".tmp").iterdir())  # what was written and not published
    folders = {file.parent for file in tmp_path.glob(".snapshots/**/*.safetensors")}
    assert len(folders) > len(find(Store(tmp_path)).found)  # half a snapshot too
    assert finish(script, tmp_path, "four power cuts in a row", where=WITHOUT_RAY) == (0, FILES)
    assert same(tmp_path, undisturbed)
    assert sum(steps_made(tmp_path, "interference")) < 3 * 70


def test_a_signal_stops_within_seconds_and_says_how_to_go_on(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    sixty = dataclasses.replace(FORTY, path="000000060.json")
    for sent, status, moment in ((signal.SIGINT, 130, FORTY), (signal.SIGTERM, 143, sixty)):
        with held(script, tmp_path, moment) as struck:
            began = time.monotonic()
            for _ in range(3):  # however often it is asked
                os.kill(struck.process.pid, sent)
                time.sleep(0.3)
            ended, page = struck.ended()
            assert time.monotonic() - began < 60  # 2 s where nothing else is going on
            assert ended == status, page
            assert page.count("conditions complete; the same command goes on") == page.count("stopped by") == 1
            assert "Traceback" not in page and "ignored" not in page
        assert results(tmp_path) < FILES
    assert finish(script, tmp_path, "Ctrl-C and then SIGTERM") == (0, FILES)
    assert 10 in steps_made(tmp_path, "interference")
    assert same(tmp_path, undisturbed)


def test_snapshots_that_are_deleted_during_a_run(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    snapshots = tmp_path / ".snapshots"

    def deleted() -> bool:
        shutil.rmtree(snapshots, ignore_errors=True)  # another trial may put one there meanwhile
        return not snapshots.exists()

    with held(script, tmp_path) as struck:
        until(deleted)
        struck.release()
        status, page = struck.ended()
    assert status == 0, page
    assert "Traceback" not in page
    assert same(tmp_path, undisturbed)


def test_a_signal_while_ray_starts(script: Path, tmp_path: Path) -> None:
    starts = Fault("ray._private.node:Node.start_ray_processes")
    with held(script, tmp_path, starts) as struck:
        os.kill(struck.process.pid, signal.SIGTERM)
        struck.release()
        ended, page = struck.ended()
        until(lambda: not marked(struck.mark), 60)  # whatever had been started of Ray
    assert ended == 143, page
    assert page.splitlines()[-1].endswith("conditions complete; the same command goes on")
    assert "Traceback" not in page


def test_kill_9_of_the_raylet(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    """Also of the GCS server, which takes the same path (unit/test_joining.py)."""
    with held(script, tmp_path) as struck:
        (process,) = [process for process in marked(struck.mark) if process.name() == "raylet"]
        process.kill()
        ended, page = struck.ended(120)
        assert ended == 2, page
        assert page.splitlines()[-1] == "memexp: Ray's raylet died (killed, or out of memory); the same command goes on"
        assert "Traceback" not in page and "(raylet)" not in page
        until(lambda: not marked(struck.mark), 60)  # nobody is left behind
    assert results(tmp_path) < FILES
    assert finish(script, tmp_path, "kill -9 of the raylet") == (0, FILES)
    assert 30 in steps_made(tmp_path, "interference")
    assert same(tmp_path, undisturbed)


@pytest.mark.parametrize("name", SERVERS)
def test_kill_9_of_a_server_while_ray_starts(name: str, script: Path, tmp_path: Path) -> None:
    process = command("run", script, "--store", tmp_path, "--address", "local")

    def started() -> list[psutil.Process]:
        return [one for one in psutil.Process(process.pid).children() if one.name() == name]

    until(started)
    for server in started():
        server.kill()
    page = ended(process, 2)
    assert page.splitlines()[-1].startswith("memexp: Ray") and "; the same command " in page
    assert "executing" not in page and "Traceback" not in page
    assert not list(tmp_path.rglob("*.json"))


def test_two_at_once_leave_no_duplicate_or_broken_row(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    both = [command("run", script, "--store", tmp_path, "--address", "local") for _ in range(2)]
    pages = [process.communicate(timeout=600)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], pages
    assert results(tmp_path) == FILES
    assert same(tmp_path, undisturbed)


def test_a_command_that_sleeps_while_another_finishes(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    """A laptop's lid, a suspended machine: the store's newer attempt stands, and the older one ends well."""
    with held(script, tmp_path, where=WITHOUT_RAY) as struck:
        asleep = marked(struck.mark)
        for process in asleep:
            process.suspend()
        before = results(tmp_path)
        assert finish(script, tmp_path, where=WITHOUT_RAY) == (0, FILES) and before < FILES
        assert same(tmp_path, undisturbed)
        struck.release()
        for process in asleep:
            process.resume()
        status, page = struck.ended()
        assert status == 0, page
    assert results(tmp_path) == FILES
    assert same(tmp_path, undisturbed)
    assert "differs" not in [row["status"] for row in rows(tmp_path, "stages")]


def test_a_clock_set_back_a_day(script: Path, undisturbed: Tables, tmp_path: Path) -> None:
    with under_fault(script, tmp_path, Fault("", act="set the clock back"), where=WITHOUT_RAY) as struck:
        until(lambda: results(tmp_path) >= 2)
        struck.release()
        status, page = struck.ended()
        assert status == 0, page
    finished = [row["finished"] for row in rows(tmp_path, "stages")]
    assert max(finished) - min(finished) > timedelta(hours=23)  # some rows are of the day before
    assert finish(script, tmp_path, where=WITHOUT_RAY) == (0, FILES)
    assert same(tmp_path, undisturbed)


def test_kill_9_of_one_of_two_workers(tmp_path: Path) -> None:
    settings = {"lrs": (1e-3,), "exposures": (2,), "workers": 2}
    assert finish(grid(tmp_path, snapshots=None, **settings), tmp_path / "undisturbed") == (0, 6)
    script, store = grid(tmp_path, **settings), tmp_path / "store"
    with held(script, store) as struck:
        workers = marked(struck.mark, "ray::_RayTrainWorker") + marked(struck.mark, "ray::RayTrainWorker")
        (other,) = [worker for worker in workers if worker.pid not in struck.pids]
        assert len(workers) == 2 and results(store) < 6
        other.kill()
        struck.release()
        status, page = struck.ended()
        assert status == 0, page  # a group that dies without a word is started once more
    assert 30 in steps_made(store, "interference")
    assert same(store, data(tmp_path / "undisturbed"))


def test_what_is_after_a_snapshot_is_all_that_is_made_again(tmp_path: Path) -> None:
    where, steps = WITHOUT_RAY, 1000
    settings: dict[str, Any] = {"exposures": (0,), "lrs": (1e-3,), "stops": (steps,), "items": 40}
    assert finish(sweep_script(tmp_path, **settings), tmp_path / "undisturbed", where=where) == (0, 2)
    script, store = sweep_script(tmp_path, **settings, snapshots=100), tmp_path / "store"
    with held(script, store, dataclasses.replace(FORTY, path="000000100.json"), where=where) as struck:
        kill(struck.mark)
    assert results(store) == 0
    assert finish(script, store, f"a power cut at step 100 of {steps:,}", where=where) == (0, 2)
    assert steps_made(tmp_path / "undisturbed", "interference") == [steps]
    assert steps_made(store, "interference") == [steps - 100]
    assert same(store, data(tmp_path / "undisturbed"))
