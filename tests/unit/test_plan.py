"""The plan: what conditions share, what of it a store lacks, and how the rest is dealt out to trials."""

from __future__ import annotations

import pickle
import shutil
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from memexp import (
    SGD,
    Condition,
    DataError,
    Forget,
    Full,
    Interference,
    LoRA,
    Model,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    Resources,
    SpecError,
    StoreError,
    Study,
    TextFile,
    TrainedTokenizer,
)
from memexp.plan import Ask, Forest, bundle, find_missing, grow, stages
from memexp.plan.attempts import Attempt
from memexp.plan.heartbeat import heartbeat
from memexp.plan.inspection import Inspection
from memexp.plan.setting_columns import Columns
from memexp.records import STAGES
from memexp.store import Store
from memexp.store.manifests import Manifest, write_manifest
from memexp.sweep import LONGEST_NAME, Sweep

PER_EXPOSURE = 3
"""Steps of an exposure: twelve texts, four at a time."""


class Grid:
    """Makes conditions that differ from each other in what a test names only."""

    def __init__(self, model: Model, pair: Pair) -> None:
        self.model, self.pair = model, pair

    def __call__(self, **fields: Any) -> Condition:
        study = {"corpus": self.pair.targets, "exposures": 1, "lr": 1e-3, "batch_size": 4} | {
            name: fields.pop(name) for name in list(fields) if name in Study.__dataclass_fields__
        }
        known = {"model": self.model, "probes": [Recall()], "study": Study(**study)}
        return Condition(**(known | fields))


@pytest.fixture
def grid(tiny_model: Model, pair: Pair) -> Grid:
    return Grid(tiny_model, pair)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def ends(forest: Forest) -> list[str]:
    """The stage each condition ends at, in order."""
    return [ask.stage for ask in forest.asks]


def kinds(forest: Forest) -> Counter[str]:
    return Counter(stage.kind for stage in forest.stages.values())


def names(asks: Sequence[Ask]) -> list[tuple[str, str]]:
    return sorted((ask.kind, ask.name) for ask in asks)


def answer(store: Store, asks: Sequence[Ask]) -> None:
    for ask in asks:
        assert store.commit(ask.kind, ask.name, pa.table({"item": [0]}))


def file(store: Store, ask: Ask) -> Path:
    return Path(store.path(ask.kind, ask.name))


def note(store: Store, stage: str, status: str, attempt: str) -> None:
    row = {"stage_id": stage, "status": status, "finished": datetime.now(UTC)}
    store.commit("stages", f"{stage}-{attempt}", pa.Table.from_pylist([row], schema=STAGES))


# What is shared


def test_exposures_are_stops_of_one_trajectory(grid: Grid) -> None:
    forest = grow(grid(exposures=n, lr=lr) for n in (1, 2, 3) for lr in (1e-4, 1e-3, 1e-2))
    assert forest.conditions == 9
    assert kinds(forest) == {"base": 1, "study": 9}
    assert (forest.steps, forest.steps_unshared) == (9 * PER_EXPOSURE, 18 * PER_EXPOSURE)
    longest = forest.path(forest.asks[-1].stage)
    assert [(stage.kind, stage.first, stage.last) for stage in longest] == [
        ("base", 0, 0),
        ("study", 1, 1),
        ("study", 2, 2),
        ("study", 3, 3),
    ]
    assert forest.path(forest.asks[0].stage)[1] in forest.path(forest.asks[6].stage)  # 1 and 3 exposures at 1e-4


def test_zero_exposures_end_at_the_base_whatever_study_would_be_like(grid: Grid, foils: TextFile) -> None:
    settings = [
        {},
        {"lr": 1e-2},
        {"seed": 5},
        {"batch_size": 1},
        {"block_size": 64},
        {"schedule": "linear"},
        {"weight_decay": 0.1},
        {"corpus": foils},
    ]
    forest = grow(grid(exposures=0, **fields) for fields in settings)
    assert kinds(forest) == {"base": 1} and forest.steps == 0
    assert set(ends(forest)) == set(forest.stages)
    assert forest.conditions == len(settings)


@pytest.mark.parametrize(
    "fields",
    [
        {"lr": 1e-2},
        {"seed": 1},
        {"batch_size": 2},
        {"block_size": 64},
        {"schedule": "linear"},
        {"warmup_steps": 2},
        {"dropout": 0.0},
        {"weight_decay": 0.1},
        {"clip_norm": 1.0},
        {"optimizer": SGD()},
    ],
    ids=str,
)
def test_what_changes_a_step_separates_trajectories_after_the_base(grid: Grid, fields: dict[str, Any]) -> None:
    forest = grow([grid(), grid(**fields)])
    assert kinds(forest) == {"base": 1, "study": 2}


