"""A sweep of the benchmarks through memexp's own planner, trials and store, with and without Ray.

    python -m benchmarks.executed plain grid MATERIAL STORE --processes 1
    python -m benchmarks.executed ray seeds MATERIAL STORE --processes 2

`plain` does without Ray: the same trials, in this process (``memexp run --local``) or dealt to several that stay warm.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.material import Material
from memexp import (
    Condition,
    Model,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    ShippedText,
    Study,
    Sweep,
    TextFile,
    TrainedTokenizer,
)
from memexp import plan as planning
from memexp.local import in_this_process
from memexp.plan.attempts import Attempt
from memexp.plan.model_checks import check_models
from memexp.store import Store

__all__ = ["LRS", "SWEEPS"]

EXPOSURES = (1, 2, 3)
LRS = (3e-4, 1e-3, 3e-3)
TINY_TRIALS = 200


def grid(material: Material, dtype: Any = "float32") -> Sweep:
    """3 exposures × 3 learning rates, recognition and recall each."""
    pair = _pair(material)
    return Sweep(
        name="grid",
        conditions=[
            Condition(
                Model(str(material.model)),
                Study(pair.targets, exposures=n, lr=lr, batch_size=16, dtype=dtype),
                probes=[Recognition(pair), Recall()],
            )
            for n in EXPOSURES
            for lr in LRS
        ],
    )


def seeds(material: Material) -> Sweep:
    """3 exposures × 2 learning rates × 2 seeds: four trees of equal cost, so four trials on two CPUs."""
    pair = _pair(material)
    return Sweep(
        name="seeds",
        conditions=[
            Condition(
                Model(str(material.model)),
                Study(pair.targets, exposures=n, lr=lr, batch_size=16),
                seed=seed,
                probes=[Recognition(pair), Recall()],
            )
            for n in EXPOSURES
            for lr in LRS[:2]
            for seed in (0, 1)
        ],
    )


def tiny(material: Material, count: int = TINY_TRIALS) -> Sweep:
    """So many models of one block and width 32, each studying eight sentences once: a trial each."""
    pair = Pair(ShippedText("sentences-targets", first=8), ShippedText("sentences-foils", first=8))
    config = {"model_type": "gpt2", "n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 128}
    config |= {f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")}
    tokenizer = TrainedTokenizer([pair.targets, pair.foils], vocab_size=400)
    return Sweep(
        name="tiny",
        conditions=[
            Condition(
                Model(f"tiny-{seed}", tokenizer=tokenizer, init=RandomInit(config, seed=seed)),
                Study(pair.targets, exposures=1, lr=1e-3, batch_size=8),
                probes=[Recognition(pair), Recall()],
            )
            for seed in range(count)
        ],
    )


def _pair(material: Material) -> Pair:
    return Pair(TextFile(str(material.file("targets"))), TextFile(str(material.file("foils"))))


SWEEPS: dict[str, Callable[[Material], Sweep]] = {
    "grid": grid,
    "grid-bf16": functools.partial(grid, dtype="bfloat16"),
    "seeds": seeds,
    "tiny": tiny,
}


def plain(sweep: Sweep, store: Store, processes: int) -> None:
    """Execute `sweep` in this process, or its trials in so many that take the next one when they are done."""
    if processes == 1:
        if not sweep.run(store.location, local=True, console=Console(stderr=True)):
            raise SystemExit("the sweep is not complete")
        return
    store.check_writable()
    forest = sweep.grow()
    asks = planning.find_missing(forest, store).asks
    check_models(forest, [forest.path(ask.stage)[0].model for ask in asks])
    spawn = multiprocessing.get_context("spawn")
    queue = spawn.SimpleQueue()
    workers = [spawn.Process(target=_work, args=(queue, store)) for _ in range(processes)]
    for worker in workers:
        worker.start()
    for trial in [*planning.bundle(forest, asks, lambda _: processes), *[None] * processes]:
        queue.put(trial)  # waits while the queue is full
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise SystemExit("a worker process failed")


def _work(queue: Any, store: Store) -> None:
    attempt = Attempt("benchmark", uuid.uuid4().hex[:12])
    with in_this_process({Resources()}, ()) as executor:
        while (trial := queue.get()) is not None:
            outcome = executor.execute_trials([trial], store, attempt, lambda _: None)
            if outcome.failures:
                raise SystemExit("\n".join(outcome.failures))


def on_ray(sweep: Sweep, store: Store, processes: int) -> None:
    """`Sweep.run` on a local cluster with so many CPUs, however many the machine has."""
    import ray

    init = ray.init
    ray.init = functools.partial(init, num_cpus=processes)
    if not sweep.run(store.location, address="local"):
        raise SystemExit("the sweep is not complete")


def main() -> None:
    """Build the sweep, execute it, exit non-zero unless everything is in the store."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("how", choices=("plain", "ray"))
    parser.add_argument("sweep", choices=SWEEPS)
    parser.add_argument("material", type=Path)
    parser.add_argument("store", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    options = parser.parse_args()
    os.environ.pop("RAY_ADDRESS", None)
    sweep = SWEEPS[options.sweep](Material(options.material))
    how = plain if options.how == "plain" else on_ray
    how(sweep, Store(options.store), options.processes)


if __name__ == "__main__":
    main()
