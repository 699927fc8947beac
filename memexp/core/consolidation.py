"""Elastic weight consolidation: how much each weight mattered for what was studied, and what holds it there.

objective = Consolidation(lm, ewc, rows, seed)       # lm: as it is when interference begins; rows: the study list
train(lm, optimizer, interference, batches, first, last, objective=objective)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.batches import Batch
from memexp.core.data import Row, key_seed
from memexp.core.head import OfTargets, Work, losses
from memexp.core.model import LanguageModel, local
from memexp.core.objectives import kept
from memexp.core.train import Made, add_gradients, predicted, update
from memexp.spec import EWC

__all__ = ["Consolidation", "fisher"]


class Consolidation:
    """A step of interference that what was studied is protected from."""

    def __init__(self, lm: LanguageModel, ewc: EWC, rows: Sequence[Row], seed: int) -> None:
        """`lm`: as interference begins; `rows`: token ids of each studied text; `seed` keys draws. All ranks call."""
        self.strength = ewc.strength
        self.weights, self.fisher = kept(lm), fisher(lm, ewc, rows, seed)

    def __call__(self, lm: LanguageModel, optimizer: Optimizer, batch: Batch, clip_norm: float | None) -> Made:
        """As `memexp.core.train.update`; the loss is the mean NLL alone."""
        return update(lm, optimizer, batch.rows, batch.lr, clip_norm, partial(self._pull, lm))

    @torch.no_grad()
    def _pull(self, lm: LanguageModel) -> None:
        """Add the gradient of strength / 2 times the sum of F (w - w*)^2."""
        for name, parameter in lm.learning().items():
            if parameter.grad is not None:
                now, (was, weight) = local(parameter), (kept_of[name] for kept_of in (self.weights, self.fisher))
                local(parameter.grad).add_((now - was.to(now.device)) * weight.to(now.device), alpha=self.strength)


def fisher(lm: LanguageModel, ewc: EWC, rows: Sequence[Row], seed: int) -> dict[str, Tensor]:
    """This rank's part of the diagonal of Fisher's information for what learns, by name. All ranks call.

    Kirkpatrick et al. 2017 (arXiv 1612.00796): the mean over texts, and over `EWC.samples`, of the square of the
    gradient of a text's log-likelihood, the sum over its tokens. There is no dropout in it.

    Args:
        lm: the model; no gradients are left in it.
        ewc: how many draws, or none.
        rows: token ids of each text; one of a single token has no gradient.
        seed: with the number of a text and of a draw it keys what is drawn.
    """
    lm.eval()
    found = {name: torch.zeros_like(weight) for name, weight in kept(lm).items()}
    for number, row in enumerate(rows):
        if not predicted([row])[0]:
            continue
        for sample in range(ewc.samples):
            lm.zero_grad()
            of = losses if ewc.empirical else _drawn(len(row) - 1, key_seed(seed, "fisher", number, sample))

            def whole(ids: Tensor, lengths: Tensor, _: Sequence[int], of: OfTargets = of) -> tuple[Tensor, Tensor]:
                nll = lm.nll(ids, lengths, of).sum()
                return nll, nll

            add_gradients(lm, [row], whole)
            for name, parameter in lm.learning().items():
                if parameter.grad is not None:
                    found[name] += local(parameter.grad).square().to(found[name].device)
    lm.zero_grad()
    return {name: total / (len(rows) * ewc.samples) for name, total in found.items()}


def _drawn(tokens: int, seed: int) -> OfTargets:
    """NLL of tokens that are drawn from the model itself, each from what it says of the place."""
    uniform = torch.rand(tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    def of(_: Tensor) -> Work:
        def work(logits: Tensor, at: slice) -> Tensor:
            with torch.no_grad():
                below = logits.double().softmax(-1).cumsum(-1)
                chosen = (below < uniform[at, None].to(logits.device) * below[:, -1:]).sum(-1)
            return F.cross_entropy(logits, chosen, reduction="none")

        return work

    return of
