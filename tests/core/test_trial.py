"""A trial walks its trees as if every condition had been trained alone, and what fails costs only what hangs on it."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import pytest
import torch
from core.small import study_exposures

import memexp.trial.base
import memexp.trial.walk
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.session import Session
from memexp.errors import StoreError
from memexp.plan import Trial, find_missing, grow
from memexp.plan.attempts import Attempt, Progress
from memexp.probes import Recall, Recognition
from memexp.records import STAGES, measured_by
from memexp.spec import (
    Condition,
    Corpus,
    Forget,
    Full,
    Headline,
    LoRA,
    Model,
    Pair,
    Probe,
    Resources,
    Study,
    TextFile,
    spec,
)
from memexp.store import Store
from memexp.trial.base import WarmBase
from memexp.trial.execute import execute
from memexp.trial.watch import Activity

KEYS = {"training": ("stage_id", "step"), "stages": ("stage_id", "status")}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def trial_of(conditions: Iterable[Condition]) -> Trial:
    """All that `conditions`, of one base model, need."""
    forest = grow(conditions)
    (base,) = (stage for stage in forest.stages.values() if stage.parent is None)
    stages = [stage for stage in forest.stages.values() if stage.parent is not None]
    return Trial(base, stages, forest.asks, Resources(), forest.texts, forest.streams)


def executed(conditions: Iterable[Condition], sink: Any, attempt: str = "first") -> list[str]:
    return execute(trial_of(conditions), sink, World.current(), Attempt("test", attempt))


def rows(store: Store, kind: str, **where: Any) -> list[dict[str, Any]]:
    """Rows of a kind in a fixed order."""
    table = store.scan(kind)
    found = [] if table is None else table.to_pylist()
    keys = KEYS.get(kind, ("condition_id", "probe_id", "item"))
    found = [row for row in found if all(row[name] == value for name, value in where.items())]
    return sorted(found, key=lambda row: tuple(row[key] for key in keys))


def statuses(store: Store) -> dict[str, int]:
    found: dict[str, int] = {}
    for row in rows(store, "stages"):
        found[row["status"]] = found.get(row["status"], 0) + 1
    return found


@dataclasses.dataclass
class Grid:
    """Conditions over the tiny model."""

    model: Model
    pair: Pair

    def __call__(
        self,
        exposures: Sequence[int],
        lrs: Sequence[float] = (3e-3,),
        seeds: Sequence[int] = (0,),
        method: Full | LoRA = Full(),  # noqa: B008 - frozen
        probes: Sequence[Probe] | None = None,
        labels: Mapping[str, Any] | None = None,
        **study: Any,
    ) -> list[Condition]:
        return [
            Condition(
                self.model,
                Study(self.pair.targets, exposures=n, lr=lr, batch_size=4, block_size=64, **study),
                method,
                seed,
                probes or [Recognition(self.pair), Recall()],
                dict(labels or {}),
            )
            for n in exposures
            for lr in lrs
            for seed in seeds
        ]


@pytest.fixture
def grid(tiny_model: Model, pair: Pair) -> Grid:
    return Grid(tiny_model, pair)


# Shared equals alone

SETTINGS = {
    "full-dropout": {"dropout": 0.1, "weight_decay": 0.01, "clip_norm": 1.0},
    "linear-warmup": {"schedule": "linear", "warmup_steps": 4},
    "lora": {"method": LoRA(r=4)},
    "bfloat16": {"dtype": "bfloat16"},
}


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_a_shared_forest_equals_every_condition_trained_alone(
    grid: Grid, settings: dict[str, Any], tmp_path: Path
) -> None:
    conditions = [*grid((0, 1, 3), lrs=(1e-3, 1e-2), **settings), *grid((3,), seeds=(1,), **settings)]
    together = compare(conditions, tmp_path)
    assert len(together["recognition"]) == 7 * 12
    learned = {row["target_nll"] for row in together["recognition"] if row["exposures"] and row["item"] == 0}
    assert len(learned) == 5, "every trained condition has numbers of its own"


FORGETS = (
    Forget(from_layer=0),
    Forget(from_layer=1),
    Forget(from_layer=1, restudy_exposures=0),
    Forget(from_layer=1, restudy_exposures=1),
    Forget(below_layer=1),
    Forget(),
)


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
@pytest.mark.parametrize("settings", [SETTINGS[name] for name in ("full-dropout", "lora")])
def test_forks_at_forgetting_layers_equal_every_condition_trained_alone(
    grid: Grid, settings: dict[str, Any], tmp_path: Path
) -> None:
    studied = grid((2, 3), lrs=(1e-2,), **settings)
    forgotten = [dataclasses.replace(studied[0], forget=forget) for forget in FORGETS]
    together = compare([*studied, *forgotten], tmp_path)
    found = {row["condition_id"]: row["target_nll"] for row in together["recognition"] if row["item"] == 0}
    assert len(set(found.values())) == len(found) == len(studied) + len(forgotten)  # each is a state of its own


def compare(conditions: Sequence[Condition], tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """The rows that one trial leaves, which a trial for each condition leaves as well."""
    shared = Store(tmp_path / "shared")
    assert executed(conditions, shared) == []
    together = {kind: rows(shared, kind) for kind in ("recognition", "recall", "training")}
    alone: dict[str, list[dict[str, Any]]] = {kind: [] for kind in together}
    for i, condition in enumerate(conditions):
        own = Store(tmp_path / str(i))
        assert executed([condition], own) == []
        for kind in alone:
            found = rows(own, kind)
            # A stage that conditions share was trained by each of them, with the same losses.
            alone[kind] += [row for row in found if row not in alone[kind]]
    for kind, expected in together.items():
        keys = KEYS.get(kind, ("condition_id", "probe_id", "item"))
        assert sorted(alone[kind], key=lambda row: tuple(row[key] for key in keys)) == expected, kind
    return together


@pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")
def test_when_every_adapter_is_reset_nothing_is_left_of_study(grid: Grid, store: Store) -> None:
    """Adapters sit in blocks only; the fresh ones do nothing until they learn."""
    base, studied = grid((0, 2), lrs=(1e-2,), method=LoRA(r=4))
    reset = dataclasses.replace(studied, forget=Forget(from_layer=0, restudy_exposures=0))
    assert executed([base, studied, reset], store) == []
    nlls = [
        [row["target_nll"] for row in rows(store, "recognition", exposures=exposures, forget_side=side)]
        for exposures, side in ((0, None), (2, None), (2, "upper"))
    ]
    assert nlls[0] == nlls[2] != nlls[1]


def test_the_second_pass_is_a_pass_of_its_own(grid: Grid, store: Store) -> None:
    """With nothing reset its first loss is where the first pass ended; its optimizer and its steps begin anew."""
    (studied,) = grid((2,), lrs=(1e-2,))
    assert executed([dataclasses.replace(studied, forget=Forget())], store) == []
    training = rows(store, "training")
    found = {kind: [row for row in training if row["kind"] == kind] for kind in ("study", "restudy")}
    steps = [sorted((row["exposure"], row["step"]) for row in found[kind]) for kind in found]
    assert steps[0] == steps[1] and len(steps[0]) == 6
    first = {kind: next(row["loss"] for row in found[kind] if row["step"] == 1) for kind in found}
    assert first["restudy"] < first["study"] - 0.5
    assert [row["status"] for row in rows(store, "stages") if row["kind"] == "forget"] == ["complete"]


def test_a_trajectory_is_the_cores_in_one_go(grid: Grid, store: Store) -> None:
    """Orders by seed and exposure, one optimizer from the first to the last."""
    (condition,) = grid((3,), seeds=(5,), dropout=0.1)
    executed([condition], store)
    trial = trial_of([condition])
    lm = load(trial.base.model, condition.method, "float32", World.current())
    session, study = Session(lm), condition.study
    texts = trial.texts[trial.stages[0].corpus or ""].items
    rows_ = session.encode(texts, study.block_size)
    steps = study_exposures(lm, fresh_optimizer(lm, study), study, rows_, seed=5, first=1, last=3)
    kept = sorted(rows(store, "training"), key=lambda row: row["step"])
    assert [(row["exposure"], row["step"], row["loss"], row["lr"], row["tokens"]) for row in kept] == [
        (step.exposure, step.step, step.loss, step.lr, step.tokens) for step in steps
    ]
    nlls = [float(nll.astype("float64").mean()) for nll in session.token_nlls(rows_)]
    assert [row["target_nll"] for row in rows(store, "recognition")] == pytest.approx(nlls, abs=1e-5)


def test_probing_between_exposures_changes_nothing(grid: Grid, tmp_path: Path) -> None:
    often, once = Store(tmp_path / "often"), Store(tmp_path / "once")
    study = {"dropout": 0.2}
    probes = [Meddler(grid.pair.targets), Recognition(grid.pair), Recall()]
    assert executed(grid((0, 1, 2, 3), probes=probes, **study), often) == []
    assert executed(grid((3,), **study), once) == []
    for kind in ("recognition", "recall"):
        assert rows(often, kind, exposures=3) == rows(once, kind)
    assert rows(often, "training") == rows(once, "training")


@spec
class Meddler(Probe):
    """A probe that uses up random numbers and leaves the model in training mode."""

    kind: ClassVar[str] = "meddler"

    corpus: Corpus

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        torch.rand(7)
        session.lm.train()
        return pa.table({"item": [0]}, schema=self.schema())


def test_a_warm_base_gives_the_same_bits_as_a_fresh_one(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(memexp.trial.base, "load", lambda *args: (loaded.append(args[0].name), load(*args))[1])
    base = WarmBase()

    def warmly(conditions: Iterable[Condition], sink: Any) -> list[str]:
        return execute(trial_of(conditions), sink, World.current(), Attempt("test", "first"), base=base)

    warm, fresh = Store(tmp_path / "warm"), Store(tmp_path / "fresh")
    assert warmly(grid((2,), lrs=(1e-1,), dropout=0.5), warm) == []  # leaves other weights and settings behind
    assert warmly(grid((0, 2)), warm) == []
    assert len(loaded) == 1
    assert executed(grid((0, 2)), fresh) == []
    assert len(loaded) == 2
    for kind in ("recognition", "recall"):
        assert rows(warm, kind, lr=3e-3) == rows(fresh, kind)
    other = dataclasses.replace(grid.model, init=dataclasses.replace(grid.model.init, seed=1))
    assert warmly(Grid(other, grid.pair)((0,)), fresh) == []
    assert len(loaded) == 3, "another base is loaded"


def test_threads_are_those_of_the_resources_and_every_row_says_so(grid: Grid, store: Store) -> None:
    trial = dataclasses.replace(trial_of(grid((0,))), resources=Resources(cpus=2))
    try:
        assert execute(trial, store, World.current(), Attempt("test", "first")) == []
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    row = rows(store, "recognition")[0]
    assert (row["threads"], row["workers"], row["device"], row["torch"]) == (2, 1, "cpu", torch.__version__)
    for kind in ("recognition", "stages"):
        row = rows(store, kind)[0]
        assert (row["precision"], row["cuda"], row["cudnn"]) == ("float32", None, None)
        assert (row["checkpointing"], row["offload"]) == (False, False)


# What is there is not measured again


def test_a_second_time_nothing_is_loaded_or_measured(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    conditions = grid((0, 1), lrs=(1e-3, 1e-2))
    assert executed(conditions, store) == []
    before = {kind: store.names(kind) for kind in store.kinds()}
    monkeypatch.setattr(memexp.trial.base, "load", lambda *_: pytest.fail("a model is loaded"))
    told: list[Progress] = []
    assert execute(trial_of(conditions), store, World.current(), Attempt("test", "second"), told.append) == []
    assert {kind: store.names(kind) for kind in store.kinds()} == before
    assert sum(len(progress.answered) for progress in told) == 8, "what is there counts as done"


def test_one_missing_file_brings_back_that_one_only(grid: Grid, store: Store) -> None:
    conditions = grid((0, 1, 2), lrs=(1e-3, 1e-2))
    executed(conditions, store)
    first = rows(store, "recall")
    gone = next(ask for ask in trial_of(conditions).asks if ask.kind == "recall" and ask.settings["exposures"] == 1)
    Path(store.path("recall", gone.name)).unlink()
    told: list[Progress] = []
    execute(trial_of(conditions), store, World.current(), Attempt("test", "second"), told.append)
    assert rows(store, "recall") == first
    assert sum(progress.steps for progress in told) == 3, "one exposure of one learning rate is trained again"
    assert statuses(store) == {"complete": 5 + 2}


def test_progress_adds_up(grid: Grid, store: Store) -> None:
    trial, told = trial_of(grid((1, 2), lrs=(1e-3, 1e-2))), list[Progress]()
    execute(trial, store, World.current(), Attempt("test", "first"), told.append)
    assert sum(progress.steps for progress in told) == trial.steps == 12
    reached = dict(pair for progress in told for pair in progress.reached.items())
    assert reached == {stage.id: stage.steps for stage in trial.stages}
    answered = [name for progress in told for name in progress.answered]
    assert sorted(answered) == sorted(f"{ask.kind}/{ask.name}" for ask in trial.asks)


class Racing(Store):
    """A store whose files appear only after the trial has looked for them."""

    def exists(self, kind: str, name: str) -> bool:
        return False


def test_a_result_that_differs_from_the_stored_one_is_reported_and_not_merged(grid: Grid, tmp_path: Path) -> None:
    conditions = grid((0, 1))
    straight, raced = Store(tmp_path / "straight"), Racing(tmp_path / "raced")
    executed(conditions, straight)
    shutil.copytree(tmp_path / "straight", tmp_path / "raced")
    name = next(ask.name for ask in trial_of(conditions).asks if ask.kind == "recognition")
    table = straight.read("recognition", name)
    place = table.column_names.index("target_nll")
    wrong = table.set_column(place, "target_nll", pa.array([1.0] * table.num_rows))
    Path(raced.path("recognition", name)).unlink()
    assert raced.commit("recognition", name, wrong)
    assert executed(conditions, raced, "second") == []
    differs = [row for row in Store(raced.location).scan("stages").to_pylist() if row["status"] == "differs"]
    assert [row["error"] for row in differs] == [f"recognition/{name} was first"]
    assert raced.read("recognition", name).equals(wrong)


def test_the_same_numbers_under_another_name_do_not_differ(grid: Grid, tmp_path: Path) -> None:
    conditions = grid((0, 1))
    raced = Racing(tmp_path)
    executed(conditions, raced)
    for kind in ("recognition", "training"):
        for name in Store(tmp_path).names(kind):
            table = raced.read(kind, name)
            place = table.column_names.index("corpus")
            Path(raced.path(kind, name)).unlink()
            called = pa.array(["elsewhere.jsonl"] * table.num_rows)
            raced.commit(kind, name, table.set_column(place, "corpus", called))
    assert executed(conditions, raced, "second") == []
    assert set(statuses(Store(tmp_path))) == {"complete"}


# Failures


@spec
class Broken(Probe):
    """A probe with a fault."""

    kind: ClassVar[str] = "broken"

    fault: str

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        if self.fault == "columns":
            return pa.table({"number": [1]})
        if self.fault == "more":
            return pa.table({"item": [1], "number": [1]})
        if self.fault == "types":
            return pa.table({"item": ["one"]})
        if self.fault == "nothing":
            return None  # type: ignore[return-value]
        if self.fault.endswith("texts"):
            return pa.table({"item": [1, 2]})
        if self.fault == "within":
            session.encode(None, 8)  # type: ignore[arg-type] # raises in memexp's own code
        session.lm.train()
        if self.fault == "half a pair":
            raise RuntimeError("no \ud800 such")  # which no file holds, as what a decoder made of other bytes
        raise RuntimeError("no such\nthing")

    def texts_of(self, items: pa.Table, texts: Mapping[str, Sequence[str]]) -> Sequence[str | None] | None:
        return [{}[None]] if self.fault == "no texts" else ["one"]


_CLASS = r"Broken \(test_trial\.py, line \d+\): measure\(\)"
WHERE_BROKEN = {
    "raises": r"RuntimeError: no such \(Broken, test_trial\.py, line \d+\)",
    "half a pair": r"RuntimeError: no \\ud800 such \(Broken, test_trial\.py, line \d+\)",
    "within": r"TypeError: .* \(Broken, test_trial\.py, line \d+\)",
    "columns": rf"{_CLASS} must return the column 'item' of schema\(\) once; it returned number",
    "more": rf"{_CLASS} returned 'number', which is no column of schema\(\): item",
    "types": rf"{_CLASS} returned a column 'item' that is no int64: Failed to parse string: 'one' .*",
    "no texts": r"KeyError: None \(Broken, test_trial\.py, line \d+\)",
    "few texts": r"Broken \(test_trial\.py, line \d+\): texts_of\(\) gave 1 texts for 2 rows",
    "nothing": rf"{_CLASS} must return a pyarrow\.Table with the columns of schema\(\), not NoneType",
}
"""What is said of each fault, in one line with the probe's class, its file and the line."""


