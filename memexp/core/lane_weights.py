"""What several lanes learn, side by side: weights, gradients and moments, (lanes, numbers) each.

weights = LaneWeights(lm, 8, moments=2)
weights.stacked["lm.transformer.h.0.attn.c_attn.weight"]     # (8, *shape), a view
weights.step(3, optimizer, lr=1e-3, clip_norm=1.0)           # lane 3, with what `stacked` has for gradients
"""

from __future__ import annotations

import contextlib
import warnings
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from memexp.core.model import LanguageModel
from memexp.core.optimizer import moments_of, step_of

__all__ = ["LaneWeights"]

ALIGNED = 16
"""Numbers that parameters begin at multiples of, for vector units."""


class LaneWeights:
    """The learning parameters of a model, once for each lane, with gradients and room for moments."""

    def __init__(self, lm: LanguageModel, count: int, moments: int) -> None:
        """All lanes begin as `lm` is now, whose own parameters become those of lane 0.

        `moments`: numbers that optimizers will keep of each that learns, at most; room for more is made when it is
        asked for, where running out of memory is a lane's own failure.
        """
        learning = lm.learning()
        # In the order of the optimizer's groups: matrices, which decay, before vectors, which do not.
        self.names = sorted(learning, key=lambda name: learning[name].ndim < 2)
        self._matrices = sum(learning[name].ndim >= 2 for name in self.names)
        self._places: list[slice] = []
        end = 0
        for name in self.names:
            self._places.append(slice(end, end + learning[name].numel()))
            end += -(-learning[name].numel() // ALIGNED) * ALIGNED
        device = lm.world.device
        self.shapes = [learning[name].shape for name in self.names]
        self.values, self.gradients, *self._kept = (torch.zeros(count, end, device=device) for _ in range(2 + moments))
        self.steps = torch.zeros(count, len(self.names), device=device)
        self._seated: list[weakref.ref[Optimizer] | None] = [None] * count
        with torch.no_grad():
            for name, place in zip(self.names, self._places, strict=True):
                self.values[:, place] = learning[name].detach().reshape(1, -1)
        self.stacked = {name: self._stacked(at) for at, name in enumerate(self.names)}
        for name, parameter in self.of_lane(0).items():
            learning[name].data = parameter.data
        self._own: list[dict[str, nn.Parameter]] = []

    def _stacked(self, at: int) -> nn.Parameter:
        """All lanes' weights of one name, its gradient a view as well."""
        shape = (len(self.values), *self.shapes[at])
        parameter = nn.Parameter(self.values[:, self._places[at]].view(shape))
        parameter.grad = self.gradients[:, self._places[at]].view(shape)
        return parameter

    def of_lane(self, lane: int) -> dict[str, nn.Parameter]:
        """New parameters that are a lane's weights."""
        return {name: nn.Parameter(self._view(self.values, lane, at)) for at, name in enumerate(self.names)}

    def _view(self, whole: Tensor, lane: int, at: int) -> Tensor:
        return whole[lane, self._places[at]].view(self.shapes[at])

    def clear(self, lanes: Sequence[int]) -> None:
        """Gradients of these lanes are zero again."""
        if len(lanes) == len(self.gradients):
            self.gradients.zero_()
        else:
            self.gradients[list(lanes)] = 0

    def seat(self, models: Sequence[LanguageModel]) -> None:
        """The models of all lanes, by whose parameters optimizers know their moments; these have their place here from
        the beginning, or for a while there would be two of them."""
        self._own = [model.learning() for model in models]
        for lane, model in enumerate(models):
            model.seat = partial(self._take_in, lane)

    @staticmethod
    def leave(lm: LanguageModel) -> None:
        """`lm`, lane 0, has its parameters for itself again."""
        lm.seat = None
        for parameter in lm.learning().values():
            parameter.data, parameter.grad = parameter.data.clone(), None

    def step(self, lane: int, optimizer: Optimizer, lr: float, clip_norm: float | None) -> None:
        """A step of one lane, as torch's optimizer makes it after torch's `clip_grad_norm_`."""
        self._take_in(lane, optimizer)
        gradient = self.gradients[lane]
        if clip_norm is not None:
            norm = torch.linalg.vector_norm(gradient)
            gradient.mul_((clip_norm / (norm + 1e-6)).clamp(max=1.0))
        for group in optimizer.param_groups:
            group["lr"] = lr
            decays = group["params"][0].ndim >= 2
            first, last = (0, self._matrices) if decays else (self._matrices, len(self.names))
            part = slice(self._places[first].start, self._places[last - 1].stop)
            kept = {name: whole[lane, part] for name, whole in self._moments(optimizer)}
            kept["step"] = self.steps[lane, first].clone()
            step_of(group, self.values[lane, part], gradient[part], kept)
        self.steps[lane] += 1

    def _moments(self, optimizer: Optimizer) -> Iterable[tuple[str, Tensor]]:
        """Where its moments are, by their names: it has two, one or none of them."""
        names = moments_of(optimizer)
        while len(self._kept) < len(names):
            self._kept.append(torch.zeros_like(self.values))
        return zip(names, self._kept, strict=False)

    @torch.no_grad()
    def _take_in(self, lane: int, optimizer: Optimizer) -> None:
        """What `optimizer` keeps is in this lane's rows from now on, where it may change it by itself too."""
        seated = self._seated[lane]
        if seated is not None and seated() is optimizer:
            return
        for at, name in enumerate(self.names):
            parameter = self._own[lane][name]
            kept = optimizer.state.get(parameter) or {}
            views = {key: self._view(whole, lane, at) for key, whole in self._moments(optimizer)}
            if "momentum" not in optimizer.param_groups[0]:  # AdamW counts
                views["step"] = self.steps[lane, at]
            for key, view in views.items():
                view.copy_(kept[key]) if key in kept else view.zero_()
            optimizer.state[parameter] = views
        self._seated[lane] = weakref.ref(optimizer)

    def unused(self, work: Callable[[], None]) -> str | None:
        """A parameter that has no gradient after `work`, a pass forward and back; afterwards none has."""
        used: set[int] = set()
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda one: used.add(id(one)))
            for parameter in self.stacked.values()
        ]
        try:
            with warnings.catch_warnings():
                # Once a process torch says that gradients with gaps between the lanes may be slower.
                warnings.filterwarnings("ignore", "grad and param do not obey")
                work()
        finally:
            for hook in hooks:
                hook.remove()
            self.gradients.zero_()
        return next((name for name, parameter in self.stacked.items() if id(parameter) not in used), None)

    @contextlib.contextmanager
    def stirred(self, amount: float) -> Iterator[None]:
        """With weights that differ from lane to lane, meanwhile, where all are alike."""
        before, draws = self.values[0].clone(), torch.Generator().manual_seed(0)
        for lane in self.values:  # one by one: noise for all would take as much memory as all
            lane.add_(torch.randn(lane.shape, generator=draws).to(lane.device), alpha=amount)
        try:
            yield
        finally:
            self.values.copy_(before.expand_as(self.values))
