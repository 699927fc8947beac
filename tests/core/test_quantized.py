"""Weights of few bits against a rounding done number by number, and a model that is merged and rounded by hand."""

from __future__ import annotations

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from core.small import FOILS, TARGETS, language_model, study_exposures, weights
from core.test_lane_trials import grid
from core.test_trial import rows, trial_of
from torch import nn

from memexp.core.model import LanguageModel, blocks
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.rounding import nearest
from memexp.core.session import Session
from memexp.errors import SpecError
from memexp.plan.attempts import Attempt
from memexp.probes import QA, Choice, Extraction, Quantized, Recall, Recognition, TruthRatio
from memexp.spec import Condition, Full, InlineItems, LoRA, Model, Pair, Resources, ShippedText, Study
from memexp.store import Store
from memexp.trial.execute import execute

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

PAIR = Pair(ShippedText("sentences-targets", first=12), ShippedText("sentences-foils", first=12))
STUDY = Study(PAIR.targets, exposures=3, lr=1e-2, batch_size=4, block_size=24)
CONDITION = Condition(Model("tiny-s"), STUDY, probes=[Recall()])
TEXTS = {"targets": TARGETS[:12], "foils": FOILS[:12], "corpus": TARGETS[:12]}
METHODS = [Full(), LoRA(r=4)]


def studied(architecture: str, method: Full | LoRA, exposures: int = STUDY.exposures, **changes: Any) -> LanguageModel:
    lm = language_model(architecture, method, **changes)
    rows = Session(lm).encode(TARGETS[:12], 24)
    study_exposures(lm, fresh_optimizer(lm, STUDY), STUDY, rows, 0, 1, exposures)
    return lm


@pytest.fixture(scope="module")
def by_heart() -> LanguageModel:
    """A model that recites some of the texts."""
    return studied("llama", Full(), 30, initializer_range=0.1, hidden_size=64)


def by_number(row: Any, bits: int, group: int) -> list[float]:
    """One output's weights, one after the other."""
    found: list[float] = []
    most = 2 ** (bits - 1) - 1
    for first in range(0, len(row), group):
        part = [float(one) for one in row[first : first + group]]
        step = max(map(abs, part)) / most
        found += [round(one / step) * step if step else 0.0 for one in part]
    return found


@pytest.mark.parametrize(("bits", "group"), [(4, 64), (4, 7), (2, 5), (8, 1000), (3, 1)])
def test_every_weight_is_the_nearest_of_its_group(bits: int, group: int) -> None:
    weight = torch.randn(6, 20, generator=torch.Generator().manual_seed(0))
    weight[2] = 0.0
    weight[3, 4:9] *= 100
    found = nearest(weight, bits, group)
    expected = np.array([by_number(row, bits, group) for row in weight])
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-7)
    assert found.shape == weight.shape and not found[2].any()
    for row in found[:, :group]:
        assert len(set(row.tolist())) <= 2**bits - 1
    assert group > 1 or torch.allclose(found, weight), "alone in its group a weight is the largest"


@torch.no_grad()
def by_hand(lm: LanguageModel, bits: int, group: int) -> LanguageModel:
    """A copy, merged by peft, of which each linear layer of a block is rounded."""
    twin = copy.deepcopy(lm)
    for module in list(twin.modules()):
        if hasattr(module, "base_layer"):
            module.merge()
    for path, module in blocks(twin.lm).named_modules():
        kind = type(module).__mro__[1].__name__ if type(module).__name__.startswith("_") else type(module).__name__
        if kind in ("Linear", "Conv1D") and hasattr(module, "weight") and "lora" not in path + type(module).__module__:
            turned = module.weight.T if kind == "Conv1D" else module.weight
            found = torch.tensor([by_number(row, bits, group) for row in turned.tolist()])
            module.weight.copy_(found.T if kind == "Conv1D" else found)
    return twin


def base_weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """All but an adapter's."""
    return {name: tensor for name, tensor in weights(lm).items() if ".lora_" not in name}


@pytest.mark.parametrize("method", METHODS, ids=["full", "lora"])
@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_it_is_the_model_that_is_merged_and_rounded(architecture: str, method: Full | LoRA) -> None:
    lm = studied(architecture, method)
    before = weights(lm)
    twin = by_hand(lm, 4, 24)
    rows = Session(lm).encode(TARGETS[:12], 24)
    expected = Session(twin).token_nlls(rows)
    with Session(lm).rounded(4, 24):
        found, inside = Session(lm).token_nlls(rows), base_weights(lm)
    plain = Session(lm).token_nlls(rows)
    for name, tensor in base_weights(twin).items():
        # Where a weight lies in the middle of two values the last digit of the merged one decides: none of these does.
        torch.testing.assert_close(inside[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
        inner = f"{name}".split(".")
        matrix = tensor.ndim == 2 and any(part.isdigit() for part in inner)
        assert matrix != torch.equal(inside[name], before[name]), f"{name}: all else stays"
    for one, other, its in zip(found, expected, plain, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert np.abs(one - its).max() > 1e-3
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items()), "and it is back"


@pytest.mark.parametrize("method", METHODS, ids=["full", "lora"])
def test_whatever_happens_the_weights_come_back(method: Full | LoRA) -> None:
    lm = studied("gpt2", method)
    before = weights(lm)
    with pytest.raises(RuntimeError, match="on purpose"), Session(lm).rounded(2, 8):
        assert not all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items())
        raise RuntimeError("on purpose")
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(lm).items())


