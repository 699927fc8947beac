"""What is kept of a trajectory: tensors by name, and all else as JSON of a fixed form.

tensors(lm, optimizer)                      # everything learned, and what the optimizer keeps of it
state(lm, optimizer, steps, said, draws)    # the rest; `said` tells in which files the tensors are
prepare(lm, optimizer, state)               # makes a fresh optimizer one that the tensors can be read into
"""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import AdamW

from memexp.core.model import LanguageModel
from memexp.core.optimizer import MOMENTS, room
from memexp.core.processes import World
from memexp.core.slices import Layout
from memexp.core.train import Step
from memexp.store.snapshots import Form, Unfit

__all__ = ["State", "draws", "like", "prepare", "set_draws", "state", "tensors"]


class Group(Form):
    """Parameters that the optimizer treats alike, and how. What is not here is the code's own (optimizer.py)."""

    parameters: tuple[str, ...]
    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float


class State(Form):
    """What of a trajectory's state is no tensor."""

    layout: Layout
    groups: tuple[Group, ...]
    taken: dict[str, float]
    """Steps that the optimizer has made, by parameter; without those that no pass has used."""
    device: str
    draws: tuple[str, ...]
    """The state of each rank's generator on such a device, in base 64."""
    steps: tuple[tuple[int, int, float | None, float, int], ...]
    """The fields of each `Step` of the stage so far."""


def state(lm: LanguageModel, optimizer: AdamW, steps: Sequence[Step], said: Layout, draws: Sequence[str]) -> State:
    """What of a trajectory is no tensor; `steps` and `draws` as the fields of `State`."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in lm.learning().items()}
    groups = [
        Group(
            parameters=tuple(names[parameter] for parameter in group["params"]),
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            **{name: float(group[name]) for name in ("lr", "eps", "weight_decay")},
        )
        for group in optimizer.param_groups
    ]
    return State(
        layout=said,
        groups=tuple(groups),
        taken={names[parameter]: float(kept["step"]) for parameter, kept in optimizer.state.items()},
        device=lm.world.device.type,
        draws=tuple(draws),
        steps=tuple(dataclasses.astuple(step) for step in steps),
    )


def tensors(lm: LanguageModel, optimizer: AdamW) -> dict[str, Tensor]:
    """All that is kept, by name: of the model what learns and what its passes leave behind, of the optimizer all."""
    found: dict[str, Tensor] = {f"weights/{name}": parameter for name, parameter in lm.learning().items()}
    kept = lm.state_dict().keys()
    found |= {f"buffers/{name}": buffer for name, buffer in lm.named_buffers() if name in kept}
    for name, parameter in lm.learning().items():
        moments = optimizer.state.get(parameter)
        found |= {f"{moment}/{name}": moments[moment] for moment in MOMENTS} if moments else {}
    return found


def like(lm: LanguageModel) -> dict[str, Tensor]:
    """The parameters whose slices the moments are, by the names of these."""
    return {f"{moment}/{name}": parameter for name, parameter in lm.learning().items() for moment in MOMENTS}


def prepare(lm: LanguageModel, optimizer: AdamW, state: State) -> None:
    """Give a fresh optimizer the settings it had, and room for its moments. Raises Unfit: it is of another."""
    learning = lm.learning()
    names = {parameter: name for name, parameter in learning.items()}
    for group, kept in zip(optimizer.param_groups, state.groups, strict=True):
        if tuple(names[parameter] for parameter in group["params"]) != kept.parameters:
            raise Unfit("it is of other parameters than the model has")
        group |= {"lr": kept.lr, "betas": kept.betas, "eps": kept.eps, "weight_decay": kept.weight_decay}
    for name, count in state.taken.items():
        parameter = learning[name]
        optimizer.state[parameter] = fresh = room(optimizer, parameter)
        fresh["step"].fill_(count)


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
