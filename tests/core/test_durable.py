"""A trajectory that was killed and taken up from its snapshot in the store ends where an undisturbed one ends, to the
last bit; a snapshot that is not whole is not taken up; nothing is left when nothing is left to do."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import torch
from core.small import weights
from core.test_interference import after
from core.test_snapshot import CASES, Subject, assert_same
from core.test_trial import Grid, grid, rows, statuses, store, trial_of
from s3_server import s3_server

import memexp.core.checkpoint
import memexp.core.train
from memexp.core.batches import StudyBatches
from memexp.core.checkpoint import load_snapshot, save_snapshot
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.train import Step, train
from memexp.driver.cleaning import discard_snapshots
from memexp.errors import StoreError
from memexp.plan import bundle, find_missing, grow
from memexp.plan.attempts import Attempt
from memexp.probes import Recognition
from memexp.spec import SGD, Condition, Forget, Full, LoRA, Pretrain, Snapshots
from memexp.store import Store
from memexp.store.snapshots import Mark, Unfit, discard, find, mark_text, read_mark
from memexp.trial.execute import execute
from memexp.trial.watch import Activity

__all__ = ["grid", "store"]  # fixtures

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing")

WORLD = World.current()


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store's URL on moto's S3 server."""
    with s3_server() as endpoint:
        for name, value in (
            *(("AWS_ENDPOINT_URL", endpoint), ("AWS_REGION", "us-east-1")),
            *(("AWS_ACCESS_KEY_ID", "test"), ("AWS_SECRET_ACCESS_KEY", "test")),
        ):
            monkeypatch.setenv(name, value)
        boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket="bucket")
        yield "s3://bucket/results"


def learn(subject: Subject, first: int, last: int) -> list[Step]:
    """Steps by number; an exposure has three."""
    subject.optimizer = subject.optimizer or fresh_optimizer(subject.lm, subject.study)
    batches = StudyBatches(subject.study, subject.rows, 0)
    return train(subject.lm, subject.optimizer, subject.study, batches, first, last)


def put_down(subject: Subject, store: Store, step: int) -> Mark:
    assert subject.optimizer is not None
    mark = Mark("line", step)
    save_snapshot(store, mark, "base", subject.lm, subject.optimizer, [])
    return mark


def files(store: Store) -> list[str]:
    return store.list_text(".snapshots/")


@pytest.mark.parametrize(("architecture", "method", "dropout"), CASES)
def test_taken_up_in_the_middle_of_an_exposure(
    architecture: str, method: Full | LoRA, dropout: float, store: Store
) -> None:
    whole, killed = (Subject(architecture, method, dropout) for _ in range(2))
    expected = learn(whole, 1, 9)
    made = learn(killed, 1, 5)
    assert killed.optimizer is not None
    mark = Mark("line", 5)
    save_snapshot(store, mark, "base", killed.lm, killed.optimizer, made)
    torch.manual_seed(12345)  # another process
    again = Subject(architecture, method, dropout)
    taken = load_snapshot(store, mark, "base", again.lm, again.study)
    assert taken is not None and taken.steps == made
    again.optimizer = taken.optimizer
    assert [*taken.steps, *learn(again, 6, 9)] == expected
    assert_same(again.state(), whole.state())


@pytest.mark.parametrize("method", [Full(), LoRA(r=2)], ids=["full", "lora"])
def test_gradients_that_another_stage_left_behind_cost_no_moments(method: Full | LoRA, store: Store) -> None:
    """As one that ran out of memory between two backward passes leaves them."""
    whole, killed, again = (Subject("gpt2", method, 0.0) for _ in range(3))
    learn(whole, 1, 9)
    learn(killed, 1, 5)
    mark = put_down(killed, store, 5)
    row = torch.tensor([again.rows[0]])
    again.lm.nll(row, torch.tensor([row.shape[1]])).sum().backward()
    taken = load_snapshot(store, mark, "base", again.lm, again.study)
    assert taken is not None
    again.optimizer = taken.optimizer
    learn(again, 6, 9)
    assert_same(again.state(), whole.state())


def test_a_parameter_that_no_pass_uses_is_no_obstacle(store: Store) -> None:
    whole, killed, again = (Subject("gpt2", Full(), 0.0) for _ in range(3))
    for subject in (whole, killed, again):
        subject.lm.lm.register_parameter("unused", torch.nn.Parameter(torch.ones(3)))
    learn(whole, 1, 9)
    learn(killed, 1, 5)
    taken = load_snapshot(store, put_down(killed, store, 5), "base", again.lm, again.study)
    assert taken is not None
    again.optimizer = taken.optimizer
    for subject in (killed, again):
        learn(subject, 6, 9)
        assert_same(weights(subject.lm), weights(whole.lm))


