"""Pretraining and streams in the plan: what is shared, what is said beforehand, what is refused."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from memexp.errors import DataError, ModelError, SpecError
from memexp.identity import NUMERICS
from memexp.plan import Forest, TrainingStage, Trial, bundle, grow, whole
from memexp.plan.attempts import Attempt
from memexp.plan.model_checks import check_models
from memexp.plan.retries import STARTS, Death, Outcome, execute_with_retries
from memexp.probes import Recall, Recognition
from memexp.probes.recall import SCHEMA as RECALL
from memexp.records import MADE_WITH, SETTINGS
from memexp.report.verify import complaint
from memexp.sources.streams import HubTexts
from memexp.spec import (
    SGD,
    Condition,
    Forget,
    HubStream,
    InlineText,
    Interference,
    LoRA,
    Model,
    Pair,
    Pretrain,
    ShippedText,
    Study,
    TextFile,
    TextStream,
)
from memexp.store import Store
from memexp.store.snapshots import Mark, Snapshot, mark_text

OTHER = ShippedText("sentences-interference", first=10)


@pytest.fixture
def studied(tiny_model: Model, pair: Pair) -> Condition:
    """Two exposures of twelve sentences, four at a time."""
    study = Study(pair.targets, exposures=2, lr=1e-3, batch_size=4)
    return Condition(tiny_model, study, probes=[Recognition(pair), Recall()])


@pytest.fixture
def stream(targets: TextFile, tmp_path: Path) -> TextStream:
    """Eleven texts, the second studied as well."""
    known = json.loads(Path(targets.path).read_text().splitlines()[0])["sent"]
    file = tmp_path / "stream.txt"
    file.write_text("".join(f"{text}\n" for text in ["Text.", known, *(f"Text {i}." for i in range(9))]))
    return TextStream(file)


def pretrain(steps: int, **settings: Any) -> Pretrain:
    return Pretrain(**{"corpus": OTHER, "steps": steps, "lr": 3e-3, "batch_size": 4, "block_size": 64} | settings)


def after(condition: Condition, *steps: int, **settings: Any) -> list[Condition]:
    return [dataclasses.replace(condition, pretrain=pretrain(n, **settings)) for n in steps]


def check_order(forest: Forest) -> None:
    """Parents come before their children."""
    seen: set[str | None] = {None}
    for stage in forest.stages.values():
        assert stage.parent in seen
        seen.add(stage.id)


def test_the_stages_of_a_pretrained_condition(studied: Condition) -> None:
    whole = dataclasses.replace(
        studied, pretrain=pretrain(5), forget=Forget(from_layer=1), interference=Interference(OTHER, 3, lr=1e-3)
    )
    whole = dataclasses.replace(whole, interference=dataclasses.replace(whole.interference, batch_size=4))
    forest = grow([whole])
    path = forest.path(forest.asks[0].stage)
    kinds = ["base", "pretrain", "study", "study", "forget", "restudy", "restudy", "interference"]
    assert [stage.kind for stage in path] == kinds
    assert [stage.steps for stage in path] == [0, 5, 3, 3, 0, 3, 3, 3]
    assert [(isinstance(stage.settings, Pretrain), isinstance(stage.settings, Interference)) for stage in path] == [
        (kind == "pretrain", kind == "interference") for kind in kinds
    ]
    assert [isinstance(stage, TrainingStage) and stage.origin is not None for stage in path] == [
        kind in ("pretrain", "interference") for kind in kinds
    ]
    assert path[7].start == path[6].id and path[1].start == path[0].id


def test_numbers_of_steps_lie_on_one_trajectory_and_parents_come_first(studied: Condition) -> None:
    forest = grow([*after(studied, 100, 10), studied, *after(studied, 0), *after(studied, 10, lr=1e-4)])
    stops = [stage for stage in forest.stages.values() if stage.kind == "pretrain"]
    assert [(stop.first, stop.last, stop.steps) for stop in stops] == [(1, 10, 10), (11, 100, 90), (1, 10, 10)]
    assert (forest.steps, forest.steps_unshared) == (100 + 10 + 4 * 6, 100 + 10 + 10 + 5 * 6)
    check_order(forest)
    ends = [ask.stage for ask in forest.asks if ask.kind == "recall"]
    assert ends[2] == ends[3]  # pretraining of no steps is none


@pytest.mark.parametrize("pretrained", [True, False])
def test_where_nothing_was_studied_there_is_no_optimizer_to_carry(studied: Condition, pretrained: bool) -> None:
    """Zero exposures are the control of a retention curve: pretraining's moments are not for it, nor its decay."""
    untaught = dataclasses.replace(studied.study, exposures=0, weight_decay=0.1)
    ends = []
    for optimizer, decay in (("carried", 0.0), ("fresh", 0.1), ("fresh", 0.0)):
        between = Interference(OTHER, 3, lr=1e-3, batch_size=4, optimizer=optimizer, weight_decay=decay)
        before = dataclasses.replace(pretrain(5), weight_decay=0.5) if pretrained else None
        control = dataclasses.replace(studied, study=untaught, pretrain=before, interference=between)
        [asked, *_] = grow([control]).asks
        ends.append(asked.stage)
        assert asked.settings["interference_optimizer"] == optimizer
    assert ends[0] == ends[1] != ends[2]


