"""A second study: after forgetting and before interference, shared and forked as all else, and what is refused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from core.test_durable import EVERY, NONE, attempt, data
from core.test_interference import after
from core.test_lane_trials import assert_same, executed
from core.test_lane_trials import grid as laned_grid
from core.test_presentations import presented
from core.test_trial import Grid, compare, grid, rows, store

from memexp.errors import SpecError
from memexp.plan import grow
from memexp.spec import Condition, Cyclic, Forget, InlineText, LoRA, ShippedText, Study, counterbalanced
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

OTHERS = ShippedText("sentences-interference", first=6)


def followed(conditions: list[Condition], *exposures: int, **study: Any) -> list[Condition]:
    given = {"corpus": OTHERS, "lr": 1e-2, "batch_size": 4, "block_size": 64} | study
    return [dataclasses.replace(one, then=Study(exposures=n, **given)) for one in conditions for n in exposures]


@pytest.mark.parametrize("study", [{}, {"dropout": 0.1}, {"method": LoRA(r=4)}], ids=["full", "dropout", "lora"])
def test_it_shares_and_forks(grid: Grid, study: dict[str, Any], tmp_path: Path) -> None:
    studied = presented(grid, None, 0, 2, **study)
    forgotten = dataclasses.replace(studied[1], forget=Forget(from_layer=1))
    conditions = [*followed([*studied, forgotten], 0, 1, 3), *after(followed(studied[1:], 1)[0], 3)]
    together = compare([*studied, *conditions], tmp_path)
    steps = Counter(row["kind"] for row in together["training"])
    # Three times two steps after each of three studies, one of which is of the untrained model.
    assert steps == {"study": 2 * 3, "restudy": 2 * 3, "then": 3 * 3 * 2, "interference": 3}
    found = {row["then_exposures"]: row["then_corpus"] for row in together["recognition"]}
    assert found == {None: None, 0: OTHERS.name, 1: OTHERS.name, 3: OTHERS.name}


def test_it_makes_the_steps_of_a_study_by_itself_but_for_its_order(grid: Grid, store: Store) -> None:
    """After nothing a second study of one batch is a first one of it: what is in a batch has no order."""
    one = InlineText("list", ["The ferry leaves at noon.", "A lamp stood in the hall."])
    (never,) = presented(grid, None, 0)
    (plain,) = presented(grid, None, 2)
    (second,) = followed([never], 2, corpus=one)
    first = dataclasses.replace(plain, study=dataclasses.replace(plain.study, corpus=one))
    assert executed([first, second], store, 1) == []
    losses = {row["kind"]: [] for row in rows(store, "training")}
    for row in rows(store, "training"):
        losses[row["kind"]].append(row["loss"])
    assert losses["then"] == pytest.approx(losses["study"], rel=1e-6)


def test_its_optimizer_is_new_and_its_order_its_own(grid: Grid, store: Store) -> None:
    (studied,) = presented(grid, None, 1)
    (again,) = followed([studied], 1, corpus=studied.study.corpus)
    assert executed([again], store, 1) == []
    (twice,) = presented(grid, None, 2)
    assert executed([twice], store, 1) == []
    losses = {(row["kind"], row["step"]): row["loss"] for row in rows(store, "training")}
    assert losses["then", 1] != losses["study", 4], "another batch, in an order of its own"


@pytest.mark.parametrize("killed_at", [4, 6, 9])
def test_killed_it_goes_on(killed_at: int, grid: Grid, store: Store, tmp_path: Path) -> None:
    conditions = followed(presented(grid, None, 1, 2, dropout=0.1), 2, dropout=0.1)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE)[0] == []
    for number in range(100):
        failures, _ = attempt(conditions, store, f"{number}", EVERY, until=killed_at)
        if not failures:
            break
        assert failures == ["killed"]
    assert data(store) == data(undisturbed)


def test_lanes_leave_the_same(tmp_path: Path) -> None:
    conditions = followed([one for one in laned_grid(LoRA(r=4), (1e-3, 3e-3)) if one.study.exposures == 3], 1, 2)
    single, laned = Store(tmp_path / "single"), Store(tmp_path / "laned")
    assert executed(conditions, single, 1) == executed(conditions, laned, 4) == []
    assert_same(single, laned)


def test_identities(grid: Grid) -> None:
    (plain,) = presented(grid, None, 2)
    assert [ask.file for ask in grow([dataclasses.replace(plain, then=None)]).asks] == [
        ask.file for ask in grow([plain]).asks
    ]
    (nothing,) = followed([plain], 0)
    assert set(grow([nothing]).stages) == set(grow([plain]).stages), "no stage, though another condition"
    assert {ask.name for ask in grow([nothing]).asks}.isdisjoint(ask.name for ask in grow([plain]).asks)


def test_a_twin_exchanges_the_lists_of_both(grid: Grid) -> None:
    (plain,) = presented(grid, None, 2)
    (other,), (foils,) = followed([plain], 1), followed([plain], 1, corpus=grid.pair.foils)
    then = [counterbalanced(one).then for one in (other, foils)]
    assert [one.corpus for one in then if one] == [OTHERS, grid.pair.targets]


def test_what_it_cannot_be(grid: Grid) -> None:
    (plain,) = presented(grid, None, 2)
    with pytest.raises(
        SpecError, match=r"^Condition\.then: exposures of a second study are massed and whole; leave out "
    ):
        followed([plain], 1, presentation=Cyclic())
    with pytest.raises(SpecError, match=r"leave out times$"):
        followed([plain], 1, times=(1, 2))
    with pytest.raises(SpecError, match=r"^Condition\.then: a trajectory has one dtype, got float32 and bfloat16$"):
        followed([plain], 1, dtype="bfloat16")
