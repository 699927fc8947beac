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
from pathlib import Path

import pytest
from drills.strikes import FILES, WITHOUT_RAY, finish, grid, results, same, until
from support import command, data
from three_nodes import a_bucket

from memexp.cluster.connect import DRIVER

HERE, THERE = "10.77.0.1", "10.77.0.2"
"""The two ends of the line."""
CUT = 30
"""Seconds."""
JOINED = """
import sys, time
import ray

ray.init(sys.argv[1], logging_level="ERROR", log_to_driver=False)
while len(ray.nodes()) < 3:
    time.sleep(0.2)
"""


def ip(*words: str) -> bool:
    """Whether a command of iproute2 succeeds."""
    return subprocess.run(["ip", *words], capture_output=True, check=False).returncode == 0


@pytest.fixture
def line() -> Iterator[tuple[str, str]]:
    """A namespace whose only way to this one is a line: its name and that of our end."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("cutting a network takes root and iproute2")
    name = f"memexp-{secrets.token_hex(3)}"
    ours, theirs = f"{name[-6:]}-a", f"{name[-6:]}-b"
    if not ip("netns", "add", name):
        pytest.skip("this machine gives no network namespaces")
    try:
        for words in (
            ("link", "add", ours, "type", "veth", "peer", "name", theirs),
            ("link", "set", theirs, "netns", name),
            ("addr", "add", f"{HERE}/30", "dev", ours),
            ("link", "set", ours, "up"),
            ("-n", name, "addr", "add", f"{THERE}/30", "dev", theirs),
            ("-n", name, "link", "set", theirs, "up"),
            ("-n", name, "link", "set", "lo", "up"),
            ("-n", name, "route", "add", "default", "via", HERE),  # by which Ray finds its own address
        ):
            assert ip(*words), words
        yield name, ours
    finally:
        ip("netns", "del", name)
        ip("link", "del", ours)


@contextlib.contextmanager
def cluster(namespace: str, folder: Path) -> Iterator[str]:
    """The address of a head here, of a node here and of one beyond the line, each of one CPU but for the head."""
    with socket.socket() as free:
        free.bind((HERE, 0))
        address = f"{HERE}:{free.getsockname()[1]}"
    ray = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--dashboard-agent-listen-port=0"]
    head = ["--head", f"--node-ip-address={HERE}", f"--port={address.partition(':')[2]}", "--num-cpus=0"]
    head += ["--dashboard-host=127.0.0.1", f'--resources={{"{DRIVER}": 10}}', f"--temp-dir={folder}"]
    there = ["ip", "netns", "exec", namespace, *ray, f"--node-ip-address={THERE}"]
    with contextlib.ExitStack() as stack:
        for words in ([*ray, *head], [*ray, f"--node-ip-address={HERE}"], there):
            if words[-1] != head[-1]:
                words = [*words, f"--address={address}", "--num-cpus=1"]
            stack.callback(ended, subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            until(lambda: answers(address), 120)
        subprocess.run([sys.executable, "-c", JOINED, address], check=True, timeout=120)
        yield address


def answers(address: str) -> bool:
    host, _, port = address.partition(":")
    with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
        return True
    return False


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(60)
    process.kill()


def test_a_network_that_is_cut_costs_time(line: tuple[str, str], tmp_path: Path) -> None:
    namespace, ours = line
    script = grid(tmp_path, stops=(None, 20, 500))
    assert finish(script, tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, FILES)
    with pytest.MonkeyPatch.context() as patch, a_bucket("memexp-cut", HERE) as bucket:
        for name, value in (
            ("RAY_AUTH_MODE", "token"),
            ("RAY_AUTH_TOKEN", secrets.token_hex(32)),
            ("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0"),
        ):
            patch.setenv(name, value)
        store, folder = f"{bucket}/results", Path(f"/tmp/{namespace}")  # of few characters: sockets are in it
        stack = contextlib.ExitStack()
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        with stack, cluster(namespace, folder) as address:
            process = command("run", script, "--store", store, "--address", address)
            until(lambda: results(store) >= 4 or process.poll() is not None)
            assert process.poll() is None, process.communicate()
            assert ip("link", "set", ours, "down")
            time.sleep(CUT)
            assert ip("link", "set", ours, "up")
            page, _ = process.communicate(timeout=400)
            print(page)
            assert "Traceback" not in page
            if process.returncode:  # the same command goes on
                process = command("run", script, "--store", store, "--address", address)
                page, _ = process.communicate(timeout=400)
                print(page)
            assert process.returncode == 0, page
            assert same(store, data(tmp_path / "undisturbed"))
