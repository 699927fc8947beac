"""What the number of trials costs: hundreds to thousands of them through Tune, on a Ray cluster of eight nodes here.

    python -m benchmarks --parts scale

Every trial is one tiny condition, which takes a fraction of a second: what is measured is what stands around it. The
store is a bucket in `benchmarks.s3`, which counts requests.
"""

from __future__ import annotations

import contextlib
import runpy
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.child import ENVIRONMENT, ROOT, Failed, python
from benchmarks.large_store import ENVIRONMENT as ACCESS
from benchmarks.large_store import SCRIPT as OTHERS
from benchmarks.large_store import counts, fill, served, settings
from memexp.store import Store

__all__ = ["FILLED", "NODES", "SIZES", "Executed", "executed"]

NODES = 8
"""Beside the head, which executes nothing; each of one CPU, that is of one trial at a time."""
SIZES = (250, 1_000, 4_000)
"""Trials."""
FILLED = 100
"""Seeds of another sweep: 20,000 results."""
SCRIPT = """\
from memexp import *
from memexp.plan import packing
packing.FINEST = packing.SHARE = 10**9  # a trial for each, however short
packing.STARTS = 0
pair = Pair(ShippedText("sentences-targets", first=12), ShippedText("sentences-foils", first=12))
sweep = Sweep(name="of-{trials}", conditions=[
    Condition(Model("tiny-s"), Study(pair.targets, exposures=1, lr=(i + 1) * 1e-6, batch_size=4),
              seed={trials}, probes=[Recognition(pair)])
    for i in range({trials})])
"""
MIB = 2**20


@dataclass(frozen=True)
class Executed:
    """A sweep, each of its conditions a trial."""

    trials: int
    seconds: float
    """Of the whole command."""
    cpu: float
    """CPU seconds of the driver's process alone."""
    driver: float
    """MiB that its process had at most."""
    gcs: float
    """MiB of Ray's global control store at the end."""
    requests: int
    """To the store."""


def executed(scratch: Path, sizes: Sequence[int], seeds: int = 0, nodes: int = NODES) -> list[Executed]:
    """Sweeps of so many trials, one after the other on one cluster and in one store.

    Args:
        scratch: an empty folder.
        sizes: the numbers of trials.
        seeds: of another sweep, `FILLED` for instance, whose results are in the store before: 200 for each.
        nodes: beside the head.
    """
    environment = {**ACCESS, **ENVIRONMENT, "XDG_CACHE_HOME": str(scratch / "cache"), "MEMEXP_REPORT": "no"}
    store, found = "s3://bucket/results", list[Executed]()
    with served() as url, settings({**environment, "AWS_ENDPOINT_URL": url}), _cluster(nodes) as (address, gcs):
        if seeds:
            _fill(scratch, store, seeds)
        for trials in sizes:
            script = scratch / f"of_{trials}.py"
            script.write_text(SCRIPT.format(trials=trials), encoding="utf-8")
            before, began = sum(counts(url).values()), time.perf_counter()
            cpu, driver = _watched(
                python("-m", "memexp.cli", "run", script, "--store", store, "--address", address, "--ray")
            )
            seconds, requests = time.perf_counter() - began, sum(counts(url).values()) - before
            kept = psutil.Process(gcs).memory_info().rss
            one = Executed(trials, seconds, cpu, driver / MIB, kept / MIB, requests)
            print(f"scale, {200 * seeds} results there before: {one}", flush=True)
            found.append(one)
    return found


def _fill(scratch: Path, store: str, seeds: int) -> None:
    script = scratch / "others.py"
    script.write_text(OTHERS.format(items=12, seeds=seeds), encoding="utf-8")
    fill(Store(store), runpy.run_path(str(script))["sweep"].grow(), "large")


@contextlib.contextmanager
def _cluster(nodes: int) -> Iterator[tuple[str, int]]:
    """Its address, and the process of its global control store."""
    from ray.cluster_utils import Cluster

    from memexp.cluster.connect import DRIVER

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "resources": {DRIVER: 10}})
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=1)
        (server,) = cluster.head_node.all_processes["gcs_server"]
        yield cluster.address, server.process.pid
    finally:
        cluster.shutdown()


def _watched(command: list[str]) -> tuple[float, float]:
    """CPU seconds and most bytes of a command's own process."""
    cpu = most = 0.0
    with tempfile.TemporaryFile("w+") as said, subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said) as process:
        seen = psutil.Process(process.pid)
        with contextlib.suppress(psutil.NoSuchProcess):
            while process.poll() is None:
                spent = seen.cpu_times()
                cpu, most = max(cpu, spent.user + spent.system), max(most, float(seen.memory_info().rss))
                time.sleep(0.2)
        if process.returncode:
            said.seek(0)
            raise Failed(f"{' '.join(command[1:])} ended with {process.returncode}:\n{said.read()[-2000:]}")
    return cpu, most