def test_a_snapshot_before_the_first_real_step_changes_nothing(store: Store) -> None:
    """A batch of blank texts is a step without one of the optimizer's."""
    whole, put, again = (Subject("gpt2", Full(), 0.0) for _ in range(3))
    learn(whole, 1, 3)
    put.optimizer = fresh_optimizer(put.lm, put.study)
    mark = put_down(put, store, 0)
    assert not put.optimizer.state
    learn(put, 1, 3)
    assert_same(put.state(), whole.state())
    taken = load_snapshot(store, mark, "base", again.lm, again.study)
    assert taken is not None
    again.optimizer = taken.optimizer
    learn(again, 1, 3)
    assert_same(again.state(), whole.state())


@pytest.mark.parametrize("where", ["folder", "bucket"])
def test_only_the_newest_is_kept_and_all_can_be_discarded(where: str, tmp_path: Path, request: Any) -> None:
    store = Store(request.getfixturevalue("bucket")) if where == "bucket" else Store(tmp_path / "results")
    subject = Subject("gpt2", LoRA(r=2), 0.0)
    for step in (1, 2, 3):
        learn(subject, step, step)
        put_down(subject, store, step)
    marks = find(store)
    assert marks.of("line", 1, 9) == [Mark("line", 3)] and marks.of("line", 1, 2) == marks.of("other", 1, 9) == []
    assert {path.split("/")[2].split("-")[0].removesuffix(".json") for path in files(store)} == {"000000003"}
    other = Subject("gpt2", LoRA(r=2), 0.0)
    taken = load_snapshot(store, Mark("line", 3), "base", other.lm, other.study)
    assert taken is not None
    assert_same(weights(other.lm), weights(subject.lm))
    discard(store, "line")
    assert files(store) == []


def test_killed_before_the_mark_it_is_no_snapshot(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject("gpt2", LoRA(r=2), 0.0)
    learn(subject, 1, 1)
    whole = put_down(subject, store, 1)
    learn(subject, 2, 2)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "put_text", killed)
        with pytest.raises(KeyboardInterrupt):
            put_down(subject, store, 2)
    assert any("/000000002-" in path for path in files(store))  # it was nearly one
    marks = find(store)
    assert marks.of("line", 1, 9) == [whole] and marks.trajectories == {"line"}
    discard(store, "line")
    assert list(Path(store.location).glob(".snapshots/*")) == []  # no empty folder either


