"""Retention intervals lie on one trajectory, and each is what training to it alone would have left."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from core.test_trial import Grid, executed, grid, rows, store
from core.test_trial import compare as compared

import memexp.core.train
from memexp.errors import DataError, ModelError, SpecError
from memexp.plan import find_missing, grow
from memexp.plan.model_checks import check_models
from memexp.spec import Condition, Forget, InlineText, Interference, LoRA, ShippedText, TextFile, retention_steps
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

OTHER = ShippedText("sentences-interference", first=10)


def interference(steps: int, **settings: Any) -> Interference:
    return Interference(OTHER, **{"steps": steps, "lr": 3e-3, "batch_size": 4, "block_size": 64} | settings)


def after(condition: Condition, *steps: int, **settings: Any) -> list[Condition]:
    """The condition at each of these retention intervals."""
    return [dataclasses.replace(condition, interference=interference(n, **settings)) for n in steps]


def of_interference(store: Store) -> list[dict[str, Any]]:
    return [row for row in rows(store, "training") if row["kind"] == "interference"]


SETTINGS = {
    "fresh": ({}, {}),
    "carried": ({}, {"optimizer": "carried"}),
    "dropout": ({"dropout": 0.1}, {"dropout": 0.1, "weight_decay": 0.01, "clip_norm": 1.0}),
    "linear": ({"schedule": "linear"}, {"optimizer": "carried"}),
    "lora": ({"method": LoRA(r=4)}, {}),
    "bfloat16": ({"dtype": "bfloat16"}, {}),
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_stops_of_one_trajectory_equal_each_interval_alone(
    grid: Grid, settings: tuple[dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    study, between = settings
    (studied,) = grid((2,), lrs=(1e-2,), **study)
    forgotten = dataclasses.replace(studied, forget=Forget(from_layer=1, restudy_exposures=0))
    conditions = [studied, *after(studied, 7, 1, 4, **between), *after(forgotten, 4, **between)]
    together = compared(conditions, tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(conditions)  # each is a state of its own
    steps = [row["step"] for row in together["training"] if row["kind"] == "interference"]
    assert sorted(steps) == sorted([*range(1, 8), *range(1, 5)])


def test_a_fresh_optimizer_and_a_carried_one_go_different_ways_from_the_same_loss(grid: Grid, store: Store) -> None:
    (studied,) = grid((2,), lrs=(1e-2,))
    assert executed([*after(studied, 3), *after(studied, 3, optimizer="carried")], store) == []
    losses: dict[str, list[float]] = {}
    for row in of_interference(store):
        losses.setdefault(row["stage_id"], []).append(row["loss"])
    fresh, carried = losses.values()
    assert fresh[0] == carried[0] and fresh[2] != carried[2]


def test_an_interval_of_zero_is_the_end_of_study(grid: Grid, store: Store) -> None:
    (studied,) = grid((2,))
    (zero,) = after(studied, 0)
    forest = grow([studied, zero])
    assert forest.conditions == 2 and len({ask.stage for ask in forest.asks}) == 1
    assert executed([studied, zero], store) == []
    found = {row["retention_steps"]: row for row in rows(store, "recognition", item=0)}
    assert found[None]["target_nll"] == found[0]["target_nll"]
    assert (found[0]["interference_lr"], found[0]["interference_batch_size"]) == (3e-3, 4)
    assert (
        found[0]["interference_corpus"] == "sentences-interference[:10]"
        and found[0]["interference_optimizer"] == "fresh"
    )
    assert found[None]["interference_corpus"] is None


def test_no_text_comes_twice_before_all_have_come_once(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[tuple[int, ...]]] = []
    plain = memexp.core.train.update

    def update(lm: Any, optimizer: Any, batch: Sequence[Sequence[int]], *rest: Any) -> Any:
        seen.append([tuple(row) for row in batch])
        return plain(lm, optimizer, batch, *rest)

    monkeypatch.setattr(memexp.core.train, "update", update)
    (studied,) = grid((1,))
    assert executed(after(studied, 5, 9), store) == []
    steps = seen[3:]  # after one exposure of twelve sentences
    passes = [[row for batch in steps[at : at + 3] for row in batch] for at in (0, 3, 6)]  # three steps take ten texts
    assert [len(batch) for batch in steps] == [4, 4, 2] * 3
    for found in passes:
        assert set(Counter(found).values()) == {1} and set(found) == set(passes[0]) and len(found) == 10
    assert passes[0] != passes[1] != passes[2]  # in another order each time
    exposures = [row["exposure"] for row in of_interference(store)]
    assert exposures == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_what_a_step_trains_on_depends_on_the_seed(grid: Grid, store: Store) -> None:
    conditions = [c for seed in (0, 1) for c in after(grid((0,), seeds=(seed,))[0], 1)]
    assert executed(conditions, store) == []
    first, second = (row["loss"] for row in rows(store, "training"))
    assert first != second


def test_a_stop_that_is_added_later_keeps_the_others(grid: Grid, tmp_path: Path) -> None:
    (studied,) = grid((1,))
    sink, once = Store(tmp_path / "twice"), Store(tmp_path / "once")
    assert executed(after(studied, 1, 7), sink) == []
    later = after(studied, 1, 4, 7, 8)
    left = find_missing(grow(later), sink)
    assert {ask.settings["retention_steps"] for ask in left.asks} == {4, 8}
    assert executed(later, sink, "second") == [] and executed(later, once) == []
    for kind in ("recognition", "recall", "training"):
        assert rows(sink, kind) == rows(once, kind), kind
    assert not [row for row in rows(sink, "stages") if row["status"] != "complete"]


def test_an_interval_after_one_that_diverged_is_an_outcome_too(grid: Grid, store: Store) -> None:
    (studied,) = grid((1,))
    conditions = [studied, *after(studied, 2, 5, lr=1e30), *after(studied, 2)]
    assert len(executed(conditions, store)) == 1
    left = find_missing(grow(conditions), store)
    assert not left.asks and {ask.settings["retention_steps"] for ask in left.diverged} == {2, 5}


# The plan


def test_intervals_share_one_trajectory_and_parents_come_first(grid: Grid) -> None:
    (studied,) = grid((2,))
    forest = grow([*after(studied, 100, 10, 1), *after(studied, 10, lr=1e-4)])
    stops = [stage for stage in forest.stages.values() if stage.kind == "interference"]
    assert [(stop.first, stop.last, stop.steps) for stop in stops] == [
        (1, 1, 1),
        (2, 10, 9),
        (11, 100, 90),
        (1, 10, 10),
    ]
    assert (forest.steps, forest.steps_unshared) == (6 + 100 + 10, 4 * 6 + 100 + 10 + 1 + 10)
    seen: set[str | None] = {None}
    for stage in forest.stages.values():
        assert stage.parent in seen
        seen.add(stage.id)


def test_a_stop_is_known_by_the_same_name_whatever_lies_before_it(grid: Grid) -> None:
    (studied,) = grid((2,))
    names = [
        {ask.settings["retention_steps"]: ask.name for ask in grow(after(studied, *steps)).asks if ask.kind == "recall"}
        for steps in ((1, 10), (5, 10), (10,))
    ]
    assert len({found[10] for found in names}) == 1


def test_texts_that_come_again_or_are_studied_too_are_remarked_upon(grid: Grid) -> None:
    (studied,) = grid((1,))
    forest = grow(after(studied, 3, 4))
    cut = "3 of the 10 texts of sentences-interference[:10] are cut at block_size 64 (bpe-400)"
    assert list(forest.remarks) == [
        "Interference: 4 steps of 4 take the 10 texts of sentences-interference[:10] 2 times",
        cut,
    ]
    assert list(grow(after(studied, 3)).remarks) == [cut]
    shared = dataclasses.replace(interference(1), corpus=studied.study.corpus)
    (remark, *_) = grow([dataclasses.replace(studied, interference=shared)]).remarks
    assert "Interference: 12 texts of" in remark and "as well" in remark
    refused = dataclasses.replace(studied, interference=dataclasses.replace(shared, overlap="refuse"))
    with pytest.raises(SpecError, match=r"12 texts of .* as well; overlap='report' allows it"):
        grow([refused])


def test_a_corpus_of_foils_is_seen_as_well(grid: Grid, foils: TextFile) -> None:
    (studied,) = grid((1,))
    between = Interference(foils, steps=1, lr=1e-3, batch_size=4, overlap="refuse")
    with pytest.raises(SpecError, match="12 texts of"):
        grow([dataclasses.replace(studied, interference=between)])


def test_a_corpus_shorter_than_a_batch_is_refused(grid: Grid) -> None:
    (studied,) = grid((1,))
    short = Interference(InlineText("short", ["One.", "Two."]), steps=1, lr=1e-3)
    with pytest.raises(DataError, match="batch_size: 16 texts a step are more than the 2 of short"):
        grow([dataclasses.replace(studied, interference=short)])


def test_an_empty_corpus_is_refused(grid: Grid, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    (studied,) = grid((1,))
    with pytest.raises(DataError, match="the corpus is empty"):
        grow([dataclasses.replace(studied, interference=Interference(tmp_path / "empty.txt", steps=1, lr=1e-3))])


def test_texts_longer_than_the_context_are_refused(grid: Grid) -> None:
    (studied,) = grid((1,))
    forest = grow(after(studied, 1, block_size=500))
    with pytest.raises(ModelError, match=r"Interference.block_size 500 exceeds the context of 'tiny' \(128\)"):
        check_models(forest, [stage.model for stage in forest.stages.values()])


# The description


def test_published_intervals() -> None:
    steps = retention_steps("published")
    assert steps[:12] == (0, *range(1, 11), 20) and steps[-3:] == (9_000, 10_000, 100_000) and len(steps) == 31


def test_intervals_on_a_log_scale() -> None:
    assert retention_steps(1000) == (0, 1, 2, 5, 10, 22, 46, 100, 215, 464, 1000)
    assert retention_steps(1000, per_decade=1) == (0, 1, 10, 100, 1000)
    assert retention_steps(30, per_decade=2) == (0, 1, 3, 10, 30) and retention_steps(1) == (0, 1)


@pytest.mark.parametrize("arguments", [(0,), (-5,), (True,), (2.5,), ("all",), (10, 0)])
def test_intervals_that_make_no_sense(arguments: tuple[Any, ...]) -> None:
    with pytest.raises(SpecError, match="retention_steps"):
        retention_steps(*arguments)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"steps": -1}, "Interference.steps"),
        ({"lr": 0.0}, "Interference.lr"),
        ({"optimizer": "old"}, "Interference.optimizer"),
        ({"optimizer": "carried", "weight_decay": 0.1}, "keeps that of study"),
    ],
)
def test_interference_that_makes_no_sense(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        interference(**{"steps": 1} | fields)