@pytest.mark.parametrize("fields", [{"dtype": "bfloat16"}, {"method": LoRA()}, {"method": LoRA(r=4)}], ids=str)
def test_what_changes_the_model_separates_bases(grid: Grid, fields: dict[str, Any]) -> None:
    assert kinds(grow([grid(), grid(**fields)])) == {"base": 2, "study": 2}


def test_tf32_is_a_base_of_its_own_and_refused_where_there_is_no_gpu(grid: Grid) -> None:
    asked = [grid(), grid(dtype="tf32"), grid(dtype="bfloat16")]
    assert kinds(grow(asked, Resources(gpus=1))) == {"base": 3, "study": 3}
    for resources in (Resources(), lambda model: Resources(cpus=2)):
        with pytest.raises(
            SpecError, match=r"^Study.dtype: tf32 is arithmetic of GPUs, and 'tiny' is given none; give "
        ):
            grow(asked, resources)


def test_two_models_or_adapters_are_two_bases(grid: Grid, pair: Pair) -> None:
    init, tokenizer = grid.model.init, grid.model.tokenizer
    assert init is not None
    models = [
        grid.model,
        Model("tiny", tokenizer=tokenizer, init=RandomInit(init.config, seed=1)),
        Model("tiny", tokenizer=TrainedTokenizer([pair.targets], vocab_size=400), init=init),
    ]
    assert kinds(grow(grid(model=model) for model in models)) == {"base": 3, "study": 3}
    adapters = [LoRA(), LoRA(alpha=8), LoRA(seed=1), LoRA(targets=["c_attn"])]
    assert kinds(grow(grid(method=method) for method in adapters)) == {"base": 4, "study": 4}


def test_a_name_of_ones_own_for_the_same_weights_trains_nothing_again(grid: Grid) -> None:
    other = Model("another name", tokenizer=grid.model.tokenizer, init=grid.model.init)
    forest = grow([grid(), grid(model=other)])
    assert kinds(forest) == {"base": 1, "study": 1} and forest.conditions == 2


def test_a_schedule_that_knows_its_horizon_shares_no_exposures(grid: Grid) -> None:
    forest = grow(grid(exposures=n, schedule="linear") for n in (1, 2, 3))
    assert forest.steps == forest.steps_unshared == 6 * PER_EXPOSURE
    assert kinds(forest) == {"base": 1, "study": 3}
    assert [(stage.first, stage.last) for stage in forest.path(ends(forest)[2])] == [(0, 0), (1, 3)]


def test_every_forgetting_layer_forks_from_one_first_pass(grid: Grid) -> None:
    """K layers × S learning rates train S first passes."""
    forgets = [Forget(from_layer=0), Forget(from_layer=1), Forget(below_layer=1), Forget()]
    forest = grow(grid(exposures=3, lr=lr, forget=forget) for lr in (1e-3, 1e-2) for forget in forgets)
    assert kinds(forest) == {"base": 1, "study": 2 * 3, "forget": 2 * 4, "restudy": 2 * 4 * 3}
    assert forest.steps == 2 * (3 + 4 * 3) * PER_EXPOSURE and forest.steps_unshared == 2 * 4 * 6 * PER_EXPOSURE
    for ask in forest.asks:
        path = [stage.kind for stage in forest.path(ask.stage)]
        assert path == ["base", *["study"] * 3, "forget", *["restudy"] * 3]


def test_the_reset_alone_and_more_of_restudy_are_stops_of_one_trajectory(grid: Grid) -> None:
    forest = grow(grid(exposures=2, forget=Forget(from_layer=1, restudy_exposures=n)) for n in (0, 1, 2))
    assert kinds(forest) == {"base": 1, "study": 2, "forget": 1, "restudy": 2}
    by_default = grow([grid(exposures=2, forget=Forget(from_layer=1))])
    assert by_default.asks[0].name in {ask.name for ask in forest.asks}  # as many as before: the same condition


def test_a_linear_schedule_knows_the_horizon_of_restudy(grid: Grid) -> None:
    forest = grow([grid(exposures=3, schedule="linear", forget=Forget(from_layer=1, restudy_exposures=2))])
    again = next(stage for stage in forest.stages.values() if stage.kind == "restudy")
    assert (again.first, again.last, again.steps) == (1, 2, 2 * PER_EXPOSURE)
    assert isinstance(again.settings, Study)
    assert again.settings.exposures == 2  # which is what its learning rate ends with