@pytest.mark.parametrize("broken", ["00.safetensors", "/state.json", "02.json"])
def test_what_could_not_be_written_leaves_nothing(broken: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject("gpt2", LoRA(r=2), 0.0)
    learn(subject, 1, 1)
    whole = put_down(subject, store, 1)
    before = files(store)
    for name in ("open", "put_text"):
        plain = getattr(Store, name)

        def full(self: Store, path: str, *rest: Any, plain: Any = plain) -> Any:
            if path.endswith(broken):
                raise StoreError("no space left")
            return plain(self, path, *rest)

        monkeypatch.setattr(Store, name, full)
    with pytest.raises(StoreError, match="no space left"):
        put_down(subject, store, 2)
    assert files(store) == before and find(store).of("line", 1, 9) == [whole]


def shorten(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def garble(path: Path) -> None:
    path.write_text(path.read_text()[:-3])


def flip(path: Path) -> None:
    """One bit of a weight, which torch does not notice."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, tuple[str, Callable[[Path], object], str | None]] = {
    "truncated": ("**/*.safetensors", shorten, r"00000-00000.safetensors has \d+ bytes, not \d+"),
    "one bit flipped": ("**/*.safetensors", flip, "00000-00000.safetensors is not what was written"),
    "gone": ("**/*.safetensors", Path.unlink, "00000-00000.safetensors is missing"),
    "no state": ("**/state.json", Path.unlink, "state.json is missing"),
    "half a state": ("**/state.json", garble, r"state.json has \d+ bytes, not \d+"),
    "half a mark": ("*/*.json", garble, "its mark is not of this version of memexp, or not whole"),
    "an empty mark": ("*/*.json", lambda path: path.write_text(""), "its mark has 0 bytes"),
    "no text": (
        "*/*.json",
        lambda path: path.write_bytes(b"\xff\xfe"),
        "its mark is not of this version of memexp, or not whole",
    ),
    "a folder": ("*/*.json", lambda path: (path.unlink(), path.mkdir()), "its mark cannot be read: .* Is a directory"),
    "no mark": ("*/*.json", Path.unlink, None),
}


@pytest.mark.parametrize(("pattern", "damage", "said"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_snapshot_is_not_taken_up(
    pattern: str, damage: Callable[[Path], object], said: str | None, store: Store
) -> None:
    subject = Subject("gpt2", LoRA(r=2), 0.0)
    learn(subject, 1, 1)
    mark = put_down(subject, store, 1)
    other = Subject("gpt2", LoRA(r=2), 0.0)
    assert load_snapshot(store, mark, "base", other.lm, other.study) is not None
    (file,) = Path(store.location).glob(f".snapshots/{pattern}")
    damage(file)
    if said is None:
        assert load_snapshot(store, mark, "base", other.lm, other.study) is None
        return
    with pytest.raises(Unfit, match=rf"^snapshot {re.escape(mark.path)} is passed over: {said}"):
        load_snapshot(store, mark, "base", other.lm, other.study)


def test_removed_while_it_is_read_it_is_not_taken_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = Subject("gpt2", LoRA(r=2), 0.0)
    learn(subject, 1, 1)
    mark = put_down(subject, store, 1)
    said = read_mark(store, mark, "base")
    discard(store, "line")
    monkeypatch.setattr(memexp.core.checkpoint, "read_mark", lambda *_: said)
    assert load_snapshot(store, mark, "base", subject.lm, subject.study) is None


# Whole trials


class Killed(BaseException):
    """As kill -9: nobody catches it."""


def attempt(
    conditions: list[Condition], sink: Store, name: str, snapshots: Snapshots, until: int | None = None
) -> tuple[list[str], int]:
    """Failures of a trial and the optimizer steps it made; killed in the update after its `until`-th."""
    made = 0
    plain = memexp.core.train.update

    def update(*arguments: Any) -> Any:
        nonlocal made
        if made == until:
            raise Killed
        made += 1
        return plain(*arguments)

    trial = dataclasses.replace(trial_of(conditions), snapshots=snapshots)
    asks = {(ask.kind, ask.name) for ask in find_missing(_forest(trial), sink).asks}
    trial.asks = [ask for ask in trial.asks if (ask.kind, ask.name) in asks]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memexp.core.train, "update", update)
        try:
            return execute(trial, sink, WORLD, Attempt("test", name)), made
        except Killed:
            return ["killed"], made


def _forest(trial: Any) -> Any:
    forest = memexp.plan.Forest(asks=trial.asks)
    forest.stages = {stage.id: stage for stage in [trial.base, *trial.stages]}
    return forest


KINDS = ("recognition", "recall", "training")


def data(store: Store) -> dict[str, list[dict[str, Any]]]:
    return {kind: rows(store, kind) for kind in KINDS}


EVERY = Snapshots(minutes=None, steps=4)
NONE = Snapshots(minutes=None)


def line(grid: Grid, **study: Any) -> list[Condition]:
    """Study of six steps, then 31 of interference with three probes on the way."""
    (studied,) = grid((2,), lrs=(1e-2,), **study)
    return after(studied, 1, 10, 31)


FULL, ADAPTER = Full(), LoRA(r=2, dropout=0.1)


@pytest.mark.parametrize(
    ("killed_at", "method"),
    [(3, FULL), (6, FULL), (6, ADAPTER), (9, FULL), (20, ADAPTER), (36, FULL)],
    ids=["3-full", "6-full", "6-lora", "9-full", "20-lora", "36-full"],
)
def test_killed_in_training_it_goes_on_from_the_last_snapshot(
    killed_at: int, method: Full | LoRA, grid: Grid, store: Store, tmp_path: Path
) -> None:
    conditions = line(grid, method=method, dropout=0.1)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE) == ([], 37)
    assert attempt(conditions, store, "first", EVERY, until=killed_at) == (["killed"], killed_at)
    assert (find(store).found != frozenset()) == (killed_at >= 4)
    assert attempt(conditions, store, "second", EVERY) == ([], 37 - killed_at // 4 * 4)
    assert data(store) == data(undisturbed)
    assert files(store) == []


@pytest.mark.parametrize("optimizer", [SGD(), SGD(0.9)], ids=["plain", "momentum"])
def test_killed_with_sgd_that_interference_carries_on(optimizer: SGD, grid: Grid, store: Store, tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(3e-2,), optimizer=optimizer)
    conditions = after(studied, 1, 10, 31, optimizer="carried")
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE) == ([], 37)
    for number, (killed_at, made) in enumerate([(5, 5), (16, 16), (4, 4)]):
        assert attempt(conditions, store, str(number), EVERY, until=killed_at) == (["killed"], made)
    assert attempt(conditions, store, "last", EVERY) == ([], 37 - 4 - 16 - 4)
    assert data(store) == data(undisturbed)


def test_without_snapshots_it_begins_again(grid: Grid, store: Store) -> None:
    conditions = line(grid)
    attempt(conditions, store, "first", NONE, until=20)
    assert files(store) == []
    assert attempt(conditions, store, "second", NONE) == ([], 37)


def test_minutes_are_training_time_since_the_last_snapshot(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(10_000))
    published: list[int] = []
    monkeypatch.setattr(memexp.trial.saving.time, "monotonic", lambda: 30.0 * next(clock))
    monkeypatch.setattr(memexp.trial.saving, "save_snapshot", lambda _, mark, *rest: published.append(mark.step))
    assert attempt(grid((3,)), store, "first", Snapshots(minutes=2.0)) == ([], 9)
    assert published == [4, 8]  # by number of the trajectory: each after four half minutes


def test_a_truncated_snapshot_costs_time_only(grid: Grid, store: Store, tmp_path: Path) -> None:
    conditions = line(grid)
    undisturbed = Store(tmp_path / "undisturbed")
    attempt(conditions, undisturbed, "once", NONE)
    attempt(conditions, store, "first", EVERY, until=20)
    for file in Path(store.location).glob(".snapshots/**/*.safetensors"):
        shorten(file)
    assert attempt(conditions, store, "second", EVERY) == ([], 37)
    assert data(store) == data(undisturbed) and files(store) == []


def test_a_snapshot_that_cannot_be_written_is_recorded_and_training_goes_on(
    grid: Grid, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conditions = line(grid)
    undisturbed = Store(tmp_path / "undisturbed")
    attempt(conditions, undisturbed, "once", NONE)

    def full(self: Store, path: str, mode: str) -> Any:
        raise StoreError("cannot write: no space left")

    monkeypatch.setattr(Store, "open", full)
    assert attempt(conditions, store, "first", EVERY) == ([], 37)
    assert statuses(store) == {"complete": 6, "unsaved": 9}
    assert all("no space left" in row["error"] for row in rows(store, "stages", status="unsaved"))
    assert data(store) == data(undisturbed)


def test_a_tree_with_forks_goes_on_branch_by_branch(grid: Grid, store: Store, tmp_path: Path) -> None:
    """Killed again and again: every attempt begins at snapshots, in memory or in the store, and nothing is lost."""
    studied = grid((1, 2), lrs=(1e-2,), dropout=0.1)
    forgotten = [dataclasses.replace(studied[1], forget=Forget(from_layer=k)) for k in (0, 1)]
    conditions = [*studied, *forgotten, *after(studied[0], 5, 14), *after(forgotten[0], 9), *after(studied[1], 7)]
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE)[0] == []
    for number in range(100):
        failures, _ = attempt(conditions, store, f"{number}", EVERY, until=5)
        if not failures:
            break
        assert failures == ["killed"]
    assert 5 <= number < 20
    assert data(store) == data(undisturbed)
    assert files(store) == []


def test_kept_snapshots_serve_conditions_that_are_added_later(grid: Grid, store: Store, tmp_path: Path) -> None:
    (studied,) = grid((2,), lrs=(1e-2,))
    kept = Snapshots(minutes=None, steps=4, keep=True)
    assert attempt(after(studied, 22), store, "first", kept) == ([], 28)
    assert [mark.step for mark in find(store).found if mark.step > 6] == [22]
    assert attempt(after(studied, 22, 30), store, "second", kept) == ([], 8)
    once = Store(tmp_path / "once")
    attempt(after(studied, 22, 30), once, "once", NONE)
    assert data(store) == data(once)


def test_another_number_of_workers_may_go_on(store: Store) -> None:
    """Not to the last bit: each rank draws for its own rows. But at once, and with the same optimizer."""
    subject = Subject("gpt2", Full(), 0.2)
    learn(subject, 1, 4)
    mark = put_down(subject, store, 4)
    said = read_mark(store, mark, "base")
    assert said is not None
    store.put_text(mark.path, mark_text(said.model_copy(update={"workers": 2})))
    other = Subject("gpt2", Full(), 0.2)
    taken = load_snapshot(store, mark, "base", other.lm, other.study)
    assert taken is not None
    assert_same(weights(other.lm), weights(subject.lm))
    assert subject.optimizer is not None
    assert_same(taken.optimizer.state_dict(), subject.optimizer.state_dict())


# Below pretraining


def pretrained(grid: Grid) -> list[Condition]:
    """Six steps of pretraining, then six of study, with two probes at the end."""
    training = Pretrain(grid.pair.foils, steps=6, lr=1e-2, batch_size=4, block_size=64)
    return [dataclasses.replace(one, pretrain=training) for one in grid((2,), lrs=(1e-2,))]


class Passing(Store):
    """A store that once does not say which losses of pretraining it has."""

    failed: bool = False

    def names(self, kind: str, prefix: str = "") -> set[str]:
        if kind == "training" and prefix and not self.failed:
            object.__setattr__(self, "failed", True)
            raise StoreError("the bucket cannot be reached")
        return super().names(kind, prefix)


def test_what_comes_after_a_store_error_is_not_measured_elsewhere(grid: Grid, store: Store, tmp_path: Path) -> None:
    """To measure study below a snapshot in it, pretraining is reached once more; the model is not to stay there."""
    conditions = pretrained(grid)
    undisturbed = Store(tmp_path / "undisturbed")
    assert attempt(conditions, undisturbed, "once", NONE) == ([], 12)
    assert attempt(conditions, store, "first", EVERY, until=11) == (["killed"], 11)
    with pytest.raises(StoreError, match="cannot be reached"):
        attempt(conditions, Passing(store.location), "second", EVERY)
    assert attempt(conditions, store, "third", EVERY)[0] == []
    assert data(store) == data(undisturbed)


def test_what_is_under_way_is_known_also_below_a_snapshot(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is what a process that hangs is recorded to have failed in."""
    watching: list[Activity] = []
    seen: list[tuple[str, str, str | None]] = []

    @contextlib.contextmanager
    def watched(minutes: float, activity: Activity, stuck: Any) -> Iterator[None]:
        watching.append(activity)
        yield

    def seeing(where: Any, name: str) -> None:
        plain = getattr(where, name)

        def see(*arguments: Any) -> Any:
            stage, ask = watching[-1].stage, watching[-1].ask
            seen.append((name, stage.kind, ask and ask.kind))
            return plain(*arguments)

        monkeypatch.setattr(where, name, see)

    monkeypatch.setattr(memexp.trial.walk, "watched", watched)
    conditions = pretrained(grid)
    assert attempt(conditions, store, "first", EVERY, until=11)[0] == ["killed"]
    walk, saving = memexp.trial.walk, memexp.trial.saving
    for where, name in ((saving, "load_snapshot"), (walk, "train"), (Recognition, "measure")):
        seeing(where, name)
    assert attempt(conditions, store, "second", EVERY)[0] == []
    assert [step for step in seen if step[1] == "study"] == [
        ("load_snapshot", "study", None),
        ("train", "study", None),
        ("measure", "study", "recognition"),
    ]


def test_an_end_of_pretraining_that_cannot_be_saved_is_told(
    grid: Grid, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Store, path: str, mode: str) -> Any:
        raise StoreError("no space left")

    monkeypatch.setattr(Store, "open", full)
    forest = grow(pretrained(grid))
    first, _ = bundle(forest, forest.asks, lambda _: 1)
    [said] = execute(first, store, WORLD, Attempt("test", "first"))
    assert said.startswith("tiny, the end of pretraining ") and said.endswith("no space left")


def test_pretraining_that_another_sweep_may_count_on_stays(grid: Grid, store: Store) -> None:
    forest = grow(pretrained(grid))
    for trial in bundle(forest, forest.asks, lambda _: 1):
        assert execute(trial, store, WORLD, Attempt("test", "first")) == []
    kept = files(store)
    assert kept
    sign = {"sweep": "other", "host": "elsewhere", "pid": 1}
    for beat, left in ((time.time(), kept), (time.time() - 3600, [])):
        store.put_text(".running/other-1.json", json.dumps(sign | {"time": beat}))
        discard_snapshots(forest, find_missing(forest, store), [], store)
        assert files(store) == left
