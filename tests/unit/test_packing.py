"""Trees of the forest as trials: every one in one, places busy to the end, and long ones cut where that gains."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from unit.test_plan import PER_EXPOSURE, Grid, grid, names

from memexp.plan import Ask, BaseStage, Forest, Trial, bundle, grow
from memexp.probes import Recall, Recognition
from memexp.spec import Forget, Interference, LoRA, Pair, Resources

__all__ = ["grid"]  # a fixture


def check(forest: Forest, asks: Sequence[Ask], trials: Sequence[Trial]) -> None:
    """What holds for any bundling."""
    assert names(list(itertools.chain.from_iterable(trial.asks for trial in trials))) == names(asks)
    trained = Counter(stage.id for trial in trials for stage in trial.stages)
    assert set(trained.values()) <= {1}, "a stage is trained twice"
    needed = {stage.id for ask in asks for stage in forest.path(ask.stage)[1:]}
    assert set(trained) == needed
    for trial in trials:
        assert trial.asks
        known = {trial.base.id}
        for stage in trial.stages:
            assert stage.parent in known
            known.add(stage.id)
        assert {ask.stage for ask in trial.asks} <= known
        assert trial.resources == forest.resources[trial.base.id]
        assert {stage.corpus for stage in trial.stages} - {None} <= set(trial.texts)
        assert {text for ask in trial.asks for text in ask.corpora.values()} <= set(trial.texts)


def trees(forest: Forest) -> int:
    return sum(1 for stage in forest.stages.values() if stage.parent in forest.resources)


@pytest.fixture
def wide(grid: Grid, pair: Pair) -> Forest:
    """Two bases, eleven trees, untrained models asked about by several conditions each."""
    probes = [Recognition(pair), Recall()]
    full = [
        grid(exposures=n, lr=lr, seed=s, probes=probes)
        for n in (0, 1, 3)
        for lr in (1e-4, 1e-3, 1e-2)
        for s in (0, 1, 2)
    ]
    return grow([*full, *(grid(exposures=n, seed=s, method=LoRA(), probes=probes) for n in (0, 2) for s in (0, 1))])


@pytest.mark.parametrize("slots", [1, 2, 3, 100])
def test_every_result_is_asked_of_exactly_one_trial(wide: Forest, slots: int) -> None:
    trials = bundle(wide, wide.asks, lambda _: slots)
    check(wide, wide.asks, trials)
    assert min(11, slots) <= len(trials) <= trees(wide) == 11


def test_the_untrained_model_is_asked_in_one_trial(wide: Forest) -> None:
    for base in wide.resources:
        asking = [t for t in bundle(wide, wide.asks, lambda _: 2) if any(ask.stage == base for ask in t.asks)]
        assert len(asking) == 1


def test_only_what_is_missing_is_trained(wide: Forest) -> None:
    some = [ask for ask in wide.asks if ask.settings["lr"] == 1e-2 and ask.settings["exposures"] == 1]
    trials = bundle(wide, some, lambda _: 100)
    check(wide, some, trials)
    assert sum(trial.steps for trial in trials) == 3 * PER_EXPOSURE


def test_untrained_models_alone_need_one_trial_each(grid: Grid) -> None:
    forest = grow(grid(exposures=0, seed=s, method=method) for s in (0, 1) for method in (LoRA(), LoRA(r=4)))
    trials = bundle(forest, forest.asks, lambda _: 8)
    check(forest, forest.asks, trials)
    assert [(len(trial.asks), trial.steps) for trial in trials] == [(2, 0), (2, 0)]


@pytest.mark.parametrize("slots", [0, 1, 2])
def test_worker_groups_are_as_many_as_fit(grid: Grid, slots: int) -> None:
    """Each takes long to start, so there is no second round of them."""
    forest = grow((grid(lr=lr, seed=s) for lr in (1e-3, 1e-2) for s in range(3)), Resources(workers=2))
    trials = bundle(forest, forest.asks, lambda _: slots)
    check(forest, forest.asks, trials)
    assert len(trials) == max(1, slots)


def over(lengths: Sequence[float], places: int) -> float:
    """When the last of trials ends, each of which begins where a place is free first."""
    free = [0.0] * places
    for length in lengths:
        free[free.index(min(free))] += length
    return max(free)


class Ticks:
    """A second a step; what else takes time is said."""

    def __init__(self, start: float = 0, cut: float = 0) -> None:
        self._start, self._cut = start, cut

    def seconds(self, trial: Trial) -> float:
        return trial.steps

    def start(self, base: BaseStage, resources: Resources) -> float:
        return self._start

    def cut(self, base: BaseStage, resources: Resources) -> float:
        return self._cut


def test_the_longest_come_first_and_the_last_are_short(grid: Grid) -> None:
    forest = grow(grid(exposures=1 + seed % 7, seed=seed) for seed in range(200))
    trials = bundle(forest, forest.asks, lambda _: 4, Ticks())
    check(forest, forest.asks, trials)
    steps = [trial.steps for trial in trials]
    share = forest.steps / 4
    assert steps == sorted(steps, reverse=True) and steps[0] > 0.45 * share and steps[-1] < 0.05 * share
    assert len(trials) < 4 * 12
    assert over(steps, 4) < 1.02 * share
    assert over(steps[::-1], 4) > 1.1 * share


def test_a_start_that_takes_long_is_made_less_often(grid: Grid) -> None:
    forest = grow(grid(exposures=2, seed=seed) for seed in range(100))
    counts = [len(bundle(forest, forest.asks, lambda _: 4, Ticks(start))) for start in (0, 6, 1e9)]
    assert counts[0] > counts[1] > counts[2] == 4


def test_groups_of_workers_come_before_what_could_take_their_places(grid: Grid) -> None:
    small = [grid(exposures=3, seed=seed) for seed in range(6)]
    sharded = [grid(seed=seed, method=LoRA()) for seed in range(2)]
    forest = grow([*small, *sharded])
    base = forest.base(next(ask.stage for ask in forest.asks if ask.settings["method"] == "lora")).id
    forest.resources[base] = Resources(workers=2)
    trials = bundle(forest, forest.asks, lambda resources: 4 // resources.workers, Ticks())
    assert [trial.resources.workers for trial in trials] == sorted((t.resources.workers for t in trials), reverse=True)


# Cutting


def forks(grid: Grid, count: int, seeds: Sequence[int] = (0,)) -> list[Any]:
    """Studies of two exposures, each with so many kinds of interference of 30 steps, and one with a block reset."""
    study = [grid(exposures=2, seed=seed) for seed in seeds]
    lrs = [1e-4 * (1 + number) for number in range(count)]
    after = [
        dataclasses.replace(one, interference=Interference(one.study.corpus, steps=30, lr=lr, batch_size=4))
        for one in study
        for lr in lrs
    ]
    return [*study, *after, *(dataclasses.replace(one, forget=Forget(from_layer=1)) for one in study)]


def test_a_long_tree_is_cut_where_its_study_ends(grid: Grid) -> None:
    forest = grow(forks(grid, 8))
    trials = bundle(forest, forest.asks, lambda _: 4, Ticks())
    first, *rest = trials
    assert (first.phase, first.steps, len(first.leaves)) == (0, 2 * PER_EXPOSURE, 1) and not first.given
    assert {trial.phase for trial in rest} == {1} and all(trial.given == {s.id for s in first.stages} for trial in rest)
    assert not any(trial.leaves for trial in rest) and len(rest) >= 4
    assert sum(trial.steps for trial in trials) == forest.steps
    assert names([ask for trial in trials for ask in trial.asks]) == names(forest.asks)
    assert first.steps + over([trial.steps for trial in rest], 4) < 0.4 * forest.steps


@pytest.mark.parametrize(
    ("places", "seeds", "cut"),
    [(1, 1, 0), (4, 4, 0), (4, 1, 1e3)],
    ids=["one place", "as many trees as places", "a cut takes longer"],
)
def test_where_nothing_is_gained_nothing_is_cut(grid: Grid, places: int, seeds: int, cut: float) -> None:
    forest = grow(forks(grid, 8, range(seeds)))
    trials = bundle(forest, forest.asks, lambda _: places, Ticks(cut=cut))
    check(forest, forest.asks, trials)
    assert {trial.phase for trial in trials} == {0} and not any(trial.given or trial.leaves for trial in trials)
