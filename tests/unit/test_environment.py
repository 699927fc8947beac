"""The settings of the driver's shell on their way to the workers; all of it on a Ray: tests/cluster/test_guarded.py."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ray._private.node import Node

from memexp.cluster import environment, joining, noticeboard

KEY = "planted/secret+access/key"


@pytest.fixture
def left(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What is in the cluster's store, which is a dictionary here."""
    found: dict[str, Any] = {}
    monkeypatch.setattr(noticeboard.internal_kv, "_internal_kv_put", lambda key, text, **_: found.update({key: text}))
    monkeypatch.setattr(noticeboard.internal_kv, "_internal_kv_get", lambda key, **_: found.get(key))
    monkeypatch.setattr(noticeboard.internal_kv, "_internal_kv_del", lambda key, **_: found.pop(key))
    monkeypatch.setattr(noticeboard.ray, "get_runtime_context", lambda: SimpleNamespace(get_job_id=lambda: "7"))
    return found


def test_a_worker_has_what_the_driver_has_and_keeps_what_it_has_not(
    left: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", {"AWS_SECRET_ACCESS_KEY": KEY, "HF_TOKEN": "hf_1", "PATH": "/driver"})
    with environment.shared():
        node = {"HF_TOKEN": "hf_2", "HF_HOME": "/node", "PATH": "/node"}
        monkeypatch.setattr(os, "environ", node)
        environment.take()
        assert node == {"AWS_SECRET_ACCESS_KEY": KEY, "HF_TOKEN": "hf_1", "HF_HOME": "/node", "PATH": "/node"}
    assert not left
    node["HF_TOKEN"] = "hf_3"
    environment.take()
    assert node["HF_TOKEN"] == "hf_3"


@pytest.mark.parametrize(("address", "sharded"), [("local", True), ("127.0.0.1:6379", False)])
def test_a_runtime_environment_has_no_settings_in_it(
    address: str, sharded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEY)
    monkeypatch.setattr(joining.ray, "init", lambda *_, **options: given.update(options))
    joining._init(address, sharded)
    assert given["runtime_env"]["worker_process_setup_hook"] == environment.HOOK
    assert given["runtime_env"]["env_vars"] == joining.VARIABLES
    assert not [name for name in joining.VARIABLES if name.startswith(environment.PREFIXES)]
    assert KEY not in repr(given)


def test_workers_on_this_machine_inherit_what_they_know(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a runtime environment, with which they would not begin in processes that Ray starts ahead of them."""
    given: dict[str, Any] = {}
    shell = {"AWS_SECRET_ACCESS_KEY": KEY, "OMP_WAIT_POLICY": "ACTIVE"}
    monkeypatch.setattr(os, "environ", dict(shell))

    def init(*_: object, **options: Any) -> None:
        given.update(options, environ=dict(os.environ))
        assert all(getattr(Node, name)(None) is None for name in joining.UNUSED)  # of the servers that it starts

    before = [getattr(Node, name) for name in joining.UNUSED]
    monkeypatch.setattr(joining.ray, "init", init)
    joining._init("local", sharded=False)
    assert given.pop("environ") == shell | joining.VARIABLES
    assert "runtime_env" not in given and given["include_dashboard"] is False
    assert os.environ == shell and [getattr(Node, name) for name in joining.UNUSED] == before


EARLY = """
import sys
import ray
ray_alone = set(sys.modules)
import memexp.cluster.environment
found = {name.partition(".")[0] for name in set(sys.modules) - ray_alone}
print(sorted(found & {"huggingface_hub", "transformers", "torch", "datasets", "obstore", "botocore", "pyarrow"}))
"""


def test_the_hook_is_there_before_anything_that_reads_them() -> None:
    module, _, name = environment.HOOK.rpartition(".")
    assert getattr(sys.modules[module], name) is environment.take
    ended = subprocess.run([sys.executable, "-c", EARLY], capture_output=True, text=True, timeout=60, check=True)
    assert ended.stdout.strip() == "[]"
