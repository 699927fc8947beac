"""Searches of half the trials against a grid, on a tiny objective: what the default sampler was chosen by.

    python -m benchmarks --parts search
    python -m benchmarks.sampler_choice MATERIAL OUT

The objective is the mean NLL of 40 shipped sentences after one exposure. With the pretrained tiny-s it is a valley;
with random weights, of a GPT-2 of two blocks and width 32, it is rugged where it is lowest: of two neighbours either
may be the better. Each seed draws another order of the sentences, other random weights and another sampler. Suggestions
are tried one after another, as a search of 8 trials does by default after the evenly spread points; no Ray is needed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from memexp import (
    Condition,
    Model,
    Pair,
    RandomInit,
    Recognition,
    Resources,
    Search,
    ShippedText,
    Study,
    Sweep,
    TrainedTokenizer,
    Uniform,
)
from memexp.search.candidates import prepare
from memexp.search.ledger import Ledger, stored_value
from memexp.sources import Sources
from memexp.store import Store

__all__ = ["OBJECTIVES", "SAMPLERS", "SENTENCES", "best_of_grid", "best_of_search"]

LOW, HIGH, POINTS, TRIALS, SEEDS, SENTENCES = 1e-4, 3e-1, 16, 8, 10, 40
OBJECTIVES = ("tiny-s", "random weights")
SAMPLERS = ("gp", "tpe", "random")
METRIC = "SELECT avg(target_nll) FROM recognition"
CONFIG = {"model_type": "gpt2", "n_layer": 2, "n_embd": 32, "n_head": 2, "n_positions": 128}


def objective(name: str, seed: int) -> Callable[[float], Condition]:
    """The function of a search over the learning rate, of a model of `OBJECTIVES`."""
    pair = Pair(ShippedText("sentences-targets", first=SENTENCES), ShippedText("sentences-foils", first=SENTENCES))
    model = Model(name)
    if name != "tiny-s":
        config = CONFIG | {f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")}
        tokenizer = TrainedTokenizer([pair.targets, pair.foils], vocab_size=400)
        model = Model(name, tokenizer=tokenizer, init=RandomInit(config, seed=seed))

    def condition(lr: float) -> Condition:
        study = Study(pair.targets, exposures=1, lr=lr, batch_size=4)
        return Condition(model, study, seed=seed, probes=[Recognition(pair)])

    return condition


def search(name: str, seed: int, sampler: Any) -> Search:
    """So many trials over the whole range."""
    space = {"lr": Uniform(LOW, HIGH, log=True)}
    return Search("lr", objective(name, seed), space, METRIC, "min", TRIALS, seed, sampler, concurrent=1)


def best_of_grid(name: str, seed: int, store: Store, sources: Sources) -> float:
    """The best value of points at even distances on a log scale, both ends included."""
    rates = [LOW * (HIGH / LOW) ** (i / (POINTS - 1)) for i in range(POINTS)]
    prepared = prepare(search(name, seed, "random"), Resources(), sources)
    _run(Sweep(name="grid", conditions=map(objective(name, seed), rates)), store)
    candidates = [prepared.candidate({"lr": rate}) for rate in rates]
    values = [stored_value(prepared, store, candidate.stops[-1]) for candidate in candidates]
    return min(value for value in values if value is not None)


def best_of_search(name: str, seed: int, sampler: str, store: Store, sources: Sources) -> float:
    """The best value that a search finds, in a store that has nothing of it."""
    one = search(name, seed, sampler)
    _run(Sweep(name="search", searches=[one]), store)
    values = [entry.value for entry in Ledger(prepare(one, Resources(), sources), store).entries.values()]
    return min(value for value in values if value is not None)  # of so many trials some do not diverge


def _run(sweep: Sweep, store: Store) -> None:
    """Execute a sweep here; what diverges is an outcome."""
    sweep.run(store.location, local=True, console=Console(quiet=True))


def main() -> None:
    """The best values of grid and searches, seed by seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("material", type=Path, help="not used: every module of the benchmarks is told of it")
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    sources = Sources()
    found: dict[str, dict[str, list[float]]] = {}
    for name in OBJECTIVES:
        best = found[name] = {"grid": [], **{sampler: [] for sampler in SAMPLERS}}
        for seed in range(SEEDS):
            for how, values in best.items():
                with tempfile.TemporaryDirectory() as folder:
                    where = Store(folder), sources
                    one = best_of_grid(name, seed, *where) if how == "grid" else best_of_search(name, seed, how, *where)
                    values.append(one)
    options.out.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
