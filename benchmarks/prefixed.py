"""Prompts that begin alike passed through once, beside each in full: the same task in turns, in a process of its own.

    python -m benchmarks.prefixed FOLDER OUT.json

FOLDER is what `benchmarks.material.make` and `lengthen` wrote. The shots of the published protocol are drawn anew for
each question; "the same shots" are those of tasks of lm-evaluation-harness that ask for them (sampler ``first_n``).
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lm_eval.api.task import ConfigurableTask

from benchmarks.equality import Unequal
from benchmarks.harness import GPT2, Asked
from benchmarks.harnessed import SEED, answering, built
from benchmarks.material import Material
from memexp.core.harness import evaluate
from memexp.stimuli.tiny import model_folder

__all__ = ["CASES", "NATS", "measured"]

NATS = 1e-5
"""By which a likelihood may differ where a prefix is passed through once."""
ROUNDS = 3

CASES: dict[str, tuple[Asked, str]] = {
    "questions with 5 shots as published, GPT-2": (Asked("facts_qa", "Eval_QA", 5, GPT2), "default"),
    "questions with the same 5 shots, GPT-2": (Asked("facts_qa", "Eval_QA", 5, GPT2), "first_n"),
    "questions with the same 5 shots, tiny-m": (Asked("facts_qa", "Eval_QA", 5, "tiny-m"), "first_n"),
    "letters with 5 shots as published, GPT-2": (
        Asked("facts_multiple_choice", "Eval_multiple_choice", 5, GPT2),
        "default",
    ),
    "letters with the same 5 shots, GPT-2": (
        Asked("facts_multiple_choice", "Eval_multiple_choice", 5, GPT2),
        "first_n",
    ),
}
"""A task and how its shots are drawn, by title."""


def measured(material: Material, asked: Asked, sampler: str) -> dict[str, Any]:
    """CPU seconds of each round, in full and shared, and how far the likelihoods are apart. Raises Unequal."""
    model: Any = answering("memexp", material.long if asked.model == GPT2 else model_folder(asked.model))
    lm, task = model.session.lm, built(asked, material.entities, sampler)
    traits, ways = lm.traits, {"in full": False, "shared": True}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    apart = 0.0
    for round_ in range(ROUNDS + 1):  # the first imports what is left over
        answers = {}
        for way in sorted(ways, reverse=round_ % 2 == 1):
            lm.adopt(dataclasses.replace(traits, shares=ways[way]))
            seconds, answers[way] = _answered(model, task)
            if round_:
                spent[way].append(seconds)
        apart = max(apart, _apart(answers["in full"], answers["shared"]))
    return {"cpu": spent, "apart": apart, "items": len(answers["shared"])}


def _answered(model: Any, task: ConfigurableTask) -> tuple[float, list[list[Any]]]:
    task.set_fewshot_seed(SEED)  # every time, as each draw moves on
    began = time.process_time()
    (samples,) = evaluate(model, {"task": task}).values()
    return time.process_time() - began, [[answer for (answer,) in sample["resps"]] for sample in samples]


def _apart(one: list[list[Any]], other: list[list[Any]]) -> float:
    """The largest difference of a likelihood. Raises Unequal where an answer, a pick or more than `NATS` differs."""
    worst = 0.0
    for mine, theirs in zip(one, other, strict=True):
        if isinstance(mine[0], str):
            if mine != theirs:
                raise Unequal(f"prefixes: {mine} in full, {theirs} shared")
            continue
        nats = [[nll for nll, _ in answers] for answers in (mine, theirs)]
        worst = max(worst, *(abs(left - right) for left, right in zip(*nats, strict=True)))
        if worst > NATS or len({found.index(max(found)) for found in nats}) > 1:
            raise Unequal(f"prefixes: likelihoods {mine} in full, {theirs} shared")
    return worst


def main() -> None:
    """Write what was found."""
    folder, out = sys.argv[1:]
    torch.set_num_threads(1)
    material = Material(Path(folder))
    Path(out).write_text(json.dumps({title: measured(material, *case) for title, case in CASES.items()}))


if __name__ == "__main__":
    main()
