"""Probes of the same texts share one forward pass, and are told what each would have been told by itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core.small import FOILS, TARGETS, language_model
from core.test_lane_trials import assert_same, executed
from core.test_lane_trials import grid as laned_grid
from core.test_trial import Grid, grid, rows, store

from memexp.core.model import LanguageModel
from memexp.core.pass_memory import PassMemory, SharedPass
from memexp.core.session import Session
from memexp.core.token_stats import for_several, token_stats
from memexp.probes import Exposure, Extraction, Membership, Recognition
from memexp.spec import Condition, LoRA, Model, Pair, Probe, Study, TokenAsk
from memexp.stimuli.canaries import Canaries
from memexp.store import Store

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

PREFIXES = {"prefixes": (4, 8), "suffix": 4}


def three(pair: Pair) -> list[Probe]:
    return [Recognition(pair), Membership(pair, reference=False), Extraction(pair, **PREFIXES)]


def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of every pass from now on."""
    seen: list[int] = []
    real = LanguageModel.nll

    def nll(self: LanguageModel, ids: torch.Tensor, *given: Any) -> torch.Tensor:
        if not torch.is_grad_enabled():
            seen.append(len(ids))
        return real(self, ids, *given)

    monkeypatch.setattr(LanguageModel, "nll", nll)
    return seen


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_several_asks_in_one_pass_are_each_by_itself(kind: str) -> None:
    lm = language_model(kind)
    ids = Session(lm).encode([*TARGETS[:6], *FOILS[:6], ""], 24)
    asks = [TokenAsk(), TokenAsk((1.0,), 40), TokenAsk((0.5, 1.0)), TokenAsk((0.7, 1.0), 40), TokenAsk((1.0,), 3)]
    together = for_several(lm, ids, asks)
    for ask in asks:
        alone = token_stats(lm, ids, ask.temperatures, within=ask.within)
        for one, other in zip(together[ask], alone, strict=True):
            for field in dataclasses.fields(one):
                mine, its = getattr(one, field.name), getattr(other, field.name)
                assert mine.shape == its.shape and mine.tobytes() == its.tobytes(), (ask, field.name)


