"""Starting Ray or joining a cluster, and its servers while one is connected: what goes wrong is a line."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from memexp import ClusterError
from memexp.cluster import joining, servers
from memexp.cluster.joining import joined
from memexp.cluster.servers import watched


@pytest.fixture(autouse=True)
def unconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster of other tests stays."""
    monkeypatch.setattr(servers.ray, "shutdown", lambda: None)


@contextlib.contextmanager
def started(folder: Path, name: str) -> Iterator[subprocess.Popen[bytes]]:
    """A child of this process that the system knows under a name."""
    (folder / name).write_text("#!/bin/sh\nread line\n")
    (folder / name).chmod(0o755)
    with subprocess.Popen([folder / name], stdin=subprocess.PIPE) as child:
        try:
            yield child
        finally:
            child.kill()


def wait() -> None:
    """Until interrupted, which is between two calls."""
    while True:
        time.sleep(0.1)


def refused(address: str, saying: str) -> None:
    """Joining it is refused with these words, and at once."""
    began = time.monotonic()
    with pytest.raises(ClusterError, match=saying), joined(address, sharded=False):
        pass
    assert time.monotonic() - began < 15


def test_an_address_where_nobody_answers_is_refused_at_once() -> None:
    refused("127.0.0.1:9", r"no Ray cluster answers at 127\.0\.0\.1:9: Connection refused")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ray://head:10001", r"Ray Client, which .* --address auto, .* the host:port of its head"),
        ("http://head:8265", r"dashboard, for `ray job submit`: .* host:port of its head"),
        ("https://head:8265", "dashboard"),
        ("redis://head:6379", "no address of a Ray cluster begins so"),
    ],
)
def test_addresses_of_other_kinds_are_explained(address: str, why: str) -> None:
    refused(address, f"^{address}: .*{why}")


def raising(error: Exception, cause: Exception | None = None) -> Any:
    """A `ray.init` that raises."""

    def init(*_: object, **__: object) -> None:
        raise error from cause

    return init


def test_whatever_keeps_ray_from_starting_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining.ray, "init", raising(Exception("The current node timed out\nduring startup.")))
    refused("local", r"^Ray did not start: The current node timed out during startup\.; the same command tries again$")
    assert joining.ray._private.ray_constants.ENABLE_RAY_CLUSTER  # for others in this process


@pytest.mark.parametrize(
    ("mode", "cause", "says"),
    [
        ("disabled", "RPC error: InvalidAuthToken: token is missing or incorrect", "wants RAY_AUTH_MODE=token and its"),
        ("token", "RPC error: InvalidAuthToken: token is missing or incorrect", "wants another token"),
        ("token", "but no authentication token was found.", "wants its token"),
    ],
)
def test_a_cluster_that_wants_a_token_says_so(
    mode: str, cause: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    error = joining.AuthenticationError(cause)
    monkeypatch.setattr(joining.ray, "init", raising(ConnectionError("Failed to connect to Ray cluster"), error))
    refused("auto", f"^the Ray cluster at auto {says}.*: set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN or ")


@pytest.mark.parametrize("name", [*servers.SERVERS, "somebody"])
def test_only_the_death_of_a_server_of_our_own_ends_what_is_under_way(name: str, tmp_path: Path) -> None:
    ended: AbstractContextManager[Any] = contextlib.nullcontext()
    if name in servers.SERVERS:
        ended = pytest.raises(ClusterError, match=f"Ray's {name} died .*; the same command goes on")
    # A second one lives on, as where tests share a cluster: whichever the system lists last, the dead one counts.
    with started(tmp_path, name) as child, started(tmp_path, name), ended, watched() as found:
        found.settle()
        child.kill()
        time.sleep(5 * servers.LOOK_EVERY)


def test_a_server_that_dies_while_ray_starts_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(*_: object, **__: object) -> None:
        with started(tmp_path, "gcs_server") as child:
            time.sleep(3 * servers.LOOK_EVERY)
            child.kill()
            wait()  # as Ray does for its servers

    monkeypatch.setattr(joining.ray, "init", init)
    refused("local", "^Ray's gcs_server died")


def test_a_server_that_hangs_while_ray_starts_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "STARTS_WITHIN", 1.0)
    monkeypatch.setattr(joining.ray, "init", lambda *_, **__: wait())
    refused("local", "^Ray does not answer within 1 seconds; the same command tries again$")


def test_what_a_call_to_the_dead_raises_is_the_same_line(tmp_path: Path) -> None:
    with (
        started(tmp_path, "raylet") as child,
        pytest.raises(ClusterError, match="Ray's raylet died"),
        watched() as found,
    ):
        found.settle()
        child.kill()
        child.wait()
        raise RuntimeError("a page about the raylet")


def test_the_head_of_a_joined_cluster_may_be_silent_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "KNOCK_EVERY", 0.1)
    monkeypatch.setattr(servers, "PATIENCE", {"head": 1.0})
    with socket.create_server(("127.0.0.1", 0)) as head:
        address = head.getsockname()
    with watched() as found:
        found.join(head=address)
        time.sleep(0.4)
        with socket.create_server(address):  # is back
            time.sleep(1.0)
    gone = pytest.raises(ClusterError, match=r"cluster is gone: its head at 127\.0\.0\.1:.* the same command goes on")
    with gone, watched() as found:
        found.join(head=address)
        wait()


def test_ctrl_c_and_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    for error in (KeyboardInterrupt(), RuntimeError("a user's")):
        with started(tmp_path, "raylet"), pytest.raises(type(error)), watched() as found:
            found.settle()
            raise error


DEAF = """
import subprocess, sys, time
from memexp.cluster import servers
from memexp.plan.attempts import Attempt
from memexp.plan.heartbeat import heartbeat, running
from memexp.store import Store
servers.GRACE = 0.5  # seconds
child = subprocess.Popen([sys.argv[1]], stdin=subprocess.PIPE)
store = Store(sys.argv[2])
with heartbeat(store, Attempt("deaf", "a"), 1), servers.watched() as found:
    found.settle()
    while not running(store):
        time.sleep(0.1)
    child.kill()
    while True:
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_who_waits_for_a_dead_server_is_ended_with_the_same_line_and_leaves_no_sign_of_life(tmp_path: Path) -> None:
    with started(tmp_path, "raylet"):  # for the file
        arguments = [tmp_path / "raylet", tmp_path / "store"]
        ended = subprocess.run([sys.executable, "-c", DEAF, *arguments], capture_output=True, text=True, timeout=50)
    assert ended.returncode == 2
    assert ended.stderr == "memexp: Ray's raylet died (killed, or out of memory); the same command goes on\n"
    assert not list((tmp_path / "store").rglob("*.json"))