def test_a_layer_that_is_in_two_places_is_rounded_once() -> None:
    lm = studied("llama", Full())
    stack: Any = blocks(lm.lm)
    stack[1].mlp.up_proj.weight = stack[0].mlp.up_proj.weight
    before = stack[0].mlp.up_proj.weight.detach().clone()
    with Session(lm).rounded(3, 16):
        torch.testing.assert_close(stack[1].mlp.up_proj.weight.detach(), nearest(before, 3, 16))
    assert torch.equal(stack[1].mlp.up_proj.weight, before)
    assert isinstance(stack[1].mlp.up_proj, nn.Linear)


QUESTIONS: list[dict[str, Any]] = [{"question": f"Which is {n}?", "answer": "the fox"} for n in range(3)]
WRONG = [{**row, "perturbed_answer": ["a pond", "the mill"]} for row in QUESTIONS]
CHOICES = [{**row, "choices": ["the fox", "a pond"], "answer": 0} for row in QUESTIONS]


@pytest.mark.parametrize(
    ("test", "of_row"),
    [
        (Recognition(PAIR, block_size=24), lambda row: float(row["target_nll"] < row["foil_nll"])),
        (Recall(PAIR.targets, block_size=24), lambda row: row["completion_rouge2"]),
        (Extraction(PAIR.targets, (4, 8), 6, block_size=24), lambda row: float(row["exact"])),
        (QA(InlineItems("q", tuple(QUESTIONS)), task="mine"), lambda row: float(row["exact"])),
        (Choice(InlineItems("q", tuple(CHOICES)), task="mine"), lambda row: float(row["correct"])),
        (TruthRatio(InlineItems("q", tuple(WRONG)), task="mine"), lambda row: max(0.0, 1 - row["truth_ratio"])),
    ],
    ids=["recognition", "recall", "extraction", "qa", "choice", "truth_ratio"],
)
def test_rows_have_the_measure_of_the_test_as_it_is_and_rounded(
    by_heart: LanguageModel, test: Any, of_row: Any
) -> None:
    lm = by_heart
    items = CHOICES if isinstance(test, Choice) else WRONG if isinstance(test, TruthRatio) else QUESTIONS
    texts: Any = {**TEXTS, "items": [json.dumps(row) for row in items]}
    table = Quantized(test, bits=2, group=64).measure(Session(lm), texts)
    assert table.schema.equals(Quantized.schema())
    plain = test.measure(Session(lm), texts).to_pylist()
    with Session(lm).rounded(2, 64):
        rounded = test.measure(Session(lm), texts).to_pylist()
    for row, one, other in zip(table.to_pylist(), plain, rounded, strict=True):
        assert (row["as_is"], row["rounded"]) == (of_row(one), of_row(other))
        assert (row["probe"], row["bits"], row["group_size"]) == (test.kind, 2, 64)
        assert all(row[name] == one.get(name) for name in ("task", "item", "prefix_tokens"))
    if isinstance(test, Recall | Extraction):
        assert np.mean(table["as_is"]) > np.mean(table["rounded"])


def test_what_the_test_cannot_measure_is_null() -> None:
    lm = studied("llama", Full())
    table = Quantized(Recall(PAIR.targets, block_size=24)).measure(Session(lm), {"corpus": [TARGETS[0], "A"]})
    assert table["as_is"].is_null().to_pylist() == table["rounded"].is_null().to_pylist() == [False, True]


@pytest.mark.parametrize(("method", "lanes"), [(Full(), 3), (LoRA(r=4), 1)], ids=["full", "lora"])
def test_lanes_of_adapters_share_what_is_rounded_and_so_there_is_one(
    method: Full | LoRA, lanes: int, tmp_path: Path
) -> None:
    probes = [Quantized(Recall(), bits=3, group=16), Recognition(PAIR)]
    conditions = [dataclasses.replace(one, probes=probes) for one in grid(method, lrs=(1e-2,))]
    stores = Store(tmp_path / "single"), Store(tmp_path / "laned")
    for store, count in zip(stores, (1, 3), strict=True):
        trial = dataclasses.replace(trial_of(conditions), resources=Resources(lanes=count))
        assert execute(trial, store, World.current(), Attempt("test", "first")) == []
    for kind, number in (("quantized", "rounded"), ("recognition", "target_nll")):
        one, other = (rows(store, kind) for store in stores)
        assert len(one) == len(other) > 0 and {row["lanes"] for row in other} == {lanes}
        for row, its in zip(one, other, strict=True):
            np.testing.assert_allclose(its[number], row[number], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"bits": 1}, "Quantized.bits: Input should be greater than or equal to 2, got 1"),
        ({"bits": 16}, "Quantized.bits: Input should be less than or equal to 8, got 16"),
        ({"group": 0}, "Quantized.group: Input should be greater than 0, got 0"),
    ],
)
def test_what_cannot_be_is_a_line(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as error:
        Quantized(Recall(), **fields)
    assert str(error.value) == says


def test_a_bound_probe_has_its_test_bound() -> None:
    assert Quantized(Recall()).bind(CONDITION) == Quantized(Recall(PAIR.targets, block_size=24))
    with pytest.raises(SpecError, match=r"Quantized\.probe: must be Recognition\(\.\.\.\) or Recall"):
        Quantized(Quantized(Recall()))  # type: ignore[arg-type] # the point
