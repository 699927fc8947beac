"""A training step of one condition by itself and of eight in lanes, in turns, in a process of its own.

    python -m benchmarks.laned FOLDER OUT.json

"Host": architectures at their real depth with widths of 8 and 400 tokens, as good as nothing to compute: CPU seconds
are what the host needs to say what is to be computed, which is what a GPU waits for. (At widths of 64 and 4,000 tokens
half of what eight full models take is arithmetic, AdamW's above all, which is a GPU's.) "CPU": models that a CPU
computes. FOLDER is what `benchmarks.material.make` wrote.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.equality import Unequal
from benchmarks.material import Material
from benchmarks.smollm2 import FOLDER
from memexp import Full, LoRA, Model, RandomInit, ShippedText, Study, TextFile, TrainedTokenizer
from memexp.core.data import Row, encode, order
from memexp.core.lanes import Lanes
from memexp.core.load import load
from memexp.core.model import set_dropout
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import update
from memexp.sources import Sources

__all__ = ["LANES", "LOSS", "cases", "measured"]

LANES = 8
LOSS = 1e-5
"""Largest relative difference of a lane's loss from its own by itself, over the steps that are timed."""
WARM = 2
"""Steps before those that are timed."""
CLIP = 1.0

DEEP: Mapping[str, Mapping[str, Any]] = {
    "GPT-2 124M": {"model_type": "gpt2", "n_layer": 12, "n_embd": 8, "n_head": 2, "n_positions": 64},
    "OPT-1.3B": {
        **{"model_type": "opt", "num_hidden_layers": 24, "hidden_size": 8, "word_embed_proj_dim": 8},
        **{"ffn_dim": 32, "num_attention_heads": 2, "pad_token_id": None},
    },
    "Llama-3 8B": {
        **{"model_type": "llama", "num_hidden_layers": 32, "hidden_size": 8, "intermediate_size": 32},
        **{"num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": False},
    },
}
"""Depths, with widths of next to nothing."""


@dataclass(frozen=True)
class Case:
    """What is timed."""

    model: Model
    method: Full | LoRA
    texts: Sequence[str]
    batch: int
    steps: int


def cases(material: Material) -> dict[str, Case]:
    """By title."""
    texts, found = material.texts("targets"), dict[str, Case]()
    few = TrainedTokenizer([TextFile(str(material.file("targets")))], 400)
    for name, config in DEEP.items():
        model = Model(name, tokenizer=few, init=RandomInit(dict(config)))
        for how, method in (("LoRA", LoRA(r=8)), ("full", Full())):
            found[f"host, {name}, {how}"] = Case(model, method, [text[:16] for text in texts], 2, 10)
    for how, method in (("LoRA", LoRA(r=8)), ("full", Full())):
        found[f"CPU, GPT-2 of 4.2M, {how}"] = Case(Model(str(material.model)), method, texts, 16, 5)
    if (FOLDER / "config.json").exists():
        found["CPU, SmolLM2-135M, LoRA"] = Case(Model(str(FOLDER)), LoRA(r=8), texts, 16, 1)
    return found


def measured(case: Case) -> dict[str, Any]:
    """CPU seconds of each step: of a condition by itself, and of each of eight. Raises Unequal."""
    alone, joint = _alone(case), _joint(case)
    spent: dict[str, list[float]] = {"alone": [], "in lanes": []}
    worst = 0.0
    for step in range(WARM + case.steps):
        began = time.process_time()
        one = alone(step)
        between = time.process_time()
        all_ = joint(step)
        if step >= WARM:
            spent["alone"].append(between - began)
            spent["in lanes"].append((time.process_time() - between) / LANES)
        worst = max(worst, *(abs(one - other) / abs(one) for other in all_))
    if not worst <= LOSS:
        raise Unequal(f"lanes: losses differ by {worst:.1e} of their size, more than {LOSS:g}")
    return spent | {"loss_relative": worst}


def _alone(case: Case) -> Callable[[int], float]:
    """A step; returns its loss."""
    lm, batch = _loaded(case)
    optimizer = fresh_optimizer(lm, _study())
    return lambda step: _number(update(lm, optimizer, batch(step), _study().lr, CLIP)[0])


def _joint(case: Case) -> Callable[[int], list[float]]:
    """The same step by every lane; returns their losses."""
    lm, batch = _loaded(case)
    lanes = Lanes(lm, LANES)
    optimizers = [fresh_optimizer(one, _study()) for one in lanes.models]
    for one in lanes.models:
        one.train()

    def step(number: int) -> list[float]:
        given = [(lane, (one, batch(number), _study().lr, CLIP, 0.0, None)) for lane, one in enumerate(optimizers)]
        return [_number(made[0]) for made in lanes.do("update", given)]

    return step


def _loaded(case: Case) -> tuple[Any, Callable[[int], list[Row]]]:
    lm = load(Sources().model(case.model), case.method, "float32", World.current())
    set_dropout(lm.lm, 0.0)
    lm.train()
    rows = encode(lm.tokenizer, case.texts, 128)

    def batch(step: int) -> list[Row]:
        chosen = order(len(rows), 0, "study", step)
        return [rows[at] for at in chosen[: case.batch]]

    return lm, batch


def _study() -> Study:
    return Study(ShippedText("sentences-targets"), exposures=1, lr=1e-4, dropout=0.0)


def _number(loss: Any) -> float:
    return float(loss)


def main() -> None:
    """Write what was found."""
    folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    found = {title: measured(case) for title, case in cases(Material(Path(folder))).items()}
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
