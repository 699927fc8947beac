"""The three ways of doing study, recognition and recall, behind one face, for comparison and for timing.

losses = run(Memexp(material.model), "study", material)
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rouge_score import rouge_scorer  # noqa: F401 - memexp imports it when first needed, which is not to be timed
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks import careful
from benchmarks.material import Material
from benchmarks.published import recall as published_recall
from benchmarks.published import recognition as published_recognition
from benchmarks.published import study as published_study
from memexp.core.batches import StudyBatches
from memexp.core.data import encode
from memexp.core.load import load
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.core.train import train
from memexp.probes import Recall, Recognition
from memexp.probes.recall import ROUGES
from memexp.sources import Sources
from memexp.spec import Full, Model, Pair, ShippedText, Study

__all__ = ["PARTS", "WAYS", "Careful", "Memexp", "Published", "Way", "run", "timed", "way_of"]

PARTS = ("study", "recognition", "recall")
LR = 1e-3
BATCH = 16


class Way(ABC):
    """A loaded model and how to train and probe it."""

    def __init__(self, folder: Path, rows: int | None = None) -> None:
        """`rows`: texts in a batch of probing, where the way has a choice."""
        self.rows = rows
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    @abstractmethod
    def study(self, texts: Sequence[str], order: Sequence[int], lr: float) -> list[float]:
        """Train on all texts once, in this order; the loss of every step."""

    @abstractmethod
    def recognition(self, targets: Sequence[str], foils: Sequence[str]) -> list[float]:
        """Mean token NLL of every target and then of every foil."""

    @abstractmethod
    def recall(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        """For every text the completion's token ids and the ROUGE F-measures of the whole."""


class Published(Way):
    """The published scripts' functions."""

    def study(self, texts: Sequence[str], order: Sequence[int], lr: float) -> list[float]:
        return published_study.train(self.model, self.tokenizer, texts, [order], lr, BATCH)

    def recognition(self, targets: Sequence[str], foils: Sequence[str]) -> list[float]:
        scored = (published_recognition.score(self.model, self.tokenizer, texts) for texts in (targets, foils))
        return [nll for nlls in scored for nll in nlls]

    def recall(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        return published_recall.recall(self.model, self.tokenizer, texts)


class Careful(Way):
    """A careful user's functions."""

    def study(self, texts: Sequence[str], order: Sequence[int], lr: float) -> list[float]:
        return careful.train(self.model, self.tokenizer, texts, order, lr, BATCH)

    def recognition(self, targets: Sequence[str], foils: Sequence[str]) -> list[float]:
        return careful.score(self.model, self.tokenizer, [*targets, *foils], self.rows or careful.SCORING_ROWS)

    def recall(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        return careful.recall(self.model, self.tokenizer, texts, self.rows or careful.RECALL_ROWS)


class Memexp(Way):
    """memexp's own functions, as a trial calls them."""

    def __init__(self, folder: Path, rows: int | None = None) -> None:
        self.lm = load(Sources().model(Model(str(folder))), Full(), "float32", World.current())

    def study(self, texts: Sequence[str], order: Sequence[int], lr: float) -> list[float]:
        """In memexp's own order, which is where the others' comes from."""
        study = Study(NOWHERE, exposures=1, lr=lr, batch_size=BATCH)
        rows = encode(self.lm.tokenizer, texts, study.block_size)
        batches = StudyBatches(study, rows, seed=0)
        last = batches.passes.steps_until(1)
        steps = train(self.lm, fresh_optimizer(self.lm, study), study, batches, first=1, last=last)
        return [step.loss for step in steps if step.loss is not None]

    def recognition(self, targets: Sequence[str], foils: Sequence[str]) -> list[float]:
        probe = Recognition(Pair(NOWHERE, NOWHERE), block_size=128)
        table = probe.measure(Session(self.lm), {"targets": targets, "foils": foils})
        return [*table.column("target_nll").to_pylist(), *table.column("foil_nll").to_pylist()]

    def recall(self, texts: Sequence[str]) -> list[dict[str, Any]]:
        session = _Listening(self.lm)
        table = Recall(NOWHERE, block_size=128).measure(session, {"corpus": texts})
        told = iter(session.told)
        return [
            {
                "completion": None if row["completion"] is None else next(told),
                **{name: row[f"sentence_{name}"] for name in ROUGES},
            }
            for row in table.to_pylist()
        ]


NOWHERE = ShippedText("sentences-targets")
"""Stands where a description has its corpus: the functions called here get their texts as arguments."""


class _Listening(Session):
    """A session that keeps the token ids of completions, of which a probe's rows show the text."""

    def complete(self, cues: Sequence[Sequence[int]], counts: Sequence[int]) -> list[list[int] | None]:
        self.told = super().complete(cues, counts)
        return self.told


WAYS: dict[str, type[Way]] = {"published": Published, "careful": Careful, "memexp": Memexp}


def way_of(name: str, folder: Path) -> Way:
    """The way of that name; ``careful@8`` is the careful one with 8 texts in a batch of probing."""
    kind, _, rows = name.partition("@")
    return WAYS[kind](folder, int(rows) if rows else None)


def run(
    way: Way, part: str, material: Material, order: Sequence[int] | None = None, lr: float | None = None
) -> list[Any]:
    """A part of the benchmark on all of `material`. `order` and `lr` stand in for the material's own."""
    if part == "study":
        return way.study(material.texts("targets"), order or material.order()[0], lr or material.lr or LR)
    if part == "recognition":
        return way.recognition(material.texts("targets"), material.texts("foils"))
    return way.recall(material.texts("targets"))


def timed(way: Way, part: str, material: Material) -> tuple[float, float, list[Any]]:
    """CPU seconds, wall seconds and result of `run`, after a first try on two texts that imports what is left over."""
    targets, foils = material.texts("targets")[:2], material.texts("foils")[:2]
    if part == "study":
        way.study(targets, [0, 1], lr=1e-30)  # a rate that leaves the weights as they are
    elif part == "recognition":
        way.recognition(targets, foils)
    else:
        way.recall(targets)
    wall, cpu = time.perf_counter(), time.process_time()
    result = run(way, part, material)
    return time.process_time() - cpu, time.perf_counter() - wall, result