@pytest.mark.parametrize("fault", WHERE_BROKEN)
def test_a_probe_that_fails_costs_its_own_rows_only(grid: Grid, tmp_path: Path, fault: str) -> None:
    broken, whole = Store(tmp_path / "broken"), Store(tmp_path / "whole")
    probes = [Broken(fault), Recognition(grid.pair), Recall()]
    failures = executed(grid((0, 1, 2), probes=probes), broken)
    assert len(failures) == 3
    assert all("\n" not in line and line.startswith("tiny, ") and "broken: " in line for line in failures)
    failed = rows(broken, "stages", status="failed")
    assert len(failed) == 3 and all(row["error"].startswith("broken: ") for row in failed)
    line = failed[0]["error"].splitlines()[0]
    assert re.fullmatch(rf"broken: {WHERE_BROKEN[fault]}", line), line
    assert broken.names("broken") == set()
    assert executed(grid((0, 1, 2)), whole) == []
    for kind in ("recognition", "recall", "training"):
        assert rows(broken, kind) == rows(whole, kind)


def test_a_rate_that_diverges_is_an_outcome_and_its_siblings_complete(grid: Grid, tmp_path: Path) -> None:
    store, alone = Store(tmp_path / "both"), Store(tmp_path / "alone")
    conditions = grid((0, 1, 2), lrs=(1e30, 3e-3))
    failures = executed(conditions, store)
    assert len(failures) == 1 and "diverged: the loss is nan at step" in failures[0]
    assert statuses(store) == {"complete": 1 + 2, "diverged": 1, "skipped": 1}
    (diverged,) = rows(store, "stages", status="diverged")
    (skipped,) = rows(store, "stages", status="skipped")
    assert skipped["parent_id"] == diverged["stage_id"]
    assert executed(grid((0, 1, 2)), alone) == []
    for kind in ("recognition", "recall"):
        assert rows(store, kind, lr=3e-3) == rows(alone, kind)
        assert {row["exposures"] for row in rows(store, kind, lr=1e30)} == {0}
    left = find_missing(grow(conditions), store)
    assert left.asks == [] and len(left.diverged) == 4, "not tried again unless asked for"
    assert len(find_missing(grow(conditions), store, retry_diverged=True).asks) == 4