def test_fresh_adapters_depend_on_the_seed_and_pretrained_tensors_on_the_trajectory_alone(grid: Grid) -> None:
    def reset(seed: int, method: Full | LoRA, forget: Forget) -> Any:
        forest = grow([grid(seed=seed, method=method, forget=forget)])
        return next(stage for stage in forest.stages.values() if stage.kind == "forget")

    forget = Forget(from_layer=1)
    assert reset(0, LoRA(), forget).seed == 0 and reset(7, LoRA(), forget).seed == 7
    assert reset(0, Full(), forget).id != reset(0, Full(), Forget(below_layer=1)).id != reset(0, Full(), Forget()).id


def test_rows_say_what_was_forgotten(grid: Grid) -> None:
    for forget, expected in (
        (Forget(from_layer=1), ("upper", 1, 2)),
        (Forget(below_layer=2, restudy_exposures=0), ("lower", 2, 0)),
        (Forget(), ("none", None, 2)),
        (None, (None, None, None)),
    ):
        (ask,) = grow([grid(exposures=2, forget=forget)]).asks
        found = tuple(ask.settings.get(name) for name in ("forget_side", "forget_layer", "restudy_exposures"))
        assert found == expected and ask.settings["exposures"] == 2


def test_experiments_on_the_same_study_list_train_once(grid: Grid, targets: TextFile, tmp_path: Path) -> None:
    copy = TextFile(shutil.copy(targets.path, tmp_path / "experiment-2.jsonl"))
    forest = grow(grid(corpus=corpus, labels={"experiment": i}) for i, corpus in enumerate([targets, copy]))
    assert kinds(forest) == {"base": 1, "study": 1} and forest.steps == PER_EXPOSURE
    assert len(set(ends(forest))) == 1 and len({ask.name for ask in forest.asks}) == 2
    assert [ask.settings["corpus"] for ask in forest.asks] == [targets.path, copy.path]  # each by its own name


def test_labels_and_probes_train_nothing_again(grid: Grid, pair: Pair) -> None:
    made = [grid(labels={"list": label}, probes=[probe]) for label in "ab" for probe in (Recall(), Recognition(pair))]
    forest = grow(made)
    assert kinds(forest) == {"base": 1, "study": 1}
    assert forest.conditions == 2 and len(forest.asks) == 4  # two probes of a condition may be given apart
    assert forest.steps_unshared == 2 * PER_EXPOSURE


def test_a_condition_named_twice_counts_once(grid: Grid) -> None:
    forest = grow([grid(), grid()])
    assert (forest.conditions, len(forest.asks), forest.steps_unshared) == (1, 1, PER_EXPOSURE)


def test_the_last_batch_may_be_short(grid: Grid) -> None:
    assert grow([grid(batch_size=5)]).steps == 3  # 5 + 5 + 2
    assert grow([grid(batch_size=100)]).steps == 1


def test_parents_come_before_their_children(grid: Grid) -> None:
    seen: set[str | None] = {None}
    for stage in grow(grid(exposures=n, lr=lr) for n in (3, 1) for lr in (1e-3, 1e-2)).stages.values():
        assert stage.parent in seen
        seen.add(stage.id)


def test_resources_may_depend_on_the_model(grid: Grid) -> None:
    large = Model("large", tokenizer=grid.model.tokenizer, init=RandomInit({"model_type": "gpt2"}))
    forest = grow([grid(), grid(model=large)], lambda model: Resources(workers=2 if model.name == "large" else 1))
    assert {forest.stages[base].model.name: needs.workers for base, needs in forest.resources.items()} == {
        "tiny": 1,
        "large": 2,
    }


def test_rows_say_what_was_asked_for(grid: Grid) -> None:
    forest = grow([grid(exposures=2, labels={"experiment": 3}), grid(method=LoRA(r=4, targets=["c_attn", "c_proj"]))])
    full, adapted = (ask.settings for ask in forest.asks)
    assert {name: full[name] for name in ("model", "init", "init_seed", "method", "exposures", "lr", "seed")} == {
        "model": "tiny",
        "init": "random",
        "init_seed": 0,
        "method": "full",
        "exposures": 2,
        "lr": 1e-3,
        "seed": 0,
    }
    assert full["stage_id"] == forest.asks[0].stage and "lora_r" not in full
    assert forest.asks[0].labels == {"experiment": 3}
    assert (adapted["method"], adapted["lora_r"], adapted["lora_targets"]) == ("lora", 4, "c_attn,c_proj")


# What cannot be


