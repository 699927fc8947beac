"""Pretraining is a stage: its stops share a line, study begins after it, forgetting goes back to it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from core.test_durable import EVERY, NONE, attempt, data
from core.test_trial import Grid, executed, grid, rows, statuses, store, trial_of
from core.test_trial import compare as compared

import memexp.core.train
import memexp.trial.execute
from memexp.core.batches import PassingBatches, StudyBatches
from memexp.core.data import encode
from memexp.core.load import load
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import train
from memexp.plan import Trial, bundle, grow
from memexp.plan.attempts import Attempt
from memexp.probes import QA, LayerAblation
from memexp.sources import WINDOW, read_texts
from memexp.spec import Condition, Forget, InlineItems, Interference, Pretrain, ShippedText, TextFile, TextStream
from memexp.stimuli import load_list
from memexp.store import Store
from memexp.store.snapshots import discard, find
from memexp.trial.execute import execute

__all__ = ["grid", "store"]  # fixtures

OTHER = ShippedText("sentences-interference", first=10)
KINDS = ("recognition", "recall", "training")


def pretrain(steps: int, **settings: Any) -> Pretrain:
    return Pretrain(**{"corpus": OTHER, "steps": steps, "lr": 3e-3, "batch_size": 4, "block_size": 64} | settings)


def after(conditions: Sequence[Condition], *steps: int, **settings: Any) -> list[Condition]:
    """The conditions after each of these numbers of steps of pretraining."""
    return [dataclasses.replace(c, pretrain=pretrain(n, **settings)) for n in steps for c in conditions]


def first_items(store: Store, kind: str = "recognition") -> dict[tuple[Any, ...], Any]:
    """The first target's loss, by what tells the conditions of a test apart."""
    found = rows(store, kind, item=0)
    return {(row["pretrain_steps"], row["exposures"], row["forget_side"]): row["target_nll"] for row in found}


def steps_of(store: Store, kind: str) -> list[dict[str, Any]]:
    return [row for row in rows(store, "training") if row["kind"] == kind]


def texts() -> list[str]:
    """Those of `OTHER`."""
    return load_list("sentences-interference")[:10]


# What is learned


