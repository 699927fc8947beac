"""The samplers of a search, as optuna knows them: the next point depends on its number and on what was told before.

sampler = Sampler(search)
OptunaSearch(distributions(search), sampler=sampler, ...)
sampler.at(3)  # before suggestion 3 is asked for
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from memexp.spec import Choices, Integers, Point, Search

__all__ = ["SPREAD", "Sampler", "distributions"]

SPREAD = 4
"""Points that are spread evenly before a sampler chooses: measured by ``python -m benchmarks --parts search``."""
SPREADS = 1000
"""Evenly spread points that are looked at for one that was not tried yet."""


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
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.search = search
        self.at(0)

    def at(self, index: int) -> None:
        """The next point is that of suggestion `index`."""
        self.index = index
        self.inner = _made(self.search, int(_share(self.search.seed, index) * 2**32))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is chosen together: nothing while points are spread, otherwise whatever there is to choose."""
        if self._spreads(study, trial):
            return {}
        return {name: domain for name, domain in distributions(self.search).items() if not domain.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of what is chosen together."""
        if not search_space or self.search.sampler == "random":
            return {}
        if self.search.sampler == "gp":
            seen = _completed(study)
            seen.sampler = self.inner
            chosen = seen.ask(search_space).params
        else:
            chosen = self.inner.sample_relative(study, trial, search_space)
        chosen = {name: _at_edge(search_space[name], value) for name, value in chosen.items()}
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        tried = [{name: other.params.get(name) for name in chosen} for other in others]
        return chosen if chosen not in tried else self._untried(tried, search_space) or chosen

    def _untried(self, tried: Sequence[Point], search_space: dict[str, BaseDistribution]) -> dict[str, Any] | None:
        """A point that is not one of `tried`, None where none is found: trained again, a point teaches nothing.

        At the edge of a space a Gaussian process asks for the same one again and again.
        """
        space = list(self.search.space)
        for number in range(self.index, self.index + SPREADS):
            point = {
                name: _value(domain, _spread(self.search.seed, number, space.index(name)))
                for name, domain in search_space.items()
            }
            if point not in tried:
                return point
        return None

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value by itself."""
        if self._spreads(study, trial):
            dimension = list(self.search.space).index(param_name)
            return _value(param_distribution, _spread(self.search.seed, self.index, dimension))
        return self.inner.sample_independent(study, trial, param_name, param_distribution)

    def _spreads(self, study: Study, trial: FrozenTrial) -> bool:
        if self.search.sampler == "random":
            return False
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        tried = [other for other in trials if other.state != TrialState.FAIL]
        return len(tried) < SPREAD or all(_so_far(other) is None for other in tried)


def _made(search: Search, seed: int) -> BaseSampler:
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    if search.sampler == "tpe":
        return TPESampler(seed=seed, n_startup_trials=0, multivariate=True)
    from optuna.samplers import GPSampler  # imports torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the argument is called experimental; what is trained twice is the same here
        return GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True)


def _completed(study: Study) -> Study:
    """The study as a Gaussian process is to see it, which looks at nothing but complete trials.

    What was stopped counts with its last value, and what diverged as worse than all others.
    """
    trials = study.get_trials(deepcopy=False)
    over = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    found = optuna.create_study(direction=study.direction)
    for trial, value in zip(over, _by_rank([_so_far(trial) for trial in over], study.direction), strict=True):
        found.add_trial(create_trial(value=value, params=trial.params, distributions=trial.distributions))
    for trial in trials:
        if trial.state == TrialState.RUNNING and trial.params:
            found.add_trial(create_trial(state=trial.state, params=trial.params, distributions=trial.distributions))
    return found


def _by_rank(values: Sequence[float | None], direction: StudyDirection) -> list[float]:
    """The quantiles of a normal distribution in the order of `values`; equal ones, and all None, have the same.

    A learning rate that is far too high costs a hundred times what the best ones differ by: of the values themselves
    a Gaussian process sees the cliff and not the valley.
    """
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    losses = [math.inf if value is None else sign * value for value in values]
    ranks = [sum(other < loss for other in losses) + losses.count(loss) / 2 for loss in losses]
    return [sign * NormalDist().inv_cdf(rank / len(losses)) for rank in ranks]


def _so_far(trial: FrozenTrial) -> float | None:
    """The last value of a trial that is over; None where it has none."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    if trial.state == TrialState.PRUNED and trial.last_step is not None:
        return trial.intermediate_values[trial.last_step]
    return None


def _share(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _spread(seed: int, index: int, dimension: int) -> float:
    """Member `index` of an additive recurrence in [0, 1), which covers it evenly however many are taken.

    The first dimension's steps are the golden ratio; the others' are irrational to it and to each other.
    """
    ratio = (math.sqrt((5, 2, 13, 17, 21, 29)[dimension % 6]) + 1) / 2
    return (_share(seed, dimension, 0) + index * ratio) % 1


def _at_edge(domain: BaseDistribution, value: Any) -> Any:
    """`value`, or the bound of its domain that it differs from by rounding only: to the store 1e-4 is one number."""
    if isinstance(domain, FloatDistribution):
        return next((edge for edge in (domain.low, domain.high) if math.isclose(value, edge, rel_tol=1e-12)), value)
    return value


def _value(domain: BaseDistribution, share: float) -> Any:
    """The value of a domain that so large a share of it lies below."""
    if isinstance(domain, CategoricalDistribution):
        return domain.choices[int(share * len(domain.choices))]
    assert isinstance(domain, IntDistribution | FloatDistribution)  # there is no other
    whole = isinstance(domain, IntDistribution)
    low, high = domain.low, domain.high + whole
    at = low * (high / low) ** share if domain.log else low + (high - low) * share
    return min(int(at), domain.high) if whole else min(at, domain.high)
