"""Groups of workers on nodes of one GPU and of eight: made-up GPUs, a real scheduler."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import command, ended, sweep_script
from three_nodes import a_bucket, guarded_cluster

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

PLACED = """
import json, os, sys
import ray
from ray.train import RunConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from memexp.cluster import places
from memexp.cluster.groups import scaling
from memexp.spec import Resources

def where(config):
    return [one["bundles_to_node_id"] for one in ray.util.placement_group_table().values() if one["state"] == "CREATED"]

os.environ[places.GROUP] = "a drill"
ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
wanted = Resources(workers=8, gpus=1)
trainer = DataParallelTrainer(where, scaling_config=scaling(wanted), run_config=RunConfig(storage_path=sys.argv[2]))
print(json.dumps(trainer.fit().return_value))
"""
"""A group of eight that does nothing: the node of each worker."""


def test_a_group_of_eight_takes_the_one_node_of_eight_gpus(tmp_path: Path) -> None:
    with a_bucket("memexp-placed") as bucket, guarded_cluster([0]) as cluster:
        for _ in range(8):
            cluster.add_node(num_cpus=1, num_gpus=1)
        whole = cluster.add_node(num_cpus=8, num_gpus=8)
        script = sweep_script(tmp_path / "sweep")
        script.write_text(script.read_text().replace("Resources(workers=1,", "Resources(workers=9, gpus=1,"))
        page = ended(command("run", script, "--store", f"{bucket}/refused", "--address", cluster.address), 2)
        assert "no node has room for all 9 workers together" in page and "executing" not in page
        assert "8 nodes of 1 CPU and 1 GPU" in page, page
        found = subprocess.run(
            [sys.executable, "-c", PLACED, cluster.address, str(tmp_path)],
            env={**os.environ, "RAY_AUTH_MODE": "token"},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert found.returncode == 0, found.stderr
        (nodes,) = json.loads(found.stdout.splitlines()[-1])
        assert list(nodes.values()) == [whole.node_id] * 8