@pytest.mark.parametrize(
    "settings",
    [
        {"warmup_steps": 2, "dropout": 0.1, "weight_decay": 0.01, "clip_norm": 1.0},
        {"schedule": "linear", "seed": 5},
    ],
    ids=["constant", "linear"],
)
def test_stops_of_one_pretraining_equal_each_alone(settings: dict[str, Any], grid: Grid, tmp_path: Path) -> None:
    studied = grid((0, 2), lrs=(1e-2,), dropout=0.1)
    forgotten = dataclasses.replace(
        studied[1],
        forget=Forget(from_layer=1),
        interference=Interference(OTHER, steps=2, lr=1e-3, batch_size=4, block_size=64),
    )
    conditions = [*after([*studied, forgotten], 7, 3, **settings), *studied]
    together = compared(conditions, tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(conditions)  # each is a state of its own
    steps = sorted(row["step"] for row in together["training"] if row["kind"] == "pretrain")
    shared = settings.get("schedule") != "linear"
    assert steps == (list(range(1, 8)) if shared else sorted([*range(1, 8), *range(1, 4)]))
    assert {row["seed"] for row in together["training"] if row["kind"] == "pretrain"} == {settings.get("seed", 0)}


def test_it_learns_and_study_begins_after_it(grid: Grid, store: Store) -> None:
    assert executed(after(grid((1,)), 60), store) == []
    losses = {kind: [row["loss"] for row in steps_of(store, kind)] for kind in ("pretrain", "study")}
    assert losses["pretrain"][-1] < 0.7 * losses["pretrain"][0]
    assert losses["study"][0] < 0.95 * losses["pretrain"][0]  # the untrained model knows nothing about either
    exposures = [row["exposure"] for row in steps_of(store, "pretrain")]
    assert exposures == [1 + step // 3 for step in range(60)]  # ten texts, four a step


def test_study_begins_with_a_fresh_optimizer(grid: Grid, store: Store) -> None:
    """Both stages by hand."""
    (condition,) = after(grid((1,)), 5)
    assert executed([condition], store) == []
    trial = trial_of([condition])
    lm = load(trial.base.model, trial.base.method, "float32", World.current())
    settings, study, studied = condition.pretrain, condition.study, read_texts(condition.study.corpus)
    assert settings is not None
    rows = encode(lm.tokenizer, texts(), 64)
    before = train(lm, fresh_optimizer(lm, settings), settings, PassingBatches(settings, rows, 0), 1, 5)
    rows = encode(lm.tokenizer, studied.items, 64)
    then = train(lm, fresh_optimizer(lm, study), study, StudyBatches(study, rows, 0), 1, 3)
    made = [row["loss"] for kind in ("pretrain", "study") for row in steps_of(store, kind)]
    assert [step.loss for step in [*before, *then]] == made


def test_forgetting_goes_back_to_the_end_of_pretraining(grid: Grid, store: Store) -> None:
    """Resetting all there is leaves the pretrained model, and neither the untrained nor the studied one."""
    unstudied, studied = grid((0, 2), lrs=(1e-2,))
    everything = Forget(below_layer=2, restudy_exposures=0)
    forgotten = dataclasses.replace(studied, forget=everything)
    conditions = [*after([unstudied, studied, forgotten], 5), unstudied, forgotten]
    assert executed(conditions, store) == []
    found = first_items(store)
    assert found[5, 2, "lower"] == found[5, 0, None] != found[5, 2, None]
    assert found[None, 2, "lower"] == found[None, 0, None] != found[5, 0, None]


def test_an_ablation_takes_away_what_was_learned_since_pretraining(grid: Grid, store: Store) -> None:
    questions = InlineItems("questions", [{"question": "Who keeps her violin under the bed?", "answer": "Marta"}] * 3)
    probe = LayerAblation(QA(questions))
    conditions = after(grid((0, 3), lrs=(3e-2,), probes=[probe]), 30)
    assert executed(conditions, store) == []
    found: dict[tuple[int, str, int | None], str] = {}
    for row in rows(store, "ablation"):
        found[row["exposures"], row["ablated_side"], row["ablated_layer"]] = row["prediction"]
    untaught, learned = found[0, "none", None], found[3, "none", None]
    assert found[3, "lower", 2] == untaught != learned
    assert {prediction for (exposures, *_), prediction in found.items() if exposures == 0} == {untaught}


# From one trial to the next


def phases(conditions: Sequence[Condition]) -> list[Trial]:
    forest = grow(conditions)
    return bundle(forest, forest.asks, lambda _: 1)


def carried_out(
    trials: Sequence[Trial], store: Store, monkeypatch: pytest.MonkeyPatch, name: str = "a"
) -> list[tuple[list[str], int]]:
    """Failures and optimizer steps of each trial, in a process of its own as it were."""
    found = []
    plain = memexp.core.train.update
    made: list[None] = []
    monkeypatch.setattr(memexp.core.train, "update", lambda *args: (made.append(None), plain(*args))[1])
    for number, trial in enumerate(trials):
        reported: list[int] = []
        made.clear()
        failures = execute(
            trial,
            store,
            World.current(),
            Attempt("test", f"{name}{number}"),
            lambda progress, steps=reported: steps.append(progress.steps),
        )
        assert sum(reported) == len(made)  # what was given counts for whom has made it
        found.append((failures, len(made)))
    monkeypatch.setattr(memexp.core.train, "update", plain)
    return found


@pytest.fixture
def tree(grid: Grid) -> list[Condition]:
    """Two stops, three studies after each."""
    return after(grid((2,), lrs=(1e-3, 3e-3, 1e-2)), 3, 7)


def test_what_one_trial_leaves_others_begin_with(
    tree: list[Condition], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store(tmp_path / "whole")
    assert executed(tree, whole) == []
    first, *rest = phases(tree)
    assert carried_out([first], store, monkeypatch) == [([], 7)]
    assert {mark.trajectory for mark in find(store).found} == {*first.leaves}
    assert carried_out([first], store, monkeypatch, "again") == [([], 0)]
    assert sum(made for _, made in carried_out(rest, store, monkeypatch, "b")) == 6 * 6
    assert data(store) == data(whole)
    assert set(statuses(store)) == {"complete"}


def test_where_it_is_not_left_it_is_trained_again(
    tree: list[Condition], store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Store(tmp_path / "whole")
    assert executed(tree, whole) == []
    first, *rest = phases(tree)
    carried_out([first], store, monkeypatch)
    for stage in first.leaves:
        discard(store, stage)
    assert all(failures == [] for failures, _ in carried_out(rest, store, monkeypatch, "b"))
    assert data(store) == data(whole) and set(statuses(store)) == {"complete"}


@pytest.mark.parametrize("killed_at", [2, 5, 8])
def test_killed_in_pretraining_it_goes_on(killed_at: int, grid: Grid, store: Store, tmp_path: Path) -> None:
    conditions = after(grid((1,), dropout=0.1), 3, 6, dropout=0.1)
    whole = Store(tmp_path / "whole")
    assert attempt(conditions, whole, "once", NONE) == ([], 6 + 2 * 3)
    every = dataclasses.replace(EVERY, steps=2)
    assert attempt(conditions, store, "first", every, until=killed_at) == (["killed"], killed_at)
    failures, made = attempt(conditions, store, "second", every)
    assert failures == [] and made < 12
    assert data(store) == data(whole)


def test_pretraining_that_diverges_takes_its_studies_with_it(grid: Grid, store: Store) -> None:
    conditions = [*after(grid((0, 1)), 3, lr=1e30), *grid((1,))]
    assert len(executed(conditions, store)) == 1
    assert statuses(store) == {"complete": 2, "diverged": 1, "skipped": 1}


# Streams


@pytest.fixture
def stream(tmp_path: Path) -> TextStream:
    """The texts of `OTHER`, a blank one and one more."""
    return written(tmp_path, ["", *texts(), "Two words."])


def written(folder: Path, found: Sequence[Any]) -> TextStream:
    file = folder / "stream.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in found))
    return TextStream(file)


def test_a_stream_of_the_same_texts_teaches_the_same(grid: Grid, tmp_path: Path) -> None:
    (studied,) = grid((1,))
    losses = []
    for number, corpus in enumerate((OTHER, written(tmp_path, texts()))):
        between = Interference(corpus, steps=5, lr=3e-3, batch_size=4, block_size=64)
        condition = dataclasses.replace(studied, pretrain=pretrain(5, corpus=corpus), interference=between)
        results = Store(tmp_path / str(number))
        assert executed([condition], results, str(number)) == []
        losses.append([(row["kind"], row["step"], row["loss"]) for row in rows(results, "training")])
        assert {row["interference_corpus"] for row in rows(results, "recall")} == {corpus.name}
    assert len(losses[0]) == 13 and sorted(losses[0]) == sorted(losses[1])


def test_stops_of_a_stream_equal_each_alone(grid: Grid, stream: TextStream, tmp_path: Path) -> None:
    (studied,) = grid((1,))
    conditions = [
        dataclasses.replace(studied, interference=Interference(stream, steps=n, lr=3e-3, batch_size=5, block_size=64))
        for n in (2, 7)
    ]
    together = compared([*conditions, *after([studied], 3, corpus=stream)], tmp_path)
    tokens = [row["tokens"] for row in together["training"] if row["kind"] == "interference"]
    assert len(tokens) == 7 and sum(tokens[:3]) == sum(tokens[3:6])  # each pass takes all there is


def test_a_text_that_is_none_fails_its_stage_in_a_line(grid: Grid, tmp_path: Path, store: Store) -> None:
    stream = written(tmp_path, [*(f"Text {i}." for i in range(WINDOW + 5)), None])
    (studied,) = grid((0,))
    between = Interference(stream, steps=18, lr=3e-3, batch_size=250, block_size=64)
    bad = dataclasses.replace(studied, interference=between)
    good = dataclasses.replace(studied, interference=dataclasses.replace(between, steps=16))
    forest = grow([studied])  # the plan would read all of the stream, and refuse it
    whole = _unread(grow, [studied, good, bad])
    (failure,) = execute(bundle(whole, whole.asks, lambda _: 1)[0], store, World.current(), Attempt("test", "a"))
    assert f"stream.jsonl, line {WINDOW + 6}: field 'text' is empty" in failure and "\n" not in failure
    assert statuses(store) == {"complete": 2, "failed": 1}
    assert len(forest.asks) == 2 and len(rows(store, "recognition")) == 24


def _unread(plan: Any, conditions: Sequence[Condition]) -> Any:
    """A plan whose driver has not looked for texts that are studied."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memexp.plan.overlaps, "shared_texts", lambda _, lists: [0] * len(lists))
        return plan(conditions)


def test_a_file_that_is_gone_fails_its_stage_in_a_line(
    grid: Grid, stream: TextStream, store: Store, targets: TextFile
) -> None:
    forest = grow([*after(grid((1,)), 3, corpus=stream), *grid((1,))])
    trials = bundle(forest, forest.asks, lambda _: 1)
    Path(stream.files[0]).unlink()
    failures = [
        line
        for number, trial in enumerate(trials)
        for line in execute(trial, store, World.current(), Attempt("test", str(number)))
    ]
    assert failures and all("stream.jsonl: not on this node" in line for line in failures)
    assert {row["exposures"] for row in rows(store, "recognition")} == {1}
    assert not [row for row in rows(store, "recognition") if row["pretrain_steps"]]
