"""What the trials of a base model will do, in tokens, and how long that takes: for a plan.

work = work_of(forest, base, trials)
hours(work, 8e9, Full(), "bfloat16", DEVICES["h100"], measured)      # at least, likely, at most
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memexp.plan.attempts import Log
from memexp.plan.devices import UTILISATION, Device
from memexp.plan.forest import Forest, Stage, TrainingStage
from memexp.plan.memory import Load
from memexp.plan.trials import Trial
from memexp.sources import Stream
from memexp.spec import Full, LoRA

__all__ = ["Work", "hours", "load_of", "seconds_per_token", "work_of"]

BYTES = 4
"""Of text in a token, about."""
PADDING = 1.15
"""Of a batch, which is of texts of like length."""
RECALLED = 6_144
"""Tokens of texts that are completed together."""
SPREAD = 0.25
"""By which what was measured may be off for other conditions."""


@dataclass(frozen=True)
class Work:
    """Tokens that pass through the model."""

    trained: int
    measured: int


def load_of(forest: Forest, base: str) -> Load:
    """What the stages below a base take of memory."""
    stages = [stage for stage in forest.stages.values() if forest.base(stage.id).id == base]
    trained = [stage for stage in stages if isinstance(stage, TrainingStage)]
    tokens = [PADDING * stage.settings.batch_size * _tokens(forest, stage) for stage in trained]
    recalls = any(ask.kind in ("recall", "qa") and forest.base(ask.stage).id == base for ask in forest.asks)
    return Load(int(max(tokens, default=0)), _forks(base, stages), RECALLED if recalls else 0)


def _forks(base: str, stages: Sequence[Stage]) -> int:
    """States that are kept in memory at a time: one where several stages follow, until the last of them begins."""
    at_once: dict[str, int] = {}
    children: dict[str, list[str]] = {}
    for stage in reversed(stages):  # children come after their parents
        below = children.get(stage.id, [])[::-1]
        held = int(len(below) > 1 and stage.id != base)
        first = max((at_once[child] for child in below[:-1]), default=0)
        at_once[stage.id] = max(held + first, *(at_once[child] for child in below[-1:]), 0)
        if stage.parent is not None:
            children.setdefault(stage.parent, []).append(stage.id)
    return at_once.get(base, 0)


def work_of(forest: Forest, base: str, trials: Sequence[Trial]) -> Work:
    """The tokens of the trials of a base."""
    mine = [trial for trial in trials if trial.base.id == base]
    stages = [
        stage
        for trial in mine
        for stage in trial.stages
        if isinstance(stage, TrainingStage) and stage.id not in trial.given
    ]
    trained = sum(stage.steps * stage.settings.batch_size * _tokens(forest, stage) for stage in stages)
    texts = max((_count(forest, stage) * _tokens(forest, stage) for stage in stages), default=0)
    # Two lists of the studied one's size for each measurement, as recognition has them.
    return Work(int(trained), int(2 * texts * len({ask.measurement for trial in mine for ask in trial.asks})))


def hours(
    work: Work, parameters: int, method: Full | LoRA, dtype: str, device: Device, per_token: float | None
) -> tuple[float, float, float]:
    """Hours of one device: at least, likely and at most; from `per_token` seconds of training where they are known."""
    # Forward passes take 2 operations a parameter, those back 4, or 2 where no gradient of a weight is asked for.
    training = 4 if isinstance(method, LoRA) else 6
    measured = work.measured * 2 / training
    if per_token is not None:
        likely = per_token * (work.trained + measured) / 3600
        return likely * (1 - SPREAD), likely, likely * (1 + SPREAD)
    operations = training * parameters * (work.trained + measured)
    low, usual, high = (operations / (device.speed(dtype) * share) / 3600 for share in reversed(UTILISATION))
    return low, usual, high


def seconds_per_token(log: Log, model: str, device: str) -> float | None:
    """Of one device, as stages of a model took them; None where none was trained on such a device."""
    rows = [
        row
        for row in log.rows(status="complete", model=model)
        if row["tokens"] and row["kind"] != "base" and device.lower() in str(row["device"]).lower().replace(" ", "")
    ]
    tokens = sum(row["tokens"] for row in rows)
    return sum(row["seconds"] * (row["workers"] or 1) for row in rows) / tokens if tokens else None


def _tokens(forest: Forest, stage: TrainingStage) -> float:
    """Tokens of a text that a stage trains on, about."""
    block, corpus = stage.settings.block_size, forest.corpus(stage.corpus)
    if isinstance(corpus, Stream) or not corpus.items:
        return float(block)
    return sum(min(block, 2 + len(text.encode()) / BYTES) for text in corpus.items) / corpus.count


def _count(forest: Forest, stage: TrainingStage) -> int:
    corpus = forest.corpus(stage.corpus)
    return 1000 if isinstance(corpus, Stream) else corpus.count
