"""How exposures lie in time: promised counts and gaps, common beginnings trained once, each as if it were alone."""

from __future__ import annotations

import dataclasses
import math
import random
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from core.test_durable import EVERY, NONE, attempt, data
from core.test_interference import after
from core.test_lane_trials import assert_same, executed
from core.test_lane_trials import grid as laned_grid
from core.test_trial import Grid, compare, grid, rows, store

from memexp import loading
from memexp.core.batches import Interleaved, PassingBatches, Replayed, Replays, StudyBatches
from memexp.errors import DataError, SpecError
from memexp.plan import Forest, TrainingStage, find_missing, grow
from memexp.spec import Condition, Cyclic, Forget, InlineText, Interference, LoRA, ShippedText, Spaced, Study
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

ITEMS, FILLERS = 7, 8
WAYS_OF_SPACING = ("massed", "spaced", "expanding", "interleaved")
FILLER = ShippedText("sentences-interference", first=10)
INTERLEAVED, BOTH = Spaced(FILLER, gap=0, beside=3), Spaced(FILLER, gap=2, beside=3)
EVEN, EXPANDING, LONGER = Spaced(FILLER, gap=4), Spaced(FILLER, gap=4, factor=2), Spaced(FILLER, gap=6)


def line(forest: Forest) -> list[TrainingStage]:
    """The stages of study of the one condition there is."""
    (ask,) = forest.asks
    return [stage for stage in forest.path(ask.stage) if isinstance(stage, TrainingStage)]


def presented(grid: Grid, how: Spaced | Cyclic | None, *exposures: int, **study: Any) -> list[Condition]:
    return grid(exposures, lrs=(1e-2,), presentation=how, **study)


# What is promised


@pytest.mark.parametrize("seed", range(20))
def test_gaps_and_counts_are_as_promised(seed: int) -> None:
    draw = random.Random(seed)
    gap, factor, exposures, size = draw.randint(1, 9), draw.uniform(1, 3), draw.randint(1, 6), draw.randint(1, 7)
    how = Spaced(InlineText("filler", [f"filler {i}" for i in range(FILLERS)]), gap=gap, factor=factor)
    study = Study(InlineText("list", [f"item {i}" for i in range(ITEMS)]), exposures, 1e-3, size, presentation=how)
    runs = _runs(list(_met(study, how)))
    passes = [_flat(batches) for what, batches in runs if what == "item"]
    fillers = [batches for what, batches in runs if what == "filler"]
    assert [sorted(one) for one in passes] == [list(range(ITEMS))] * exposures, "each text once an exposure"
    assert [len(one) for one in fillers] == [round(gap * factor**i) for i in range(exposures - 1)]
    taken = _flat(_flat(fillers))
    each = [taken[at : at + FILLERS] for at in range(0, len(taken), FILLERS)]
    assert all(len(set(one)) == len(one) for one in each), "none comes twice before all have come once"


def _flat(lists: Iterable[Iterable[Any]]) -> list[Any]:
    return [one for part in lists for one in part]


def _met(study: Study, how: Spaced) -> Iterator[tuple[str, list[int]]]:
    """Of each step in a row what it takes: of the list or of the filler, and which."""
    of_list = StudyBatches(study, [[i] for i in range(ITEMS)], 0)
    between = PassingBatches(study, [[i] for i in range(FILLERS)], 0)
    for exposure in range(1, study.exposures + 1):
        if exposure > 1:
            for step in range(how.steps_before(exposure - 1) + 1, how.steps_before(exposure) + 1):
                yield "filler", [row[0] for row in between(step).rows]
        for step in range(of_list.passes.steps_until(exposure - 1) + 1, of_list.passes.steps_until(exposure) + 1):
            yield "item", [row[0] for row in of_list(step).rows]


def _runs(met: list[tuple[str, list[int]]]) -> list[tuple[str, list[list[int]]]]:
    found: list[tuple[str, list[list[int]]]] = []
    for what, batch in met:
        if not found or found[-1][0] != what:
            found.append((what, []))
        found[-1][1].append(batch)
    return found


