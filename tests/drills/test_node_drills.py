"""Nodes of a cluster are lost in the middle of a sweep without a word, a worker node and then the head."""

from __future__ import annotations

from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from drills.strikes import FILES, WITHOUT_RAY, finish, grid, results, same, until
from ray.cluster_utils import Cluster
from support import command, data
from three_nodes import a_bucket, three_nodes

pytestmark = [pytest.mark.drill, pytest.mark.cluster]


def lose(cluster: Cluster, node: object) -> None:
    """As when its power fails: whatever is on it at once, first what its raylet started."""
    (raylet,) = [one.process for one in node.all_processes["raylet"]]  # type: ignore[attr-defined]
    for process in [*psutil.Process(raylet.pid).children(recursive=True), psutil.Process(raylet.pid)]:
        process.kill()
    cluster.remove_node(node, allow_graceful=False)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, pa.Table]]:
    """The grid with longer retention intervals, and what it leaves where nothing happens.

    The other nodes of a lost head go on for a while, and are not to come to the end.
    """
    folder = tmp_path_factory.mktemp("long")
    script = grid(folder, stops=(None, 20, 500))
    assert finish(script, folder / "undisturbed", where=WITHOUT_RAY) == (0, FILES)
    return script, data(folder / "undisturbed")


def test_nodes_are_killed(long: tuple[Path, dict[str, pa.Table]]) -> None:
    script, undisturbed = long
    with a_bucket("memexp-nodes") as bucket:
        store = f"{bucket}/head"  # what is in a bucket outlives its server in this process
        with three_nodes() as cluster:
            process = command("run", script, "--store", store, "--address", cluster.address)
            until(lambda: results(store) >= 4 or process.poll() is not None)
            lose(cluster, min(cluster.worker_nodes, key=str))
            seen = results(store)
            until(lambda: results(store) > seen or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            lose(cluster, cluster.head_node)
            assert results(store) < FILES
            page, _ = process.communicate(timeout=300)
            print(page)
            assert "Traceback" not in page
            assert process.returncode == 2 and "the same command goes on" in page.splitlines()[-1], page
        with three_nodes() as cluster:
            process = command("run", script, "--store", store, "--address", cluster.address)
            page, _ = process.communicate(timeout=300)
            assert process.returncode == 0 and "executing" in page, page
        assert same(store, undisturbed)
