"""The base model of a trial, kept warm: trials on the same base that follow each other in a process load it once.

base = WarmBase()
lm, untaught = base.get(stage, resources, world)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from memexp.core import fork
from memexp.core.batch_sizes import budget_of
from memexp.core.fork import Fork
from memexp.core.lanes import Lanes
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.original import original
from memexp.core.processes import World
from memexp.plan import Stage
from memexp.spec import Resources

if TYPE_CHECKING:
    from memexp.trial.walk import Walk

__all__ = ["WarmBase", "renew"]


class WarmBase:
    """Holds the base model that was asked for last, and the way back to its weights as loaded."""

    def __init__(self) -> None:
        self._key: tuple[str, Resources, World] | None = None
        self._held: tuple[LanguageModel, Fork] | None = None
        self._lanes: Lanes | None = None

    def renewed(self, stage: Stage, resources: Resources, world: World) -> tuple[LanguageModel, Fork]:
        """As `get`, whatever has become of the model that is held."""
        self._key = self._held = self._lanes = None
        return self.get(stage, resources, world)

    def get(self, stage: Stage, resources: Resources, world: World) -> tuple[LanguageModel, Fork]:
        """The model of a base stage with its weights as loaded, and the way back to these. All ranks of `world` call.

        Raises what `memexp.core.load.load` raises.
        """
        key = (stage.id, resources, world)
        if self._held is not None and self._key == key:
            torch.set_num_threads(resources.threads)  # as `load` does: a probe of the user's own may have changed them
            lm, loaded = self._held
            fork.restore(lm, loaded, None)
            return self._held
        self._key = self._held = self._lanes = None  # let go of the old one before the new one needs the memory
        _limit_memory(resources, world)
        lm = load(stage.model, stage.method, stage.dtype, world, resources)
        self._key, self._held = key, (lm, original(lm))
        return self._held

    @property
    def count(self) -> int:
        """How many lanes its model has."""
        return 1 if self._lanes is None else len(self._lanes.models)

    def lanes(self, lm: LanguageModel, count: int, moments: int) -> Lanes:
        """The model that `get` gave, as so many lanes, of which it is the first; `moments`: as for `Lanes`.

        Raises, with the model as it was, ModelError where its architecture has none, and what torch does where there
        is no memory for them.
        """
        if self._lanes is None:
            assert self._key is not None
            before, lm.budget = lm.budget, budget_of(lm, self._key[1], lanes=count)
            try:
                self._lanes = Lanes(lm, count, moments)
            except BaseException:
                lm.budget = before
                raise
        return self._lanes


def renew(walk: Walk, base: WarmBase) -> None:
    """Load a trial's model anew, as nobody knows what the present one is, or has as many lanes: it is at the base."""
    lm, loaded = base.renewed(walk.trial.base, walk.trial.resources, walk.world)
    walk.state = walk.state.with_model(lm, loaded)
    walk.saver.back_at(walk.trial.base.id)


def _limit_memory(resources: Resources, world: World) -> None:
    """Of a GPU that is shared, take no more of its memory than was asked for of it: the rest is another trial's."""
    if world.device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, resources.gpus), world.device)