def test_a_stage_that_crashes_is_recorded_and_leaves_nothing_behind(
    grid: Grid, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, alone = Store(tmp_path / "both"), Store(tmp_path / "alone")
    real, calls = LanguageModel.nll, []

    def out_of_memory(self: LanguageModel, ids: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        if self.training:
            calls.append(1)
            if len(calls) == 2:
                real(self, ids, lengths).sum().backward()
                raise RuntimeError("out of memory")
        return real(self, ids, lengths)

    monkeypatch.setattr(LanguageModel, "nll", out_of_memory)
    failures = executed(grid((1, 2), lrs=(1e-2, 3e-3)), store)
    assert len(failures) == 1 and "failed: RuntimeError: out of memory" in failures[0]
    assert statuses(store) == {"complete": 1 + 2, "failed": 1, "skipped": 1}
    assert executed(grid((1, 2)), alone) == []
    assert rows(store, "recall") == rows(alone, "recall")
    monkeypatch.setattr(LanguageModel, "nll", real)
    assert executed(grid((1, 2), lrs=(1e-2, 3e-3)), store, "second") == []
    assert len(store.names("recognition")) == 4, "a crash is repeated, and only what is missing"


def test_a_base_that_cannot_be_loaded_skips_all_that_hangs_on_it(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("no space left")

    monkeypatch.setattr(memexp.trial.base, "load", fail)
    failures = executed(grid((0, 1, 2)), store)
    assert len(failures) == 1 and "failed: RuntimeError: no space left" in failures[0]
    assert statuses(store) == {"failed": 1, "skipped": 2}
    assert store.kinds() == ["stages"]


class Full507(Store):
    """A store that is full as soon as training begins."""

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        if kind == "training":
            raise StoreError("no space left")
        return super().commit(kind, name, table)


def test_a_store_that_cannot_be_written_ends_the_trial(grid: Grid, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no space left"):
        executed(grid((0, 1)), Full507(tmp_path / "full"))


def test_a_failure_is_recorded_where_its_tree_had_a_file_already(grid: Grid, store: Store) -> None:
    """As where Train itself starts a group again, or where what hangs is found when the tree is through."""
    probes = [Recognition(grid.pair)]
    assert executed(grid((0, 1), probes=probes), store, "same") == []
    assert len(executed(grid((0, 1), probes=[*probes, Broken("raises")]), store, "same")) == 2
    assert [row["error"].partition(":")[0] for row in rows(store, "stages", status="failed")] == ["broken"] * 2


@pytest.mark.parametrize("commit", [None, "0123abcd"], ids=["a folder", "the hub"])
def test_waiting_for_others_is_no_hang(
    commit: str | None, grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[bool]] = {}
    watching: list[Activity] = []

    @contextlib.contextmanager
    def watched(minutes: float, activity: Activity, stuck: Any) -> Iterator[None]:
        watching.append(activity)
        yield
        watching.clear()  # the trial's end is reported when nobody watches any more

    def look(where: str) -> None:
        if watching:
            seen.setdefault(where, set()).add(watching[0].waiting)

    def seeing(where: Any, name: str) -> None:
        plain = getattr(where, name)
        monkeypatch.setattr(where, name, lambda *arguments: (look(name), plain(*arguments))[1])

    trial = trial_of(grid((0, 1)))
    model = trial.base.model
    trial.base = dataclasses.replace(trial.base, model=dataclasses.replace(model, commit=commit))
    monkeypatch.setattr(memexp.trial.walk, "watched", watched)
    monkeypatch.setattr(memexp.trial.base, "load", lambda _, *rest: (look("load"), load(model, *rest))[1])
    seeing(memexp.trial.walk, "train")
    seeing(Recognition, "measure")
    assert execute(trial, store, World.current(), Attempt("test", "first"), lambda _: look("report")) == []
    assert seen == {"load": {commit is not None}, "report": {True}, "train": {False}, "measure": {False}}


def test_a_peers_end_is_not_taken_for_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    two, one = World(0, 2, torch.device("cpu")), World.current()
    gone = ValueError("Default process group has not been initialized, please make sure to call init_process_group.")
    assert two.blames_peer(gone) and not one.blames_peer(gone)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    assert not two.blames_peer(gone)
    assert two.blames_peer(RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer"))


class Deaf(World):
    """Two ranks of which the other never speaks."""

    def broadcast(self, value: Any) -> Any:
        return value

    def any(self, value: bool) -> bool:
        return value


def test_a_failure_on_several_ranks_is_recorded_once(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_memory(*_: object) -> None:
        raise RuntimeError("out of memory")

    alone, one = load, World.current()
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(memexp.trial.base, "load", lambda *model: alone(*model[:3], one))
    monkeypatch.setattr(memexp.trial.walk, "train", out_of_memory)
    conditions = [dataclasses.replace(one, forget=Forget(0)) for one in grid((3,))]
    with pytest.raises(RuntimeError, match="out of memory"):
        execute(trial_of(conditions), store, Deaf(0, 2, torch.device("cpu")), Attempt("test", "first"))
    assert [row["kind"] for row in rows(store, "stages", status="failed")] == ["study"]


def test_attempts_leave_a_row_for_every_stage(grid: Grid, store: Store) -> None:
    execute(trial_of(grid((0, 2))), store, World.current(), Attempt("mine", "first", commit="abc+"))
    found = rows(store, "stages")
    assert store.scan("stages").schema.equals(STAGES)
    assert [row["status"] for row in found] == ["complete"] * 3
    studied = [row for row in found if row["kind"] == "study"]
    assert all(row["steps"] == 3 and row["tokens"] > 0 and row["seconds"] > 0 for row in studied)
    assert {(row["sweep"], row["commit"], row["model"]) for row in found} == {("mine", "abc+", "tiny")}


# Probes of a user's own, and what cannot be measured


@spec
class Surprise(Probe):
    """The largest token NLL of every text above a threshold."""

    kind: ClassVar[str] = "surprise"
    headline: ClassVar[Headline | None] = Headline("mean surprise, in nats", "most")
    calls: ClassVar[list[int]] = []

    corpus: Corpus
    threshold: float = 0.0

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64()), ("most", pa.float64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        self.calls.append(1)
        nlls = session.token_nlls(session.encode(texts["corpus"], 64))
        most = [float(nll.max()) if nll.max() > self.threshold else None for nll in nlls]
        return pa.table({"item": range(len(most)), "most": most}, schema=self.schema())


def test_a_probe_of_a_users_own_works_like_any_other(grid: Grid, store: Store) -> None:
    Surprise.calls.clear()
    probes = [Surprise(grid.pair.targets), Surprise(grid.pair.foils), Surprise(grid.pair.targets, threshold=1e9)]
    twice = [*grid((0, 1), probes=probes, labels={"x": 1}), *grid((0, 1), probes=probes, labels={"x": 2})]
    assert executed(twice, store) == []
    assert len(Surprise.calls) == 2 * 3, "two conditions of the same stage are measured once"
    assert len(store.names("surprise")) == 2 * 2 * 3
    found = rows(store, "surprise")
    assert len(found) == 12 * 12
    assert len({row["probe_id"] for row in found}) == 3
    assert sum(row["most"] is None for row in found) == 12 * 4
    settings = ("condition_id", "x")
    one, two = ([{k: v for k, v in row.items() if k not in settings} for row in found if row["x"] == x] for x in (1, 2))
    assert len(one) == len(two) and all(row in two for row in one)
    assert {row["exposures"] for row in found} == {0, 1}
    said = [measured_by(store.schema("surprise", name)) for name in store.names("surprise")]
    assert all(one is not None and (one.kind, one.headline) == ("surprise", Surprise.headline) for one in said)


@spec
class Talker(Probe):
    """A probe that prints."""

    kind: ClassVar[str] = "talker"

    lines: int = 2
    fails: bool = False

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        print("half of\rthe item")
        for number in range(1, self.lines):
            print("item", number, file=sys.stderr if number % 2 else sys.stdout, end="" if self.fails else "\n")
        if self.fails:
            raise RuntimeError("no such thing")
        return pa.table({"item": [0]})


def talked(conditions: Iterable[Condition], store: Store) -> tuple[list[str], dict[str, str]]:
    """What trials report as printed, and the logs in the store."""
    said: list[str] = []
    world, attempt = World.current(), Attempt("test", "first")
    execute(trial_of(conditions), store, world, attempt, lambda progress: said.extend(progress.said))
    return said, {path: store.get_text(path) or "" for path in store.list_text(".logs/")}


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_users_probe_prints_is_reported_and_logged(
    grid: Grid, store: Store, capsys: pytest.CaptureFixture[str], fails: bool
) -> None:
    said, logs = talked(grid((0,), probes=[Recognition(grid.pair), Talker(fails=fails)]), store)
    assert said == ["Talker: the item", "Talker: item 1"]
    ((path, text),) = logs.items()
    assert path.startswith(".logs/test/talker-") and text == "the item\nitem 1\n"
    printed = capsys.readouterr()
    assert "the item\n" in printed.out and "item 1" in printed.err, "it is printed as ever, too"


def test_who_prints_much_is_cut_short_and_the_log_has_it_all(grid: Grid, store: Store) -> None:
    said, logs = talked(grid((0,), probes=[Talker(lines=1200)]), store)
    ((path, text),) = logs.items()
    assert len(said) == 1001 and said[-1] == f"Talker: ... and 200 more lines in {path}"
    assert text.count("\n") == 1200


def test_what_memexps_own_probes_print_is_nobodys(grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = Session.decode
    monkeypatch.setattr(Session, "decode", lambda *given: print("decoding") or decode(*given))
    assert talked(grid((0,), probes=[Recall()]), store) == ([], {})


def test_what_a_text_of_one_token_would_recall_is_null(tiny_model: Model, tmp_path: Path, store: Store) -> None:
    file = tmp_path / "short.txt"
    file.write_text("A\nThe ferry to the island leaves at noon.\nA\n")
    short = Pair(TextFile(str(file)), TextFile(str(file)))
    assert executed(Grid(tiny_model, short)((0, 1)), store) == []
    for row in rows(store, "recall"):
        values = [row["completion"], row["exact"], row["sentence_rouge1"], row["completion_rougeL"]]
        assert row["tokens"] == 1 if row["item"] != 1 else row["tokens"] > 1
        assert all(value is None for value in values) == (row["item"] != 1)
    for row in rows(store, "recognition"):
        assert (row["target_nll"] is None) == (row["foil_nll"] is None) == (row["item"] != 1)
