"""SGD takes the steps that torch's own takes, and is forked, saved, put into lanes and kept on the host as AdamW is."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import NO_DROPOUT, TARGETS, language_model, study_exposures, weights
from core.test_lanes import BATCH, batch, rows_of
from core.test_trial import Grid, compare, executed, grid, rows, store

from memexp.core import fork
from memexp.core.checkpoint import load_snapshot, save_snapshot
from memexp.core.data import Row, encode, order
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel
from memexp.core.optimizer import SGDOnHost, fresh_optimizer
from memexp.core.train import Step, update
from memexp.errors import SpecError
from memexp.spec import SGD, AdamW, Forget, Full, Interference, LoRA, ShippedText, Study
from memexp.store import Store
from memexp.store.snapshots import Mark

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

KINDS = pytest.mark.parametrize("optimizer", [SGD(), SGD(0.9)], ids=["plain", "momentum"])
STUDY = Study(
    ShippedText("sentences-targets", first=24), exposures=3, lr=0.05, batch_size=8, weight_decay=0.01, clip_norm=1.0
)


def subject(method: Full | LoRA = Full()) -> LanguageModel:  # noqa: B008 - frozen
    return language_model("gpt2", method, **NO_DROPOUT["gpt2"])


def study(optimizer: AdamW | SGD) -> Study:
    return dataclasses.replace(STUDY, optimizer=optimizer)


def texts(lm: LanguageModel) -> list[Row]:
    return list(encode(lm.tokenizer, TARGETS[:24], 64))


def learn(lm: LanguageModel, optimizer: Any, settings: Study, first: int, last: int) -> list[Step]:
    return study_exposures(lm, optimizer, settings, texts(lm), 0, first, last)


def same(one: LanguageModel, other: LanguageModel) -> bool:
    return all(torch.equal(value, other.get_parameter(name)) for name, value in weights(one).items())


@KINDS
def test_steps_are_those_of_torch(optimizer: SGD) -> None:
    """By hand: transformers' loss, torch's clipping, and torch.optim.SGD without fusing."""
    lm, plain, settings = subject(), subject().lm, study(optimizer)
    matrices, vectors = ([p for p in plain.parameters() if (p.ndim >= 2) == large] for large in (True, False))
    by_hand = torch.optim.SGD(
        [{"params": matrices, "weight_decay": 0.01}, {"params": vectors}], lr=0.05, momentum=optimizer.momentum
    )
    plain.train()
    expected = []
    for exposure in (1, 2, 3):
        numbers = order(24, 0, "study", exposure)
        for at in range(0, 24, 8):
            chosen = [texts(lm)[i] for i in numbers[at : at + 8]]
            labels = torch.full((8, max(map(len, chosen))), -100)
            for i, row in enumerate(chosen):
                labels[i, : len(row)] = torch.tensor(row)
            loss = plain(input_ids=labels.clamp(min=0), attention_mask=(labels >= 0).long(), labels=labels).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
            by_hand.step()
            by_hand.zero_grad()
            expected.append(float(loss.detach()))
    steps = learn(lm, fresh_optimizer(lm, settings), settings, 1, 3)
    np.testing.assert_allclose([step.loss for step in steps], expected, rtol=1e-6)
    assert expected[-1] < expected[0] - 0.05
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(lm.lm.get_parameter(name), parameter, rtol=0, atol=1e-6)


def test_momentum_and_kind_change_the_steps() -> None:
    ends = []
    for optimizer in (AdamW(), SGD(), SGD(0.9)):
        lm, settings = subject(), study(optimizer)
        ends.append(learn(lm, fresh_optimizer(lm, settings), settings, 1, 3)[-1].loss)
    assert len(set(ends)) == 3


@pytest.mark.parametrize("method", [Full(), LoRA(r=2)], ids=["full", "lora"])
@KINDS
def test_forked_killed_and_taken_up_again_it_ends_where_it_would_have(
    optimizer: SGD, method: Full | LoRA, tmp_path: Path
) -> None:
    settings, disk, mark = study(optimizer), Store(tmp_path), Mark("line", 3)
    whole, lm, again = (subject(method) for _ in range(3))
    expected = learn(whole, fresh_optimizer(whole, settings), settings, 1, 3)
    begun = fresh_optimizer(lm, settings)
    made = learn(lm, begun, settings, 1, 1)
    taken = fork.take(lm, begun)
    save_snapshot(disk, mark, "base", lm, begun, made)
    assert len(begun.state) == (len(lm.learning()) if optimizer.momentum else 0)
    learn(lm, begun, settings, 2, 2)
    # As where interference carries it on: the settings at hand name no optimizer.
    carried = Interference(STUDY.corpus, 1, lr=1e-3, optimizer="carried")
    back = fork.restore(lm, taken, carried)
    assert [*made, *learn(lm, back, settings, 2, 3)] == expected and same(lm, whole)
    loaded = load_snapshot(disk, mark, "base", again, carried)
    assert loaded is not None and loaded.steps == made
    assert [*made, *learn(again, loaded.optimizer, settings, 2, 3)] == expected and same(again, whole)


def test_momentum_on_the_host_changes_no_number(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lm, plain, settings = subject(), subject(), study(SGD(0.9))
    expected = learn(plain, fresh_optimizer(plain, settings), settings, 1, 3)
    monkeypatch.setattr("memexp.core.optimizer.SGD", SGDOnHost)
    optimizer = fresh_optimizer(lm, settings)
    assert type(optimizer) is SGDOnHost
    made = learn(lm, optimizer, settings, 1, 1)
    back = fork.restore(lm, fork.take(lm, optimizer), settings)
    assert type(back) is SGDOnHost
    save_snapshot(Store(tmp_path), Mark("line", 3), "base", lm, back, made)
    loaded = load_snapshot(Store(tmp_path), Mark("line", 3), "base", lm, settings)
    assert loaded is not None and type(loaded.optimizer) is SGDOnHost
    assert [*made, *learn(lm, loaded.optimizer, settings, 2, 3)] == expected and same(lm, plain)


def test_lanes_of_other_optimizers_train_as_each_by_itself() -> None:
    """Forked in the middle, so that what a lane keeps has to be its own."""
    kinds = (SGD(), SGD(0.9), AdamW())
    lanes, singles = Lanes(subject(), 3), [subject() for _ in kinds]
    settings = [dataclasses.replace(study(kind), lr=3e-3 if kind == AdamW() else 0.05) for kind in kinds]
    sides = [(models, [*map(fresh_optimizer, models, settings)]) for models in (lanes.models, singles)]
    losses: list[list[float]] = [[], []]
    for step in range(8):
        if step == 4:
            for models, optimizers in sides:
                taken = [fork.take(*pair) for pair in zip(models, optimizers, strict=True)]
                optimizers[:] = [*map(fork.restore, models, taken, settings)]
        (models, optimizers), (alone, own) = sides
        batches = [batch(rows_of(lm), lane, step) for lane, lm in enumerate(models)]
        asked = [(i, (optimizers[i], batches[i], settings[i].lr, 1.0, 0.0, None)) for i in range(3)]
        losses[0] += [float(loss) for loss, _ in lanes.do("update", asked)]
        for lm in alone:
            lm.train()
        losses[1] += [float(update(alone[i], own[i], batches[i], settings[i].lr, 1.0)[0] or 0) for i in range(3)]
    assert len(batches[0]) == BATCH
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-6)


# Whole trials


@KINDS
def test_a_shared_forest_equals_every_condition_trained_alone(grid: Grid, optimizer: SGD, tmp_path: Path) -> None:
    between = Interference(grid.pair.foils, 2, lr=1e-2, batch_size=4, optimizer="carried")
    plain = grid((0, 1, 2), lrs=(3e-2,), optimizer=optimizer)
    ends = [
        dataclasses.replace(plain[1], interference=between),
        dataclasses.replace(plain[1], interference=dataclasses.replace(between, optimizer="fresh")),
        dataclasses.replace(plain[1], interference=dataclasses.replace(between, optimizer=SGD(0.5))),
        dataclasses.replace(plain[1], forget=Forget(from_layer=1)),
    ]
    found = compare([*plain, *ends], tmp_path)["recognition"]
    assert len({row["target_nll"] for row in found if row["item"] == 0}) == 7


def test_rows_say_which_optimizer(grid: Grid, store: Store) -> None:
    between = Interference(grid.pair.foils, 1, lr=1e-3, batch_size=4)
    conditions = [
        *grid((1,)),
        *grid((1,), optimizer=SGD()),
        dataclasses.replace(grid((1,))[0], interference=dataclasses.replace(between, optimizer=SGD(0.5))),
        dataclasses.replace(grid((1,), optimizer=SGD(0.9))[0], interference=between),
    ]
    assert executed(conditions, store) == []
    names = ("optimizer", "momentum", "interference_optimizer", "interference_momentum")
    assert {tuple(row[name] for name in names) for row in rows(store, "recognition")} == {
        (None, None, None, None),
        ("sgd", 0.0, None, None),
        (None, None, "sgd", 0.5),
        ("sgd", 0.9, "fresh", None),
    }


@pytest.mark.parametrize("momentum", [-0.1, 1.0, float("nan")])
def test_a_momentum_that_makes_no_sense(momentum: float) -> None:
    with pytest.raises(SpecError, match=r"^SGD\.momentum: [^\n]*$"):
        SGD(momentum)


def test_an_optimizer_by_its_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(SpecError, match=r"^Study\.optimizer: must be AdamW\(\.\.\.\) or SGD\(\.\.\.\), got 'sgd'$"):
        dataclasses.replace(STUDY, optimizer="sgd")
    with pytest.raises(SpecError, match=r"or SGD\(\.\.\.\), or 'fresh' or 'carried', got 'sgd'$"):
        Interference(STUDY.corpus, 1, lr=1e-3, optimizer="sgd")
