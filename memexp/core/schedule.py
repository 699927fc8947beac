"""Learning rates: a function of the settings, the step's number and how many steps there are.

learning_rate(study, step=1, total=100)
"""

from __future__ import annotations

import math

from memexp.spec import Pretrain, Study

__all__ = ["learning_rate"]


def learning_rate(settings: Study | Pretrain, step: int, total: int) -> float:
    """Learning rate of the `step`-th of `total` steps, from 1, as transformers' schedules of these names give it."""
    ratio = settings.warmup_ratio if isinstance(settings, Study) else 0.0
    warmup = math.ceil(ratio * total) if ratio else settings.warmup_steps
    before = step - 1
    if before < warmup:
        return settings.lr * before / warmup
    if settings.schedule == "linear":
        return settings.lr * max(0.0, (total - before) / max(1, total - warmup))
    return settings.lr
