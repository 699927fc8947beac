"""One stage of training: AdamW over the study list, or over unrelated text, in an order that depends on keys alone.

optimizer = adamw(lm, study)
steps = study_exposures(lm, optimizer, study, rows, seed=0, first=1, last=1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.optim import AdamW

from memexp.core.data import Row, groups, key_seed, order, right_padded
from memexp.core.model import LanguageModel, local, set_dropout
from memexp.errors import MemexpError
from memexp.spec import Interference, Study

__all__ = ["Diverged", "Step", "adamw", "interfere", "learning_rate", "study_exposures", "update"]

# What a micro-group costs by itself (its gradients are added to those of the others) and how large one may be, in
# padded tokens: 48 to 192 took the same time, 16 and no splitting more. On a GPU a short batch costs what a
# padded one does, so there a batch is split only to bound memory.
GROUP_OVERHEAD = {"cpu": 48, "cuda": 4_096}
GROUP_TOKENS = {"cpu": 4_096, "cuda": 8_192}


class Diverged(MemexpError):
    """The loss is not a finite number. An outcome of the condition, not a fault to be tried again."""


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    exposure: int
    """Which pass over the corpus, counting from 1."""
    step: int
    """Steps since study or interference began, this one included."""
    loss: float | None
    """Mean negative log-likelihood over the batch's predicted tokens, in nats, before the step; None where a batch of
    one-token texts predicts nothing, which is a step that changes nothing."""
    lr: float
    """The learning rate it used."""
    tokens: int
    """Predicted tokens in the batch, over all ranks."""


def adamw(lm: LanguageModel, study: Study | Interference) -> AdamW:
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


def learning_rate(study: Study, step: int, per_exposure: int) -> float:
    """Learning rate of the `step`-th step (from 1), as transformers' schedules of the same names give it."""
    total = study.exposures * per_exposure
    warmup = math.ceil(study.warmup_ratio * total) if study.warmup_ratio else study.warmup_steps
    before = step - 1
    if before < warmup:
        return study.lr * before / warmup
    if study.schedule == "linear":
        return study.lr * max(0.0, (total - before) / max(1, total - warmup))
    return study.lr


def study_exposures(
    lm: LanguageModel, optimizer: AdamW, study: Study, rows: Sequence[Row], seed: int, first: int, last: int
) -> list[Step]:
    """Train on every row once per exposure, exposures `first` to `last`. All ranks call with the same rows.

    Args:
        lm: the model, as exposure ``first - 1`` left it.
        optimizer: as exposure ``first - 1`` left it; fresh for the first.
        study: settings.
        rows: token ids of each text.
        seed: with the exposure it keys order and dropout, so that conditions stay paired.
        first: exposure to begin with, from 1.
        last: exposure to end with.

    Raises:
        Diverged: a loss is not finite; the model is then of no more use.
    """
    set_dropout(lm.lm, study.dropout)
    lm.train()
    lm.zero_grad()  # a stage that failed half-way through a batch leaves gradients behind
    per_exposure = math.ceil(len(rows) / study.batch_size)
    steps: list[Step] = []
    for exposure in range(first, last + 1):
        # Other dropout on every rank: they hold other rows.
        torch.manual_seed(key_seed(seed, "study", exposure, "dropout", lm.world.rank))
        shuffled = order(len(rows), seed, "study", exposure)
        for position in range(per_exposure):
            number = (exposure - 1) * per_exposure + position + 1
            lr = learning_rate(study, number, per_exposure)
            chosen = shuffled[position * study.batch_size : (position + 1) * study.batch_size]
            loss, tokens = update(lm, optimizer, [rows[i] for i in chosen], lr, study.clip_norm)
            if loss is not None and not math.isfinite(loss):
                raise Diverged(f"the loss is {loss} at step {number} (exposure {exposure}, lr {study.lr:g})")
            steps.append(Step(exposure, number, loss, lr, tokens))
    _check_weights(lm, steps[-1:], f"exposure {last}, lr {study.lr:g}")
    return steps


def interfere(
    lm: LanguageModel,
    optimizer: AdamW,
    interference: Interference,
    rows: Sequence[Row],
    seed: int,
    first: int,
    last: int,
) -> list[Step]:
    """Train on unrelated texts, steps `first` to `last` since study ended. All ranks call with the same rows.

    What a step trains on and draws depends on `seed` and the step's number alone: stopping between makes no difference.

    Args:
        lm: the model, as step ``first - 1`` left it.
        optimizer: as step ``first - 1`` left it.
        interference: settings.
        rows: token ids of each text.
        seed: keys the order of every pass over the texts, and dropout.
        first: step to begin with, from 1.
        last: step to end with.

    Raises:
        Diverged: a loss is not finite; the model is then of no more use.
    """
    set_dropout(lm.lm, interference.dropout)
    lm.train()
    lm.zero_grad()
    per_pass = math.ceil(len(rows) / interference.batch_size)
    shuffled, shuffled_for = [], 0
    steps: list[Step] = []
    for number in range(first, last + 1):
        turn, position = (number - 1) // per_pass + 1, (number - 1) % per_pass
        if turn != shuffled_for:
            shuffled, shuffled_for = order(len(rows), seed, "interference", turn), turn
        torch.manual_seed(key_seed(seed, "interference", number, "dropout", lm.world.rank))
        chosen = shuffled[position * interference.batch_size : (position + 1) * interference.batch_size]
        loss, tokens = update(lm, optimizer, [rows[i] for i in chosen], interference.lr, interference.clip_norm)
        if loss is not None and not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} at step {number} of interference (lr {interference.lr:g})")
        steps.append(Step(turn, number, loss, interference.lr, tokens))
    _check_weights(lm, steps[-1:], f"interference, lr {interference.lr:g}")
    return steps


def _check_weights(lm: LanguageModel, last: Sequence[Step], when: str) -> None:
    """Raise Diverged where the last update, which comes after the last loss, has broken the weights."""
    lm.eval()
    broken = sum(int(not torch.isfinite(parameter.detach()).all()) for parameter in map(local, lm.learning().values()))
    if lm.world.sum(broken):
        raise Diverged(f"weights are not finite after step {last[0].step if last else 0} ({when})")


def update(
    lm: LanguageModel, optimizer: AdamW, batch: Sequence[Row], lr: float, clip_norm: float | None
) -> tuple[float | None, int]:
    """One step on one global batch: its mean loss over all predicted tokens of all ranks, and their number."""
    world = lm.world
    rows = [row for row in batch if len(row) > 1]  # a one-token text predicts nothing
    tokens = sum(len(row) - 1 for row in rows)
    if tokens == 0:
        return None, 0
    device = world.device
    loss = 0.0
    lengths = [len(row) for row in rows]
    for group in groups(lengths, GROUP_OVERHEAD[device.type], GROUP_TOKENS[device.type], world.size):
        mine = group[world.rank]
        # A rank left without an item takes part with weight zero: its peers wait for it in every pass.
        chosen = [rows[i] for i in mine] or [rows[group[0][0]][:2]]
        nll = lm.nll(
            torch.from_numpy(right_padded(chosen)).to(device),
            torch.tensor([len(row) for row in chosen], device=device),
        )
        # Sharding averages gradients over ranks; times size, the sum of the ranks' parts is the mean over all tokens.
        part = nll.sum() / tokens * (1.0 if mine else 0.0)
        (part * world.size).backward()
        loss += float(part.detach())
    for settings in optimizer.param_groups:
        settings["lr"] = lr
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(lm.learning().values(), clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return world.sum(loss), tokens
