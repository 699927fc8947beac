"""The three sweeps over facts plan offline, have the controls they promise, and share their first passes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import memexp
from memexp import QA, Choice, Full, LayerAblation, LoRA, Sweep, loading
from memexp.errors import DataError
from memexp.plan import grow
from memexp.stimuli.facts import FactWorld

SWEEPS = Path(__file__).parents[2] / "sweeps"
LLAMA = "meta-llama/Meta-Llama-3-8B"
Load = Callable[..., Sweep]


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Load:
    """A sweep as ``memexp plan sweeps/NAME.py -- ARGS`` gets it."""
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return lambda name, *arguments: loading.load(str(SWEEPS / f"{name}.py"), arguments)


def test_facts_are_asked_before_and_after_both_kinds_of_text(load: Load) -> None:
    sweep = load("facts")
    cells = Counter((c.model.name, c.labels["text"], c.study.exposures, c.seed) for c in sweep.conditions)
    assert set(cells.values()) == {1} and len(cells) == 2 * 2 * 2 * 3
    assert {exposures for _, _, exposures, _ in cells} == {0, 15}
    forest = sweep.grow()
    assert len({ask.corpora["items"] for ask in forest.asks}) == 8 * 3  # every seed has a world of its own
    assert Counter(ask.kind for ask in forest.asks) == {"qa": 5 * 24, "choice": 2 * 24, "ratios": 24}


@pytest.mark.parametrize("method", ["full", "lora"])
def test_every_forgetting_layer_forks_from_one_first_pass(load: Load, method: str) -> None:
    sweep = load("active_forgetting", "--methods", method, "--lrs", "1e-3", "2e-3", "3e-3", "--seeds", "0")
    forest = sweep.grow()
    kinds = Counter(stage.kind for stage in forest.stages.values())
    assert kinds == {"base": 1, "study": 3, "forget": 3 * 9, "restudy": 3 * 9}
    found = {(c.forget.side, c.forget.layer, c.forget.restudy_exposures) for c in sweep.conditions if c.forget}
    sides = {("upper", k) for k in range(4)} | {("lower", k) for k in range(1, 5)}
    assert found == {(*side, None) for side in sides | {("none", None)}} | {(*side, 0) for side in sides}
    assert sum(condition.forget is None for condition in sweep.conditions) == 3


def test_all_blocks_of_a_model_are_its_layers(load: Load) -> None:
    sweep = load("active_forgetting", "--models", "tiny-l", "--methods", "full", "--no-lower")
    assert {c.forget.from_layer for c in sweep.conditions if c.forget and c.forget.side == "upper"} == set(range(6))
    assert not any(c.forget.side == "lower" for c in sweep.conditions if c.forget)


def test_a_model_is_asked_for_its_depth_once(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(memexp, "depth", lambda name: asked.append(name) or 4)
    load("active_forgetting", "--models", "tiny-s", "tiny-m", "--seeds", "0", "1", "--lrs", "1e-3", "2e-3")
    assert asked == ["tiny-s", "tiny-m"]
    load("active_forgetting", "--models", "tiny-s", "--layers", "2")
    assert len(asked) == 2


def test_ablation_asks_freely_and_by_choice(load: Load) -> None:
    sweep = load("layer_ablation")
    assert {c.labels["text"] for c in sweep.conditions} == {"narrative", "referencing"}
    for condition in sweep.conditions:
        first, second = condition.probes
        assert isinstance(first, LayerAblation) and isinstance(first.probe, QA)
        assert isinstance(second, LayerAblation) and isinstance(second.probe, Choice)


def test_the_published_setting_is_the_published_one(load: Load) -> None:
    sweep = load(
        "facts", "--published", "--models", LLAMA, "--methods", "full", "lora", "--workers", "4", "--gpus", "1"
    )
    full, lora = (
        next(c for c in sweep.conditions if type(c.method) is kind and c.study.exposures) for kind in (Full, LoRA)
    )
    assert (full.study.lr, lora.study.lr) == (1e-5, 1e-4)
    for study in (full.study, lora.study):
        assert (study.exposures, study.batch_size, study.block_size, study.dtype) == (10, 16, 1024, "bfloat16")
        assert (study.schedule, study.warmup_ratio, study.clip_norm) == ("linear", 0.1, 1.0)
        assert study.corpus.name == "xiaozeroone/Country-city-animals/Corpus_narrative/train"
    assert lora.method == LoRA(
        r=64,
        alpha=16,
        rslora=True,
        targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    )
    assert all(probe.shots == 5 for probe in full.probes if isinstance(probe, QA | Choice))
    assert all(probe.formulation == "letters" for probe in full.probes if isinstance(probe, Choice))
    assert getattr(sweep.resources, "workers", None) == 4


def test_the_largest_model_has_adapters_only(load: Load) -> None:
    sweep = load("facts", "--published", "--models", "meta-llama/Meta-Llama-3-70B", "--methods", "full", "lora")
    assert {type(condition.method) for condition in sweep.conditions} == {LoRA}


def test_a_local_copy_of_the_dataset_is_read(load: Load, tmp_path: Path) -> None:
    FactWorld(entities=6).write(tmp_path / "facts")
    ours = load("facts", "--data", str(tmp_path / "facts"), "--models", "tiny-s", "--seeds", "0").grow()
    world = load("facts", "--entities", "6", "--models", "tiny-s", "--seeds", "0").grow()
    assert {ask.corpora["items"] for ask in ours.asks} == {ask.corpora["items"] for ask in world.asks}


def test_the_older_version_asks_two_hops_freely(load: Load, tmp_path: Path) -> None:
    sweep = load("facts", "--data", "somewhere", "--older", "--models", "tiny-s")
    tests = {probe.items.subset: type(probe) for probe in sweep.conditions[0].probes if isinstance(probe, QA | Choice)}
    assert tests["Eval_2hop_reasoning"] is QA and tests["Eval_multiple_choice"] is Choice


@pytest.mark.parametrize("name", ["facts", "active_forgetting", "layer_ablation"])
@pytest.mark.parametrize("option", [["--revision", "main"], ["--older"]])
def test_options_of_a_dataset_need_one(
    load: Load, name: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load(name, *option)
    assert capsys.readouterr().err.endswith(f"error: {option[0]} is of a dataset: it needs --data or --published\n")
    assert load(name, "--data", "somewhere", *option, "--models", "tiny-s").conditions


def test_a_version_with_choices_asked_freely_says_what_to_do(load: Load, tmp_path: Path) -> None:
    FactWorld(entities=6).write(tmp_path / "facts")
    sweep = load("facts", "--data", str(tmp_path / "facts"), "--older", "--models", "tiny-s", "--seeds", "0")
    with pytest.raises(DataError, match=r"Eval_2hop_reasoning/test has choices; ask it with Choice"):
        grow(sweep.conditions)
