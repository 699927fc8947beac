"""Machines that are taken away with a word before: what is trained is saved at once, and goes on elsewhere."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from drills.strikes import ON_RAY, WITHOUT_RAY, finish, grid, results, rows, same, steps_made, until
from drills.test_node_drills import lose
from ray.cluster_utils import Cluster
from support import command, data
from three_nodes import a_bucket, guarded_cluster

from memexp.store import Store
from memexp.store.snapshots import find

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

SECONDS = 15
"""From the word to the snapshot, on a machine that is busy with all of this: two of them until the word is heard."""
LONG = {1: 1200, 2: 250}
"""Steps of interference, by workers: a quarter of a minute."""


def script_of(folder: Path, workers: int = 1) -> Path:
    """One long trajectory, of which nothing is saved in time."""
    return grid(folder, exposures=(2,), lrs=(1e-3,), stops=(LONG[workers],), snapshots=None, workers=workers)


def drain(cluster: Cluster, node: Any) -> None:
    """What a cloud's notice makes of a node."""
    code = f"from memexp.cluster.spot import drain; drain(120, {cluster.address!r}, {node.node_id!r})"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def trains(node: Any, workers: int) -> bool:
    """Whether a trial is under way on a node, with all of its workers."""
    (raylet,) = (one.process.pid for one in node.all_processes["raylet"])
    kind, found = "RayTrainWorker" if workers > 1 else "ImplicitFunc", 0
    for process in psutil.Process(raylet).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += any(kind in word for word in process.cmdline()[:1])
    return found == workers


def saved(store: Path | str) -> int:
    """The step of the snapshot there is, 0 where there is none."""
    return max((one.step for one in find(Store(store)).found), default=0)


def in_interference(store: Path | str) -> bool:
    """Whether study is over, two short exposures."""
    return len(Store(store).names("training")) == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_node_that_is_drained_is_left_at_once(workers: int, tmp_path: Path) -> None:
    script, last = script_of(tmp_path, workers), LONG[workers]
    assert finish(script, tmp_path / "undisturbed", where=WITHOUT_RAY if workers == 1 else ON_RAY) == (0, 2)
    with a_bucket("memexp-drained") as bucket, guarded_cluster([0, workers, workers]) as cluster:
        store = f"{bucket}/{workers}"
        process = command("run", script, "--store", store, "--address", cluster.address)
        until(lambda: in_interference(store) or process.poll() is not None)
        (node,) = [node for node in cluster.worker_nodes if trains(node, workers)]
        (other,) = cluster.worker_nodes - {node}
        drain(cluster, node)
        began = time.monotonic()
        until(lambda: saved(store) or process.poll() is not None)
        took, step = time.monotonic() - began, saved(store)
        assert 0 < step < last and took < SECONDS
        until(lambda: trains(other, workers) or process.poll() is not None)
        lose(cluster, node)
        page, _ = process.communicate(timeout=300)
        print(page)
        assert process.returncode == 0 and "saved, to go on elsewhere" in page and "died" not in page
        assert same(store, data(tmp_path / "undisturbed"))
        assert steps_made(store, "interference") == [last - step]
        assert [row["steps"] for row in rows(store, "stages") if row["status"] == "left"] == [step]


def test_a_sweep_that_gets_sigterm_saves_first(tmp_path: Path) -> None:
    """With its trials in other processes; core/test_leaving.py has those of its own."""
    script, last = script_of(tmp_path), LONG[1]
    assert finish(script, tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, 2)
    store = tmp_path / "store"
    process = command("run", script, "--store", store, *ON_RAY)
    until(lambda: in_interference(store) or process.poll() is not None)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    page, _ = process.communicate(timeout=60)
    print(page)
    assert process.returncode == 143 and time.monotonic() - began < 2 * SECONDS
    assert "stopped by SIGTERM: 0 of 1 condition complete; the same command goes on" in page
    assert "Traceback" not in page and results(store) == 0
    step = saved(store)
    assert 0 < step < last
    assert finish(script, store, where=WITHOUT_RAY) == (0, 2)
    assert same(store, data(tmp_path / "undisturbed"))
    assert steps_made(store, "interference") == [last - step]
