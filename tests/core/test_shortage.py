"""Memory that runs out costs a second try with half the batch, and only then what was under way."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from core.test_trial import Grid, rows, statuses, trial_of

from memexp.core.batch_sizes import largest
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.plan import Trial
from memexp.plan.attempts import Attempt
from memexp.probes import Recognition
from memexp.spec import Model, Pair
from memexp.store import Store
from memexp.trial.execute import execute
from memexp.trial.rows import Notes
from memexp.trial.shortage import Shortage

FULL = "CUDA out of memory. Tried to allocate 2.00 GiB."


@pytest.fixture
def grid(tiny_model: Model, pair: Pair) -> Grid:
    return Grid(tiny_model, pair)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@dataclasses.dataclass
class Device:
    """Memory that does not suffice where `full` says so."""

    full: Callable[[LanguageModel, int], bool]
    times: int = 0

    def nll(self, plain: Callable[..., Any]) -> Callable[..., Any]:
        def nll(lm: LanguageModel, ids: torch.Tensor, *args: Any) -> Any:
            if self.full(lm, ids.numel()):
                self.times += 1
                raise torch.OutOfMemoryError(FULL)
            return plain(lm, ids, *args)

        return nll


@pytest.fixture
def device(request: pytest.FixtureRequest) -> Iterator[Callable[..., Device]]:
    with mock.patch.object(LanguageModel, "nll", LanguageModel.nll) as _:

        def made(full: Callable[[LanguageModel, int], bool]) -> Device:
            found = Device(full)
            LanguageModel.nll = found.nll(LanguageModel.nll)  # type: ignore[method-assign] # put back by the patch
            return found

        yield made


def executed(trial: Trial, store: Store) -> list[str]:
    return execute(trial, store, World.current(), Attempt("test", "first"))


def is_whole(lm: LanguageModel) -> bool:
    return lm.budget == largest("cpu")


def test_a_stage_is_trained_once_more_with_half_the_batch(
    grid: Grid, store: Store, tmp_path: Path, device: Callable[..., Device]
) -> None:
    trial = trial_of(grid((1, 2), probes=[Recognition(grid.pair)]))
    expected, calls = Store(tmp_path / "expected"), [0]
    assert executed(trial, expected) == []

    def full(lm: LanguageModel, tokens: int) -> bool:
        calls[0] += lm.training
        return lm.training and is_whole(lm) and calls[0] in (2, 8)  # in the middle of each exposure's stage

    short = device(full)
    assert executed(trial, store) == []
    assert short.times == 2 and statuses(store)["halved"] == 2
    halves = rows(store, "stages", status="halved")
    assert all(FULL in row["error"] and row["probe_id"] is None for row in halves)
    assert len({row["stage_id"] for row in halves}) == 2
    for kind, column in (("recognition", "target_nll"), ("training", "loss")):
        found, wanted = ([row[column] for row in rows(one, kind)] for one in (store, expected))
        assert found == pytest.approx(wanted, abs=1e-5)


def test_a_second_shortage_is_a_failure(grid: Grid, store: Store, device: Callable[..., Device]) -> None:
    """Of one learning rate; the other one's stages and the untrained model are measured all the same."""
    trial = trial_of(grid((0, 1), lrs=(1e-3, 1e-2), probes=[Recognition(grid.pair)]))
    first: list[int] = []

    def full(lm: LanguageModel, tokens: int) -> bool:
        if lm.training and len(first) < 2:
            first.append(lm.budget.group_tokens)
            return True
        return False

    device(full)
    (line,) = executed(trial, store)
    assert FULL in line and "study" in line
    assert first == [largest("cpu").group_tokens, largest("cpu").group_tokens // 2]
    assert (statuses(store)["failed"], statuses(store)["halved"]) == (1, 1)
    assert len(rows(store, "recognition")) == 2 * len(rows(store, "recognition", exposures=0, lr=1e-2)) + 12


def test_a_measurement_is_made_once_more(grid: Grid, store: Store, device: Callable[..., Device]) -> None:
    trial = trial_of(grid((1,), probes=[Recognition(grid.pair)]))
    short = device(lambda lm, tokens: not lm.training and is_whole(lm))
    assert executed(trial, store) == []
    (half,) = rows(store, "stages", status="halved")
    assert short.times == 1 and half["probe_id"] is not None and half["error"].startswith("recognition: ")
    assert len(rows(store, "recognition")) == 12


def test_dropout_is_not_drawn_otherwise(grid: Grid, store: Store, device: Callable[..., Device]) -> None:
    trial = trial_of(grid((1,), probes=[Recognition(grid.pair)], dropout=0.1))
    short = device(lambda lm, tokens: lm.training)
    (line,) = executed(trial, store)
    assert short.times == 1 and "dropout" in line and "checkpointing" in line
    assert "halved" not in statuses(store)


def test_a_group_ends_together_and_the_next_one_has_half_throughout(grid: Grid, store: Store) -> None:
    trial = trial_of(grid((1,)))
    world = World(rank=1, size=2, device=torch.device("cpu"))
    notes = Notes(store, world, Attempt("test", "first"), {})
    shortage = Shortage(trial, notes, world)
    lm = mock.Mock(spec=LanguageModel, lm=mock.Mock(config=None, modules=lambda: []))
    error = torch.OutOfMemoryError(FULL)
    ask = trial.asks[0]
    for _ in range(2):  # on its way up through other stages
        with pytest.raises(torch.OutOfMemoryError):
            shortage.failure(lm, trial.stages[0], error, 0.0, ask)
    assert statuses(store) == {"halved": 1} and notes.lines == []
    half = dataclasses.replace(trial, halved=True)
    assert Shortage(half, notes, world).failure(lm, half.stages[0], error, 0.0, ask) is error


def test_a_halved_trial_has_half_the_batch_throughout(grid: Grid, store: Store, device: Callable[..., Device]) -> None:
    sizes: set[int] = set()
    device(lambda lm, tokens: bool(sizes.add(lm.budget.scoring_tokens)))
    half = dataclasses.replace(trial_of(grid((1,), probes=[Recognition(grid.pair)])), halved=True)
    assert executed(half, store) == []
    assert sizes == {largest("cpu").scoring_tokens // 2}