def test_where_there_is_none_to_carry_the_new_one_is_of_the_kind_of_study(studied: Condition) -> None:
    untaught = dataclasses.replace(studied.study, exposures=0, optimizer=SGD(0.9))
    ends = []
    for optimizer in ("carried", SGD(0.9), "fresh"):
        between = Interference(OTHER, 3, lr=1e-3, batch_size=4, optimizer=optimizer)
        ends.append(grow([dataclasses.replace(studied, study=untaught, interference=between)]).asks[0].stage)
    assert ends[0] == ends[1] != ends[2]


def test_conditions_of_all_seeds_share_one_pretraining(studied: Condition) -> None:
    seeds = [dataclasses.replace(studied, seed=seed, pretrain=pretrain(10)) for seed in range(3)]
    forest = grow([*seeds, *after(studied, 10, seed=1)])
    assert sorted(stage.seed for stage in forest.stages.values() if stage.kind == "pretrain") == [0, 1]
    assert len({stage.id for stage in forest.stages.values() if stage.kind == "study"}) == 8


def test_a_linear_schedule_shares_with_its_own_number_only(studied: Condition) -> None:
    forest = grow(after(studied, 10, 20, schedule="linear"))
    stops = [stage for stage in forest.stages.values() if stage.kind == "pretrain"]
    assert [(stop.first, stop.steps) for stop in stops] == [(1, 10), (1, 20)]
    assert len({stop.origin for stop in stops}) == 2


def test_a_stop_is_known_by_the_same_name_whatever_lies_before_it(studied: Condition) -> None:
    names = [
        {ask.settings["pretrain_steps"]: ask.name for ask in grow(after(studied, *steps)).asks if ask.kind == "recall"}
        for steps in ((1, 10), (5, 10), (10,))
    ]
    assert len({found[10] for found in names}) == 1


def test_columns(studied: Condition, stream: TextStream) -> None:
    (settings,) = {
        ask.condition_id: ask.settings for ask in grow(after(studied, 7, corpus=stream, seed=3)).asks
    }.values()
    assert {name: value for name, value in settings.items() if name.startswith("pretrain")} == {
        "pretrain_steps": 7,
        "pretrain_corpus": stream.files[0],
        "pretrain_corpus_id": settings["pretrain_corpus_id"],
        "pretrain_lr": 3e-3,
        "pretrain_batch_size": 4,
        "pretrain_block_size": 64,
        "pretrain_schedule": "constant",
        "pretrain_warmup_steps": 0,
        "pretrain_dropout": None,
        "pretrain_weight_decay": 0.0,
        "pretrain_clip_norm": None,
        "pretrain_seed": 3,
    }
    assert {*settings} <= {*SETTINGS.names, "lora_targets"}
    without = grow([studied]).asks[0].settings
    assert not [name for name in without if name.startswith("pretrain")]


def test_files_of_before_lack_the_columns_of_pretraining_and_a_few_others() -> None:
    columns = [*SETTINGS, *MADE_WITH, *RECALL]
    later = {f"interference_{name}" for name in ("block_size", "dropout", "weight_decay", "clip_norm", "momentum")}
    later |= {"optimizer", "momentum", "interference_replay", "probe_settings"}
    later |= {
        name for name in SETTINGS.names if name.startswith(("pretrain_", "presentation", "filler", "then_", "unlearn_"))
    }
    later |= {f"interference_protect_{name}" for name in ("strength", "samples", "empirical")}
    later |= {"times", "variants", "variants_id", "further_batches"}
    later |= {"cuda", "cudnn", "precision", "checkpointing", "offload", "lanes"}
    old = [column for column in columns if column.name not in later]
    assert complaint("recall", pa.schema(columns)) is complaint("recall", pa.schema(old)) is None
    for gone in old:
        left = pa.schema([column for column in old if column is not gone])
        assert complaint("recall", left) == f"column {gone.name!r} is missing"
    wrong = pa.schema([*old, ("pretrain_steps", pa.string())])
    assert complaint("recall", wrong) == "column 'pretrain_steps' is string instead of int64"