def test_the_plan_has_the_steps_of_it(grid: Grid) -> None:
    (condition,) = presented(grid, EXPANDING, 3)
    forest = grow([dataclasses.replace(condition, probes=condition.probes[:1])])
    steps = [(stage.kind, stage.first_step, stage.last_step) for stage in line(forest)]
    assert steps == [("study", 1, 3), ("filler", 1, 4), ("study", 4, 6), ("filler", 5, 12), ("study", 7, 9)]


def test_cyclic_keeps_the_order_of_the_list_and_repeats_each_batch() -> None:
    study = Study(InlineText("list", ["a", "b", "c"]), 2, 1e-3, batch_size=2, presentation=Cyclic(steps=2))
    batches = StudyBatches(study, [[0], [1], [2]], seed=5)
    taken = [[row[0] for row in batches(step).rows] for step in range(1, 9)]
    assert taken == [[0, 1], [0, 1], [2], [2]] * 2
    assert [batches(step).exposure for step in range(1, 9)] == [1] * 4 + [2] * 4


def test_filler_beside_the_list() -> None:
    study = Study(InlineText("list", ["a", "b", "c"]), 3, 1e-3, batch_size=2)
    plain, beside = StudyBatches(study, [[0], [1], [2]], 0), PassingBatches(study, [[9], [8], [7]], 0, "beside")
    mixed = Interleaved(plain, beside)
    for step in range(1, 7):
        assert mixed(step) == dataclasses.replace(plain(step), rows=[*plain(step).rows, *beside(step).rows])
    other = PassingBatches(study, [[9], [8], [7]], 0)
    assert [beside(step).rows for step in range(1, 9)] != [other(step).rows for step in range(1, 9)]


@pytest.mark.parametrize("per_step", [0.05, 0.8, 1.0, 2.5])
def test_replay_takes_its_share_and_every_text_in_turn(per_step: float) -> None:
    between = Interference(InlineText("other", ["x"] * 8), 40, 1e-3, batch_size=4)
    plain, items = PassingBatches(between, [[100 + i] for i in range(8)], 0), [[i] for i in range(ITEMS)]
    replayed = Replayed(plain, items, Replays(ITEMS, per_step, 0))
    taken = []
    for step in range(1, 41):
        rows_of = [row[0] for row in replayed(step).rows]
        mine = [row for row in rows_of if row < 100]
        assert len(rows_of) == 4 and rows_of[: 4 - len(mine)] == [row[0] for row in plain(step).rows][: 4 - len(mine)]
        taken += mine
        assert len(taken) == math.floor(step * per_step)
    each = [sorted(taken[at : at + ITEMS]) for at in range(0, len(taken), ITEMS)]
    assert all(one == list(range(ITEMS)) for one in each[:-1]) and len(set(each[-1])) == len(each[-1])


# Shared equals alone

WAYS = {"full": {}, "dropout": {"dropout": 0.1, "clip_norm": 1.0}, "lora": {"method": LoRA(r=4)}}


@pytest.mark.parametrize("study", WAYS.values(), ids=WAYS)
def test_schedules_with_a_common_beginning_train_it_once(grid: Grid, study: dict[str, Any], tmp_path: Path) -> None:
    conditions = [one for how in (None, EVEN, EXPANDING, LONGER) for one in presented(grid, how, 1, 3, **study)]
    together = compare(conditions, tmp_path)
    steps = Counter(row["kind"] for row in together["training"])
    # The first exposure of all, and the second and third of each but for the second of the two that begin alike.
    # Filler: 6 steps after the first exposure, then 4 to 8 of two, and 6 of one.
    assert steps == {"study": 3 * (1 + 3 + 4), "filler": 6 + 8 + 6}
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == 5, "one exposure is the same in all, three are not"


def test_cyclic_of_one_text_is_study(grid: Grid, tmp_path: Path) -> None:
    one = InlineText("list", ["The ferry to the island leaves at noon."])
    (condition,) = grid((1,), lrs=(1e-2,))
    study = dataclasses.replace(condition.study, corpus=one, exposures=6)
    cyclic = dataclasses.replace(study, exposures=2, presentation=Cyclic(steps=3))
    found = []
    for number, how in enumerate((study, cyclic)):
        results = Store(tmp_path / str(number))
        assert executed([dataclasses.replace(condition, study=how)], results, 1) == []
        found.append([(row["target_nll"], row["foil_nll"]) for row in rows(results, "recognition")])
    assert found[0] == found[1]


