"""The optimizer of a trajectory.

optimizer = adamw(lm, study)
optimizer.state[parameter] = room(optimizer, parameter)     # to be filled with what it once kept
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.adamw import adamw as functional_adamw

from memexp.core.model import LanguageModel, local
from memexp.spec import Training

__all__ = ["MOMENTS", "OnHost", "adamw", "room"]

MOMENTS = ("exp_avg", "exp_avg_sq")
"""What AdamW keeps for each parameter, beside its steps."""


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
    # On a CPU they are on the host as they are.
    kind = OnHost if lm.offload and lm.world.device.type != "cpu" else AdamW
    return kind(parts, lr=study.lr, fused=True)


def room(optimizer: AdamW, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What AdamW keeps of a parameter, nothing in it yet."""
    kept = parameter.detach()
    if isinstance(optimizer, OnHost):
        return OnHost.room(kept)
    step = torch.zeros((), dtype=torch.float32, device=local(kept).device)
    return {"step": step, **{moment: torch.zeros_like(kept) for moment in MOMENTS}}


class OnHost(AdamW):
    """AdamW with its moments on the host: each parameter's travel to the device, are changed there, and travel back.

    So a step is the one that the device makes anyway, to the last bit. Of a sharded parameter there is the local shard.
    """

    @staticmethod
    def room(parameter: Tensor) -> dict[str, Tensor]:
        """What is kept of a parameter, nothing in it yet."""
        shape = local(parameter).shape
        return {"step": torch.zeros(()), **{moment: torch.zeros(shape) for moment in MOMENTS}}

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # nobody gives a closure
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kept = self.state[parameter] or self.room(parameter)
                    self.state[parameter] = kept
                    _step(local(parameter), local(parameter.grad), kept, group)


def _step(weight: Tensor, gradient: Tensor, kept: dict[str, Tensor], group: dict[str, Any]) -> None:
    there = {name: tensor.to(weight.device) for name, tensor in kept.items()}
    functional_adamw(
        [weight],
        [gradient],
        [there["exp_avg"]],
        [there["exp_avg_sq"]],
        [],
        [there["step"]],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )
    for name, tensor in there.items():
        kept[name].copy_(tensor)