# What is said beforehand


def test_texts_that_come_again_are_remarked_upon(studied: Condition, stream: TextStream) -> None:
    assert list(grow(after(studied, 3, 4)).remarks) == [
        "Pretrain: 4 steps of 4 take the 10 texts of sentences-interference[:10] 2 times",
        "3 of the 10 texts of sentences-interference[:10] are cut at block_size 64 (bpe-400)",
    ]
    forest = grow(after(studied, 7, corpus=stream))
    assert f"Pretrain: 7 steps of 4 take the 11 texts of {stream.name} 3 times" in forest.remarks


def test_blank_texts_are_remarked_upon(studied: Condition, tmp_path: Path) -> None:
    file = tmp_path / "spaced.txt"
    file.write_text("One.\n\nTwo.\n \nThree.\n")
    line = f"2 of the first 5 texts of {file} are blank; they fill batches and teach nothing"
    assert list(grow(after(studied, 1, corpus=TextStream(file))).remarks) == [f"Pretrain: {line}"]


def test_texts_of_a_stream_that_are_studied_too_are_remarked_upon_or_refused(
    studied: Condition, stream: TextStream, targets: TextFile
) -> None:
    line = f"1 text of {stream.name} is in {targets.path} as well"
    forest = grow(after(studied, 1, 2, corpus=stream))
    assert list(forest.remarks) == [f"Pretrain: {line}"]
    between = Interference(stream, steps=1, lr=1e-3, batch_size=4, overlap="refuse")
    with pytest.raises(SpecError, match=rf"Interference: {line}; overlap='report' allows it"):
        grow([dataclasses.replace(studied, interference=between)])
    with pytest.raises(SpecError, match=rf"Pretrain: {line}; overlap='report' allows it"):
        grow(after(studied, 1, corpus=stream, overlap="refuse"))


