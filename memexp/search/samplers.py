"""The samplers of a search, as optuna knows them: the next point depends on its number and on what was told before.

    sampler = Sampler(search)
    OptunaSearch(distributions(search), sampler=sampler, ...)
    sampler.start(3)  # before suggestion 3 is asked for

The first points of a search are spread evenly over its space; after them a Gaussian process, TPE or chance chooses.
"""

from __future__ import annotations

import hashlib
import math
import warnings
from collections.abc import Collection, Sequence
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

Distribution = CategoricalDistribution | IntDistribution | FloatDistribution
"""What a domain of a search is to optuna."""


def distributions(search: Search) -> dict[str, Distribution]:
    """The space of `search`, as optuna describes one."""
    found: dict[str, Distribution] = {}
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
        self.start(0)

    def start(self, index: int) -> None:
        """The next point is that of suggestion `index`."""
        self.index = index
        self.chooser = _optuna_sampler(self.search, int(_fraction(self.search.seed, index) * 2**32))

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is chosen together: nothing while points are spread, otherwise whatever there is to choose."""
        if self._is_spreading(study, trial):
            return {}
        return {name: domain for name, domain in distributions(self.search).items() if not domain.single()}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The values of what is chosen together."""
        if not search_space or self.search.sampler == "random":
            return {}
        if self.search.sampler == "gp":
            seen = _ranked(study)
            seen.sampler = self.chooser
            chosen = seen.ask(search_space).params
        else:
            chosen = self.chooser.sample_relative(study, trial, search_space)
        chosen = {name: _snapped(search_space[name], value) for name, value in chosen.items()}
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        tried = [{name: other.params.get(name) for name in chosen} for other in others]
        return chosen if chosen not in tried else self._untried_point(tried, search_space) or chosen

    def _untried_point(self, tried: Sequence[Point], names: Collection[str]) -> dict[str, Any] | None:
        """A point that is not one of `tried`, None where none is found: trained again, a point teaches nothing.

        At the edge of a space a Gaussian process asks for the same one again and again.
        """
        for number in range(self.index, self.index + SPREADS):
            point = {name: self._even_value(name, number) for name in names}
            if point not in tried:
                return point
        return None

    def _even_value(self, name: str, number: int) -> Any:
        """The value that evenly spread point `number` has for one name of the space."""
        dimension = list(self.search.space).index(name)
        return _value_at(distributions(self.search)[name], _even_fraction(self.search.seed, number, dimension))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """One value by itself."""
        if self._is_spreading(study, trial):
            return self._even_value(param_name, self.index)
        return self.chooser.sample_independent(study, trial, param_name, param_distribution)

    def _is_spreading(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the next point is one of the evenly spread ones: as long as there is little to learn from."""
        if self.search.sampler == "random":
            return False
        trials = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        tried = [other for other in trials if other.state != TrialState.FAIL]
        return len(tried) < SPREAD or all(_last_value(other) is None for other in tried)


def _optuna_sampler(search: Search, seed: int) -> BaseSampler:
    """What chooses the points of a search once the evenly spread ones are over."""
    if search.sampler == "random":
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arguments are called experimental; what is trained twice is the same here
        if search.sampler == "tpe":
            # What is being tried counts as bad, or those tried together are alike: no default before optuna 5.
            return TPESampler(seed=seed, n_startup_trials=0, multivariate=True, constant_liar=True)
        from optuna.samplers import GPSampler  # imports torch

        return GPSampler(seed=seed, n_startup_trials=0, deterministic_objective=True)


def _ranked(study: Study) -> Study:
    """The study as a Gaussian process is to see it, which looks at nothing but complete trials.

    What was stopped counts with its last value, and what diverged as worse than all others.
    """
    trials = study.get_trials(deepcopy=False)
    over = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
    found = optuna.create_study(direction=study.direction)
    for trial, value in zip(over, _normal_scores([_last_value(trial) for trial in over], study.direction), strict=True):
        found.add_trial(create_trial(value=value, params=trial.params, distributions=trial.distributions))
    for trial in trials:
        if trial.state == TrialState.RUNNING and trial.params:
            found.add_trial(create_trial(state=trial.state, params=trial.params, distributions=trial.distributions))
    return found


def _normal_scores(values: Sequence[float | None], direction: StudyDirection) -> list[float]:
    """The quantiles of a normal distribution in the order of `values`; equal ones, and all None, have the same.

    A learning rate that is far too high costs a hundred times what the best ones differ by: of the values themselves
    a Gaussian process sees the cliff and not the valley.
    """
    sign = 1 if direction == StudyDirection.MINIMIZE else -1
    losses = [math.inf if value is None else sign * value for value in values]
    ranks = [sum(other < loss for other in losses) + losses.count(loss) / 2 for loss in losses]
    return [sign * NormalDist().inv_cdf(rank / len(losses)) for rank in ranks]


def _last_value(trial: FrozenTrial) -> float | None:
    """The last value of a trial that is over; None where it has none."""
    if trial.state == TrialState.COMPLETE:
        return trial.value
    if trial.state == TrialState.PRUNED and trial.last_step is not None:
        return trial.intermediate_values[trial.last_step]
    return None


def _fraction(*key: int) -> float:
    """A number in [0, 1) that depends on `key` alone."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def _even_fraction(seed: int, index: int, dimension: int) -> float:
    """Member `index` of an additive recurrence in [0, 1), which covers it evenly however many are taken.

    The first dimension's steps are the golden ratio; the others' are irrational to it and to each other.
    """
    ratio = (math.sqrt((5, 2, 13, 17, 21, 29)[dimension % 6]) + 1) / 2
    return (_fraction(seed, dimension, 0) + index * ratio) % 1


def _snapped(domain: BaseDistribution, value: Any) -> Any:
    """`value`, or the bound of its domain that it differs from by rounding only: to the store 1e-4 is one number."""
    if isinstance(domain, FloatDistribution):
        return next((edge for edge in (domain.low, domain.high) if math.isclose(value, edge, rel_tol=1e-12)), value)
    return value


def _value_at(domain: Distribution, fraction: float) -> Any:
    """The value of a domain that this fraction of it lies below; where its scale is a logarithm, of its logarithms."""
    if isinstance(domain, CategoricalDistribution):
        return domain.choices[int(fraction * len(domain.choices))]
    whole = isinstance(domain, IntDistribution)
    low, high = domain.low, domain.high + whole
    at = low * (high / low) ** fraction if domain.log else low + (high - low) * fraction
    return min(int(at), domain.high) if whole else min(at, domain.high)
