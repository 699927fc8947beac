"""Texts with numbers of exposures of their own, in other words each time, and stops within the list."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from core.test_durable import EVERY, NONE, attempt, data
from core.test_lane_trials import executed
from core.test_presentations import EVEN, presented
from core.test_trial import Grid, compare, grid, rows, store

from memexp.core.batches import StudyBatches
from memexp.errors import DataError, SpecError
from memexp.plan import grow
from memexp.spec import Cyclic, Forget, InlineText, Interference, LoRA, Spaced, Study, counterbalanced
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

SOME = (0, 1, 2, 4)


def reworded(grid: Grid) -> InlineText:
    """The study list in other words, line by line."""
    (condition,) = grid((1,), lrs=(1e-2,))
    stage = next(iter(grow([condition]).texts.values()))
    return InlineText("reworded", [f"Again: {text}" for text in stage.items])


# Numbers of exposures of single texts


@pytest.mark.parametrize("seed", range(20))
def test_every_text_is_met_as_often_as_promised(seed: int) -> None:
    draw = random.Random(seed)
    times = (*(draw.randint(0, 6) for _ in range(draw.randint(1, 4))), draw.randint(1, 6))
    count, size, cycles = draw.randint(len(times), 20), draw.randint(1, 5), draw.randint(1, 3)
    study = Study(InlineText("list", ["x"] * count), max(times) * cycles, 1e-3, size, times=times)
    batches, met = StudyBatches(study, [[i] for i in range(count)], seed), dict[int, list[int]]()
    for step in range(1, batches.passes.steps_until(study.exposures) + 1):
        batch = batches(step)
        assert 0 < len(batch.rows) <= size
        for row in batch.rows:
            met.setdefault(row[0], []).append(batch.exposure)
    for item in range(count):
        promised, found = times[item % len(times)], met.get(item, [])
        assert len(found) == len(set(found)) == promised * cycles
        if promised:
            gaps = [b - a for a, b in zip([0, *found], found, strict=False)]
            assert max(gaps) - min(gaps) <= 1, "evenly"
            assert found[-1] == study.exposures, "the last pass has all, so that none is longer ago"


def test_what_is_left_out_changes_no_order() -> None:
    study = Study(InlineText("list", ["x"] * 12), 4, 1e-3, batch_size=1)
    all_, some = (
        StudyBatches(one, [[i] for i in range(12)], 0) for one in (study, dataclasses.replace(study, times=SOME))
    )
    whole = [all_(step).rows[0][0] for step in range(37, 49)]
    kept = [some(step).rows[0][0] for step in range(some.passes.steps_until(3) + 1, some.passes.steps_until(4) + 1)]
    assert kept == [i for i in whole if i % 4], "in the order of the whole list, without those that are never met"


def test_the_same_for_all_is_study(grid: Grid, tmp_path: Path) -> None:
    found = []
    for number, times in enumerate((None, (1,), (1, 1))):
        results = Store(tmp_path / str(number))
        assert executed(presented(grid, None, 2, times=times), results, 1) == []
        found.append([row["target_nll"] for row in rows(results, "recognition")])
    assert found[0] == found[1] == found[2]


def test_texts_of_their_own_numbers_share_and_fork_as_ever(grid: Grid, tmp_path: Path) -> None:
    conditions = presented(grid, None, 1, 2, 4, times=SOME) + presented(grid, EVEN, 4, times=SOME)
    conditions += [dataclasses.replace(conditions[2], forget=Forget(from_layer=1))]
    together = compare(conditions, tmp_path)
    assert Counter(row["kind"] for row in together["training"])["study"] > 0
    assert {row["times"] for row in together["recognition"]} == {"0,1,2,4"}
    last = [row for row in together["recognition"] if row["exposures"] == 4 and row["presentation"] is None]
    by_number = {
        number: [row["target_nll"] for row in last if row["item"] % 4 == at and row["forget_side"] is None]
        for at, number in enumerate(SOME)
    }
    means = [sum(values) / len(values) for values in by_number.values()]
    assert means[0] > means[3], "what was never met is less expected than what was met four times"


def test_a_linear_schedule_ends_with_the_last_step(grid: Grid, store: Store) -> None:
    assert executed(presented(grid, None, 4, times=SOME, schedule="linear"), store, 1) == []
    lrs = [row["lr"] for row in rows(store, "training")]
    assert lrs == pytest.approx([1e-2 * (len(lrs) - i) / len(lrs) for i in range(len(lrs))])


# In other words


def test_variants_take_turns(grid: Grid, tmp_path: Path) -> None:
    other = reworded(grid)
    plain, varied = presented(grid, None, 1, 2, 3), presented(grid, None, 1, 2, 3, variants=[other])
    together = compare([*plain, *varied], tmp_path)
    taken = Counter((row["corpus"], row["exposure"]) for row in together["training"])
    steps = taken[together["recognition"][0]["corpus"], 1]
    assert taken["reworded", 2] == steps and ("reworded", 1) not in taken and ("reworded", 3) not in taken
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(found) == 6 and len(set(found.values())) == 5, "the first exposure is the same"
    assert {row["variants"] for row in together["recognition"]} == {None, "reworded"}


def test_variants_that_do_not_fit(grid: Grid) -> None:
    short = InlineText("short", ["a", "b"])
    with pytest.raises(DataError, match=r"^Study\.variants: short has 2 texts and .*targets\.jsonl has 12; a "):
        grow(presented(grid, None, 2, variants=[short]))
    with pytest.raises(SpecError, match=r"Study\.variants needs schedule='constant'"):
        presented(grid, None, 2, variants=[short], schedule="linear")
    with pytest.raises(SpecError, match=r"^counterbalanced\(\): Study\.variants"):
        counterbalanced(presented(grid, None, 2, variants=[short])[0])


# A stop within the list

WAYS = {"massed": {}, "dropout": {"dropout": 0.1}, "lora": {"method": LoRA(r=4)}, "cyclic": {"how": Cyclic(steps=2)}}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_stops_within_the_list_are_on_its_way(way: dict[str, Any], grid: Grid, tmp_path: Path) -> None:
    how, study = way.get("how"), {name: value for name, value in way.items() if name != "how"}
    conditions = [
        *(one for n in (0, 1) for b in (1, 2) for one in presented(grid, how, n, further_batches=b, **study)),
        *presented(grid, how, 1, 2, **study),
    ]
    together = compare(conditions, tmp_path)
    repeats = how.steps if how else 1
    stopped = {row["further_batches"] for row in together["recognition"]}
    assert stopped == {None, 1, 2}
    # Each line of stops is trained along once, beside the whole exposures.
    assert len(together["training"]) == (3 + 3 + 2 + 2) * repeats
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == 6


def test_a_stop_makes_the_steps_of_the_whole_exposure(grid: Grid, store: Store) -> None:
    conditions = [*presented(grid, None, 1, further_batches=2), *presented(grid, None, 2)]
    assert executed(conditions, store, 1) == []
    losses: dict[int, set[float]] = {}
    for row in rows(store, "training"):
        losses.setdefault(row["step"], set()).add(row["loss"])
    assert sorted(losses) == [1, 2, 3, 4, 5, 6] and {len(found) for found in losses.values()} == {1}


@pytest.mark.parametrize("killed_at", [3, 5, 7])
def test_killed_it_goes_on(killed_at: int, grid: Grid, store: Store, tmp_path: Path) -> None:
    conditions = presented(grid, None, 4, times=SOME, dropout=0.1)
    conditions += presented(grid, Cyclic(steps=3), 1, further_batches=2, dropout=0.1)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE)[0] == []
    for number in range(100):
        failures, _ = attempt(conditions, store, f"{number}", EVERY, until=killed_at)
        if not failures:
            break
        assert failures == ["killed"]
        if killed_at < 4:
            assert attempt(conditions, store, "whole", EVERY)[0] == []
    assert data(store) == data(undisturbed)


def test_what_the_list_does_not_hold(grid: Grid) -> None:
    line = r"^Study\.further_batches: 3 of the 3 batches of exposure 2; give fewer, or as many more of Study\.exposures"
    with pytest.raises(DataError, match=line):
        grow(presented(grid, None, 1, further_batches=3))
    with pytest.raises(SpecError, match=r"Study\.further_batches needs schedule='constant'"):
        presented(grid, None, 1, further_batches=1, schedule="linear")
    (stopped,) = presented(grid, None, 1, further_batches=1)
    with pytest.raises(SpecError, match=r"^Study\.further_batches: a stop within the list has no forgetting after it"):
        dataclasses.replace(stopped, forget=Forget(from_layer=1))
    with pytest.raises(SpecError, match=r"^Study\.times: one of them must be above 0"):
        presented(grid, None, 1, times=(0, 0))
    with pytest.raises(DataError, match=r"^Study\.times: 13 numbers for the 12 texts of .*targets\.jsonl$"):
        grow(presented(grid, None, 1, times=[*range(13)]))


def test_defaults_are_what_they_were(grid: Grid) -> None:
    plain = presented(grid, None, 2)
    given = presented(grid, None, 2, times=None, variants=(), further_batches=0)
    assert [ask.file for ask in grow(plain).asks] == [ask.file for ask in grow(given).asks]
    others = ({"times": SOME}, {"times": (1, 2)}, {"variants": [reworded(grid)]}, {"further_batches": 1})
    names = {ask.name for study in others for ask in grow(presented(grid, None, 2, **study)).asks}
    assert len(names) == len(others) * len(plain[0].probes)
    assert not names & {ask.name for ask in grow(plain).asks}
    spaced = presented(grid, Spaced(grid.pair.foils, gap=2), 2, further_batches=1)
    assert [stage.kind for stage in grow(spaced).stages.values()].count("filler") == 2


def test_numbers_that_nobody_trains_are_refused_at_once(grid: Grid) -> None:
    filler = InlineText("filler", ["a", "b", "c", "d"])
    for how in (Spaced(filler, gap=10, factor=100.0), Spaced(filler, gap=10**18)):
        with pytest.raises(SpecError, match=r"^Spaced: with gap=.* more than 1,000,000,000 steps of filler"):
            grow(presented(grid, how, 2000))
    with pytest.raises(SpecError, match=r"^Study\.times: .* 100000, got 1000000000$"):
        presented(grid, None, 2, times=(1, 10**9))
    with pytest.raises(SpecError, match=r"^counterbalanced\(\): Spaced\.filler is one of the "):
        counterbalanced(presented(grid, Spaced(grid.pair.foils, gap=1), 2)[0])


def test_stops_that_fork_are_each_as_if_alone(grid: Grid, tmp_path: Path) -> None:
    """Also with dropout: what is trained between two stops draws too."""
    stops = [presented(grid, None, 1, further_batches=b, dropout=0.2) for b in (1, 2)]
    (first,), (second,) = stops
    between = Interference(grid.pair.foils, steps=3, lr=1e-2, batch_size=4, dropout=0.2)
    compare([dataclasses.replace(first, interference=between), first, second], tmp_path)
