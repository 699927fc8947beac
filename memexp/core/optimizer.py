"""The optimizer of a trajectory: AdamW or SGD, as the settings of its training say.

optimizer = fresh_optimizer(lm, study)
optimizer.state[parameter] = room(optimizer, parameter)     # to be filled with what it once kept
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.adamw import adamw as functional_adamw
from torch.optim.sgd import sgd as functional_sgd

from memexp import spec
from memexp.core.model import LanguageModel, local
from memexp.spec import Training

__all__ = ["MOMENTS", "OnHost", "SGDOnHost", "fresh_optimizer", "moments_of", "room", "step_of"]

OF_ADAMW, OF_SGD = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
MOMENTS = (*OF_ADAMW, *OF_SGD)
"""What optimizers keep for each parameter, AdamW its steps beside."""


def fresh_optimizer(lm: LanguageModel, settings: Training, was: Sequence[Mapping[str, Any]] | None = None) -> Optimizer:
    """A new optimizer over what `lm` learns; weight decay on matrices only.

    Args:
        lm: the model.
        settings: which optimizer, its learning rate and weight decay.
        was: the groups of one that is carried on, which then say what the new one is instead of `settings`.
    """
    learning = list(lm.learning().values())
    matrices = [p for p in learning if p.ndim >= 2]
    vectors = [p for p in learning if p.ndim < 2]
    parts = [
        {"params": params, "weight_decay": decay}
        for params, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
        if params
    ]
    momentum = settings.optimizer.momentum if isinstance(settings.optimizer, spec.SGD) else None
    if was is not None:
        momentum = was[0].get("momentum")
    # On a CPU they are on the host as they are.
    away = lm.offload and lm.world.device.type != "cpu"
    optimizer: Optimizer
    if momentum is None:
        optimizer = (OnHost if away else AdamW)(parts, lr=settings.lr, fused=True)
    else:
        # The fused step of SGD takes whole tensors only, in torch 2.13.
        kind = SGDOnHost if away else SGD
        optimizer = kind(parts, lr=settings.lr, momentum=momentum, fused=lm.world.size == 1)
    if was is not None:
        for group, settled in zip(optimizer.param_groups, was, strict=True):
            group |= settled
    if lm.seat is not None:
        lm.seat(optimizer)
    elif momentum:
        # Zeros from the beginning give the steps that none give, and torch's first step wants all parameters in it.
        optimizer.state |= {parameter: room(optimizer, parameter) for parameter in learning}
    return optimizer


def moments_of(optimizer: Optimizer) -> tuple[str, ...]:
    """The names, of `MOMENTS`, of what it keeps for each parameter."""
    momentum = optimizer.param_groups[0].get("momentum")
    return OF_ADAMW if momentum is None else OF_SGD if momentum else ()


def room(optimizer: Optimizer, parameter: nn.Parameter) -> dict[str, Tensor]:
    """What the optimizer keeps of a parameter, nothing in it yet."""
    kept, away = parameter.detach(), isinstance(optimizer, _OnHost)
    moments = moments_of(optimizer)
    found = {name: torch.zeros(local(kept).shape) if away else torch.zeros_like(kept) for name in moments}
    if moments == OF_ADAMW:
        found["step"] = torch.zeros((), dtype=torch.float32, device="cpu" if away else local(kept).device)
    return found


def step_of(group: Mapping[str, Any], weight: Tensor, gradient: Tensor, kept: Mapping[str, Tensor]) -> None:
    """A step of one whole tensor, as torch's fused optimizers make it; `kept` changes with it.

    Args:
        group: the settings of its group in the optimizer.
        weight: what is changed.
        gradient: its gradient.
        kept: as `room` has it, on the same device.
    """
    if "momentum" in group:
        functional_sgd(
            [weight],
            [gradient],
            [kept[name] for name in OF_SGD if name in kept],
            fused=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=False,
            maximize=False,
        )
        return
    functional_adamw(
        [weight],
        [gradient],
        [kept["exp_avg"]],
        [kept["exp_avg_sq"]],
        [],
        [kept["step"]],
        fused=True,
        amsgrad=False,
        beta1=group["betas"][0],
        beta2=group["betas"][1],
        lr=group["lr"],
        weight_decay=group["weight_decay"],
        eps=group["eps"],
        maximize=False,
    )


class _OnHost(Optimizer):
    """Moments on the host: each parameter's travel to the device, are changed there, and travel back.

    So a step is the one that the device makes anyway, to the last bit. Of a sharded parameter there is the local shard.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override] # nobody gives a closure
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    kept = self.state[parameter] or room(self, parameter)
                    self.state[parameter] = kept
                    weight = local(parameter)
                    there = {name: tensor.to(weight.device) for name, tensor in kept.items()}
                    step_of(group, weight, local(parameter.grad), there)
                    for name, tensor in there.items():
                        kept[name].copy_(tensor)


class OnHost(_OnHost, AdamW):
    """AdamW with its moments on the host."""


class SGDOnHost(_OnHost, SGD):
    """SGD with its momentum on the host."""
