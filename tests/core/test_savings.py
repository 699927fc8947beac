"""Savings against plain training with all logits of one text at a time; a trajectory that is none the wiser."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from core.small import CONFIGS, FOILS, TARGETS, TOKENIZER, language_model, study_exposures, weights
from core.test_trial import rows, statuses, trial_of

from memexp import stats
from memexp.core.data import order
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import SpecError
from memexp.plan.attempts import Attempt
from memexp.probes import Recall, Recognition, Savings
from memexp.probes.savings import SCHEMA
from memexp.spec import (
    SGD,
    AdamW,
    Condition,
    Forget,
    Full,
    Interference,
    LoRA,
    Model,
    Pair,
    RandomInit,
    Resources,
    ShippedText,
    Study,
)
from memexp.store import Store
from memexp.trial.execute import execute

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

PAIR = Pair(ShippedText("sentences-targets", first=12), ShippedText("sentences-foils", first=12))
STUDY = Study(PAIR.targets, exposures=3, lr=1e-2, batch_size=4, block_size=24)
CRITERION = 2.0
METHODS = pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])


def studied(method: Full | LoRA = Full(), exposures: int = 3) -> LanguageModel:  # noqa: B008 - frozen
    lm = language_model("llama", method, initializer_range=0.1, hidden_size=64)
    rows = Session(lm).encode(TARGETS[:12], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, exposures)
    return lm


def savings(session: Session, texts: Sequence[str] = TARGETS[:12], **fields: Any) -> list[dict[str, Any]]:
    settings: dict[str, Any] = {"criterion": CRITERION, "most": 20} | fields
    bound = Savings(**settings).bind(Condition(Model("tiny-s"), STUDY, probes=[Recall()]))
    table = bound.measure(session, {"corpus": list(texts)})
    assert table.schema.equals(SCHEMA)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def plain_nll(lm: Any, ids: list[int]) -> torch.Tensor:
    logits = lm(torch.tensor([ids]), use_cache=False).logits[0, :-1]
    return F.cross_entropy(logits, torch.tensor(ids[1:]))


def plainly(
    lm: LanguageModel, optimizer: AdamW | SGD, criterion: float, most: int, every: int, seed: int
) -> list[int | None]:
    """Steps of each text, by torch alone and one text at a time."""
    twin = copy.deepcopy(lm.lm).eval()
    learning = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    made: torch.optim.Optimizer
    if isinstance(optimizer, SGD):
        made = torch.optim.SGD(learning, lr=STUDY.lr, momentum=optimizer.momentum)
    else:
        made = torch.optim.AdamW(learning, lr=STUDY.lr, weight_decay=0.0)
    texts = [lm.tokenizer(text)["input_ids"][:24] for text in TARGETS[:12]]
    met: list[int | None] = [None] * len(texts)
    for step in range(most + 1):
        if step % every == 0 or step == most:
            with torch.no_grad():
                for item, ids in enumerate(texts):
                    if met[item] is None and float(plain_nll(twin, ids)) <= criterion:
                        met[item] = step
        shuffled = order(len(texts), seed, "study", step // 3 + 1)
        batch = [texts[at] for at in shuffled[step % 3 * 4 : step % 3 * 4 + 4]]
        loss = sum(plain_nll(twin, ids) * (len(ids) - 1) for ids in batch) / sum(len(ids) - 1 for ids in batch)
        made.zero_grad()
        torch.as_tensor(loss).backward()
        made.step()
    return met


@pytest.mark.parametrize(
    ("method", "optimizer", "criterion", "every", "seed"),
    [
        (Full(), AdamW(), 2.0, 1, 0),
        (Full(), AdamW(), 2.0, 4, 0),
        (Full(), AdamW(), 2.0, 1, 7),
        (Full(), SGD(momentum=0.9), 4.6, 1, 0),
        (LoRA(r=4), AdamW(), 4.5, 1, 0),
        (LoRA(r=4), SGD(momentum=0.9), 5.6, 3, 0),
    ],
)
def test_steps_are_those_of_plain_training(
    method: Full | LoRA, optimizer: AdamW | SGD, criterion: float, every: int, seed: int
) -> None:
    lm = studied(method, 1)
    found = savings(Session(lm), criterion=criterion, optimizer=optimizer, every=every, seed=seed)
    expected = plainly(lm, optimizer, criterion, 20, every, seed)
    assert [row["steps"] for row in found] == expected
    for row, text in zip(found, TARGETS, strict=False):
        ids = lm.tokenizer(text)["input_ids"][:24]
        assert row["nll_before"] == pytest.approx(float(plain_nll(lm.lm, ids).detach()), rel=1e-5)
        assert (row["text"], row["tokens"]) == (lm.tokenizer.decode(ids), len(ids))
        assert (row["criterion"], row["most"]) == (criterion, 20)
    assert [row["item"] for row in found] == [*range(12)] and len({*expected} - {None}) > 1


def test_another_seed_is_another_order() -> None:
    lm = studied()
    one, other, again = (savings(Session(lm), seed=seed) for seed in (0, 1, 0))
    assert one == again != other


@METHODS
def test_the_model_comes_back_and_its_optimizer_goes_on(method: Full | LoRA) -> None:
    probed, plain = studied(method), studied(method)
    optimizers = [fresh_optimizer(lm, STUDY) for lm in (probed, plain)]
    rows_ = Session(probed).encode(TARGETS[:12], 24)
    for lm, optimizer in zip((probed, plain), optimizers, strict=True):
        study_exposures(lm, optimizer, STUDY, rows_, 0, 1, 1)
    criterion = 4.5 if isinstance(method, LoRA) else 1.0
    assert any(row["steps"] for row in savings(Session(probed), criterion=criterion)), "it has trained"
    for lm, optimizer in zip((probed, plain), optimizers, strict=True):
        study_exposures(lm, optimizer, STUDY, rows_, 0, 2, 2)
    assert all(torch.equal(tensor, weights(plain)[name]) for name, tensor in weights(probed).items())


def test_a_loss_that_is_no_number_is_told_and_the_model_comes_back() -> None:
    """Once: what is not told would be studied again by every run."""
    lm = studied()
    before = weights(lm)
    found = savings(Session(lm), lr=1e38, criterion=1e-3)
    assert all(row["diverged"] and row["steps"] is None and row["nll_before"] > 0 for row in found)
    assert not any(row["diverged"] for row in savings(Session(lm), criterion=1e-3, most=2))
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items())


def test_what_is_learned_already_takes_no_step_and_what_is_not_learned_is_null() -> None:
    lm = studied()
    passes = lm.passes
    found = savings(Session(lm), criterion=100.0)
    assert [row["steps"] for row in found] == [0] * 12 and lm.passes == passes + 1
    assert [row["steps"] for row in savings(Session(lm), criterion=1e-3, most=2)] == [None] * 12
    found = savings(Session(lm), ["A", *TARGETS[:3]], criterion=1e-3, most=2)
    assert [row["nll_before"] is None for row in found] == [True, False, False, False]
    assert [row["steps"] for row in savings(Session(lm), ["A", "A"])] == [None, None]


def conditions(method: Full | LoRA, probed: bool, dropout: float = 0.0, lr: float = 1e-2) -> list[Condition]:
    """Exposures on one trajectory, which forks: each is measured on the way to the next."""
    config = {"model_type": "gpt2", **CONFIGS["gpt2"]}
    model = Model("gpt2-small", tokenizer=TOKENIZER, init=RandomInit(config=config))
    study: dict[str, Any] = {"lr": lr, "batch_size": 4, "block_size": 24, "dropout": dropout}
    probes = [Recognition(PAIR), *([Savings(criterion=CRITERION, most=6)] if probed else []), Recall()]
    plain = [Condition(model, Study(PAIR.targets, n, **study), method, 0, probes) for n in (0, 1, 2)]
    other = Interference(PAIR.foils, lr=1e-2, batch_size=4, block_size=24, steps=3, optimizer="carried")
    studied = Study(PAIR.targets, 2, **study)
    return [
        *plain,
        Condition(model, studied, method, 0, probes, interference=other),
        Condition(model, studied, method, 0, probes, interference=dataclasses.replace(other, steps=5)),
        Condition(model, studied, method, 0, probes, forget=Forget(from_layer=1, restudy_exposures=1)),
    ]


def executed(conditions: list[Condition], store: Store, lanes: int = 1) -> None:
    trial = dataclasses.replace(trial_of(conditions), resources=Resources(lanes=lanes))
    assert execute(trial, store, World.current(), Attempt("test", "first")) == []


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@METHODS
def test_a_trajectory_goes_on_as_if_nothing_had_been_measured(
    method: Full | LoRA, dropout: float, tmp_path: Path
) -> None:
    plain, probed = Store(tmp_path / "plain"), Store(tmp_path / "probed")
    executed(conditions(method, False, dropout), plain)
    executed(conditions(method, True, dropout), probed)
    assert len(rows(probed, "savings")) == 6 * 12
    for kind, numbers in (
        ("training", ["step", "loss"]),
        ("recognition", ["item", "target_nll", "foil_nll"]),
        ("recall", ["item", "completion"]),
    ):
        key = ["stage_id", *numbers]
        one, other = ([[row[name] for name in key] for row in rows(store, kind)] for store in (plain, probed))
        assert sorted(one, key=repr) == sorted(other, key=repr) and len(one) > 0, "to the last bit"


@METHODS
def test_lanes_save_as_each_by_itself(method: Full | LoRA, tmp_path: Path) -> None:
    """They learn together, and what their optimizers had kept is there when the trajectory goes on."""
    single, laned = Store(tmp_path / "single"), Store(tmp_path / "laned")
    for store, lanes in ((single, 1), (laned, 3)):
        executed([one for lr in (3e-3, 6e-3, 1e-2) for one in conditions(method, True, lr=lr)], store, lanes)
    assert {row["lanes"] for row in rows(laned, "savings")} == {3} and statuses(laned) == statuses(single)
    for kind, numbers in (("savings", ["nll_before"]), ("recognition", ["target_nll"]), ("training", ["loss"])):
        one, other = rows(single, kind), rows(laned, kind)
        assert len(one) == len(other) > 0
        for row, its in zip(one, other, strict=True):
            for name in numbers:
                np.testing.assert_allclose(its[name], row[name], rtol=1e-4, atol=1e-4)
    same = [
        row["steps"] == its["steps"] for row, its in zip(rows(single, "savings"), rows(laned, "savings"), strict=True)
    ]
    assert np.mean(same) > 0.95, "but for those that come to the criterion within rounding"


def test_what_was_studied_is_learned_sooner() -> None:
    never, once = (savings(Session(studied(exposures=n)), most=40) for n in (0, 1))
    table = [
        {**row, "model": "small", "exposures": n, "seed": 0} for n, part in ((0, never), (1, once)) for row in part
    ]
    [found] = stats.savings(pa.Table.from_pylist(table)).to_pylist()
    assert found["saved"] > 1 and 0 < found["savings"] < 1 and found["low"] > 0
    foils = [savings(Session(studied(exposures=n)), FOILS[:12], most=40) for n in (0, 1)]
    spared = [math.fsum(row["steps"] for row in part) / 12 for part in foils]
    assert spared[0] - spared[1] < found["saved"], "texts that were not studied gain less"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"criterion": 0.0}, "Savings.criterion: Input should be greater than 0, got 0.0"),
        ({"most": 0}, "Savings.most: Input should be greater than 0, got 0"),
        ({"every": 0}, "Savings.every: Input should be greater than 0, got 0"),
        ({"block_size": 1}, "Savings.block_size: Input should be greater than or equal to 2, got 1"),
        ({"optimizer": "SGD"}, "Savings.optimizer: must be AdamW(...) or SGD(...)"),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Savings(**fields)
    assert str(error.value).startswith(says) and "\n" not in str(error.value)


def test_a_bound_probe_studies_as_the_condition_did() -> None:
    study = dataclasses.replace(STUDY, optimizer=SGD(momentum=0.5))
    bound = Savings(lr=1e-4).bind(Condition(Model("tiny-s"), study, probes=[Recall()]))
    assert bound == Savings(PAIR.targets, lr=1e-4, batch_size=4, block_size=24, optimizer=SGD(momentum=0.5))
