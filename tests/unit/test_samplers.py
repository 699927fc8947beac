"""Which points the samplers of a search choose."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from searching import LR, answer, line, prepared, search, tried

from memexp import (
    Choices,
    Condition,
    Integers,
)
from memexp.search.ledger import Ledger
from memexp.search.samplers import SPREAD
from memexp.store import Store


@pytest.mark.parametrize("space", [{"lr": LR}, {"lr": LR, "layers": Integers(1, 8), "how": Choices(["a", "b", None])}])
@pytest.mark.parametrize("sampler", ["gp", "tpe", "random"])
def test_every_sampler_stays_within_the_space(
    tmp_path: Path, condition: Callable[..., Condition], space: dict[str, Any], sampler: Any
) -> None:
    def labelled(lr: float, layers: int = 1, how: str | None = "a") -> Condition:
        return dataclasses.replace(condition(lr), labels={"layers": layers, "how": str(how)})

    store = Store(tmp_path)
    one = search(labelled, space=space, trials=SPREAD + 3, sampler=sampler)
    tried(line(one, store), store)
    entries = Ledger(prepared(one), store).entries.values()
    assert len({entry.candidate.key for entry in entries}) == SPREAD + 3
    for entry in entries:
        assert list(entry.candidate.point) == list(space)
        assert all(domain.holds(entry.candidate.point[name]) for name, domain in space.items())


@pytest.mark.parametrize("sampler", ["gp", "tpe"])
@pytest.mark.parametrize("sign", [1, -1])
def test_no_point_is_tried_twice_where_the_edge_of_the_space_is_best(
    tmp_path: Path, condition: Callable[..., Condition], sampler: Any, sign: int
) -> None:
    store = Store(tmp_path)
    there = line(search(condition, trials=14, sampler=sampler), store)
    rates = []
    while (going := there.next(set())) is not None:
        rates.append(going.candidate.point["lr"])
        answer(store, going.asks, sign * math.log10(rates[-1]))
        there.observe(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
        there.end(going)
    edge = LR.low if sign > 0 else LR.high
    assert len(set(rates)) == 14 and all(LR.holds(lr) for lr in rates)
    assert sampler != "gp" or edge in rates  # the number itself, not what rounding makes of it


def test_all_points_of_a_small_space_are_tried_before_one_is_tried_again(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    store = Store(tmp_path)
    space = {"lr": Choices([1e-4, 1e-3, 1e-2]), "exposures": Choices([1, 2, 3])}
    one = search(condition, space=space, trials=SPREAD + 9)
    tried(line(one, store), store)
    entries = list(Ledger(prepared(one), store).entries.values())
    spread = {entry.candidate.key for entry in entries[:SPREAD]}
    assert len({entry.candidate.key for entry in entries[: SPREAD + 9 - len(spread)]}) == 9


def test_half_the_trials_of_a_grid_find_what_the_grid_finds(
    tmp_path: Path, condition: Callable[..., Condition]
) -> None:
    grid = [10 ** (-5 + 4 * i / 15) for i in range(16)]
    apart: dict[str, list[float]] = {}
    for sampler in ("gp", "random"):
        for seed in range(4):
            best = 10 ** (-2.2 - 0.2 * seed)

            def steep(lr: float, best: float = best) -> float:
                above = math.log(lr / best)
                return above**2 * (3 if above > 0 else 0.3)  # too high a rate costs more than too low a one

            store = Store(tmp_path / f"{sampler}{seed}")
            there = line(search(condition, trials=8, sampler=sampler, seed=seed), store)
            found = []
            while (going := there.next(set())) is not None:
                found.append(steep(going.candidate.point["lr"]))
                answer(store, going.asks, found[-1])
                there.observe(going, {f"{ask.kind}/{ask.name}" for ask in going.asks})
                there.end(going)
            assert len(found) == 8
            apart.setdefault(sampler, []).append(min(found) - min(map(steep, grid)))
    assert statistics.median(apart["gp"]) < 0.01 < statistics.median(apart["random"])
