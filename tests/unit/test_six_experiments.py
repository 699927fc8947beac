"""The sweep of the six published kinds of experiments plans offline, and shares what it says it shares."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from memexp import Recognition, Sweep, loading
from memexp.plan import grow
from memexp.sources import read_texts

SCRIPT = Path(__file__).parents[2] / "sweeps" / "six_experiments.py"
Load = Callable[..., Sweep]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """The sweep as ``memexp plan sweeps/six_experiments.py -- ARGS`` gets it."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda *arguments: loading.load(str(SCRIPT), arguments)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A local model of which a plan reads the configuration and the header of the weights."""
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "llama"}')
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    (model / "tokenizer.json").write_text("{}")
    return str(model)


def pairs(sweep: Sweep) -> dict[object, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Targets and foils of each experiment."""
    found = {}
    for condition in sweep.conditions:
        probe = condition.probes[0]
        assert isinstance(probe, Recognition) and probe.pair.targets == condition.study.corpus
        found[condition.labels["experiment"]] = (
            read_texts(probe.pair.targets).items,
            read_texts(probe.pair.foils).items,
        )
    return found


def test_by_itself_it_is_six_experiments_on_the_shipped_models(load: Load) -> None:
    sweep = load()
    assert {condition.model.name for condition in sweep.conditions} == {"tiny-s", "tiny-m", "tiny-l"}
    cells = Counter((c.labels["experiment"], c.model.name, c.study.exposures) for c in sweep.conditions)
    assert set(cells.values()) == {1} and len(cells) == 6 * 3 * 4
    assert {(c.study.lr, c.study.batch_size, c.seed) for c in sweep.conditions} == {(1e-3, 16, 0)}


def test_arguments_choose_the_grid(load: Load) -> None:
    sweep = load(
        *("--models", "a", "b", "--experiments", "6", "2", "--exposures", "0", "9", "--lrs", "1e-4", "3e-4"),
        *("--batch-sizes", "1", "4", "--seeds", "5", "6", "--cpus", "2"),
    )
    cells = {
        (c.model.name, c.labels["experiment"], c.study.exposures, c.study.lr, c.study.batch_size, c.seed)
        for c in sweep.conditions
    }
    assert len(cells) == len(sweep.conditions) == 2**6
    assert [sorted(set(column)) for column in zip(*cells, strict=True)] == [
        ["a", "b"], [2, 6], [0, 9], [1e-4, 3e-4], [1, 4], [5, 6]
    ]  # fmt: skip


@pytest.mark.parametrize("arguments", [("--experiments", "7"), ("--experiments", "0"), ("--model-size", "3")])
def test_what_there_is_not_is_refused(load: Load, arguments: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit) as end:
        load(*arguments)
    assert end.value.code == 2


def test_each_experiment_has_as_many_foils_as_targets_and_no_item_on_both_sides(load: Load) -> None:
    for experiment, (targets, foils) in pairs(load()).items():
        assert len(targets) == len(foils) == 240, experiment
        assert not set(targets) & set(foils), experiment
        assert len(set(targets)) == len(set(foils)) == 240, experiment


def test_the_experiments_are_the_published_ones(load: Load) -> None:
    found = pairs(load())
    sentences, words = found[1][0], found[4][0]
    assert [found[n][0] == sentences for n in range(1, 7)] == [True, True, True, False, False, False]
    assert [found[n][0] == words for n in range(1, 7)] == [False, False, False, True, True, False]
    assert [found[n][1] == sentences for n in range(1, 7)] == [False, False, False, False, True, True]
    assert len({foils for _, foils in found.values()}) == 5  # experiments 5 and 6 have the sentences
    for target, foil in zip(*found[3], strict=True):
        assert sum(a != b for a, b in zip(target.split(), foil.split(), strict=True)) == 1
    for text in words + found[4][1]:
        assert len(text.split()) == 25
    for target, foil in zip(*found[6], strict=True):
        assert sorted(target) == sorted(foil)


@pytest.mark.parametrize("model", ["folder", "random-small"])
def test_it_plans_offline_and_studies_three_lists(load: Load, folder: str, tmp_path: Path, model: str) -> None:
    sweep = load("--models", folder if model == "folder" else model)
    forest = grow(sweep.conditions)
    stages = list(forest.stages.values())
    base = next(stage for stage in stages if stage.kind == "base")
    assert len([stage for stage in stages if stage.parent == base.id]) == 3
    assert len(stages) == 1 + 3 * 3  # each goes on to its third exposure
    assert (forest.steps, forest.steps_unshared) == (3 * 3 * 15, 6 * (0 + 1 + 2 + 3) * 15)
    measured = Counter(ask.kind for ask in {(ask.kind, *ask.measurement): ask for ask in forest.asks}.values())
    assert measured == {"recognition": 6 * 4, "recall": 3 * 4}
    assert forest.conditions == 24 and len(forest.asks) == 48


def test_its_plan_needs_nothing_from_the_hub(load: Load, folder: str, tmp_path: Path) -> None:
    plan = load("--models", folder).plan(tmp_path / "store")
    assert (plan.conditions, plan.stored, plan.steps_missing) == (24, 0, 135)
