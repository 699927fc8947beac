"""What a cluster could hold, and what it could never, known before anything is started on it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from memexp import ClusterError, Resources
from memexp.cluster import connect
from memexp.cluster.connect import DRIVER, Cluster
from memexp.cluster.experiment import placement

LAPTOP = Cluster(nodes=({"CPU": 2.0, DRIVER: 1000.0},))
HEAD_ONLY = {
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 0, DRIVER: 1000}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 4, "GPU": 1}, "max_workers": 8},
    },
}


def test_slots_count_trials_side_by_side() -> None:
    assert LAPTOP.slots(Resources()) == 2
    assert LAPTOP.slots(Resources(cpus=2)) == 1
    assert LAPTOP.slots(Resources(cpus=0.5)) == 4
    assert LAPTOP.slots(Resources(workers=2)) == 1


def test_what_can_never_start_is_refused() -> None:
    LAPTOP.check(Resources(workers=2))
    with pytest.raises(ClusterError, match="needs 3 CPUs and the cluster can reach 2"):
        LAPTOP.check(Resources(workers=3))
    with pytest.raises(ClusterError, match="needs 1 GPUs and the cluster can reach 0"):
        LAPTOP.check(Resources(gpus=1))
    two_small = Cluster(nodes=({"CPU": 1.0}, {"CPU": 1.0}))
    with pytest.raises(ClusterError, match="fits on no node"):
        two_small.check(Resources(cpus=2))
    with pytest.raises(ClusterError, match="--resources"):
        two_small.check(Resources(workers=2))
    uneven = Cluster(nodes=({"CPU": 3.0, DRIVER: 1000.0}, {"CPU": 3.0}))
    with pytest.raises(ClusterError, match="only 2 such workers fit on the nodes"):
        uneven.check(Resources(workers=3, cpus=2))
    assert Cluster(nodes=uneven.nodes * 3).slots(Resources(workers=2, cpus=2)) == 3


@pytest.mark.parametrize("slots", [1, 3, 6, 7, 11, 13, 999])
def test_as_many_drivers_start_as_groups_fit(slots: int) -> None:
    cluster = Cluster(nodes=({"CPU": 2.0 * slots, DRIVER: 1000.0},))
    resources = Resources(workers=2)
    [share] = [bundle[DRIVER] for bundle in placement(resources, cluster).bundles]
    parts = round(10_000 * share)  # what Ray counts in
    assert abs(parts / 10_000 - share) < 1e-9
    assert 10_000 * 1000 // parts == cluster.slots(resources) == slots


def test_nodes_that_the_autoscaler_may_start_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    file.write_text(json.dumps(HEAD_ONLY))
    monkeypatch.setattr(connect, "BOOTSTRAPPED", str(file))
    cluster = Cluster(({"CPU": 0.0, DRIVER: 1000.0},), *connect._autoscaled())
    assert cluster.spans_machines
    assert cluster.slots(Resources(gpus=1)) == 8
    cluster.check(Resources(workers=8, cpus=4, gpus=1))
    with pytest.raises(ClusterError, match="needs 9 GPUs and the cluster can reach 8"):
        cluster.check(Resources(workers=9, gpus=1))
    with pytest.raises(ClusterError, match="fits on no node"):
        cluster.check(Resources(cpus=8))
    file.write_text("available_node_types: 3")
    with pytest.raises(ClusterError, match="not a cluster configuration"):
        connect._autoscaled()


def test_an_address_where_nobody_answers_is_refused_at_once() -> None:
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"no Ray cluster answers at 127\.0\.0\.1:9"):
        connect._init("127.0.0.1:9", sharded=False)  # what `connected` does in a process that has no cluster yet
    assert time.monotonic() - began < 15


def test_a_disk_is_shared_if_its_file_system_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not connect._is_shared(tmp_path)
    mounts = [("disk", "/", "ext4"), ("server:/export", f"{tmp_path}/shared", "nfs4")]
    found = [SimpleNamespace(device=device, mountpoint=at, fstype=kind) for device, at, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    assert connect._is_shared(tmp_path / "shared" / "results")
    assert not connect._is_shared(tmp_path / "results")
    found.append(SimpleNamespace(device="disk", mountpoint=f"{tmp_path}/shared", fstype="xfs"))  # hides what was there
    assert not connect._is_shared(tmp_path / "shared" / "results")


@pytest.fixture
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of other tests stays."""
    monkeypatch.setattr(connect.ray, "shutdown", lambda: None)


@pytest.mark.parametrize("name", [*connect.SERVERS, "somebody"])
def test_only_the_death_of_a_server_of_our_own_ends_what_is_under_way(
    name: str, tmp_path: Path, unconnected: None
) -> None:
    (tmp_path / name).write_text("#!/bin/sh\nread line\n")
    (tmp_path / name).chmod(0o755)
    ended = contextlib.nullcontext()
    if name in connect.SERVERS:
        ended = pytest.raises(ClusterError, match=f"Ray's {name} died .*; the same command goes on")
    # A second one lives on, as where tests share a cluster: whichever the system lists last, the dead one counts.
    with (
        subprocess.Popen([tmp_path / name], stdin=subprocess.PIPE) as child,
        subprocess.Popen([tmp_path / name], stdin=subprocess.PIPE) as other,
    ):
        try:
            with ended, connect._ours():
                child.kill()
                time.sleep(5 * connect.LOOK_EVERY)
        finally:
            other.kill()


def test_ctrl_c_stays_ctrl_c(unconnected: None) -> None:
    with pytest.raises(KeyboardInterrupt), connect._ours():
        raise KeyboardInterrupt


DEAF = """
import subprocess, time
from memexp.cluster import connect
connect.GRACE = 0.5  # seconds
child = subprocess.Popen(["{raylet}"], stdin=subprocess.PIPE)
with connect._ours():
    child.kill()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_who_waits_for_a_dead_server_is_ended_with_the_same_line(tmp_path: Path) -> None:
    (tmp_path / "raylet").write_text("#!/bin/sh\nread line\n")
    (tmp_path / "raylet").chmod(0o755)
    code = DEAF.format(raylet=tmp_path / "raylet")
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 2
    assert ended.stderr == "memexp: Ray's raylet died (killed, or out of memory); the same command goes on\n"
