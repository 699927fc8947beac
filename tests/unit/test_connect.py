"""What a cluster could hold, and what it could never, known before anything is started on it."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import psutil
import pytest

from memexp import ClusterError, Resources
from memexp.cluster import connect, groups
from memexp.cluster.connect import DRIVER, Cluster
from memexp.cluster.experiment import placement
from memexp.plan.attempts import Attempt
from memexp.plan.room import Peak, Room
from memexp.store import Store

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
    with pytest.raises(ClusterError, match="needs 1 GPU and the cluster can reach 0"):
        LAPTOP.check(Resources(gpus=1))
    two_small = Cluster(nodes=({"CPU": 1.0}, {"CPU": 1.0}))
    with pytest.raises(ClusterError, match="fits on no node"):
        two_small.check(Resources(cpus=2))
    with pytest.raises(ClusterError, match="--resources"):
        two_small.check(Resources(workers=2, spread=True))


@pytest.mark.parametrize(("spread", "strategy"), [(False, "STRICT_PACK"), (True, "PACK")])
def test_a_groups_place(spread: bool, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(groups, "_Trainer", lambda *_, scaling_config, **__: scaling_config)
    held = Resources(workers=2, spread=spread)
    group: Any = groups._group(Mock(), held, Store(tmp_path), Attempt("test", "first"), Mock())
    assert (group.num_workers, group.placement_strategy) == (2, strategy)


def test_what_no_node_has_the_memory_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nodes that could not hold its workers do not count, nor do those that do not answer."""
    nodes = [{"Resources": ONE}, {"Resources": FOUR}, {"Resources": HEAD}, {"Resources": FOUR}]
    found = [Room(64 * 10**9, (80 * 10**9,)), Room(400 * 10**9, (48 * 10**9,)), Room(900 * 10**9), None]
    monkeypatch.setattr(connect, "_alive", lambda: nodes)
    monkeypatch.setattr(connect, "rooms", lambda _: found)
    cluster = Cluster(tuple(node["Resources"] for node in nodes))
    for resources, fits in ((Resources(gpus=1), True), (Resources(workers=2, gpus=1), False)):
        peak = Peak("a model", resources, 70 * 10**9, 10**9)
        with contextlib.nullcontext() if fits else pytest.raises(ClusterError, match=r"a GPU has 48\.0 GB; "):
            connect._check_memory(cluster, [peak])
    connect._check_memory(dataclasses.replace(cluster, reachable={"GPU": 8}), [peak])
    found[1] = None
    connect._check_memory(cluster, [peak])


FOUR = {"CPU": 16.0, "GPU": 4.0}
ONE = {"CPU": 4.0, "GPU": 1.0}
HEAD = {"CPU": 0.0, DRIVER: 1000.0}


def test_a_groups_workers_are_on_one_node_unless_asked_otherwise() -> None:
    uneven = Cluster(nodes=({"CPU": 3.0, DRIVER: 1000.0}, {"CPU": 3.0}))
    pair = Resources(workers=2, cpus=2)
    with pytest.raises(ClusterError) as refused:
        uneven.check(pair)
    assert str(refused.value) == (
        "Resources(workers=2, cpus=2, gpus=0): no node has room for all 2 workers together; there are 2 nodes of 3 "
        "CPUs; Resources(spread=True) lets them be on several nodes, whose network is slower"
    )
    apart = dataclasses.replace(pair, spread=True)
    uneven.check(apart)
    assert Cluster(nodes=uneven.nodes * 3).slots(apart) == 3
    with pytest.raises(ClusterError, match=r"the nodes have not room for all 3 workers; there are 2 nodes of 3 CPUs$"):
        uneven.check(dataclasses.replace(apart, workers=3))
    with pytest.raises(
        ClusterError, match=r"no node has room for all 3 workers together; there are 2 nodes of 3 CPUs$"
    ):
        uneven.check(dataclasses.replace(pair, workers=3))


def test_groups_side_by_side_are_counted_node_by_node() -> None:
    cluster = Cluster(nodes=(HEAD, ONE, ONE, ONE, FOUR, FOUR))
    assert cluster.slots(Resources(workers=3, gpus=1)) == 2
    assert cluster.slots(Resources(workers=2, gpus=1)) == 4
    assert cluster.slots(Resources(workers=3, gpus=1, spread=True)) == 3
    assert cluster.slots(Resources(gpus=1)) == 11
    assert cluster.slots(Resources(gpus=0.5)) == 22
    with pytest.raises(ClusterError, match=r"there are 3 nodes of 4 CPUs and 1 GPU, 2 nodes of 16 CPUs and 4 GPUs; Re"):
        cluster.check(Resources(workers=8, gpus=1))


