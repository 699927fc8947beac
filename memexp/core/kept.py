"""What is kept of a trajectory: tensors by name, and all else as JSON of a fixed form.

tensors(lm, optimizer)                      # everything learned, and what the optimizer keeps of it
state(lm, optimizer, steps, said, draws)    # the rest; `said` tells in which files the tensors are
prepared(lm, settings, state)               # an optimizer that the tensors can be read into
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from memexp.core.model import LanguageModel
from memexp.core.optimizer import MOMENTS, fresh_optimizer, moments_of, room
from memexp.core.processes import World
from memexp.core.slices import Layout
from memexp.core.train import Step
from memexp.spec import Training
from memexp.store.snapshots import Form, Unfit

__all__ = ["State", "draws", "like", "prepared", "set_draws", "state", "tensors"]


class Group(Form):
    """Parameters that the optimizer treats alike, and how. What is not here is the code's own (optimizer.py)."""

    parameters: tuple[str, ...]
    lr: float
    weight_decay: float
    betas: tuple[float, float] | None = None
    eps: float | None = None
    momentum: float | None = None
    """Of SGD, which has none of the two before."""


class State(Form):
    """What of a trajectory's state is no tensor."""

    layout: Layout
    groups: tuple[Group, ...]
    taken: dict[str, float]
    """Steps that AdamW has made, by parameter; without those that no pass has used."""
    device: str
    draws: tuple[str, ...]
    """The state of each rank's generator on such a device, in base 64."""
    steps: tuple[tuple[int, int, float | None, float, int], ...]
    """The fields of each `Step` of the stage so far."""


def state(lm: LanguageModel, optimizer: Optimizer, steps: Sequence[Step], said: Layout, draws: Sequence[str]) -> State:
    """What of a trajectory is no tensor; `steps` and `draws` as the fields of `State`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in lm.learning().items()}
    groups = [
        Group(
            parameters=tuple(names[parameter] for parameter in group["params"]),
            betas=(float(group["betas"][0]), float(group["betas"][1])) if "betas" in group else None,
            **{name: float(group[name]) for name in ("lr", "eps", "weight_decay", "momentum") if name in group},
        )
        for group in optimizer.param_groups
    ]
    return State(
        layout=said,
        groups=tuple(groups),
        taken={names[parameter]: float(kept["step"]) for parameter, kept in optimizer.state.items() if "step" in kept},
        device=lm.world.device.type,
        draws=tuple(draws),
        steps=tuple(dataclasses.astuple(step) for step in steps),
    )


def tensors(lm: LanguageModel, optimizer: Optimizer) -> dict[str, Tensor]:
    """All that is kept, by name: of the model what learns and what its passes leave behind, of the optimizer all."""
    found: dict[str, Tensor] = {f"weights/{name}": parameter for name, parameter in lm.learning().items()}
    kept = lm.state_dict().keys()
    found |= {f"buffers/{name}": buffer for name, buffer in lm.named_buffers() if name in kept}
    for name, parameter in lm.learning().items():
        kept_of = optimizer.state.get(parameter)
        found |= {f"{moment}/{name}": kept_of[moment] for moment in moments_of(optimizer)} if kept_of else {}
    return found


def like(lm: LanguageModel) -> dict[str, Tensor]:
    """The parameters whose slices the moments are, by the names of these."""
    return {f"{moment}/{name}": parameter for name, parameter in lm.learning().items() for moment in MOMENTS}


def prepared(lm: LanguageModel, settings: Training, state: State) -> Optimizer:
    """A new optimizer with the settings it had, and room for its moments. Raises Unfit: it is of another."""
    learning = lm.learning()
    names = {parameter: name for name, parameter in learning.items()}
    was = [group.model_dump(exclude={"parameters"}, exclude_none=True) for group in state.groups]
    optimizer = fresh_optimizer(lm, settings, was)
    for group, kept in zip(optimizer.param_groups, state.groups, strict=True):
        if tuple(names[parameter] for parameter in group["params"]) != kept.parameters:
            raise Unfit("it is of other parameters than the model has")
    for name, count in state.taken.items():
        parameter = learning[name]
        optimizer.state[parameter] = here = optimizer.state.get(parameter) or room(optimizer, parameter)
        here["step"].fill_(count)
    return optimizer


def draws(world: World) -> str:
    """The state of this rank's generator."""
    found = torch.cuda.get_rng_state(world.device) if world.device.type == "cuda" else torch.get_rng_state()
    return base64.b64encode(bytes(found.tolist())).decode()


def set_draws(world: World, draws: str) -> None:
    """Have this rank's generator go on from there."""
    state = torch.tensor(list(base64.b64decode(draws, validate=True)), dtype=torch.uint8)
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(state, world.device)
    else:
        torch.set_rng_state(state)
