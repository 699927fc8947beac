"""The quickstart is the grid that it says it is, and shares what a sweep of its kind can share."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

from memexp import Recognition, Sweep
from memexp.plan import grow
from memexp.stimuli.tiny import SHIPPED_MODELS

SCRIPT = Path(__file__).parents[2] / "sweeps" / "quickstart.py"
SWEEP: Sweep = runpy.run_path(str(SCRIPT))["sweep"]


def test_it_is_the_whole_grid() -> None:
    cells = Counter((c.model.name, c.study.exposures, c.study.lr, c.seed) for c in SWEEP.conditions)
    assert set(cells.values()) == {1}
    values = [set(column) for column in zip(*cells, strict=True)]
    assert values[0] == set(SHIPPED_MODELS) and values[1] == {0, 1, 3, 10}
    assert [len(column) for column in values] == [3, 4, 2, 2] and len(cells) == 48


def test_the_second_seed_is_counterbalanced() -> None:
    lists = {}
    for condition in SWEEP.conditions:
        assert condition.labels["counterbalanced"] == (condition.seed == 1)
        probe = condition.probes[0]
        assert isinstance(probe, Recognition) and probe.pair.targets == condition.study.corpus
        lists[condition.seed] = (probe.pair.targets, probe.pair.foils)
    assert lists[0] == lists[1][::-1] and lists[0][0] != lists[0][1]


def test_trajectories_are_shared() -> None:
    """Twelve of ten exposures; zero exposures are one model each, whatever the rate and the seed say."""
    forest = grow(SWEEP.conditions)
    assert Counter(stage.kind for stage in forest.stages.values()) == {"base": 3, "study": 3 * 2 * 2 * 10}
    assert len({ask.stage for ask in forest.asks}) == 3 + 12 * 3


def test_what_it_takes_lies_within_what_its_plan_says(tmp_path: Path) -> None:
    """Seconds of training as its stages took them where three other programs used the cores, by model; and the 143
    seconds of a CPU that another run of it took in all.
    """
    models = {str(model["model"]): model for model in SWEEP.plan(tmp_path).models}
    assert not any(model["measured"] for model in models.values())
    ranges = {name: [3600 * hours for hours in model["device_hours_range"]] for name, model in models.items()}
    for name, took in {"tiny-s": 53, "tiny-m": 110, "tiny-l": 464}.items():
        assert ranges[name][0] < took < ranges[name][1]
    assert sum(least for least, _ in ranges.values()) < 143 < sum(most for _, most in ranges.values())