def test_too_few_foils_are_refused(grid: Grid, targets: TextFile, tmp_path: Path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("One foil.\nAnother.\n")
    with pytest.raises(
        DataError, match=r"few\.txt: 2 foils are too few for the 12 targets of .*targets\.jsonl"
    ) as error:
        grow([grid(probes=[Recognition(Pair(targets, few))])])
    assert "\n" not in str(error.value)


def test_a_label_has_one_type(grid: Grid) -> None:
    with pytest.raises(SpecError, match=r"Condition\.labels: 'experiment' is int in one condition and str in another"):
        grow(grid(labels={"experiment": label}) for label in (1, "two"))
    with pytest.raises(SpecError, match="'practised' is bool in one condition and int in another"):
        grow(grid(labels={"practised": label}) for label in (True, 1))


@pytest.mark.parametrize("name", ["lr", "LR", "condition_id", "torch", "completion"])
def test_a_label_cannot_hide_a_column(grid: Grid, name: str) -> None:
    with pytest.raises(SpecError, match=rf"Condition\.labels: '{name}' is a column already"):
        grow([grid(labels={name: 1})])


def test_labels_that_differ_in_case_only_are_one_column(grid: Grid) -> None:
    with pytest.raises(SpecError, match="is a column already"):
        grow([grid(labels={"list": 1, "List": 2})])
    with pytest.raises(SpecError, match="is int in one condition and str in another"):
        grow([grid(labels={"list": 1}), grid(labels={"List": "two"})])


# What is missing


@pytest.fixture
def forest(grid: Grid, pair: Pair) -> Forest:
    probes = [Recognition(pair), Recall()]
    return grow(grid(exposures=n, lr=lr, probes=probes) for n in (0, 1, 2) for lr in (1e-3, 1e-2))


def test_all_is_missing_from_an_empty_store(forest: Forest, store: Store) -> None:
    found = find_missing(forest, store)
    assert names(found.asks) == names(forest.asks) and not found.copies and not found.diverged
    assert not Path(store.location).exists()  # planning writes nothing


def test_nothing_is_missing_from_a_full_store(forest: Forest, store: Store) -> None:
    answer(store, forest.asks)
    found = find_missing(forest, store)
    assert (found.asks, found.copies, found.diverged) == ([], [], [])


def test_a_deleted_file_is_missing_and_nothing_else(forest: Forest, store: Store) -> None:
    answer(store, forest.asks)
    for ask in [ask for ask in forest.asks if ask.settings["exposures"]]:
        file(store, ask).unlink()
        found = find_missing(forest, store)
        assert (found.asks, found.copies) == ([ask], [])
        answer(store, [ask])


def test_what_was_measured_for_another_condition_is_copied(grid: Grid, store: Store) -> None:
    first = grow([grid(labels={"experiment": 1}), grid(exposures=0)])
    answer(store, first.asks)
    second = grow([grid(labels={"experiment": 2}), grid(exposures=0, lr=1e-2), grid(lr=1e-2)])
    found = find_missing(second, store)
    assert [(copy.ask, copy.source) for copy in found.copies] == [
        (second.asks[0], first.asks[0].name),
        (second.asks[1], first.asks[1].name),
    ]
    assert found.asks == [second.asks[2]]
    assert bundle(second, [], lambda _: 2) == []


def test_another_probe_of_a_known_stage_is_measured(grid: Grid, pair: Pair, store: Store) -> None:
    answer(store, grow([grid()]).asks)
    wider = grow([grid(probes=[Recall(), Recall(block_size=16), Recognition(pair)])])
    assert find_missing(wider, store).asks == wider.asks[1:]


def test_what_diverged_is_an_outcome_unless_asked_for_again(grid: Grid, store: Store) -> None:
    forest = grow(grid(exposures=n, lr=lr) for n in (0, 1, 2) for lr in (1e-3, 1.0))
    second = forest.asks[3]  # one exposure at 1.0
    note(store, second.stage, "diverged", "a")
    found = find_missing(forest, store)
    assert found.diverged == [forest.asks[3], forest.asks[5]]  # and what comes after it
    assert found.asks == [forest.asks[i] for i in (0, 1, 2, 4)]
    assert find_missing(forest, store, retry_diverged=True).asks == forest.asks
    note(store, second.stage, "complete", "b")  # on another machine, say
    assert find_missing(forest, store).asks == forest.asks


@pytest.mark.parametrize("status", ["failed", "skipped", "complete", "differs"])
def test_what_failed_otherwise_is_tried_again(grid: Grid, store: Store, status: str) -> None:
    forest = grow([grid()])
    note(store, forest.asks[0].stage, status, "a")
    assert find_missing(forest, store).asks == forest.asks


def test_a_truncated_result_is_named(forest: Forest, store: Store) -> None:
    answer(store, forest.asks)
    broken = file(store, forest.asks[3])
    broken.write_bytes(broken.read_bytes()[:-20])
    with pytest.raises(StoreError) as error:
        find_missing(forest, store)
    assert str(broken) in str(error.value) and "\n" not in str(error.value)


def test_other_sweeps_files_are_nobodys_concern(forest: Forest, store: Store) -> None:
    answer(store, forest.asks)
    other = Path(store.path("recall", "stray"))
    other.write_bytes(b"")
    assert find_missing(forest, store).asks == []


def test_a_plan_without_end_is_refused(grid: Grid, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "MOST_STAGES", 50)
    lrs = [lr * 1e-6 for lr in range(1, 60)]
    with pytest.raises(SpecError, match=r"Sweep\.conditions: they come to more than 50 stages"):
        grow(grid(lr=lr, exposures=12) for lr in lrs)
    assert len(grow([grid(exposures=12)] * 50).stages) == 13
    # Passes that stop once are one stage, whatever their length.
    others = Interference(grid.pair.foils, steps=10**9, lr=1e-3, batch_size=4)
    assert len(grow([grid(exposures=1, interference=others)]).stages) == 3


def test_the_longest_name_of_a_sweep_fits_into_the_names_of_files(grid: Grid, store: Store) -> None:
    name = "a" * LONGEST_NAME
    sweep = Sweep(name=name, conditions=[grid()])
    write_manifest(store, sweep.name, [Manifest("recall", "s-p-c", "c", "s", "p")])
    with heartbeat(store, Attempt(sweep.name, "0123456789ab"), 1):
        store.put_text(f".logs/{sweep.name}/a.txt", "")
    assert store.names("sweeps")
    with pytest.raises(SpecError, match=rf"Sweep\.name: .* at most {LONGEST_NAME} characters, got {LONGEST_NAME + 1}"):
        Sweep(name=name + "a", conditions=[grid()])


def test_peaks_are_those_of_the_plan(
    tmp_path: Path, pair: Pair, tiny_model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    from memexp.driver.outlook import plan_of
    from memexp.driver.peaks import peaks
    from memexp.store import Store

    forest = grow([Condition(tiny_model, Study(pair.targets, exposures=1, lr=1e-3), probes=[Recognition(pair)])])
    bases = [(forest, base) for base in forest.resources]
    assert peaks(bases) == []  # small, and on a CPU
    # Of random weights there are no files that say it.
    with monkeypatch.context() as patch:
        big = Inspection(10**9, 0, None, 1, (), 10**8, 1000, 1000)
        patch.setattr("memexp.driver.peaks.sizes", lambda models: {model.id: big for model in models})
        assert peaks(bases)[0].worker > 16 * 10**9
    monkeypatch.setattr("memexp.driver.peaks.LARGE", 0)
    (model,) = plan_of("small", forest, [], Store(tmp_path)).models
    (peak,) = peaks(bases)
    assert peak.worker == model["peak_bytes_per_worker"]
    assert peak.what == f"model {tiny_model.name!r} (full, float32)"


def test_columns_are_the_dictionary_they_were_made_of() -> None:
    """Their names are held once, by the order they have."""
    one, other, turned = (Columns.of(made) for made in ({"a": 1, "b": None}, {"a": 2, "b": 3}, {"b": 3, "a": 2}))
    assert (dict(one), one["b"], one.get("c"), len(one), "c" in one) == ({"a": 1, "b": None}, None, None, 2, False)
    assert other == turned == {"a": 2, "b": 3} != one
    assert (list(other), list(turned)) == (["a", "b"], ["b", "a"])
    assert pickle.loads(pickle.dumps(turned)) == turned and repr(one) == repr(dict(one))
    assert one._at is other._at is not turned._at


def test_probes_that_are_written_alike_are_looked_at_once(
    grid: Grid, pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    real = Recognition.check
    monkeypatch.setattr(Recognition, "check", lambda self, *rest: looked.append(repr(self)) or real(self, *rest))
    sizes = (32, 32, 64, 64)
    forest = grow([grid(seed=i, probes=[Recognition(pair, block_size=size)]) for i, size in enumerate(sizes)])
    assert len(looked) == len(set(looked)) == 2
    assert [len({ask.probe_id for ask in forest.asks}), len({ask.condition_id for ask in forest.asks})] == [2, 4]
    assert [ask.probe.block_size for ask in forest.asks] == [*sizes]  # type: ignore[attr-defined]
