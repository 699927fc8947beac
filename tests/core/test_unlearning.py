"""Unlearning minimises what it says, its stops lie on one line, and a line that is taken up remembers how it began."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from core.small import FOILS, NO_DROPOUT, PEAKED, TARGETS, language_model, weights
from core.test_durable import EVERY, NONE, WORLD, Killed, data
from core.test_lane_trials import executed as laned
from core.test_trial import Grid, compare, executed, grid, rows, store, trial_of

import memexp.core.train
from memexp import loading
from memexp.core import objectives
from memexp.core.batches import Batch, PassingBatches, Retaining
from memexp.core.data import Row, encode
from memexp.core.model import LanguageModel
from memexp.core.objectives import Unlearning, as_before, kept, remembered
from memexp.core.optimizer import fresh_optimizer
from memexp.core.train import Step, train
from memexp.errors import SpecError
from memexp.plan import TrainingStage, find_missing, grow
from memexp.plan.attempts import Attempt
from memexp.spec import (
    EWC,
    SGD,
    Condition,
    Forget,
    Full,
    InlineText,
    Interference,
    LoRA,
    ShippedText,
    Unlearn,
    counterbalanced,
)
from memexp.store import Store
from memexp.trial.execute import execute

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

KEPT = ShippedText("sentences-interference", first=10)
LOSSES = ("ascent", "difference", "npo", "kl")
Loss = Callable[[LanguageModel, Sequence[Row], Sequence[Row]], torch.Tensor]


def unlearn(loss: Any, steps: int = 3, **settings: Any) -> Unlearn:
    retain = None if loss == "ascent" else KEPT
    given = {"lr": 3e-3, "retain": retain, "batch_size": 4, "block_size": 64} | settings
    return Unlearn(loss, steps, **given)


def unlearned(condition: Condition, loss: str, *steps: int, **settings: Any) -> list[Condition]:
    return [dataclasses.replace(condition, unlearn=unlearn(loss, n, **settings)) for n in steps]


# What is minimised, against loops over single texts with all logits


def plain_nll(lm: LanguageModel, row: Row) -> torch.Tensor:
    """Of each token but the first."""
    logits = lm.lm(input_ids=torch.tensor([list(row)])).logits[0, :-1].log_softmax(-1)
    return -logits[torch.arange(len(row) - 1), torch.tensor(list(row)[1:])]


def plain_mean(lm: LanguageModel, texts: Sequence[Row]) -> torch.Tensor:
    return torch.cat([plain_nll(lm, row) for row in texts]).mean()


def plain_loss(settings: Unlearn, reference: LanguageModel) -> Loss:
    def divergence(lm: LanguageModel, row: Row) -> torch.Tensor:
        now, before = (
            one.lm(input_ids=torch.tensor([list(row)])).logits[0, :-1].log_softmax(-1) for one in (lm, reference)
        )
        before = before.detach()
        return (before.exp() * (before - now)).sum(-1)

    def npo(lm: LanguageModel, texts: Sequence[Row]) -> torch.Tensor:
        each = [plain_nll(lm, row).sum() - plain_nll(reference, row).sum().detach() for row in texts]
        scale = settings.beta
        return torch.stack([-2 / scale * torch.log(1 / (1 + torch.exp(-scale * one))) for one in each]).mean()

    def loss(lm: LanguageModel, forgotten: Sequence[Row], retained: Sequence[Row]) -> torch.Tensor:
        against = npo(lm, forgotten) if settings.loss == "npo" else -plain_mean(lm, forgotten)
        if settings.retain is None:
            return against
        if settings.loss == "kl":
            return against + settings.weight * torch.cat([divergence(lm, row) for row in retained]).mean()
        return against + settings.weight * plain_mean(lm, retained)

    return loss


@pytest.fixture(params=["one pass", "many"])
def groups(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a batch is cut into several micro-groups."""
    if request.param == "many":
        monkeypatch.setattr(objectives, "LOGIT_BYTES", 2 * 4 * 600 * 40)
    return bool(request.param == "many")