def test_what_is_streamed_from_the_hub_is_not_looked_through(
    studied: Condition, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.txt").write_text("Text.\n" * 20)
    source = HubStream(str(tmp_path / "hub"))
    assert not grow(after(studied, 1, corpus=source)).remarks  # a folder is
    monkeypatch.setattr(HubTexts, "is_local", False)
    line = f"{source.name} is streamed from the hub, where nobody looks for texts that are studied or probed"
    assert list(grow(after(studied, 1, corpus=source)).remarks) == [f"Pretrain: {line}"]
    with pytest.raises(SpecError, match="where nobody looks"):
        grow(after(studied, 1, corpus=source, overlap="refuse"))


# What is refused


def test_too_few_texts_for_a_batch(studied: Condition, stream: TextStream) -> None:
    with pytest.raises(DataError, match=r"Pretrain\.batch_size: 16 texts a step are more than the 11 of .*stream"):
        grow(after(studied, 1, corpus=stream, batch_size=16))
    with pytest.raises(DataError, match=r"Pretrain\.batch_size: 4 texts a step are more than the 1 of one"):
        grow(after(studied, 1, corpus=InlineText("one", ["One."])))
    between = Interference(stream, steps=1, lr=1e-3, batch_size=16)
    with pytest.raises(DataError, match=r"Interference\.batch_size: 16 texts a step are more than the 11 of .*stream"):
        grow([dataclasses.replace(studied, interference=between)])


def test_texts_longer_than_the_context(studied: Condition) -> None:
    forest = grow(after(studied, 1, block_size=500))
    with pytest.raises(ModelError, match=r"Pretrain\.block_size 500 exceeds the context of 'tiny' \(128\)"):
        check_models(forest, [stage.model for stage in forest.stages.values()])


def test_an_adapter_is_not_pretrained(studied: Condition) -> None:
    with pytest.raises(SpecError, match=r"Condition\.pretrain needs method=Full\(\): of LoRA nothing but the adapter"):
        dataclasses.replace(studied, method=LoRA(), pretrain=pretrain(1))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [({"steps": -1}, r"Pretrain\.steps"), ({"lr": 0.0}, r"Pretrain\.lr"), ({"schedule": "cosine"}, r"\.schedule")],
)
def test_pretraining_that_makes_no_sense(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(SpecError, match=complaint):
        pretrain(**{"steps": 1} | fields)


# Trials


def spread(studied: Condition) -> Forest:
    """Two numbers of steps under one pretraining with four studies each, and four studies without."""
    lrs = [dataclasses.replace(studied, study=dataclasses.replace(studied.study, lr=lr)) for lr in (1e-4, 2e-4, 3e-4)]
    return grow([c for one in (studied, *lrs) for c in (one, *after(one, 10, 100))])


def test_trees_are_cut_where_pretraining_ends(studied: Condition) -> None:
    forest = spread(studied)
    trials = bundle(forest, forest.asks, lambda _: 1)
    first, second = ([trial for trial in trials if trial.phase == phase] for phase in (0, 1))
    assert trials == first + second
    (training,) = [trial for trial in first if trial.leaves]
    assert training.steps == 100 and not training.asks and not training.given
    stops = [stage.id for stage in training.stages]
    assert [forest.stages[stop].last for stop in stops] == [10, 100] and {*training.leaves} == {*stops}
    # What has no pretraining waits for none.
    rest = [trial for trial in first if not trial.leaves]
    assert sorted(trial.steps for trial in rest) == [6, 6, 12] and not any(trial.given for trial in rest)
    assert len(second) > 1
    for trial in second:
        assert not trial.leaves and trial.given <= {*stops} and {stage.id for stage in trial.stages} > trial.given
        assert trial.steps == sum(stage.steps for stage in trial.stages if stage.kind != "pretrain")
    assert sum(trial.steps for trial in trials) == forest.steps
    given = [(ask.kind, ask.name) for trial in trials for ask in trial.asks]
    assert sorted(given) == sorted((ask.kind, ask.name) for ask in forest.asks)


def test_a_trial_has_what_its_stages_need(studied: Condition, stream: TextStream) -> None:
    forest = grow([*after(studied, 2, corpus=stream), *after(dataclasses.replace(studied, seed=1), 2, corpus=stream)])
    first, *second = bundle(forest, forest.asks, lambda _: 1)
    assert list(first.streams) == list(forest.streams) and not first.texts
    assert first.corpus(next(iter(first.streams))).name == stream.name
    assert len(second) == 2 and all(trial.streams and trial.texts for trial in second)  # should it train again
    assert len(pickle.dumps(first)) < 20_000


def test_what_is_measured_at_the_end_of_pretraining_is_part_of_its_trial(studied: Condition) -> None:
    unstudied = dataclasses.replace(studied, study=dataclasses.replace(studied.study, exposures=0))
    forest = grow([unstudied, *after(unstudied, 10, 100)])
    (trial,) = bundle(forest, forest.asks, lambda _: 4)
    assert len(trial.asks) == 6 and (trial.phase, trial.leaves, trial.given) == (0, (), frozenset())
    forest = grow([*after(unstudied, 10), *after(studied, 100)])
    first, second = bundle(forest, forest.asks, lambda _: 4)
    assert len(first.asks) == 2 and [forest.stages[stop].last for stop in first.leaves] == [100]
    assert second.given == {stage.id for stage in first.stages}


def phases(
    studied: Condition, store: Store, outcome: Callable[[Trial], tuple[list[str], dict[int, Death]]]
) -> tuple[list[Trial], list[str], list[tuple[str, str]]]:
    """The trials that were executed, what was said, and stages with how they ended; phase 0 is one trial."""
    forest = grow(after(studied, 3, 5))
    trials = bundle(forest, forest.asks, lambda _: 1)
    executed: list[Trial] = []

    def execute(now: list[Trial], attempt: Attempt) -> Any:
        executed.extend(now)
        failures, lost = outcome(now[0])
        return SimpleNamespace(failures=failures, lost=lost)

    said = execute_with_retries(trials, execute, store, Attempt("sweep", "a"))
    stages = store.scan("stages")
    rows = [] if stages is None else stages.to_pylist()
    return executed, said, sorted((row["kind"], row["status"]) for row in rows)


def test_phases_follow_each_other(studied: Condition, tmp_path: Path) -> None:
    executed, said, rows = phases(studied, Store(tmp_path / "store"), lambda _: ([], {}))
    assert [trial.phase for trial in executed] == [0, 1, 1] and said == rows == []


def test_a_trial_that_died_in_pretraining_is_not_made_up_for_in_the_next_phase(
    studied: Condition, tmp_path: Path
) -> None:
    executed, said, rows = phases(studied, Store(tmp_path / "store"), lambda _: ([], {0: Death("killed")}))
    assert [trial.phase for trial in executed] == [0] and said == ["a trial died: killed"]
    assert set(rows) == {("pretrain", "failed"), ("pretrain", "skipped"), ("study", "skipped")}


def test_what_a_trial_left_before_it_died_is_gone_on_with(studied: Condition, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    def dies(trial: Trial) -> tuple[list[str], dict[int, Death]]:
        if trial.phase:
            return [], {}
        first = min(trial.stages, key=lambda stage: stage.last)
        folder, where = f"{first.last:09d}-{'0' * 32}", Mark(first.id, first.last)
        belongs = vars(where) | {"plan": first.start, "numerics": NUMERICS}
        snapshot = Snapshot(format=1, workers=1, folder=folder, files={}, **belongs)
        store.put_text(where.path, mark_text(snapshot))
        return ["again", "again"], {0: Death("killed")}

    executed, said, rows = phases(studied, store, dies)
    assert [(trial.phase, len(trial.given)) for trial in executed] == [(0, 0), (1, 1)]  # the study after 3 steps
    assert said == ["again", "a trial died: killed"]
    assert rows.count(("pretrain", "failed")) == 1 and rows.count(("study", "skipped")) == 2


def test_what_shared_a_process_with_what_killed_it_is_executed_apart(studied: Condition, tmp_path: Path) -> None:
    rates = (1e-4, 1e-3, 1e-2)
    plain = [
        dataclasses.replace(studied, pretrain=None, study=dataclasses.replace(studied.study, lr=lr)) for lr in rates
    ]
    forest, store = grow(plain), Store(tmp_path / "store")
    trials = [whole(forest, forest.asks)]
    executed: list[tuple[str, list[Trial]]] = []

    def execute(now: list[Trial], attempt: Attempt) -> Any:
        executed.append((attempt.part, now))
        lost = {}
        for number, trial in enumerate(now):
            for ask in trial.asks:
                if ask.settings["lr"] == 1e-3:
                    lost[number] = Death("killed")
                    break
                store.commit(ask.kind, ask.name, pa.table({"item": [1]}))
        return SimpleNamespace(failures=[], lost=lost)

    said = execute_with_retries(trials, execute, store, Attempt("sweep", "a"))
    (first, [one]), (second, apart) = executed
    assert one is trials[0] and first != second
    assert sorted({ask.settings["lr"] for ask in trial.asks} for trial in apart) == [{1e-3}, {1e-2}]
    assert said == ["a trial died: killed"]
    stages = store.scan("stages")
    assert stages is not None
    assert [(row["kind"], row["status"]) for row in stages.to_pylist()] == [("study", "failed")]
    assert len(store.names("recognition")) == 2

    def kills(now: list[Trial], attempt: Attempt) -> Any:
        executed.append((attempt.part, now))
        return SimpleNamespace(failures=[], lost={0: Death("killed")})

    executed.clear()
    left = whole(forest, forest.asks)
    assert execute_with_retries([left], kills, store, Attempt("sweep", "b")) == ["a trial died: killed"]
    assert len(executed) == 1  # one tree is left of it, which has had its chances


@pytest.mark.parametrize(("times", "failed"), [(STARTS - 1, False), (STARTS, True)])
def test_what_the_monitor_kills_before_it_begins_is_started_again(
    studied: Condition, tmp_path: Path, times: int, failed: bool
) -> None:
    """What a neighbour took may not have been free again; a trial whose start takes too much is given up."""
    forest, store = grow([dataclasses.replace(studied, pretrain=None)]), Store(tmp_path / "store")
    parts: list[str] = []

    def execute(now: Sequence[Trial], attempt: Attempt) -> Outcome:
        parts.append(attempt.part)
        if len(parts) <= times + 1:
            return Outcome(lost={number: Death("of memory", of_memory=True) for number in range(len(now))})
        for ask in now[0].asks:
            store.commit(ask.kind, ask.name, pa.table({"item": [1]}))
        return Outcome()

    said = execute_with_retries([whole(forest, forest.asks)], execute, store, Attempt("sweep", "a"))
    assert parts == ["conditions"] + ["conditions-alone"] * STARTS
    assert said == ["a trial died: of memory"] * failed
    assert bool(store.names("recognition")) is not failed