def test_one_pass_for_three_probes(grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (condition,) = grid((2,), lrs=(1e-2,))
    by_kind: dict[str, Sequence[dict[str, Any]]] = {}
    seen = passes(monkeypatch)
    for probe in three(grid.pair):
        alone = Store(tmp_path / probe.kind)
        assert executed([dataclasses.replace(condition, probes=[probe])], alone, 1) == []
        by_kind[probe.kind] = rows(alone, probe.kind)
    apart = len(seen)
    seen.clear()
    together = Store(tmp_path / "together")
    assert executed([dataclasses.replace(condition, probes=three(grid.pair))], together, 1) == []
    assert len(seen) * 3 == apart, "one instead of three"
    for kind, alone_rows in by_kind.items():
        assert rows(together, kind) == alone_rows, kind
    assert {row["member"] for row in by_kind["extraction"]} == {True, False}
    exposures = {(row["member"], row["item_exposures"]) for row in by_kind["extraction"]}
    assert exposures == {(True, 2), (False, 0)}


def test_exposure_among_foils_goes_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nobody asks for more than likelihoods."""
    words = ("cat", "dog", "owl", "fox")
    canaries = Canaries("The code of the vault is {secret} today.", alphabet=words, length=4, count=6)
    pair = canaries.pair()
    for probes in ([Exposure(canaries, pair=pair), Recognition(pair)], [Exposure(canaries, pair=pair), *three(pair)]):
        study = Study(pair.targets, exposures=2, lr=1e-2, batch_size=4)
        condition = Condition(Model("tiny-s"), study, probes=probes)
        alone, together = Store(tmp_path / f"alone-{len(probes)}"), Store(tmp_path / f"together-{len(probes)}")
        with monkeypatch.context() as patch:
            seen = passes(patch)
            for probe in probes:
                assert executed([dataclasses.replace(condition, probes=[probe])], alone, 1) == []
            apart = len(seen)
            seen.clear()
            assert executed([condition], together, 1) == []
            assert len(seen) * len(probes) == apart
        for probe in probes:
            assert rows(together, probe.kind) == rows(alone, probe.kind), probe.kind
        assert {row["candidates"] for row in rows(together, "exposure")} == {6}


def test_the_model_before_study_is_another_one(grid: Grid, tmp_path: Path) -> None:
    (condition,) = grid((2,), lrs=(1e-2,))
    probes = [Recognition(grid.pair), Membership(grid.pair)]
    alone, together = Store(tmp_path / "alone"), Store(tmp_path / "together")
    assert executed([dataclasses.replace(condition, probes=probes[1:])], alone, 1) == []
    assert executed([dataclasses.replace(condition, probes=probes)], together, 1) == []
    assert rows(alone, "membership") == rows(together, "membership")
    assert any(abs(row["reference"]) > 1e-3 for row in rows(together, "membership"))


def test_lanes_leave_the_same(tmp_path: Path) -> None:
    plain = [one for one in laned_grid(LoRA(r=4), (1e-3, 3e-3)) if one.study.exposures == 3]
    pair = next(probe.pair for probe in plain[0].probes if isinstance(probe, Recognition))
    conditions: list[Condition] = [dataclasses.replace(one, probes=three(pair)) for one in plain]
    conditions.append(dataclasses.replace(plain[0], probes=three(pair)[1:], labels={"fewer": True}))
    single, laned = Store(tmp_path / "single"), Store(tmp_path / "laned")
    assert executed(conditions, single, 1) == executed(conditions, laned, 2) == []
    assert_same(single, laned, kinds=("recognition", "membership", "training"))
    exact = [[(row["exact"], row["matching"]) for row in rows(one, "extraction")] for one in (single, laned)]
    assert exact[0] == exact[1]


def test_who_agrees_in_nothing_shares_nothing() -> None:
    def of(probe: Any, targets: list[str], foils: list[str], size: int) -> Any:
        return dataclasses.replace(probe, block_size=size).passed({"targets": targets, "foils": foils})

    pair = grid_pair()
    recognition, membership = Recognition(pair), Membership(pair)
    a, b = TARGETS[:4], FOILS[:4]
    same = PassMemory({"one": of(recognition, a, b, 64), "two": of(membership, a, b, 64)})
    assert same.for_("one") is same.for_("two") and isinstance(same.for_("one"), SharedPass)
    others = [of(membership, a, b, 32), of(membership, a, [*b, "more"], 64), of(membership, b, a, 64), None]
    for other in others:
        apart = PassMemory({"one": of(recognition, a, b, 64), "two": other})
        assert apart.for_("one") is None and apart.for_("two") is None
    plain = PassMemory({"one": of(recognition, a, b, 64), "two": of(recognition, a, b, 64)})
    assert plain.for_("one") is plain.for_("two") is not None


def grid_pair() -> Pair:
    from memexp.spec import ShippedText

    return Pair(ShippedText("sentences-targets", first=4), ShippedText("sentences-foils", first=4))


def test_in_smaller_batches_it_is_another_pass() -> None:
    lm = language_model("gpt2")
    ids, shared = Session(lm).encode(TARGETS[:6], 24), SharedPass([TokenAsk()])
    first = shared.token_stats(lm, ids, TokenAsk())
    assert shared.token_stats(lm, ids, TokenAsk()) is first
    lm.budget = dataclasses.replace(lm.budget, scoring_tokens=lm.budget.scoring_tokens // 2)
    assert shared.token_stats(lm, ids, TokenAsk()) is not first
    assert shared.token_stats(lm, ids[:3], TokenAsk())[0].nll.shape == first[0].nll.shape