CASES = {
    **{loss: unlearn(loss) for loss in LOSSES},
    "npo, nothing kept": unlearn("npo", retain=None, beta=0.7),
    "npo, weighted": unlearn("npo", weight=0.3, beta=0.02),
    "kl, weighted": unlearn("kl", weight=2.5),
    "difference, weighted": unlearn("difference", weight=2.5, clip_norm=0.2),
}


@pytest.mark.parametrize("method", [Full(), LoRA(r=2)], ids=["full", "lora"])
@pytest.mark.parametrize("settings", CASES.values(), ids=CASES)
def test_three_steps_are_those_of_a_plain_loop(settings: Unlearn, method: Full | LoRA, groups: bool) -> None:
    # An adapter's gradients are large: three steps are to stay three small ones.
    lr = (0.02 if isinstance(method, Full) else 1e-3) * (0.04 if settings.loss == "npo" else 1)
    settings = dataclasses.replace(settings, optimizer=SGD(), lr=lr)
    lm, plain, reference = (language_model("gpt2", method, **NO_DROPOUT["gpt2"]) for _ in range(3))
    for one in (lm, plain, reference):
        _stir(one)
    forget = [*encode(lm.tokenizer, TARGETS[:6], 64), [7]]
    batches: Any = PassingBatches(settings, forget, 0)
    if settings.retain is not None:
        keep = [[5], *encode(lm.tokenizer, FOILS[:9], 64)]
        batches = Retaining(batches, PassingBatches(settings, keep, 0, "retain"))
    if groups:
        lm.budget = dataclasses.replace(lm.budget, group_tokens=40)
    made = _train(lm, settings, batches, forget)
    expected, told = _plainly(plain, settings, batches, plain_loss(settings, reference))
    assert [step.loss for step in made] == pytest.approx(told, rel=1e-6)
    before = reference.learning()
    for name, weight in lm.learning().items():
        torch.testing.assert_close(weight, expected[name], rtol=0, atol=1e-6)
        torch.testing.assert_close(weight - before[name], expected[name] - before[name], rtol=1e-3, atol=1e-6)
    moved = max(float((weight - before[name]).detach().abs().max()) for name, weight in lm.learning().items())
    assert moved > 1e-4, "the steps are large enough to be told from others"


