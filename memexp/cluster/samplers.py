"""The samplers of a search, as optuna knows them: the next point depends on its number and on what was told before."""

from __future__ import annotations

import hashlib
import math
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from memexp.spec import Choices, Integers, Search

__all__ = ["Sampler", "distributions"]


def distributions(search: Search) -> dict[str, BaseDistribution]:
    """The space of `search`."""
    found: dict[str, BaseDistribution] = {}
    for name, domain in search.space.items():
        if isinstance(domain, Choices):
            found[name] = CategoricalDistribution(domain.options)
        elif isinstance(domain, Integers):
            found[name] = IntDistribution(domain.low, domain.high, log=domain.log)
        else:
            found[name] = FloatDistribution(domain.low, domain.high, log=domain.log)
    return found


class Sampler(BaseSampler):
    """A sampler that begins anew for every suggestion, from the search's seed and the suggestion's number.

    So a search that goes on in another process draws what it would have drawn in the first, given the same values.
    """

    def __init__(self, search: Search) -> None:
        self.search = search
        self.at(0)

    def at(self, index: int) -> None:
        """The next point is that of suggestion `index`."""
        self.index = index
        digest = hashlib.sha256(f"{self.search.seed}/{index}".encode()).digest()
        self.inner = _made(self.search, int.from_bytes(digest[:4], "big"))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """As optuna asks it of every sampler."""
        return {} if self._starting(study) else self.inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As optuna asks it of every sampler."""
        return self.inner.sample_relative(study, trial, search_space) if search_space else {}

    def sample_independent(self, study: Study, trial: FrozenTrial, name: str, domain: BaseDistribution) -> Any:
        """One value; of the first suggestions evenly spread."""
        if not self._starting(study):
            return self.inner.sample_independent(study, trial, name, domain)
        return _value(domain, _spread(self.search.seed, self.index, list(self.search.space).index(name)))

    def _starting(self, study: Study) -> bool:
        if self.search.sampler == "random":
            return False
        states = (TrialState.COMPLETE, TrialState.PRUNED)
        return len(study.get_trials(deepcopy=False, states=states)) < start_points(self.search)


def start_points(search: Search) -> int:
    """Points that are spread evenly before a sampler chooses."""
    return 4


def _made(search: Search, seed: int) -> BaseSampler:
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    if search.sampler == "gp":
        from optuna.samplers import GPSampler  # imports torch

        return GPSampler(seed=seed, n_startup_trials=0)
    return TPESampler(seed=seed, n_startup_trials=0, multivariate=True)


def _spread(seed: int, index: int, dimension: int) -> float:
    """Member `index` of an additive recurrence in [0, 1), which covers it evenly however many are taken."""
    start = int.from_bytes(hashlib.sha256(f"{seed}/{dimension}".encode()).digest()[:4], "big") / 2**32
    ratio = (math.sqrt((2, 5, 13, 17)[dimension % 4]) * (1 + dimension // 4) + 1) / 2
    return (start + index * ratio) % 1


def _value(domain: BaseDistribution, share: float) -> Any:
    """The value of a domain that so large a share of it lies below."""
    if isinstance(domain, CategoricalDistribution):
        return domain.choices[int(share * len(domain.choices))]
    assert isinstance(domain, IntDistribution | FloatDistribution)  # there is no other
    whole = isinstance(domain, IntDistribution)
    low, high = domain.low, domain.high + whole
    at = low * (high / low) ** share if domain.log else low + (high - low) * share
    return min(int(at), domain.high) if whole else min(at, domain.high)