def test_filler_is_what_lies_between(grid: Grid, store: Store) -> None:
    """Against steps made one by one: study, filler, study, with one optimizer throughout."""
    (condition,) = presented(grid, EVEN, 2)
    assert executed([condition], store, 1) == []
    losses = [row["loss"] for row in sorted(rows(store, "training"), key=lambda row: row["kind"] == "filler")]
    kinds = Counter(row["kind"] for row in rows(store, "training"))
    assert kinds == {"study": 6, "filler": 4} and all(math.isfinite(loss) for loss in losses)
    lrs = {row["lr"] for row in rows(store, "training")}
    assert lrs == {1e-2}
    row = rows(store, "recognition", item=0)[0]
    told = {name: row[name] for name in row if name.startswith(("presentation", "filler"))}
    assert told.pop("filler_id") is not None
    assert told == {
        "presentation": "spaced",
        "presentation_gap": 4,
        "presentation_factor": 1.0,
        "presentation_beside": 0,
        "presentation_steps": None,
        "filler": "sentences-interference[:10]",
    }


def test_what_comes_after_it_forks_as_ever(grid: Grid, tmp_path: Path) -> None:
    (studied,) = presented(grid, EVEN, 2)
    forgotten = [dataclasses.replace(studied, forget=Forget(from_layer=k)) for k in (0, 1)]
    compare([studied, *forgotten, *after(studied, 2, 5), *after(studied, 3, optimizer="carried")], tmp_path)


def test_interleaved_and_replayed_equal_each_alone(grid: Grid, tmp_path: Path) -> None:
    mixed = [one for how in (INTERLEAVED, BOTH) for one in presented(grid, how, 1, 2)]
    (studied,) = presented(grid, None, 2)
    replayed = [*after(studied, 3, 6), *after(studied, 3, 6, replay=0.3), *after(mixed[0], 4, replay=0.3)]
    together = compare([*mixed, *replayed], tmp_path)
    tokens = {row["kind"]: row["tokens"] for row in together["training"] if row["step"] == 1}
    assert tokens["study"] > 0 and tokens["filler"] > 0
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == 2 + 1 + 2 + 2 + 1  # one exposure is the same of both
    assert {row["interference_replay"] for row in together["recognition"]} == {None, 0.3}


def test_filler_of_nothing_is_massed(grid: Grid) -> None:
    nothing = Spaced(FILLER, gap=0)
    stages = [set(grow(presented(grid, how, 3)).stages) for how in (None, nothing, Spaced(FILLER, gap=0, factor=2.0))]
    assert stages[0] == stages[1] == stages[2], "the very stages, and so every bit"


def test_what_was_never_studied_is_not_replayed(grid: Grid) -> None:
    (never,) = presented(grid, None, 0)
    plain, replayed = (grow(after(never, 3, **how)) for how in ({}, {"replay": 0.5}))
    assert set(plain.stages) == set(replayed.stages)


@pytest.mark.parametrize("killed_at", [2, 5, 9, 13])
def test_killed_in_study_or_in_filler_it_goes_on(killed_at: int, grid: Grid, store: Store, tmp_path: Path) -> None:
    conditions = [*presented(grid, EXPANDING, 3, dropout=0.1), *presented(grid, Cyclic(steps=2), 2, dropout=0.1)]
    conditions += after(presented(grid, BOTH, 2, dropout=0.1)[0], 7, replay=0.3)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE)[0] == []
    for number in range(100):
        failures, _ = attempt(conditions, store, f"{number}", EVERY, until=killed_at)
        if not failures:
            break
        assert failures == ["killed"]
        if killed_at < 4:  # before the first snapshot it would never end
            assert attempt(conditions, store, "whole", EVERY)[0] == []
    assert data(store) == data(undisturbed)
    assert not store.list_text(".snapshots/")


