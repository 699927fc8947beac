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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.child import ENVIRONMENT, ROOT, Failed, execute, python
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
"""Seeds of the sweep whose results are there before, where some are: 200 results each, of another sweep."""
SCRIPT = """\
from memexp import *
from memexp.plan import packing
packing.FINEST = packing.SHARE = 10**9  # a trial for each, however short
packing.STARTS = 0
pair = Pair(ShippedText("sentences-targets", first=12), ShippedText("sentences-foils", first=12))
sweep = Sweep(name="scale", conditions=[
    Condition(Model("tiny-s"), Study(pair.targets, exposures=1, lr=(i + 1) * 1e-6, batch_size=4),
              probes=[Recognition(pair)])
    for i in range({trials})])
"""
MIB = 2**20


@dataclass(frozen=True)
class Executed:
    """A sweep, from an empty cluster to its end."""

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
    again: int
    """To the store by the same command, once nothing is missing."""

    @property
    def asked(self) -> float:
        """Requests of a trial."""
        return (self.requests - self.again) / self.trials


def executed(scratch: Path, sizes: tuple[int, ...] = SIZES, nodes: int = NODES, seeds: int = FILLED) -> list[Executed]:
    """Sweeps of so many trials on an empty store, and the first of them once more beside the results of others."""
    found = [_executed(scratch, trials, nodes, 0) for trials in sizes]
    return [*found, _executed(scratch, sizes[0], nodes, seeds)]


def _executed(scratch: Path, trials: int, nodes: int, seeds: int) -> Executed:
    script = scratch / f"of_{trials}.py"
    script.write_text(SCRIPT.format(trials=trials), encoding="utf-8")
    environment = {**ACCESS, **ENVIRONMENT, "XDG_CACHE_HOME": str(scratch / "cache"), "MEMEXP_REPORT": "no"}
    with served() as url, settings({**environment, "AWS_ENDPOINT_URL": url}), _cluster(nodes) as (address, gcs):
        store = f"s3://bucket/of-{trials}-beside-{seeds}"
        if seeds:
            _fill(scratch, store, seeds)
        command = python("-m", "memexp.cli", "run", script, "--store", store, "--address", address)
        before = sum(counts(url).values())
        began = time.perf_counter()
        cpu, driver = _watched(command)
        seconds = time.perf_counter() - began
        after, kept = sum(counts(url).values()), psutil.Process(gcs).memory_info().rss
        execute(command)
        again = sum(counts(url).values()) - after
    print(f"scale: {trials} trials: {seconds:.0f} s, driver {cpu:.1f} CPU s and {driver / MIB:.0f} MiB", flush=True)
    return Executed(trials, seconds, cpu, driver / MIB, kept / MIB, after - before, again)


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
