"""One way of answering a task of lm-evaluation-harness in a process of its own, as `python -m benchmarks` starts it.

    python -m benchmarks.harnessed memexp letters FOLDER OUT.json
    python -m benchmarks.harnessed hflm@16 letters FOLDER OUT.json      # hflm-on-ours@16, nobody

FOLDER is what `benchmarks.material.make` and `lengthen` wrote. Importing, loading and building the task are not timed;
rendering prompts, drawing shots and scoring answers, which the harness does for everybody, are.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
from lm_eval.api.instance import Instance
from lm_eval.api.model import LM
from lm_eval.api.task import ConfigurableTask
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks._yaml_loader import load_yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

import memexp.tasks
from benchmarks.harness import ALONE, GPT2, HFLMS, TASKS, Asked
from benchmarks.material import Material
from memexp.core.harness import HarnessModel, evaluate, quiet
from memexp.core.load import load
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.sources import Sources
from memexp.spec import Full, Model
from memexp.stimuli.facts import FactWorld
from memexp.stimuli.tiny import model_folder

__all__ = ["answering", "built", "timed"]

SEED = 1234
"""Of the draw of shots."""


class Nobody(LM):
    """Answers nothing, at no cost."""

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return [(0.0, False)] * len(requests)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return [""] * len(requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return [0.0] * len(requests)


def answering(way: str, folder: Path) -> LM:
    """The loaded model behind the harness's contract; ``hflm@16`` takes 16 prompts at a time."""
    kind, _, rows = way.partition("@")
    if kind == ALONE:
        return Nobody()
    if kind == HFLMS["HFLM"]:
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
    else:
        ours = load(Sources().model(Model(str(folder))), Full(), "float32", World.current())
        if kind == "memexp":
            return HarnessModel(Session(ours))
        lm, tokenizer = ours.lm, ours.tokenizer
    with quiet():
        return HFLM(pretrained=lm, tokenizer=tokenizer, batch_size=int(rows))


def built(asked: Asked, entities: int, sampler: str = "default") -> ConfigurableTask:
    """The task over questions about so many countries, its shots drawn by a sampler of the harness."""
    (folder,) = memexp.tasks.__path__
    rows = datasets.Dataset.from_list(FactWorld(entities=entities).rows(asked.subset))
    config = load_yaml(Path(folder, f"{asked.task}.yaml"), resolve_func=True)
    config |= {"custom_dataset": lambda **_: {"test": rows}, "num_fewshot": asked.shots}
    config |= {"fewshot_config": {"sampler": sampler}} if sampler != "default" else {}
    with quiet():
        return ConfigurableTask(config=config)


def timed(model: LM, task: ConfigurableTask) -> tuple[float, float, list[dict[str, Any]]]:
    """CPU seconds, wall seconds and the answers, after a first try on two items that imports what is left over."""
    _samples(model, task, limit=2)
    wall, cpu = time.perf_counter(), time.process_time()
    samples = _samples(model, task)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    if unanswered := getattr(model, "unanswered", None):
        raise ValueError(f"{len(unanswered)} prompts do not fit the model's context or have no answer")
    return cpu, wall, _answers(samples)


def _samples(model: LM, task: ConfigurableTask, limit: int | None = None) -> list[dict[str, Any]]:
    task.set_fewshot_seed(SEED)  # every time, as each draw moves on
    (samples,) = evaluate(model, {"task": task}, limit).values()
    return samples


def _answers(samples: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each item the text, or the log-likelihood of each choice and whether it is greedy; and the metrics."""
    return [
        {
            "answers": [answer if isinstance(answer, str) else list(answer) for (answer,) in sample["resps"]],
            "metrics": {name: sample[name] for name in sample["metrics"]},
        }
        for sample in samples
    ]


def main() -> None:
    """Time it and write {"cpu": seconds, "wall": seconds, "result": ...}."""
    way, name, folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    material, asked = Material(Path(folder)), TASKS[name]
    model = answering(way, material.long if asked.model == GPT2 else model_folder(asked.model))
    cpu, wall, result = timed(model, built(asked, material.entities))
    Path(out).write_text(json.dumps({"cpu": cpu, "wall": wall, "result": result}))


if __name__ == "__main__":
    main()
