"""One stage of training: steps over the study list, or over other text, in batches that depend on keys alone.

optimizer = fresh_optimizer(lm, study)
steps = train(lm, optimizer, study, StudyBatches(study, rows, seed=0), first=1, last=25)

A GPU is given work ahead: the losses of several steps are read at once, as to look at one is to wait for its step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.batches import Batch, Batches
from memexp.core.data import Row, groups, key_seed, right_padded
from memexp.core.model import LanguageModel, local, set_dropout
from memexp.core.precision import products
from memexp.errors import MemexpError
from memexp.spec import Training

__all__ = [
    "Diverged",
    "Loss",
    "Made",
    "Objective",
    "Part",
    "Step",
    "add_gradients",
    "make_step",
    "predicted",
    "train",
    "update",
]

READ_STEPS = {"cpu": 1, "cuda": 10}
"""Steps whose losses are read together."""

Loss = float | Tensor | None
"""Of a step; on a GPU a number there that nobody has read yet."""
Made: TypeAlias = tuple[Loss, int]
"""Of a step: its loss, and the tokens it predicted, over all ranks."""
Part: TypeAlias = Callable[[Tensor, Tensor, Sequence[int]], tuple[Tensor, Tensor]]
"""Takes rows of a batch, as `LanguageModel.nll` has them, and which they are; gives their part of what is minimised,
and of what is told of it."""


class Diverged(MemexpError):
    """The loss is not a finite number. An outcome of the condition, not a fault to be tried again."""


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    exposure: int
    """Which pass over the corpus, counting from 1."""
    step: int
    """Steps since pretraining, study, unlearning or interference began, this one included."""
    loss: float | None
    """Mean negative log-likelihood over the batch's predicted tokens, in nats, before the step; of unlearning that of
    texts to be forgotten. None where a batch of one-token texts predicts nothing: a step that changes nothing."""
    lr: float
    """The learning rate it used."""
    tokens: int
    """Predicted tokens in the batch, over all ranks, those of texts to be kept included."""


class Objective(Protocol):
    """What a step minimises where that is not the mean NLL of its batch."""

    def __call__(self, lm: LanguageModel, optimizer: Optimizer, batch: Batch, clip_norm: float | None) -> Made:
        """One step, as `update`."""


def train(
    lm: LanguageModel,
    optimizer: Optimizer,
    settings: Training,
    batches: Batches,
    first: int,
    last: int,
    after: Callable[[Sequence[Step]], None] = lambda _: None,
    room: Callable[[], int] = lambda: READ_STEPS["cuda"],
    objective: Objective | None = None,
) -> list[Step]:
    """Make the steps `first` to `last` of a stage. All ranks call with the same batches.

    Args:
        lm: the model, as step ``first - 1`` left it.
        optimizer: as step ``first - 1`` left it.
        settings: dropout, clipping and, for messages, the learning rate.
        batches: what each step takes.
        first: step to begin with, from 1.
        last: step to end with.
        after: called with the steps since the last call, when their losses are read; the model is as the last left it.
        room: how many steps may be made before `after` has to be called again.
        objective: what is minimised instead of the mean NLL of each batch.

    Raises:
        Diverged: a loss is not finite; the model is then of no more use.
    """
    set_dropout(lm.lm, settings.dropout)
    lm.train()
    lm.zero_grad()  # a stage that failed half-way through a batch leaves gradients behind
    steps: list[Step] = []
    unread: list[tuple[Batch, int, Loss, int]] = []
    for number in range(first, last + 1):
        batch = batches(number)
        unread.append((batch, number, *_made(lm, optimizer, settings, batch, objective)))
        if number == last or len(unread) >= min(READ_STEPS[lm.world.device.type], room()):
            made = _read(unread, batches.what, settings.lr)
            unread = []
            steps += made
            after(made)
    _check_weights(lm, f"after step {last} ({batches.what}, lr {settings.lr:g})")
    return steps


def _made(
    lm: LanguageModel, optimizer: Optimizer, settings: Training, batch: Batch, objective: Objective | None
) -> Made:
    """One step: by itself, or where `lm` is one of several lanes with them; one with an objective has no company."""
    # Other dropout on every rank: they hold other rows.
    seed = None if batch.draws is None else key_seed(*batch.draws, lm.world.rank)
    given = (optimizer, batch.rows, batch.lr, settings.clip_norm)
    if lm.company is not None:
        return lm.company.update(*given, settings.dropout, seed)
    if seed is not None:
        torch.manual_seed(seed)
    return update(lm, *given) if objective is None else objective(lm, optimizer, batch, settings.clip_norm)


def _read(unread: Sequence[tuple[Batch, int, Loss, int]], what: str, lr: float) -> list[Step]:
    """The steps with their losses, in one wait. Raises Diverged at the first that is not finite."""
    kept = [loss for *_, loss, _ in unread if isinstance(loss, Tensor)]
    found = iter(torch.stack(kept).tolist() if kept else [])
    steps: list[Step] = []
    for batch, number, held, tokens in unread:
        loss = next(found) if isinstance(held, Tensor) else held
        if loss is not None and not math.isfinite(loss):
            where = f"exposure {batch.exposure}" if what == "study" else what
            raise Diverged(f"the loss is {loss} at step {number} ({where}, lr {lr:g})")
        steps.append(Step(batch.exposure, number, loss, batch.lr, tokens))
    return steps


@torch.no_grad()
def _check_weights(lm: LanguageModel, when: str) -> None:
    """Raise Diverged where the last update, which comes after the last loss, has broken the weights."""
    lm.eval()
    finite = [torch.isfinite(local(parameter)).all() for parameter in lm.learning().values()]
    broken = int(not torch.stack(finite).all())  # one look for all of them
    if lm.world.sum(broken):
        raise Diverged(f"weights are not finite {when}")


def update(
    lm: LanguageModel,
    optimizer: Optimizer,
    batch: Sequence[Row],
    lr: float,
    clip_norm: float | None,
    pull: Callable[[], None] | None = None,
) -> Made:
    """One step on one global batch: its mean loss over all predicted tokens of all ranks, and their number.

    `pull`: adds to the gradients what is minimised beside that loss.
    """
    rows, tokens = predicted(batch)
    if tokens == 0:
        return None, 0

    def part(ids: Tensor, lengths: Tensor, _: Sequence[int]) -> tuple[Tensor, Tensor]:
        mean = lm.nll(ids, lengths).sum() / tokens
        return mean, mean

    loss = add_gradients(lm, rows, part)
    if pull is not None:
        pull()
    make_step(lm, optimizer, lr, clip_norm)
    return lm.world.sum(loss), tokens


def predicted(batch: Sequence[Row]) -> tuple[list[Row], int]:
    """The rows in which tokens are predicted, in one of one token none is, and the number of these tokens."""
    rows = [row for row in batch if len(row) > 1]
    return rows, sum(len(row) - 1 for row in rows)


def add_gradients(lm: LanguageModel, rows: Sequence[Row], part: Part, most: int | None = None) -> float | Tensor:
    """Add the gradient of a sum over rows to those there are. All ranks call with the same rows.

    Args:
        lm: the model.
        rows: of the global batch, of two tokens or more.
        part: is asked for some of them at a time.
        most: padded tokens that these may have on one rank, if there are several; by default what the model may have.

    Returns:
        What was told of this rank's rows.
    """
    world, kind = lm.world, lm.world.device.type
    loss: float | Tensor = 0.0
    lengths = [len(row) for row in rows]
    for group in groups(lengths, lm.budget.group_overhead, most or lm.budget.group_tokens, world.size):
        mine = group[world.rank]
        # A rank left without an item takes part with weight zero: its peers wait for it in every pass.
        at, weight = (mine, 1.0) if mine else (group[0][:1], 0.0)
        chosen = [rows[i] for i in mine] or [rows[at[0]][:2]]
        sought, said = part(torch.from_numpy(right_padded(chosen)), torch.tensor([len(row) for row in chosen]), at)
        # Sharding averages gradients over ranks; times size, the sum of the ranks' parts is the mean over all tokens.
        with products(lm.dtype, world.device):
            (sought * weight * world.size).backward()
        said = said.detach() * weight
        loss = loss + (said.double() if kind == "cuda" else float(said))
    return loss


def make_step(lm: LanguageModel, optimizer: Optimizer, lr: float, clip_norm: float | None) -> None:
    """One step by the gradients there are, which are gone afterwards."""
    for settings in optimizer.param_groups:
        settings["lr"] = lr
    if clip_norm is not None:
        torch.nn.utils.clip_grad_norm_(lm.learning().values(), clip_norm)
    optimizer.step()
    optimizer.zero_grad()