def test_lanes_leave_the_same(tmp_path: Path) -> None:
    plain = [one for one in laned_grid(LoRA(r=4), (1e-3, 3e-3)) if one.study.exposures == 3]
    conditions = [
        dataclasses.replace(one, study=dataclasses.replace(one.study, presentation=how))
        for one in plain
        for how in (EVEN, EXPANDING, BOTH, Cyclic(steps=2))
    ]
    single, laned = Store(tmp_path / "single"), Store(tmp_path / "laned")
    assert executed(conditions, single, 1) == executed(conditions, laned, 4) == []
    assert_same(single, laned)


def test_the_shipped_sweep_has_equal_exposures_and_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    sweep = loading.load(str(Path(__file__).parents[2] / "sweeps" / "spacing.py"), ["--seeds", "0", "--replay", "0.1"])
    cells = Counter((one.labels["way"], one.interference.steps) for one in sweep.conditions if one.interference)
    assert cells == {(way, delay): 2 for way in WAYS_OF_SPACING for delay in (0, 10, 30, 100)}
    assert {one.study.exposures for one in sweep.conditions} == {4}
    kinds = {stage.kind: stage for stage in sweep.grow().stages.values()}
    assert kinds.keys() == {"base", "study", "filler", "interference"} and kinds["interference"].beside is not None


# Identities, and what is refused


def test_massed_is_what_it_was(grid: Grid) -> None:
    (plain,), (massed,) = grid((2,)), grid((2,), presentation=None)
    assert [ask.file for ask in grow([plain]).asks] == [ask.file for ask in grow([massed]).asks]
    ways = [
        None,
        EVEN,
        EXPANDING,
        LONGER,
        INTERLEAVED,
        BOTH,
        Cyclic(),
        Cyclic(steps=2),
        Spaced(ShippedText("sentences-foils"), gap=4),
    ]
    names = {ask.name for how in ways for ask in grow(presented(grid, how, 2)[:1]).asks}
    assert len(names) == len(ways) * len(grid((2,))[0].probes)


def test_schedules_that_agree_so_far_have_the_same_numbers(grid: Grid, store: Store) -> None:
    """Two exposures after a gap of 4, whatever the next one would be: measured once, and copied."""
    assert executed(presented(grid, EVEN, 2), store, 1) == []
    missing = find_missing(grow(presented(grid, EXPANDING, 2)), store)
    assert missing.asks == [] and len(missing.copies) == 2


@pytest.mark.parametrize(
    ("study", "line"),
    [
        ({"schedule": "linear"}, "Study.presentation: filler is trained on at the peak learning rate; give schedule="),
        ({"warmup_steps": 2}, "Study.presentation: filler is trained on at the peak learning rate; give schedule="),
    ],
)
def test_settings_that_contradict_each_other(study: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        Study(InlineText("list", ["a"]), 2, 1e-3, presentation=EVEN, **study)


def test_bad_fields() -> None:
    for bad in ({"gap": -1}, {"gap": 4, "factor": 0.5}, {"gap": 4, "beside": -1}):
        with pytest.raises(SpecError, match=r"^Spaced\."):
            Spaced(FILLER, **bad)
    with pytest.raises(SpecError, match=r"^Cyclic\.steps"):
        Cyclic(steps=0)


def test_filler_with_fewer_texts_than_a_step_takes(grid: Grid) -> None:
    three = InlineText("three", ["a", "b", "c"])
    for how in (Spaced(three, gap=1), Spaced(three, gap=0, beside=4)):
        with pytest.raises(DataError, match=r"^Spaced\.filler: 4 texts a step are more than the 3 of three$"):
            grow(presented(grid, how, 2))


def test_studied_texts_in_the_filler_are_told(grid: Grid) -> None:
    forest = grow(presented(grid, Spaced(grid.pair.targets, gap=2), 2))
    assert any(line.startswith("Spaced: 12 texts of ") for line in forest.remarks)


def test_filler_of_one_gap_only_for_what_comes_between(grid: Grid) -> None:
    assert [stage.kind for stage in grow(presented(grid, EVEN, 1)).stages.values()] == ["base", "study"]
