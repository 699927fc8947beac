"""What commands cost on a store of 10,000 conditions and 20,000 results, in a bucket on loopback and in a folder.

    python -m benchmarks --parts large_store --pairs 3

Result files are written by the store's own writer from the asks of a real plan, without training. The bucket is
`benchmarks.s3` in a process of its own, which counts requests.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.child import execute, python
from memexp.plan import Ask, Forest
from memexp.plan.attempts import Attempt, row, write
from memexp.records import TRAINING, rows_for, versions, with_source
from memexp.store import Store
from memexp.store.manifests import Manifest, write_manifest
from memexp.store.threads import threaded

__all__ = ["ENVIRONMENT", "MOST", "SCRIPT", "Spent", "counts", "executed", "fill", "served", "settings"]

SCRIPT = """\
from memexp import *
pair = Pair(ShippedText("sentences-targets", first={items}), ShippedText("sentences-foils", first={items}))
sweep = Sweep(name="large", conditions=[
    Condition(Model("tiny-s"), Study(pair.targets, exposures=n, lr=lr, batch_size=4), seed=seed,
              probes=[Recognition(pair), Recall()])
    for n in range(1, 11) for lr in [k * 1e-4 for k in range(1, 11)] for seed in range({seeds})])
"""
"""100 conditions for each seed, two results each."""
ITEMS = 12
QUERY = "SELECT exposures, avg((target_nll < foil_nll)::int) AS found FROM recognition GROUP BY ALL ORDER BY ALL"
BUCKET = "s3://bucket/results"
MOST = {"plan": (30, 5_000), "run": (30, 5_000), "status": (5, None), "query of the export": (3, None)}
"""Seconds and requests that were asked of a command before anything was measured."""
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_REGION": "us-east-1"}


def fill(store: Store, forest: Forest, sweep: str) -> None:
    """Give `store` all that a run of these conditions would leave there."""
    threaded(lambda ask: store.commit(ask.kind, ask.name, _result(ask)), forest.asks)
    stages = [stage for stage in forest.stages.values() if stage.kind == "study"]
    losses = [{"step": step, "exposure": 1, "loss": 1.0, "lr": 1e-3, "tokens": 64} for step in range(1, 4)]
    table = pa.Table.from_pylist([dict.fromkeys(TRAINING.names) | one for one in losses], schema=TRAINING)
    threaded(lambda stage: store.commit("training", stage.id, table), stages)
    for first in range(0, len(stages), 100):  # a trial
        attempt = Attempt(sweep, "0" * 12).of_trial(0, first // 100).begun()
        write(store, attempt, [row(stage, attempt, "complete", versions()) for stage in stages[first : first + 100]])
    manifests = [Manifest(ask.kind, ask.name, ask.condition_id, ask.stage, ask.probe_id) for ask in forest.asks]
    write_manifest(store, sweep, manifests)


def _result(ask: Ask) -> pa.Table:
    filled: dict[pa.DataType, Any] = {pa.float64(): 0.5, pa.string(): "a few words", pa.bool_(): True}
    items = [
        {field.name: item if field.name == "item" else filled.get(field.type, 1) for field in ask.probe.schema()}
        for item in range(ITEMS)
    ]
    table = rows_for(pa.Table.from_pylist(items, schema=ask.probe.schema()), ask.settings, ask.labels, versions())
    return with_source(table, ask.kind, ask.probe.headline)


@contextmanager
def served() -> Iterator[str]:
    """The URL of a server in a process of its own."""
    process = subprocess.Popen(python("-m", "benchmarks.s3", 0), stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait()


def counts(url: str) -> dict[str, int]:
    """Requests by kind."""
    with urllib.request.urlopen(f"{url}/-/counts") as answer:
        found: dict[str, int] = json.load(answer)
    return found


def measure(scratch: Path, place: str, script: Path, url: str = "") -> dict[str, tuple[float, int]]:
    """Seconds and requests of each command on a store that has all results, at `place`; `url`: of its server."""
    export = scratch / "export"
    shutil.rmtree(export, ignore_errors=True)
    compact = ["compact", "--incremental", "--store", place, "--out", str(export)]
    commands: dict[str, Sequence[str]] = {
        "plan": ["plan", str(script), "--store", place],
        "run": ["run", str(script), "--store", place],
        "status": ["status", "--store", place],
        "compact --incremental": compact,
        "compact --incremental again": compact,
        "query of the export": ["query", "--store", str(export), QUERY],
        "query of the store": ["query", "--store", place, QUERY],
    }
    cache, found = scratch / "cache" / str(time.monotonic_ns()), {}
    for name, arguments in commands.items():
        before = sum(counts(url).values()) if url else 0
        cost = execute(python("-m", "memexp.cli", *arguments), {"XDG_CACHE_HOME": str(cache)})
        found[name] = (cost.wall, sum(counts(url).values()) - before if url else 0)
        spent = f"{cost.wall:.1f} s ({cost.cpu:.1f} of a CPU), {found[name][1]} requests"
        print(f"large store: {name}: {spent}", flush=True)
    return found


@dataclass(frozen=True)
class Spent:
    """What was measured."""

    conditions: int
    results: int
    commands: dict[str, list[tuple[float, int]]]
    """Seconds and requests, once a round."""


def executed(scratch: Path, rounds: int, seeds: int = 100) -> Spent:
    """The commands on a bucket that has the results of 100 conditions for each seed."""
    script = scratch / "large_sweep.py"
    script.write_text(SCRIPT.format(items=ITEMS, seeds=seeds), encoding="utf-8")
    forest = runpy.run_path(str(script))["sweep"].grow()
    spent: dict[str, list[tuple[float, int]]] = {}
    with served() as url, settings({**ENVIRONMENT, "AWS_ENDPOINT_URL": url}):
        fill(Store(BUCKET), forest, "large")
        for _ in range(rounds):
            for name, cost in measure(scratch, BUCKET, script, url).items():
                spent.setdefault(name, []).append(cost)
    return Spent(forest.conditions, len(forest.asks), spent)


@contextmanager
def settings(variables: Mapping[str, str]) -> Iterator[None]:
    """Environment variables, for the time of the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