def test_the_smallest_gpu_that_a_trial_may_be_on(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"Alive": True, "Resources": one} for one in (HEAD, ONE, FOUR)]
    seen = [Room(8), Room(8, (40,)), Room(8, (80, 24, 80, 80))]
    monkeypatch.setattr(connect, "_alive", lambda: nodes)
    monkeypatch.setattr(connect, "rooms", lambda _: seen)
    cluster = Cluster(nodes=(HEAD, ONE, FOUR))
    assert cluster.gpu_memory(Resources(gpus=1)) == 24
    assert cluster.gpu_memory(Resources(gpus=1, cpus=16)) == 24, "of the large node"
    seen[2] = Room(8, (80,))
    assert cluster.gpu_memory(Resources(gpus=1)) == 40
    seen[1] = None
    assert cluster.gpu_memory(Resources(gpus=1)) == 0, "a node did not say"
    assert dataclasses.replace(cluster, reachable={"GPU": 8.0}).gpu_memory(Resources(gpus=1)) == 0


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
    head = Cluster(({"CPU": 0.0, DRIVER: 1000.0},))
    cluster = connect._autoscaled(head)
    assert cluster.spans_machines
    assert cluster.slots(Resources(gpus=1)) == 8
    with pytest.raises(ClusterError, match=r"no node has room for all 2 .* there are 8 nodes of 4 CPUs and 1 GPU; "):
        cluster.check(Resources(workers=2, cpus=4, gpus=1))
    cluster.check(Resources(workers=8, cpus=4, gpus=1, spread=True))
    with pytest.raises(ClusterError, match="needs 9 GPUs and the cluster can reach 8"):
        cluster.check(Resources(workers=9, gpus=1))
    with pytest.raises(ClusterError, match="fits on no node"):
        cluster.check(Resources(cpus=8))
    file.write_text("available_node_types: 3")
    with pytest.raises(ClusterError, match="not a cluster configuration"):
        connect._autoscaled(head)
    monkeypatch.setattr(connect, "BOOTSTRAPPED", str(tmp_path / "none"))
    assert connect._autoscaled(head) == head


def test_no_more_nodes_than_the_whole_cluster_may_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    monkeypatch.setattr(connect, "BOOTSTRAPPED", str(file))
    types: dict[str, Any] = {
        **HEAD_ONLY["available_node_types"],  # type: ignore[dict-item]
        "gpus": {"resources": {"CPU": 96, "GPU": 8}, "max_workers": 2},
        "spot": {"resources": {"CPU": 4, "GPU": 1}},  # as many as all
    }

    def cluster(most: int) -> Cluster:
        file.write_text(json.dumps({**HEAD_ONLY, "max_workers": most, "available_node_types": types}))
        return connect._autoscaled(Cluster(({"CPU": 0.0, DRIVER: 1000.0},)))

    assert cluster(100).slots(Resources(gpus=1)) == 2 * 8 + 98
    assert cluster(3).slots(Resources(gpus=1)) == 2 * 8 + 1
    assert cluster(1).slots(Resources(workers=8, gpus=1)) == 1 and cluster(1).total("GPU") == 8
    cluster(1).check(Resources(workers=8, gpus=1))
    with pytest.raises(ClusterError, match="needs 9 GPUs"):
        cluster(1).check(Resources(workers=9, gpus=1, spread=True))


def test_nodes_that_nobody_knows_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "ray_bootstrap_config.yaml"
    types = {"head": {"resources": {"CPU": 0}}, "gpu": {"max_workers": 8}}
    file.write_text(json.dumps({"head_node_type": "head", "max_workers": 8, "available_node_types": types}))
    monkeypatch.setattr(connect, "BOOTSTRAPPED", str(file))
    cluster = connect._autoscaled(Cluster(({"CPU": 0.0},)))
    says = "can reach 0; node type gpu has no `resources` in the cluster's configuration: give them there"
    with pytest.raises(ClusterError, match=says):
        cluster.check(Resources(gpus=1))


def test_a_disk_is_shared_if_its_file_system_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not connect._is_shared(tmp_path)
    mounts = [("disk", "/", "ext4"), ("server:/export", f"{tmp_path}/shared", "nfs4")]
    found = [SimpleNamespace(device=device, mountpoint=at, fstype=kind) for device, at, kind in mounts]
    monkeypatch.setattr(psutil, "disk_partitions", lambda all: found)
    assert connect._is_shared(tmp_path / "shared" / "results")
    assert not connect._is_shared(tmp_path / "results")
    found.append(SimpleNamespace(device="disk", mountpoint=f"{tmp_path}/shared", fstype="xfs"))  # hides what was there
    assert not connect._is_shared(tmp_path / "shared" / "results")
