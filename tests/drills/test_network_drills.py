"""The network between two nodes is cut for half a minute: one is in a network namespace of its own."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from drills.strikes import FILES, WITHOUT_RAY, finish, grid, results, same, until
from support import command, data
from three_nodes import a_bucket

from memexp.cluster.connect import DRIVER

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

CUT = 30
"""Seconds."""
RAY = (sys.executable, "-m", "ray.scripts.scripts")
JOINED = """
import sys, time
import ray

ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
while len(ray.nodes()) < int(sys.argv[2]):
    time.sleep(0.2)
"""
"""Ends when a cluster has so many nodes."""


def ip(*words: str) -> bool:
    """Whether a command of iproute2 succeeds."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@dataclass(frozen=True)
class Line:
    """From here to a network namespace that has no other way out."""

    namespace: str
    ours: str
    """The name of its end here."""
    here: str
    there: str
    """The addresses of its ends."""


@pytest.fixture
def line() -> Iterator[Line]:
    """A line, for the time of the test; in a network that is kept for such things (RFC 2544)."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("cutting a network takes root and iproute2")
    name, net = f"memexp-{secrets.token_hex(3)}", f"198.18.{secrets.randbelow(256)}.{4 * secrets.randbelow(64)}"
    first, _, last = net.rpartition(".")
    here, there = (f"{first}.{int(last) + i}" for i in (1, 2))
    ours, theirs = f"{name[-6:]}-a", f"{name[-6:]}-b"
    if not ip("netns", "add", name):
        pytest.skip("this machine gives no network namespaces")
    try:
        for words in (
            ("link", "add", ours, "type", "veth", "peer", "name", theirs),
            ("link", "set", theirs, "netns", name),
            ("addr", "add", f"{here}/30", "dev", ours),
            ("link", "set", ours, "up"),
            ("-n", name, "addr", "add", f"{there}/30", "dev", theirs),
            ("-n", name, "link", "set", theirs, "up"),
            ("-n", name, "link", "set", "lo", "up"),
            ("-n", name, "route", "add", "default", "via", here),  # by which Ray finds its own address
        ):
            assert ip(*words), words
        yield Line(name, ours, here, there)
    finally:
        ip("netns", "del", name)
        ip("link", "del", ours)


@contextlib.contextmanager
def cluster(line: Line, folder: Path) -> Iterator[str]:
    """The address of a head here, of a node here and of one beyond the line, each of one CPU but for the head."""
    with socket.socket() as free:
        free.bind((line.here, 0))
        port = free.getsockname()[1]
    address = f"{line.here}:{port}"
    start = [*RAY, "start", "--block", "--dashboard-agent-listen-port=0"]
    head = [*start, "--head", f"--node-ip-address={line.here}", f"--port={port}", "--num-cpus=0"]
    head += ["--dashboard-host=127.0.0.1", f'--resources={{"{DRIVER}": 10}}', f"--temp-dir={folder}"]
    node = [*start, f"--address={address}", "--num-cpus=1"]
    here = [*node, f"--node-ip-address={line.here}"]
    there = ["ip", "netns", "exec", line.namespace, *node, f"--node-ip-address={line.there}"]
    with contextlib.ExitStack() as stack:
        # One after the other: two that begin at once on one machine take the same names for their sockets.
        for nodes, words in enumerate((head, here, there), 1):
            stack.callback(ended, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            if nodes == 1:
                until(lambda: healthy(address), 120)
            subprocess.run([sys.executable, "-c", JOINED, address, str(nodes)], check=True, timeout=120)
        yield address


def healthy(address: str) -> bool:
    """Whether nodes may join; one that comes earlier ends."""
    asked = [*RAY, "health-check", "--address", address]
    return subprocess.run(asked, capture_output=True, check=False).returncode == 0


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.kill()


def test_a_network_that_is_cut_costs_time(line: Line, tmp_path: Path) -> None:
    script = grid(tmp_path, stops=(None, 20, 500))
    assert finish(script, tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, FILES)
    with pytest.MonkeyPatch.context() as patch, a_bucket("memexp-cut", line.here) as bucket:
        for name, value in (
            ("RAY_AUTH_MODE", "token"),
            ("RAY_AUTH_TOKEN", secrets.token_hex(32)),
            ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0"),
        ):
            patch.setenv(name, value)
        store, folder = f"{bucket}/results", Path(f"/tmp/{line.namespace}")  # of few characters: sockets are in it
        stack = contextlib.ExitStack()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with stack, cluster(line, folder) as address:
            process = command("run", script, "--store", store, "--address", address)
            until(lambda: results(store) >= 4 or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            assert ip("link", "set", line.ours, "down")
            time.sleep(CUT)
            assert ip("link", "set", line.ours, "up")
            page, _ = process.communicate(timeout=400)
            print(page)
            assert "Traceback" not in page
            if process.returncode:  # the same command goes on
                process = command("run", script, "--store", store, "--address", address)
                page, _ = process.communicate(timeout=400)
                print(page)
            assert process.returncode == 0, page
            assert same(store, data(tmp_path / "undisturbed"))
