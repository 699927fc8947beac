"""The optimizer of a trajectory.

optimizer = adamw(lm, study)
"""

from __future__ import annotations

from torch.optim import AdamW

from memexp.core.model import LanguageModel
from memexp.spec import Training

__all__ = ["adamw"]


def adamw(lm: LanguageModel, study: Training) -> AdamW:
    """A fresh AdamW over what `lm` learns; weight decay on matrices only."""
    learning = list(lm.learning().values())
    matrices = [p for p in learning if p.ndim >= 2]
    vectors = [p for p in learning if p.ndim < 2]
    parts = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((matrices, study.weight_decay), (vectors, 0.0))
        if params
    ]
    return AdamW(parts, lr=study.lr, fused=True)