def _stir(lm: LanguageModel) -> None:
    """Opinions, the same in each of several models; an adapter's as well."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in lm.learning().values():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)


def _train(lm: LanguageModel, settings: Unlearn, batches: Any, forget: Sequence[Row]) -> list[Step]:
    optimizer = fresh_optimizer(lm, settings)
    return train(
        lm, optimizer, settings, batches, 1, 3, objective=Unlearning(settings, remembered(lm, settings, forget))
    )


def _plainly(
    lm: LanguageModel, settings: Unlearn, batches: Callable[[int], Batch], loss: Loss
) -> tuple[dict[str, torch.Tensor], list[float]]:
    """Weights after three steps, and the mean NLL of what was to be forgotten before each."""
    lm.eval()
    told = []
    for step in (1, 2, 3):
        batch = batches(step)
        end = len(batch.rows) - batch.retained
        forgotten, retained = ([row for row in part if len(row) > 1] for part in (batch.rows[:end], batch.rows[end:]))
        told.append(float(plain_mean(lm, forgotten).detach()))
        lm.zero_grad()
        loss(lm, forgotten, retained).backward()
        if settings.clip_norm is not None:
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in lm.learning().values() if p.grad is not None))
            assert norm > settings.clip_norm
        with torch.no_grad():
            for parameter in lm.learning().values():
                if parameter.grad is not None:
                    share = 1.0 if settings.clip_norm is None else settings.clip_norm / norm
                    parameter -= settings.lr * share * parameter.grad
    return weights(lm), told


def test_the_divergence_begins_at_nothing_and_grows() -> None:
    """At the first step KL has no gradient: it is plain ascent; afterwards it holds the model back."""
    forget = encode(language_model("gpt2").tokenizer, TARGETS[:4], 64)
    found = {}
    for loss in ("ascent", "kl"):
        settings = unlearn(loss, optimizer=SGD(), lr=0.5, **({"weight": 20.0} if loss == "kl" else {}))
        lm = language_model("gpt2", initializer_range=PEAKED, **NO_DROPOUT["gpt2"])
        keep = encode(lm.tokenizer, FOILS[:4], 64)
        batches: Any = PassingBatches(settings, forget, 0)
        batches = Retaining(batches, PassingBatches(settings, keep, 0, "retain")) if loss == "kl" else batches
        found[loss] = [step.loss for step in _train(lm, settings, batches, forget)]
    assert found["kl"][1] == pytest.approx(found["ascent"][1], rel=1e-4)
    assert found["kl"][2] != pytest.approx(found["ascent"][2], rel=1e-3)


def test_dropout_is_of_the_model_that_learns_alone() -> None:
    """What it is compared with has none: without a gradient the divergence would not be 0 with the same weights."""
    lm = language_model("gpt2", initializer_range=PEAKED)
    memexp.core.train.set_dropout(lm.lm, 0.5)
    lm.train()
    ids = torch.tensor([encode(lm.tokenizer, TARGETS[:1], 64)[0]])
    held, learned, lengths = kept(lm), weights(lm), torch.tensor([ids.shape[1]])
    with torch.no_grad():
        next(iter(lm.learning().values())).add_(1.0)
        with as_before(lm, held):
            found = [lm.nll(ids, lengths) for _ in range(2)]
            assert not lm.training and not found[0].requires_grad
            assert all(torch.equal(weight, learned[name]) for name, weight in lm.learning().items())
    assert lm.training and torch.equal(*found)
    assert all(torch.equal(weight, learned[name]) for name, weight in held.items()), "nothing is left of the exchange"


def test_a_batch_that_has_nothing_to_be_forgotten_changes_nothing() -> None:
    settings = unlearn("difference")
    lm = language_model("gpt2")
    before = weights(lm)

    class OneToken:
        what = "unlearn"

        def __call__(self, step: int) -> Batch:
            return Batch([[3], [4, 5, 6]], 1, 1e-3, None, retained=1)

    batches = OneToken()
    objective = Unlearning(settings, remembered(lm, settings, []))
    made = train(lm, fresh_optimizer(lm, settings), settings, batches, 1, 1, objective=objective)
    assert [(step.loss, step.tokens) for step in made] == [(None, 0)]
    assert all(torch.equal(weight, before[name]) for name, weight in weights(lm).items())


# Shared equals alone

WAYS: dict[str, dict[str, Any]] = {"full": {}, "dropout": {"dropout": 0.1}, "lora": {"method": LoRA(r=4)}}


@pytest.mark.parametrize("study", WAYS.values(), ids=WAYS)
def test_stops_of_one_line_equal_each_alone(grid: Grid, study: dict[str, Any], tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,), **study)
    more = {"dropout": study["dropout"]} if "dropout" in study else {}
    conditions = [studied, *(one for loss in LOSSES for one in unlearned(studied, loss, 5, 2, **more))]
    together = compare(conditions, tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(conditions), "each is a state of its own"
    assert Counter(row["kind"] for row in together["training"]) == {"study": 2 * 3, "unlearn": 4 * 5}


def test_what_comes_before_and_after_it(grid: Grid, tmp_path: Path) -> None:
    """Unlearning of what was never studied, after forgetting; and interference, protected or not, after unlearning."""
    never, studied = grid((0, 2), lrs=(1e-2,))
    forgotten = dataclasses.replace(studied, forget=Forget(from_layer=1, restudy_exposures=0))
    other = Interference(ShippedText("sentences-foils", first=20), 3, 3e-3, 4, 64)
    held, twice = dataclasses.replace(other, protect=EWC(1e4)), unlearned(studied, "kl", 2, 4)
    conditions = [
        *unlearned(never, "npo", 2),
        *unlearned(forgotten, "kl", 2, 3),
        *(dataclasses.replace(one, interference=between) for one in twice for between in (other, held)),
    ]
    together = compare(conditions, tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(conditions)


def test_it_takes_back_what_study_did(grid: Grid, store: Store) -> None:
    untrained, studied = grid((0, 6), lrs=(1e-2,))
    unlearning = [one for loss in LOSSES for one in unlearned(studied, loss, 30)]
    assert executed([untrained, studied, *unlearning], store) == []
    means: Counter[Any] = Counter()
    for row in rows(store, "recognition"):
        means[row["exposures"], row["unlearn_loss"]] += row["target_nll"]
    assert means[6, None] < means[0, None] < min(means[6, loss] for loss in LOSSES)
    lines: dict[str, list[float]] = {}
    for row in rows(store, "training"):
        if row["kind"] == "unlearn":
            lines.setdefault(row["stage_id"], []).append(row["loss"])
    assert len(lines) == len(LOSSES)
    assert all(losses[-1] > losses[0] for losses in lines.values()), "what is recorded is the NLL of the forget list"


def test_no_steps_are_the_end_of_study(grid: Grid) -> None:
    (studied,) = grid((2,))
    forest = grow([studied, *unlearned(studied, "npo", 0)])
    assert forest.conditions == 2 and len({ask.stage for ask in forest.asks}) == 1


def test_rows_say_what_was_unlearned(grid: Grid, store: Store) -> None:
    (studied,) = grid((1,))
    assert executed([studied, *unlearned(studied, "npo", 1), *unlearned(studied, "ascent", 1)], store) == []
    found = {row["unlearn_loss"]: row for row in rows(store, "recognition", item=0)}
    told = {loss: {n: v for n, v in row.items() if n.startswith("unlearn_")} for loss, row in found.items()}
    assert set(told[None].values()) == {None}
    texts = grow(unlearned(studied, "npo", 1)).texts.values()
    lists = {text.id for text in texts if text.name in (grid.pair.targets.name, KEPT.name)}
    assert {told["npo"].pop(f"unlearn_{name}_id") for name in ("forget", "retain")} == lists
    assert told["npo"] == {
        **{name: None for name in told["npo"]},
        "unlearn_loss": "npo",
        "unlearn_steps": 1,
        "unlearn_lr": 3e-3,
        "unlearn_batch_size": 4,
        "unlearn_block_size": 64,
        "unlearn_beta": 0.1,
        "unlearn_weight": 1.0,
        "unlearn_weight_decay": 0.0,
        "unlearn_forget": grid.pair.targets.name,
        "unlearn_retain": KEPT.name,
    }
    assert (told["ascent"]["unlearn_beta"], told["ascent"]["unlearn_weight"]) == (None, None)


# Killed and taken up


@contextlib.contextmanager
def killed_after(steps: int | None) -> Iterator[None]:
    made, plain = 0, memexp.core.train._made

    def one(*arguments: Any) -> Any:
        nonlocal made
        if made == steps:
            raise Killed
        made += 1
        return plain(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memexp.core.train, "_made", one)
        yield


def attempt(conditions: list[Condition], sink: Store, name: str, snapshots: Any, until: int | None = None) -> Any:
    """As that of test_durable.py, killed in whatever makes a step."""
    trial = dataclasses.replace(trial_of(conditions), snapshots=snapshots)
    missing = {(ask.kind, ask.name) for ask in find_missing(grow(conditions), sink).asks}
    trial.asks = [ask for ask in trial.asks if (ask.kind, ask.name) in missing]
    with killed_after(until):
        try:
            return execute(trial, sink, WORLD, Attempt("test", name))
        except Killed:
            return "killed"


@pytest.mark.parametrize("killed_at", [7, 10, 14])
@pytest.mark.parametrize("loss", LOSSES)
def test_killed_in_unlearning_it_goes_on_to_the_last_bit(
    loss: str, killed_at: int, grid: Grid, store: Store, tmp_path: Path
) -> None:
    """Six steps of study, then 12 with a stop after 5; at a kill behind it, study is brought about again for a look."""
    (studied,) = grid((2,), lrs=(1e-2,), dropout=0.1)
    conditions = unlearned(studied, loss, 5, 12, dropout=0.1)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE) == []
    assert attempt(conditions, store, "first", EVERY, until=killed_at) == "killed"
    assert attempt(conditions, store, "second", EVERY) == []
    assert data(store) == data(undisturbed)
    assert not store.list_text(".snapshots/")


# Lanes, the plan, and what is refused


def test_the_shipped_sweep_has_every_loss_and_the_control(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv])
    monkeypatch.setattr(sys, "path", [*sys.path])
    path = str(Path(__file__).parents[2] / "sweeps" / "unlearning.py")
    sweep = loading.load(path, ["--seeds", "0"])
    cells = Counter(one.unlearn.loss if one.unlearn is not None else one.labels["way"] for one in sweep.conditions)
    assert cells == {**dict.fromkeys(LOSSES, 5), "never saw it": 1}
    assert sweep.grow().steps == 50 + 30 + 4 * 40, "study of both lists, of one, and the longest line of each loss"
    ways = Counter(one.labels["way"] for one in loading.load(path, ["--protect", "--seeds", "0"]).conditions)
    assert set(ways.values()) == {4} and {"nothing", "replay", "EWC 1000"} < ways.keys()


def test_it_has_one_lane_all_the_same(grid: Grid, tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,))
    conditions = [studied, *unlearned(studied, "kl", 3), *unlearned(studied, "npo", 3)]
    single, four = Store(tmp_path / "single"), Store(tmp_path / "four")
    assert laned(conditions, single, 1) == laned(conditions, four, 4) == []
    assert data(single) == data(four)
    assert {row["lanes"] for row in rows(four, "recognition")} == {1}
    other = Store(tmp_path / "other")
    assert laned(grid((1, 2), lrs=(1e-2, 1e-3)), other, 4) == []
    assert {row["lanes"] for row in rows(other, "recognition")} == {2}, "others have one for each of their ways"


def test_the_plan_has_its_stops_and_texts(grid: Grid) -> None:
    (studied,) = grid((2,))
    forest = grow(unlearned(studied, "kl", 10, 5, 20))
    line = [stage for stage in forest.stages.values() if isinstance(stage, TrainingStage) and stage.kind == "unlearn"]
    assert [(stage.first, stage.last, stage.batch_size, stage.held) for stage in line] == [
        (1, 5, 8, 1),
        (6, 10, 8, 1),
        (11, 20, 8, 1),
    ]
    assert forest.steps == 2 * 3 + 20 and forest.steps_unshared == 3 * 6 + 35


def test_every_field_makes_another_line(grid: Grid) -> None:
    (studied,) = grid((2,))
    some = InlineText("some", [f"text {i}" for i in range(8)])
    ways = [
        unlearn("ascent"),
        unlearn("difference"),
        unlearn("kl"),
        unlearn("npo"),
        unlearn("npo", retain=None),
        unlearn("npo", beta=0.2),
        unlearn("npo", weight=2.0),
        unlearn("npo", retain=some),
        unlearn("npo", forget=some),
        unlearn("npo", lr=1e-3),
        unlearn("npo", batch_size=2),
        unlearn("npo", block_size=32),
        unlearn("npo", dropout=0.2),
        unlearn("npo", weight_decay=0.1),
        unlearn("npo", clip_norm=1.0),
        unlearn("npo", optimizer=SGD()),
    ]
    grown = [grow([dataclasses.replace(studied, unlearn=way)]) for way in ways]
    assert (
        len({forest.asks[0].stage for forest in grown}) == len({forest.asks[0].name for forest in grown}) == len(ways)
    )
    named = dataclasses.replace(studied, unlearn=unlearn("npo", forget=studied.study.corpus))
    plain = dataclasses.replace(studied, unlearn=unlearn("npo"))
    assert [ask.name for ask in grow([named]).asks] == [ask.name for ask in grow([plain]).asks]


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"loss": "kl"}, r"^Unlearn\.retain: loss='kl' needs a list of texts to be kept$"),
        ({"loss": "difference"}, r"^Unlearn\.retain: loss='difference' needs"),
        ({"loss": "ascent", "retain": KEPT}, r"^Unlearn\.retain: loss='ascent' has none; give loss='difference'"),
        ({"loss": "kl", "retain": KEPT, "forget": KEPT}, r"^Unlearn\.retain: .* is to be forgotten"),
        ({"loss": "kl", "retain": KEPT, "beta": 0.3}, r"^Unlearn\.beta: is of loss='npo', got loss='kl'$"),
        ({"loss": "npo", "weight": 0.3}, r"^Unlearn\.weight: is of the retain list, and there is none$"),
        ({"loss": "npo", "beta": 0.0}, r"^Unlearn\.beta"),
        ({"loss": "dpo"}, r"^Unlearn\.loss"),
    ],
)
def test_settings_that_contradict_each_other(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(SpecError, match=line):
        Unlearn(steps=1, lr=1e-3, **settings)


def test_what_is_to_be_forgotten_cannot_be_kept(grid: Grid) -> None:
    (studied,) = grid((1,))
    with pytest.raises(SpecError, match=r"^Unlearn\.retain: .* is to be forgotten, being the study list"):
        dataclasses.replace(studied, unlearn=unlearn("kl", retain=studied.study.corpus))
    texts = InlineText("again", grow([studied]).texts[grow([studied]).asks[0].settings["corpus_id"]].items)
    with pytest.raises(SpecError, match=r"^Unlearn\.retain: has the texts of .*, which are to be forgotten"):
        grow([dataclasses.replace(studied, unlearn=unlearn("kl", retain=texts))])
    one = InlineText("one of them", [*texts.texts[:1], "and another"])
    forest = grow([dataclasses.replace(studied, unlearn=unlearn("kl", retain=one))])
    assert any(line.startswith("Unlearn: 1 text of one of them is in ") for line in forest.remarks)


def test_a_carried_optimizer_is_not_that_of_unlearning(grid: Grid) -> None:
    (studied,) = grid((1,))
    other = Interference(KEPT, 3, 1e-3, optimizer="carried")
    with pytest.raises(SpecError, match=r"^Interference\.optimizer: 'carried' is that of study, and"):
        dataclasses.replace(studied, unlearn=unlearn("npo"), interference=other)


def test_the_twin_unlearns_what_it_studied(grid: Grid) -> None:
    (studied,) = grid((1,))
    for forget in (None, grid.pair.targets):
        twin = counterbalanced(dataclasses.replace(studied, unlearn=unlearn("npo", forget=forget)))
        assert twin.unlearn == unlearn("npo", forget=None if forget is None else grid.pair.foils)
    kept = counterbalanced(dataclasses.replace(studied, unlearn=unlearn("npo", retain=grid.pair.foils)))
    assert kept.unlearn is not None and kept.unlearn.retain == grid.pair.targets
    with pytest.raises(SpecError, match=r"^counterbalanced\(\): the twin studies nothing of Unlearn\.forget"):
        counterbalanced(dataclasses.replace(studied, unlearn=unlearn("npo", forget=KEPT, retain=None)))


def test_what_fails_half_way_leaves_both_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = language_model("gpt2")
    held = {name: tensor + 1 for name, tensor in kept(lm).items()}
    before, were = kept(lm), {name: tensor.clone() for name, tensor in held.items()}
    real, count = objectives._swap, [0]
    monkeypatch.setattr(objectives, "PIECE", 50)  # several pieces of most tensors

    def swap(one: torch.Tensor, other: torch.Tensor) -> None:
        count[0] += 1
        if count[0] == 40:
            raise RuntimeError("no memory")
        real(one, other)

    with monkeypatch.context() as patch:
        patch.setattr(objectives, "_swap", swap)
        with pytest.raises(RuntimeError, match="no memory"), as_before(lm, held):
            pass
    assert count[0] == 40 + 39
    assert all(torch.equal(tensor, before[name]) for name, tensor in kept(lm).items())
    assert all(torch.equal(tensor, were[name]) for name, tensor in held.items())
    with as_before(lm, held):
        assert all(torch.equal(tensor, were[name]) for name, tensor in kept(lm).items())
    assert all(torch.equal(tensor, were[name]) for name, tensor in held.items())
