"""What rows say of how often their text was met, and when: against the batches that were trained on."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from core.test_interference import after
from core.test_item_exposures import SOME, reworded
from core.test_lane_trials import executed
from core.test_presentations import EVEN, presented
from core.test_second_study import followed
from core.test_trial import Grid, grid, rows, store

from memexp.core.data import encode
from memexp.plan import find_missing, grow
from memexp.plan.missing import copy_results
from memexp.probes import Membership
from memexp.records import MET
from memexp.spec import Condition, Cyclic, Forget, InlineText, Interference, Pair
from memexp.store import Store
from memexp.trial import encoded, met
from memexp.trial.encoded import TrialTexts

__all__ = ["grid", "store"]  # fixtures


@dataclasses.dataclass
class Trained:
    """The token rows of every step that a trial trains on, in order, and what encodes them."""

    steps: list[list[tuple[int, ...]]] = dataclasses.field(default_factory=list)
    tokenizer: Any = None


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> Trained:
    noted = Trained()
    made = encoded.TrialTexts.batches

    def batches(self: TrialTexts, stage: Any) -> Any:
        real, noted.tokenizer = made(self, stage), self.tokenizer

        class Noting:
            what = real.what

            def __call__(self, step: int) -> Any:
                batch = real(step)
                noted.steps.append([tuple(row) for row in batch.rows])
                return batch

        return Noting()

    monkeypatch.setattr(encoded.TrialTexts, "batches", batches)
    return noted


def told(store: Store, kind: str = "recall") -> dict[int, tuple[int, list[int], int | None]]:
    return {
        row["item"]: (row["item_exposures"], json.loads(row["item_steps"]), row["steps_since"])
        for row in rows(store, kind)
    }


WAYS: dict[str, dict[str, Any]] = {
    "massed": {"n": 3},
    "never": {"n": 0},
    "times": {"n": 4, "times": SOME},
    "spaced": {"n": 2, "how": EVEN},
    "linear": {"n": 2, "schedule": "linear"},
    "within": {"n": 1, "further_batches": 2},
}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("later", [False, True], ids=["study", "replay"])
def test_it_is_what_was_trained_on(
    way: dict[str, Any], later: bool, grid: Grid, store: Store, trained: Trained
) -> None:
    given = dict(way)
    (condition,) = presented(grid, given.pop("how", None), given.pop("n"), **given)
    condition = after(condition, 6, replay=0.3)[0] if later else condition
    assert executed([condition], store, 1) == []
    expected: dict[tuple[int, ...], list[int]] = {}
    for number, step in enumerate(trained.steps, 1):
        for row in step:
            expected.setdefault(row, []).append(number)
    found, texts = told(store), [row["target"] for row in rows(store, "recognition")]
    assert len(found) == len(texts) == 12
    for item, (exposures, steps, since) in found.items():
        (row,) = encode(trained.tokenizer, [texts[item]], 64) if trained.steps else [[]]
        assert steps == expected.get(tuple(row), [])
        assert exposures == len(steps) and since == (len(trained.steps) - steps[-1] if steps else None)
    assert any(steps for _, steps, _ in found.values()) or not way["n"]


def test_several_steps_in_a_row_are_one_exposure(grid: Grid, store: Store) -> None:
    assert executed(presented(grid, Cyclic(steps=3), 2), store, 1) == []
    found = told(store)
    assert found[0] == (2, [1, 2, 3, 10, 11, 12], 6) and found[11] == (2, [7, 8, 9, 16, 17, 18], 0)


def test_forgetting_and_a_second_study_count_on(grid: Grid, store: Store) -> None:
    (studied,) = presented(grid, None, 1)
    (other,) = followed([dataclasses.replace(studied, forget=Forget(from_layer=1))], 1)
    assert executed([other], store, 1) == []
    for exposures, steps, since in told(store).values():
        assert exposures == 2 and steps[0] in (1, 2, 3) and steps[1] == steps[0] + 3 and since == 8 - steps[1]


def test_other_words_are_another_text(grid: Grid, store: Store) -> None:
    (varied,) = presented(grid, None, 2, variants=[reworded(grid)])
    assert executed([varied], store, 1) == []
    assert {exposures for exposures, _, _ in told(store).values()} == {1}


def test_foils_were_not_met(grid: Grid, store: Store) -> None:
    (condition,) = presented(grid, None, 2)
    probes = [Membership(Pair(grid.pair.targets, grid.pair.foils), reference=False)]
    assert executed([dataclasses.replace(condition, probes=probes)], store, 1) == []
    assert {(row["member"], row["item_exposures"]) for row in rows(store, "membership")} == {(True, 2), (False, 0)}


def test_many_steps_are_not_listed(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(met, "MOST_STEPS", 1)
    assert executed(presented(grid, None, 2), store, 1) == []
    found = [(row["item_exposures"], row["item_steps"], row["steps_since"]) for row in rows(store, "recall")]
    assert {exposures for exposures, _, _ in found} == {2} and {listed for _, listed, _ in found} == {None}
    assert {since for _, _, since in found} == {0, 1, 2}


def test_who_copies_has_them_too(grid: Grid, store: Store) -> None:
    conditions: list[Condition] = presented(grid, None, 1)
    assert executed(conditions, store, 1) == []
    missing = find_missing(grow([dataclasses.replace(one, labels={"again": True}) for one in conditions]), store)
    assert len(missing.copies) == 2
    copy_results(missing, store)
    assert [row["item_exposures"] for row in rows(store, "recall", again=True)] == [1] * 12


def test_rows_of_no_text_say_nothing(grid: Grid, store: Store) -> None:
    assert not {*MET.names} & set(InlineText.__dataclass_fields__)
    assert executed(presented(grid, None, 1), store, 1) == []
    assert {*MET.names} <= {*rows(store, "recall")[0]} and not {*MET.names} & {*rows(store, "training")[0]}


def test_steps_of_other_texts_are_not_gone_through(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long interference was."""
    (studied,) = grid((2,), lrs=(1e-2,))
    between = Interference(grid.pair.foils, steps=9, lr=1e-3, batch_size=4)
    monkeypatch.setattr(met, "MOST", 2 * 3 * 4)
    assert executed([dataclasses.replace(studied, interference=between)], store, 1) == []
    assert {row["steps_since"] for row in rows(store, "recognition")} <= {9, 10, 11}
