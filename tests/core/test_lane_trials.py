"""A trial in lanes leaves the tables that it leaves without: forks, failures, interruptions and all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pytest
import torch
from core.every_measure import LIST, PROBES
from core.small import CONFIGS, TOKENIZER
from core.test_trial import rows, statuses, trial_of

from memexp.core.lanes import Lanes
from memexp.core.processes import World
from memexp.errors import ModelError, SpecError, one_line
from memexp.plan.attempts import Attempt
from memexp.probes import (
    BY_KIND,
    QA,
    BaseForgetting,
    Extraction,
    LayerAblation,
    Membership,
    Quantized,
    Recall,
    Recognition,
)
from memexp.signals import Interrupted
from memexp.spec import (
    Condition,
    Forget,
    Full,
    InlineItems,
    Interference,
    LoRA,
    Model,
    Pair,
    Probe,
    RandomInit,
    Resources,
    ShippedText,
    Study,
    runs_users_code,
    spec,
)
from memexp.store import Store
from memexp.trial.base import WarmBase
from memexp.trial.execute import execute
from memexp.trial.side_by_side import lanes_of

PAIR = Pair(ShippedText("sentences-targets", first=12), ShippedText("sentences-foils", first=12))
KINDS = ("recognition", "recall", "training")


def grid(method: Full | LoRA, lrs: Iterable[float] = (1e-3, 3e-3, 1e-2), dropout: float = 0.0) -> list[Condition]:
    """Exposures, learning rates, seeds; one of them goes on with forgetting layers and with interference."""
    model = Model("gpt2-small", tokenizer=TOKENIZER, init=RandomInit(config={"model_type": "gpt2", **CONFIGS["gpt2"]}))
    study: dict[str, Any] = {"batch_size": 4, "block_size": 48, "dropout": dropout}
    probes = [Recognition(PAIR), Recall()]
    plain = [
        Condition(model, Study(PAIR.targets, exposures=n, lr=lr, **study), method, seed, probes)
        for n in (0, 1, 3)
        for lr in lrs
        for seed in (0, 1)
    ]
    studied = Study(PAIR.targets, exposures=2, lr=3e-3, **study)
    forgetful = [
        Condition(model, studied, method, 0, probes, forget=Forget(from_layer=layer, restudy_exposures=2))
        for layer in (0, 1)
    ]
    other = Interference(PAIR.foils, lr=1e-3, batch_size=4, block_size=48, steps=4)
    return [*plain, *forgetful, Condition(model, studied, method, 0, probes, interference=other)]


def executed(conditions: list[Condition], store: Any, lanes: int, attempt: str = "first") -> list[str]:
    trial = dataclasses.replace(trial_of(conditions), resources=Resources(lanes=lanes))
    return execute(trial, store, World.current(), Attempt("test", attempt))


def assert_same(one: Store, other: Store, rtol: float = 1e-5, kinds: Sequence[str] = KINDS) -> None:
    """Equal rows, numbers up to rounding."""
    for kind in kinds:
        first, second = rows(one, kind), rows(other, kind)
        assert len(first) == len(second) > 0, kind
        for row, its in zip(first, second, strict=True):
            for name, value in row.items():
                if name in ("lanes", "seconds"):
                    continue
                if isinstance(value, float | list):
                    np.testing.assert_allclose(its[name], value, rtol=rtol, atol=1e-4, err_msg=name)
                else:
                    assert its[name] == value, (kind, name)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("method", [Full(), LoRA(r=4)], ids=["full", "lora"])
def test_a_trial_in_lanes_leaves_the_same_tables(method: Full | LoRA, dropout: float, tmp_path: Path) -> None:
    conditions = grid(method, dropout=dropout)
    single, laned = Store(tmp_path / "single"), Store(tmp_path / "laned")
    assert executed(conditions, single, 1) == executed(conditions, laned, 4) == []
    assert_same(single, laned)
    assert statuses(laned) == statuses(single)  # nothing is made twice
    assert {row["lanes"] for row in rows(laned, "recall")} == {4}
    assert {row["lanes"] for row in rows(single, "recall")} == {1}
    for kind in KINDS:
        assert laned.names(kind) == single.names(kind)


def test_one_lane_that_diverges_leaves_the_others_untouched(tmp_path: Path) -> None:
    sound, mixed = Store(tmp_path / "sound"), Store(tmp_path / "mixed")
    assert executed(grid(Full(), (1e-3, 3e-3)), sound, 4) == []
    lines = executed(grid(Full(), (1e-3, 3e-3, 1e38)), mixed, 4)
    assert lines and all("diverged" in line for line in lines)
    names = {kind: sound.names(kind) for kind in KINDS}
    assert all(names[kind] <= mixed.names(kind) for kind in KINDS)
    for kind in KINDS:
        for name in names[kind]:
            one, other = (store.read(kind, name).to_pylist() for store in (sound, mixed))
            for row, its in zip(one, other, strict=True):
                for column, value in row.items():
                    if isinstance(value, float):
                        np.testing.assert_allclose(its[column], value, rtol=1e-5, atol=1e-4)


class Interrupting(Store):
    """A store during whose so many commits the process is interrupted."""

    left = 7

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        """As ever, until then."""
        self.left -= 1
        if self.left < 0:
            raise Interrupted
        return super().commit(kind, name, table)


def test_lanes_that_are_interrupted_go_on_where_they_were(tmp_path: Path) -> None:
    whole, halved = Store(tmp_path / "whole"), tmp_path / "halved"
    conditions = grid(LoRA(r=4))
    assert executed(conditions, whole, 1) == []
    with pytest.raises(Interrupted):
        executed(conditions, Interrupting(halved), 3)
    store = Store(halved)
    assert 0 < len(store.names("recall")) < len(whole.names("recall"))
    assert executed(conditions, store, 3, "second") == []
    assert_same(whole, store)


def test_there_are_no_more_lanes_than_ways(tmp_path: Path) -> None:
    """A model that has more of them keeps these: to have fewer it would be loaded anew."""
    store, base, found = Store(tmp_path), WarmBase(), list[int]()
    for lrs in ((1e-3, 3e-3), (5e-3,), (7e-3, 8e-3, 9e-3)):  # of two seeds each
        ways = [one for one in grid(LoRA(r=4), lrs) if one.study.exposures == 1]
        trial = dataclasses.replace(trial_of(ways), resources=Resources(lanes=8))
        assert execute(trial, store, World.current(), Attempt("test", str(lrs)), base=base) == []
        assert {row["lanes"] for row in rows(store, "recall", lr=lrs[0])} == {base.count}
        found.append(base.count)
    assert found == [4, 4, 6]


@pytest.mark.parametrize("why", [ModelError("it has none"), torch.OutOfMemoryError("CUDA out of memory.\nTried")])
def test_a_model_without_lanes_goes_on_in_one(why: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Lanes, *_: Any) -> None:
        raise why

    monkeypatch.setattr(Lanes, "__init__", refuse)
    store = Store(tmp_path / "results")
    assert executed(grid(LoRA(r=4)), store, 3) == []
    assert {row["lanes"] for row in rows(store, "recall")} == {1}
    (said,) = rows(store, "stages", status="unread")
    assert said["error"] == f"one lane instead of 3: {one_line(why)}"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lanes": 0}, "Resources.lanes: Input should be greater than 0, or 'auto', got 0"),
        ({"lanes": "many"}, "Resources.lanes: Input should be a valid integer, or 'auto', got 'many'"),
        ({"lanes": 2, "workers": 2}, "lanes are of a model on one worker"),
        ({"lanes": 2, "offload": True}, "offload=False or lanes=1"),
    ],
)
def test_lanes_that_cannot_be_are_refused_in_a_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said) as error:
        Resources(**given)
    assert "\n" not in str(error.value)


def test_what_is_asked_of_every_token_is_the_same_in_lanes(tmp_path: Path) -> None:
    """Of extraction and membership, whose reference takes a lane back to the weights before study and again away."""
    probes = [Extraction(prefixes=[4, 8], suffix=6), Membership(PAIR), Recognition(PAIR), BaseForgetting(PAIR.foils)]
    conditions = [dataclasses.replace(one, probes=probes) for one in grid(Full())[:8]]
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "together")
    for store, lanes in ((alone, 1), (together, 3)):
        assert executed(conditions, store, lanes) == []
    for kind, part in (("extraction", "prefix_tokens"), ("membership", "member"), ("base_forgetting", "item")):
        both = [
            sorted(rows(store, kind), key=lambda row: (row["condition_id"], row[part])) for store in (alone, together)
        ]
        assert {row["lanes"] for row in both[0]} == {1} and {row["lanes"] for row in both[1]} == {2}
        for row, its in zip(*both, strict=True):
            for name in BY_KIND[kind].schema().names:
                value = row[name]
                if isinstance(value, float):
                    np.testing.assert_allclose(its[name], value, rtol=5e-3, atol=5e-4, err_msg=name)
                else:
                    assert its[name] == value, (kind, name)
    gained = {row["condition_id"]: row["reference"] for row in rows(together, "membership") if row["exposures"] == 1}
    assert len(set(gained.values())) == len(gained) == 2, "lanes differ, and from what they were"


def test_what_papers_of_memorisation_measure_is_the_same_in_lanes(tmp_path: Path) -> None:
    """Of priming and capacity too, which take a lane back to the weights before study and again away."""
    model, study = grid(Full())[0].model, {"batch_size": 4, "block_size": 48}
    conditions = [
        Condition(model, Study(LIST, exposures=n, lr=lr, **study), Full(), 0, list(PROBES))
        for n in (0, 1, 3)
        for lr in (1e-3, 1e-2)
    ]
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "together")
    assert executed(conditions, alone, 1) == executed(conditions, together, 2) == []
    assert_same(alone, together, 5e-3, [probe.kind for probe in PROBES])
    for probe in PROBES:
        found = rows(together, probe.kind, exposures=3)
        assert {row["lanes"] for row in found} == {2}
        measured = {
            lr: str([[row[name] for name in probe.schema().names] for row in found if row["lr"] == lr])
            for lr in (1e-3, 1e-2)
        }
        assert measured[1e-3] != measured[1e-2], f"{probe.kind}: lanes differ"


@spec
class Reading(QA):
    """Of a user, who may do anything."""

    kind: ClassVar[str] = "reading"


@pytest.mark.parametrize("within", [LayerAblation, Quantized])
def test_what_a_user_wrote_is_by_itself_also_within_a_probe(
    within: type[Probe], monkeypatch: pytest.MonkeyPatch
) -> None:
    items = InlineItems("q", [{"question": "Why?", "answer": "So."}])

    def lanes(probe: Probe) -> int:
        conditions = [dataclasses.replace(one, probes=[probe]) for one in grid(Full())]
        trial = dataclasses.replace(trial_of(conditions), resources=Resources(lanes=4))
        children: dict[str, list[Any]] = {}
        for stage in trial.stages:
            children.setdefault(stage.parent, []).append(stage)
        return lanes_of(trial, trial.asks, children)

    assert (lanes(within(QA(items))), lanes(within(Reading(items)))) == (4, 1)
    assert not runs_users_code(within(QA(items))) and runs_users_code(within(Reading(items)))
    monkeypatch.setattr(Reading, "__module__", "memexp.probes.reading")
    assert lanes(within(Reading(items))) == 4, "the control"
