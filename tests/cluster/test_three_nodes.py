"""A cluster of several nodes: what every node must share, and what travels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer
from ray.cluster_utils import Cluster
from support import command, data, sweep_script

from memexp.cluster.connect import DRIVER
from memexp.store import Store

pytestmark = pytest.mark.cluster

BUCKET = "memexp-three-nodes"


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """An S3 bucket on loopback, which this machine stands in for all nodes to reach."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    settings = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"]).create_bucket(Bucket=BUCKET)
        yield f"s3://{BUCKET}"
    server.stop()


@pytest.fixture(scope="module")
def three_nodes(bucket: str) -> Iterator[str]:
    """A head that holds only drivers and two nodes of one CPU; nobody in this process is connected to it."""
    # Port None: the next free one, since another cluster of this machine may have the usual one.
    head = {"num_cpus": 0, "resources": {DRIVER: 10}, "include_dashboard": True, "dashboard_port": None}
    cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster.address
    finally:
        cluster.shutdown()


def test_a_store_on_a_nodes_own_disk_is_refused(three_nodes: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    process = command("run", script, "--store", tmp_path / "store", "--address", three_nodes)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 2, page
    assert "own disk" in page
    assert "executing" not in page
    assert not (tmp_path / "store" / "stages").exists()


def test_more_workers_than_the_cluster_reaches_are_refused(three_nodes: str, bucket: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep", workers=3)
    process = command("run", script, "--store", f"{bucket}/refused", "--address", three_nodes)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 2, page
    assert "needs 3 CPUs and the cluster can reach 2" in page


FORGETFUL = """
import pathlib, memexp.plan

real = memexp.plan.grow

def grow(*args, **kwargs):
    forest = real(*args, **kwargs)
    for file in pathlib.Path(__file__).parent.glob("*.jsonl"):
        file.unlink()
    return forest

memexp.plan.grow = grow
"""
"""Removes the study lists as soon as the driver has read them."""


@pytest.mark.parametrize("workers", [1, 2])
def test_local_corpora_travel_with_the_trials(three_nodes: str, bucket: str, tmp_path: Path, workers: int) -> None:
    script = sweep_script(tmp_path / "sweep", exposures=(0, 1), workers=workers)
    script.write_text(script.read_text() + FORGETFUL)
    store = f"{bucket}/travel{workers}"
    process = command("run", script, "--store", store, "--address", three_nodes)
    page, _ = process.communicate(timeout=600)
    assert process.returncode == 0, page
    assert not list((tmp_path / "sweep").glob("*.jsonl"))
    rows = data(store)
    assert rows["recognition"].num_rows == 4 * 12
    assert set(rows["recall"].column("workers").to_pylist()) == {workers}
    assert os.environ["AWS_ENDPOINT_URL"].startswith("http://127.0.0.1")


HELPED = """
from typing import ClassVar
import pyarrow as pa
from memexp.spec import Corpus, Probe, spec
from helper_of_the_script import answer


@spec
class Helped(Probe):
    kind: ClassVar[str] = "helped"
    corpus: Corpus

    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])

    def measure(self, session, texts):
        return pa.table({"item": [answer()]}, schema=self.schema())


conditions = [
    Condition(model, Study(pair.targets, exposures=0, lr=1e-3, block_size=64), probes=[Helped(pair.targets)])
]
sweep = Sweep(name="helped", conditions=conditions)
"""


def test_a_probe_travels_with_the_modules_beside_its_script(three_nodes: str, bucket: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    (tmp_path / "sweep" / "helper_of_the_script.py").write_text("def answer():\n    return 42\n")
    script.write_text(script.read_text().split("if __name__")[0] + HELPED)
    process = command("run", script, "--store", f"{bucket}/helped", "--address", three_nodes)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0, page
    table = Store(f"{bucket}/helped").scan("helped")
    assert table is not None
    assert table.column("item").to_pylist() == [42]
