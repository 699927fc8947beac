"""Elastic weight consolidation: Fisher's information is that of a plain loop, and its term holds what was studied."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core.small import FOILS, NO_DROPOUT, PEAKED, TARGETS, language_model, weights
from core.test_durable import EVERY, NONE, data
from core.test_interference import after
from core.test_lane_trials import executed as laned
from core.test_trial import Grid, compare, executed, grid, rows, store
from core.test_unlearning import attempt, plain_mean, plain_nll, unlearned

from memexp.core import consolidation
from memexp.core.batches import PassingBatches
from memexp.core.consolidation import Consolidation, fisher
from memexp.core.data import Row, encode, key_seed
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.train import train
from memexp.errors import SpecError
from memexp.plan import TrainingStage, grow
from memexp.plan.inspection import Inspection
from memexp.plan.memory import needed
from memexp.plan.outlay import load_of
from memexp.spec import EWC, SGD, Condition, Full, InlineText, Interference, LoRA, Resources, ShippedText, Study
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

METHODS = pytest.mark.parametrize("method", [Full(), LoRA(r=2)], ids=["full", "lora"])
HELD = EWC(1e4)


def model(method: Full | LoRA = Full()) -> LanguageModel:  # noqa: B008 - frozen
    """Opinions, of an adapter too."""
    lm = language_model("gpt2", method, initializer_range=PEAKED, **NO_DROPOUT["gpt2"])
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.learning().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.03)
    return lm


def plain_fisher(lm: LanguageModel, texts: Sequence[Row], ewc: EWC, seed: int) -> dict[str, torch.Tensor]:
    lm.eval()
    learning = lm.learning()
    found = {name: torch.zeros_like(parameter) for name, parameter in learning.items()}
    for number, row in enumerate(texts):
        for sample in range(ewc.samples if len(row) > 1 else 0):
            if ewc.empirical:
                whole = plain_nll(lm, row).sum()
            else:
                logits = lm.lm(input_ids=torch.tensor([list(row)])).logits[0, :-1]
                generator = torch.Generator().manual_seed(key_seed(seed, "fisher", number, sample))
                drawn = torch.rand(len(row) - 1, generator=generator, dtype=torch.float64)
                whole = torch.zeros(())
                for place, uniform in enumerate(drawn.tolist()):
                    sums = logits[place].detach().double().softmax(-1).cumsum(-1)
                    whole = whole - logits[place].log_softmax(-1)[int(torch.searchsorted(sums, uniform))]
            gradients = torch.autograd.grad(whole, list(learning.values()), allow_unused=True)
            for name, gradient in zip(learning, gradients, strict=True):
                found[name] += 0 if gradient is None else gradient**2
    return {name: total / (len(texts) * ewc.samples) for name, total in found.items()}


@METHODS
@pytest.mark.parametrize("ewc", [EWC(1.0), EWC(1.0, samples=3), EWC(1.0, empirical=True)], ids=["1", "3", "empirical"])
def test_fishers_information_is_that_of_a_plain_loop(method: Full | LoRA, ewc: EWC) -> None:
    lm = model(method)
    texts = [*encode(lm.tokenizer, TARGETS[:4], 24), [7], [5, 6]]
    found, expected = fisher(lm, ewc, texts, 3), plain_fisher(model(method), texts, ewc, 3)
    assert found.keys() == expected.keys() == lm.learning().keys()
    for name, values in found.items():
        scale = float(expected[name].max())
        torch.testing.assert_close(values, expected[name], rtol=1e-4, atol=1e-6 * max(1.0, scale), msg=name)
    assert max(float(values.max()) for values in found.values()) > 1e-3
    assert all(parameter.grad is None for parameter in lm.learning().values()), "no gradient is left for the first step"
    other = fisher(lm, ewc, texts, 4)
    same = all(torch.equal(values, other[name]) for name, values in found.items())
    assert same == ewc.empirical, "draws are keyed by the seed"


def test_draws_are_from_what_the_model_says() -> None:
    logits = torch.tensor([0.0, 1.5, -1.0, 0.3, -4.0]).repeat(40_000, 1)
    work = consolidation._drawn(len(logits), 0)(torch.zeros(len(logits), dtype=torch.int64))
    pieces = torch.cat([work(logits[at : at + 10_000], slice(at, at + 10_000)) for at in range(0, 40_000, 10_000)])
    logs = logits[0].log_softmax(-1)
    for log in logs:
        share = float(((pieces + log).abs() < 1e-5).double().mean())
        assert share == pytest.approx(float(log.exp()), abs=0.01)


@METHODS
def test_three_steps_are_those_of_a_plain_loop(method: Full | LoRA) -> None:
    lr, strength = (5e-3, 0.5) if isinstance(method, Full) else (5e-4, 50.0)
    between = Interference(ShippedText("sentences-foils"), 3, lr, 3, 32, SGD(), protect=EWC(strength))
    lm, plain = model(method), model(method)
    studied, other = encode(lm.tokenizer, TARGETS[:4], 24), encode(lm.tokenizer, FOILS[:9], 32)
    batches = PassingBatches(between, other, 0)
    assert between.protect is not None
    objective = Consolidation(lm, between.protect, studied, 0)
    made = train(lm, fresh_optimizer(lm, between), between, batches, 1, 3, objective=objective)
    pull, start = plain_fisher(plain, studied, between.protect, 0), weights(plain)
    told, terms = [], []
    for step in (1, 2, 3):
        lm_loss = plain_mean(plain, batches(step).rows)
        term = sum(
            ((pull[name] * (weight - start[name]) ** 2).sum() for name, weight in plain.learning().items()),
            start=torch.zeros(()),
        )
        told.append(float(lm_loss.detach()))
        terms.append(strength / 2 * float(term.detach()))
        plain.zero_grad()
        (lm_loss + strength / 2 * term).backward()
        with torch.no_grad():
            for parameter in plain.learning().values():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
    assert [step.loss for step in made] == pytest.approx(told, rel=1e-6)
    assert terms[0] == 0 and terms[2] > 1e-4, "there is something to be held"
    for name, weight in lm.learning().items():
        torch.testing.assert_close(weight.detach(), plain.learning()[name].detach(), rtol=0, atol=1e-6)


def test_what_was_studied_stays_near(grid: Grid, store: Store) -> None:
    """Forty steps of other text at a high rate: recall of studied texts is worse without EWC."""
    (studied,) = grid((6,), lrs=(1e-2,))
    ways = [studied, *after(studied, 40, lr=1e-2), *after(studied, 40, lr=1e-2, protect=EWC(1e5))]
    assert executed(ways, store) == []
    means: dict[Any, float] = {}
    for row in rows(store, "recognition"):
        key = row["retention_steps"], row["interference_protect_strength"]
        means[key] = means.get(key, 0.0) + row["target_nll"]
    assert means[None, None] < means[40, 1e5] < means[40, None]
    held = {row["interference_protect_strength"]: row for row in rows(store, "recognition", item=0, retention_steps=40)}
    samples = {strength: row["interference_protect_samples"] for strength, row in held.items()}
    empirical = {strength: row["interference_protect_empirical"] for strength, row in held.items()}
    assert samples == {None: None, 1e5: 1} and empirical == {None: None, 1e5: False}


WAYS: dict[str, dict[str, Any]] = {"full": {}, "dropout": {"dropout": 0.1}, "lora": {"method": LoRA(r=4)}}


@pytest.mark.parametrize("study", WAYS.values(), ids=WAYS)
def test_stops_of_one_line_equal_each_alone(grid: Grid, study: dict[str, Any], tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,), **study)
    more = {"dropout": study["dropout"]} if "dropout" in study else {}
    ways = [HELD, EWC(1e4, samples=2), EWC(1e4, empirical=True), EWC(10.0)]
    held = [one for how in ways for one in after(studied, 5, 2, protect=how, **more)]
    conditions = [*after(studied, 5, **more), *held]
    together = compare(conditions, tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(conditions), "each is a state of its own"


def test_carried_replayed_and_protected(grid: Grid, tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,))
    carried = after(studied, 2, 5, optimizer="carried", protect=HELD)
    compare([*carried, *after(studied, 5, replay=0.3, protect=HELD)], tmp_path)


@pytest.mark.parametrize("killed_at", [11, 13, 16])
@pytest.mark.parametrize("optimizer", ["fresh", "carried"])
def test_killed_it_goes_on_to_the_last_bit(
    optimizer: str, killed_at: int, grid: Grid, store: Store, tmp_path: Path
) -> None:
    """Six steps of study, then 12 of interference with a stop after 5."""
    (studied,) = grid((2,), lrs=(1e-2,), dropout=0.1)
    conditions = after(studied, 5, 12, protect=HELD, dropout=0.1, optimizer=optimizer)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE) == []
    assert attempt(conditions, store, "first", EVERY, until=killed_at) == "killed"
    assert attempt(conditions, store, "second", EVERY) == []
    assert data(store) == data(undisturbed)


def test_no_strength_is_no_protection(grid: Grid) -> None:
    never, studied = grid((0, 2))
    plain, none = (grow(after(studied, 3, **how)) for how in ({}, {"protect": EWC(0.0)}))
    assert set(plain.stages) == set(none.stages), "the very stages, and so every bit"
    assert plain.asks[0].name != none.asks[0].name, "rows say what was asked for"
    plain, unstudied = (grow(after(never, 3, **how)) for how in ({}, {"protect": HELD}))
    assert set(plain.stages) == set(unstudied.stages), "where nothing was studied, nothing is protected"
    ways = [None, HELD, EWC(2e4), EWC(1e4, samples=2), EWC(1e4, empirical=True)]
    assert len({grow(after(studied, 3, protect=how)).asks[0].stage for how in ways}) == len(ways)


def test_it_has_one_lane_all_the_same(grid: Grid, tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,))
    conditions = [*after(studied, 3), *after(studied, 3, protect=HELD)]
    single, four = Store(tmp_path / "single"), Store(tmp_path / "four")
    assert laned(conditions, single, 1) == laned(conditions, four, 4) == []
    assert data(single) == data(four)
    assert {row["lanes"] for row in rows(four, "recognition")} == {1}


def test_the_plan_counts_what_is_kept_of_beginnings(grid: Grid) -> None:
    (studied,) = grid((2,))
    (plain,), (held,) = after(studied, 3), after(studied, 3, protect=HELD)
    both = [dataclasses.replace(one, interference=held.interference) for one in unlearned(studied, "kl", 2, 4)]
    cases: list[tuple[list[Condition], int]] = [
        ([studied, plain, *unlearned(studied, "npo", 4)], 0),
        (unlearned(studied, "kl", 2, 4), 1),
        ([plain, held], 2),
        (both, 3),
    ]
    seen = Inspection(1_000_000, 4_000, None, 2)
    for conditions, numbers in cases:
        forest = grow(conditions)
        base = next(stage.id for stage in forest.stages.values() if stage.parent is None)
        load = load_of(forest, base)
        assert load.held == numbers
        without = dataclasses.replace(load, held=0)
        for resources in (Resources(), Resources(workers=2), Resources(gpus=1), Resources(gpus=1, offload=True)):
            need, less = (needed(seen, Full(), "float32", resources, one) for one in (load, without))
            kept = 4 * numbers * 1_000_000 // resources.workers
            on_device = 0 if resources.offload else kept
            assert need.parts.get("beginnings", 0) == on_device
            assert need.worker - less.worker == on_device and need.copies - less.copies == kept - on_device
    lines = [stage for stage in grow(both).stages.values() if isinstance(stage, TrainingStage) and stage.start]
    assert len(lines) == 4


def test_bad_fields() -> None:
    with pytest.raises(SpecError, match=r"^EWC\.strength"):
        EWC(-1.0)
    with pytest.raises(SpecError, match=r"^EWC\.samples: nothing is drawn with empirical=True; leave it out$"):
        EWC(1.0, samples=2, empirical=True)
    with pytest.raises(SpecError, match=r"^Interference\.protect: must be EWC\(\.\.\.\)"):
        Interference(ShippedText("sentences-foils"), 3, 1e-3, protect=3.0)  # type: ignore[arg-type] # the point


def test_a_second_study_does_not_make_the_first_list_one_that_was_met(grid: Grid) -> None:
    """Else the same stage would have stood for any list."""
    never, studied = grid((0, 2))
    second = Study(InlineText("second", ["The bird is in the second list."]), exposures=2, lr=1e-2, batch_size=2)
    plain = {stage for stage in grow(after(dataclasses.replace(never, then=second), 3)).stages}
    for how in ({"replay": 0.3}, {"protect": HELD}):
        after_second = after(dataclasses.replace(never, then=second), 3, **how)
        assert plain == set(grow(after_second).stages)
        met = after(dataclasses.replace(studied, then=second), 3, **how)
        assert any(getattr(stage, "beside", None) for stage in grow(met).stages.values())
