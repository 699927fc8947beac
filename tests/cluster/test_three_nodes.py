"""A cluster of several nodes: what every node must share, and what travels."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import boto3
import psutil
import pytest
from ray.cluster_utils import Cluster
from sockets import HEALTH, Listening, answers, listening
from support import command, data, ended, sweep_script
from three_nodes import a_bucket, three_nodes

from memexp.store import Store

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with a_bucket("memexp-three-nodes") as address:
        yield address


@pytest.fixture(scope="module")
def cluster(bucket: str) -> Iterator[Cluster]:
    with three_nodes() as nodes:
        yield nodes


def test_a_store_on_a_nodes_own_disk_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    process = command("run", script, "--store", tmp_path / "store", "--address", cluster.address)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 2, page
    assert "own disk" in page
    assert "executing" not in page
    assert not (tmp_path / "store" / "stages").exists()


def test_more_workers_than_the_cluster_reaches_are_refused(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep", workers=3)
    process = command("run", script, "--store", f"{bucket}/refused", "--address", cluster.address)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 2, page
    assert "needs 3 CPUs and the cluster can reach 2" in page


def test_a_group_that_fits_on_no_node_is_refused(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep", workers=2)
    page = ended(command("run", script, "--store", f"{bucket}/refused", "--address", cluster.address), 2)
    assert "no node has room for all 2 workers together; there are 2 nodes of 1 CPU; Resources(spread=True)" in page
    assert "executing" not in page


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


def check_sockets(process: subprocess.Popen[str], node: str) -> None:
    """While a sweep of worker groups is executed, others get nothing from the cluster without its token: but that its
    servers are alive, and what they measure. The workers' own sockets ask for none, and listen at their node's address.
    """
    said: dict[Listening, Future[set[str]]] = {}

    def of_groups() -> set[str]:
        silent = [one for one, answer in said.items() if answer.done() and not answer.result()]
        return {one.address for one in silent if one.process == "ray::RayTrainWorker"}

    with ThreadPoolExecutor(8) as pool:
        while process.poll() is None and not of_groups():
            for one in set(listening(psutil.Process())) - said.keys():
                if not one.private:
                    said[one] = pool.submit(answers, node, one.port)
            time.sleep(2)
    found = {(one.process, *sorted(answer.result() - {"refused"})) for one, answer in said.items()}
    answered = {what for _, *whats in found for what in whats}
    assert answered <= {HEALTH, "metrics"} and HEALTH in answered
    refusing = {one.process for one, answer in said.items() if "refused" in answer.result()}
    assert {"gcs_server", "raylet", "ray::DashboardAgent", "ray::RuntimeEnvAgent", "ray::RayTrainWorker"} <= refusing
    assert of_groups() == {node}


def test_a_server_without_a_token_would_be_seen() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert answers("127.0.0.1", server.server_port) == {"HTTP 501"}
        server.shutdown()


@pytest.mark.parametrize("workers", [1, 2])
def test_local_corpora_travel_with_the_trials(cluster: Cluster, bucket: str, tmp_path: Path, workers: int) -> None:
    script = sweep_script(tmp_path / "sweep", exposures=(0, 1), workers=workers, spread=True)
    script.write_text(script.read_text() + FORGETFUL)
    store = f"{bucket}/travel{workers}"
    process = command("run", script, "--store", store, "--address", cluster.address)
    if workers > 1:
        check_sockets(process, cluster.address.partition(":")[0])
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


def test_a_probe_travels_with_the_modules_beside_its_script(cluster: Cluster, bucket: str, tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep")
    (tmp_path / "sweep" / "helper_of_the_script.py").write_text("def answer():\n    return 42\n")
    script.write_text(script.read_text().split("if __name__")[0] + HELPED)
    process = command("run", script, "--store", f"{bucket}/helped", "--address", cluster.address)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0, page
    table = Store(f"{bucket}/helped").scan("helped")
    assert table is not None
    assert table.column("item").to_pylist() == [42]


def test_a_node_that_could_not_execute_a_trial_is_named_before_the_first(
    cluster: Cluster, bucket: str, tmp_path: Path
) -> None:
    (tmp_path / "transformers-0.1.dist-info").mkdir()
    (tmp_path / "transformers-0.1.dist-info" / "METADATA").write_text("Name: transformers\nVersion: 0.1\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    node = cluster.add_node(num_cpus=1, env_vars={"PYTHONPATH": path})
    try:
        script = sweep_script(tmp_path / "sweep", exposures=(0,))
        store = f"{bucket}/differs"
        page = ended(command("run", script, "--store", store, "--address", cluster.address), 2)
    finally:
        cluster.remove_node(node)
    [line] = [line for line in page.splitlines() if line.startswith("memexp: node ")]
    assert re.search(r"^memexp: node [\d.]+ \(.+\) has transformers 0\.1 instead of \d", line)
    assert "executing" not in page and "Traceback" not in page
    there = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"]).list_objects_v2(
        Bucket=bucket.removeprefix("s3://"), Prefix="differs/"
    )
    assert there["KeyCount"] == 0
