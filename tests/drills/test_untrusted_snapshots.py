"""What lies in `.snapshots` is trusted in nothing: it executes nothing, what is not what was written or belongs to
something else is passed over with a line, and no sweep ends for it."""

from __future__ import annotations

import contextlib
import io
import json
import pickle
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, NoReturn

import pytest
import torch
from core.conftest import one_thread
from core.test_durable import EVERY, NONE, attempt, data, files, learn, line
from core.test_snapshot import Subject, assert_same
from core.test_trial import Grid, grid, rows, statuses, store
from safetensors.torch import load as load_safetensors
from torch.distributed.checkpoint.filesystem import FileSystemWriter
from torch.distributed.checkpoint.state_dict_saver import save as save_as_torch_does

import memexp.core.checkpoint
import memexp.core.kept
import memexp.core.slices
from memexp.core.checkpoint import Loaded, _check, _read_state, load_snapshot, save_snapshot
from memexp.core.processes import World
from memexp.core.slices import Held, fill_all, hold
from memexp.core.tensor_files import header
from memexp.errors import StoreGoneError
from memexp.identity import NUMERICS
from memexp.plan.attempts import Log
from memexp.spec import LoRA
from memexp.store import Store
from memexp.store.snapshots import FOLDER, Mark, Snapshot, Unfit, find, is_whole, mark_text, read_mark

__all__ = ["grid", "one_thread", "store"]  # fixtures

pytestmark = [
    pytest.mark.drill,
    pytest.mark.filterwarnings(
        "ignore:fan_in_fan_out", "ignore:.*is_gradient_checkpointing", "ignore:torch.distributed is disabled"
    ),
]

MARK = Mark("line", 2)


class Memory:
    """Side files that can be changed a hundred thousand times."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}

    @contextlib.contextmanager
    def open(self, path: str, mode: str) -> Iterator[IO[bytes]]:
        stream = io.BytesIO(self.files[path] if mode == "rb" else b"")
        yield stream
        if mode == "wb":
            self.files[path] = stream.getvalue()

    def size(self, path: str) -> int | None:
        return len(self.files[path]) if path in self.files else None

    def put_text(self, path: str, text: str) -> None:
        self.files[path] = text.encode()

    def get_text(self, path: str) -> str | None:
        return self.files[path].decode() if path in self.files else None

    def list_text(self, prefix: str) -> list[str]:
        return sorted(path for path in self.files if path.startswith(prefix))

    def delete(self, path: str) -> None:
        self.files.pop(path, None)

    def path(self, ending: str) -> str:
        (path,) = (path for path in self.files if path.endswith(ending))
        return path

    def flipped(self, path: str, bits: Iterator[int] | range) -> Iterator[int]:
        """Each of these bits of a file, while it is the other way round."""
        whole = self.files[path]
        for bit in bits:
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            self.files[path] = bytes(changed)
            yield bit
        self.files[path] = whole


class Saved:
    """A snapshot of an adapter, and what it is of."""

    def __init__(self) -> None:
        self.store, self.subject, self.other = Memory(), *(Subject("gpt2", LoRA(r=1), 0.0) for _ in range(2))
        for subject in (self.subject, self.other):
            for parameter in list(subject.lm.learning().values())[2:]:
                parameter.requires_grad_(False)  # two are enough, and quicker to load thousands of times
        self.steps = learn(self.subject, 1, 2)
        assert self.subject.optimizer is not None
        save_snapshot(self.store, MARK, "base", self.subject.lm, self.subject.optimizer, self.steps)
        snapshot = read_mark(self.store, MARK, "base")
        assert snapshot is not None
        self.snapshot: Snapshot = snapshot
        self.data = self.store.path(".safetensors")
        self.state = self.store.path("state.json")

    def load(self) -> Loaded | None:
        return load_snapshot(self.store, MARK, "base", self.other.lm, self.other.study)

    def is_same(self) -> bool:
        """Whether what is loaded is what was saved."""
        loaded, optimizer = self.load(), self.subject.optimizer
        assert loaded is not None and optimizer is not None
        try:
            assert_same(loaded.steps, self.steps)
            assert_same(*({k: v.detach() for k, v in one.lm.learning().items()} for one in (self.other, self.subject)))
            assert_same(loaded.optimizer.state_dict(), optimizer.state_dict())
        except AssertionError:
            return False
        return True


@pytest.fixture(scope="module")
def saved() -> Saved:
    return Saved()


# Bits


def test_a_snapshot_is_what_the_library_reads(saved: Saved) -> None:
    found = load_safetensors(saved.store.files[saved.data])
    expected = {f"weights/{name}": parameter.detach() for name, parameter in saved.subject.lm.learning().items()}
    assert_same({name: found[name] for name in found if name.startswith("weights/")}, expected)
    assert len(found) == 3 * len(expected)
    assert saved.is_same()


def test_every_bit_of_a_mark_counts(saved: Saved) -> None:
    bits = range(8 * len(saved.store.files[MARK.path]))
    assert len(bits) > 2000
    for bit in saved.store.flipped(MARK.path, bits):
        with pytest.raises(Unfit):
            read_mark(saved.store, MARK, "base")
        assert not bit % 997 or not is_whole(saved.store, MARK, "base")
    assert read_mark(saved.store, MARK, "base") == saved.snapshot


def test_every_bit_of_the_state_counts(saved: Saved) -> None:
    for bit in saved.store.flipped(saved.state, range(8 * len(saved.store.files[saved.state]))):
        with pytest.raises(Unfit, match="sum is wrong"):
            _read_state(saved.store, saved.snapshot)
        if not bit % 9973:
            with pytest.raises(Unfit, match="sum is wrong"):
                saved.load()


@pytest.mark.parametrize("summed", [True, False])
def test_every_bit_of_a_header_counts(summed: bool, saved: Saved) -> None:
    """By the sum of its file; without it by what the state says the file holds."""
    state = _read_state(saved.store, saved.snapshot)
    name = saved.data.split("/")[-1]
    length = len(header(state.layout.pieces(name)))
    held = held_by(saved.other)
    for _ in saved.store.flipped(saved.data, range(8 * length)):
        with pytest.raises((Unfit, ValueError)):
            if summed:
                _check(saved.store, saved.snapshot, name)
            else:
                fill_all(lambda _: saved.store.open(saved.data, "rb"), state.layout, held)


def held_by(subject: Subject) -> dict[str, Held]:
    """Where its tensors are, those of an optimizer that has made a step among them."""
    subject.optimizer = None
    learn(subject, 1, 1)
    assert subject.optimizer is not None
    return hold(World.current(), memexp.core.kept.tensors(subject.lm, subject.optimizer))


def tensor_bits(saved: Saved, count: int) -> list[int]:
    beginning = len(header(_read_state(saved.store, saved.snapshot).layout.pieces(saved.data.split("/")[-1])))
    bits = random.Random(14)
    return [bits.randrange(8 * beginning, 8 * len(saved.store.files[saved.data])) for _ in range(count)]


def test_two_thousand_bits_of_tensors_are_noticed_by_their_sum(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    bits = tensor_bits(saved, 2000)
    for _ in saved.store.flipped(saved.data, iter(bits)):
        with pytest.raises(Unfit, match="its sum is wrong"):
            saved.load()
    known = {saved.snapshot.path(name): file.crc32 for name, file in saved.snapshot.files.items()}
    monkeypatch.setattr(memexp.core.checkpoint, "_sum", lambda _, path: known[path])
    assert saved.is_same()
    for _ in saved.store.flipped(saved.data, iter(bits[:100])):
        assert not saved.is_same()
    assert saved.is_same()
    # The same without all else that a load does, for all of them.
    state, held = _read_state(saved.store, saved.snapshot), held_by(saved.other)
    fill_all(lambda _: saved.store.open(saved.data, "rb"), state.layout, held)
    right = [one.tensor.clone() for one in held.values()]
    for bit in saved.store.flipped(saved.data, iter(bits)):
        fill_all(lambda _: saved.store.open(saved.data, "rb"), state.layout, held)
        same = [
            a.view(torch.uint8).equal(one.tensor.view(torch.uint8)) for a, one in zip(right, held.values(), strict=True)
        ]
        assert same.count(False) == 1, f"bit {bit} is not read"


# What it belongs to


BELONGS: dict[str, tuple[dict[str, Any], str]] = {
    "another trajectory": ({"trajectory": "other"}, "its mark is of trajectory other, not line"),
    "another step": ({"step": 3}, "its mark is of step 3, not 2"),
    "another plan": ({"plan": "elsewhere"}, "its mark is of plan elsewhere, not base"),
    "other numerics": ({"numerics": NUMERICS - 1}, f"its mark is of numerics {NUMERICS - 1}, not {NUMERICS}"),
    "another format": ({"format": 2}, "its mark is not of this version of memexp"),
    "a number that is a text": ({"workers": "1"}, "its mark is not of this version of memexp"),
    "a folder elsewhere": ({"folder": "../../000000002-" + "0" * 32}, "its mark is not of this version of memexp"),
    "a file elsewhere": ({"files": {"../../x.json": {"size": 1, "crc32": 1}}}, "its mark is not of this version"),
    "no state": ({"files": {}}, "its mark does not list state.json"),
    "one more field": ({"more": 1}, "its mark is not of this version of memexp"),
}


def planted(saved: Saved, **changed: Any) -> None:
    """A mark that says something else, under a right sum."""
    said = saved.snapshot.model_dump() | changed
    saved.store.put_text(MARK.path, mark_text(_AnyForm(said)))


class _AnyForm(Snapshot):
    """What anyone may write."""

    def __init__(self, said: dict[str, Any]) -> None:
        object.__setattr__(self, "_said", said)

    def model_dump_json(self, **_: Any) -> str:
        return json.dumps(object.__getattribute__(self, "_said"))


@pytest.mark.parametrize(("changed", "why"), BELONGS.values(), ids=BELONGS)
def test_what_belongs_to_something_else_is_passed_over(changed: dict[str, Any], why: str, saved: Saved) -> None:
    whole = saved.store.files[MARK.path]
    try:
        planted(saved)
        assert saved.is_same()
        planted(saved, **changed)
        with pytest.raises(Unfit, match=rf"^snapshot {re.escape(MARK.path)} is passed over: {re.escape(why)}"):
            saved.load()
    finally:
        saved.store.files[MARK.path] = whole


STATES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "no steps": (lambda state: state.pop("steps"), "steps"),
    "other parameters": (lambda state: state["groups"][0]["parameters"].reverse(), "it is of other parameters"),
    "other groups": (lambda state: state["groups"].append(state["groups"][0]), "ValueError"),
    "an unknown parameter": (lambda state: state["taken"].update(x=1.0), "KeyError"),
    "an infinite rate": (lambda state: state["groups"][0].update(lr=float("inf")), "lr"),
    "a dtype nobody knows": (lambda state: _first(state["layout"]["tensors"]).update(dtype="F8"), "other tensors"),
    "another shape": (lambda state: _first(state["layout"]["tensors"]).update(shape=[1]), "other tensors"),
    "a tensor less": (lambda state: state["layout"]["tensors"].popitem(), "other tensors"),
    "a part less": (lambda state: _first(state["layout"]["files"]).pop(), "is not of the tensors it should be of"),
    "a part beyond": (lambda state: _first(state["layout"]["files"])[0].update(offsets=[9, 9]), "cannot hold"),
    "another file": (lambda state: state["layout"]["files"].update(x=[]), "its mark and state.json list other files"),
    "no draws": (lambda state: state.update(draws=["AAAA"]), "RuntimeError"),
}


def _first(named: dict[str, Any]) -> Any:
    return next(iter(named.values()))


@pytest.mark.parametrize(("change", "why"), STATES.values(), ids=STATES)
def test_a_state_that_does_not_fit_is_passed_over(
    change: Callable[[dict[str, Any]], object], why: str, saved: Saved, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version may write it, or somebody who makes the sums right."""
    whole = saved.store.files[saved.state]
    state = json.loads(whole)
    change(state)
    saved.store.files[saved.state] = json.dumps(state).encode()
    monkeypatch.setattr(memexp.core.checkpoint, "_check", lambda *_: None)
    try:
        with pytest.raises(Unfit, match=f"^snapshot {re.escape(MARK.path)} is passed over: .*{why}"):
            saved.load()
    finally:
        saved.store.files[saved.state] = whole
    assert saved.is_same()


def test_files_have_a_largest_size(saved: Saved, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors are dealt to several files, and cut where one alone is too large."""
    optimizer = saved.subject.optimizer
    assert optimizer is not None
    whole = dict(saved.store.files)
    monkeypatch.setattr(memexp.core.slices, "LARGEST", 200)
    try:
        save_snapshot(saved.store, MARK, "base", saved.subject.lm, optimizer, saved.steps)
        mark = read_mark(saved.store, MARK, "base")
        assert mark is not None
        lengths = [file.size for name, file in mark.files.items() if name.endswith(".safetensors")]
        assert len(lengths) > 4 and any("[0:" in key for key in _keys(saved.store, mark))
        assert saved.is_same()
    finally:
        saved.store.files = whole


def _keys(store: Memory, snapshot: Snapshot) -> list[str]:
    paths = [snapshot.path(name) for name in snapshot.files if name.endswith(".safetensors")]
    return [key for path in paths for key in load_safetensors(store.files[path])]


# Whole trials


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Where what is found undisturbed is kept."""
    return {}


@pytest.fixture
def killed(grid: Grid, store: Store, tmp_path: Path, once: dict[str, Any]) -> Callable[[], tuple[list[str], int]]:
    """A store that a trial left when it was killed after 20 of 37 steps, and going on in it.

    What goes on has to leave the undisturbed tables.
    """
    conditions = line(grid)
    if not once:
        undisturbed = Store(tmp_path / "undisturbed")
        assert attempt(conditions, undisturbed, "once", NONE) == ([], 37)
        once.update(data(undisturbed))
    assert attempt(conditions, store, "first", EVERY, until=20)[0] == ["killed"]

    def go_on() -> tuple[list[str], int]:
        outcome = attempt(conditions, store, "second", EVERY)
        assert data(store) == once
        return outcome

    return go_on


def refuse(*_: Any, **__: Any) -> NoReturn:
    raise AssertionError("something is pickled")


def test_nothing_is_pickled(
    killed: Callable[[], tuple[list[str], int]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snapshots are loaded, saved and removed in a trial in which no pickle can be read or written."""
    for module, names in (
        (pickle, ("load", "loads", "Unpickler", "_Unpickler", "dump", "dumps", "Pickler", "_Pickler")),
        (torch, ("load", "save")),
        (torch.serialization, ("load", "save")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    with pytest.raises(AssertionError, match="is pickled"):
        torch.save({}, "nowhere")
    assert killed() == ([], 37 - 20)
    assert files(store) == [] and "unread" not in statuses(store)


def marks_of(store: Store) -> list[Mark]:
    return sorted(find(store).found, key=lambda mark: -mark.step)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def as_torch_writes(store: Store, tmp_path: Path) -> None:
    """The newest snapshot as memexp 0.1 wrote it, with something in it that goes off."""
    (mark, *_) = marks_of(store)
    folder = f"{FOLDER}/{mark.trajectory}/{mark.step:09d}-{'a' * 32}"
    writer = FileSystemWriter(Path(store.location) / folder)
    save_as_torch_does(
        {"model": {"a": torch.ones(3)}, "draws": Bomb(tmp_path / "boom")}, storage_writer=writer, no_dist=True
    )
    (Path(store.location) / folder / ".metadata").write_bytes(pickle.dumps(Bomb(tmp_path / "boom")))
    lengths = {path: [store.size(path), 0] for path in files(store) if path.startswith(folder)}
    assert len(lengths) == 2
    assert not (tmp_path / "boom").exists()
    said = {"folder": folder, "begun": True, "workers": 1, "files": lengths, "steps": []}
    store.put_text(mark.path, json.dumps(said))


def copied(store: Store, tmp_path: Path) -> None:
    """The mark of another trajectory with all its files, under this one's name."""
    (mark, *_) = marks_of(store)
    elsewhere = Path(store.location) / FOLDER / ("0" * 16)
    own = Path(store.location) / FOLDER / mark.trajectory
    own.rename(elsewhere)
    said = json.loads((elsewhere / f"{mark.step:09d}.json").read_text())["snapshot"]
    text = mark_text(Snapshot.model_validate_json(json.dumps(said | {"trajectory": "0" * 16})))
    (elsewhere / f"{mark.step:09d}.json").write_text(text)
    shutil.copytree(elsewhere, own)


def on_marks(change: Callable[[Path], object]) -> Callable[[Store, Path], None]:
    def break_(store: Store, _: Path) -> None:
        for mark in marks_of(store):
            change(Path(store.location) / mark.path)

    return break_


def replaced(store: Store, _: Path) -> None:
    folder = Path(store.location) / FOLDER
    shutil.rmtree(folder)
    folder.write_text("not a folder")


def strangers(store: Store, _: Path) -> None:
    """Files nobody expects, beside a snapshot that is whole."""
    (mark, *_) = marks_of(store)
    folder = Path(store.location) / FOLDER / mark.trajectory
    for name in ("٤٠٠٠٠٠٠٠٠.json", f"{'9' * 200}.json", "000000001.json/x", "000000002-x", ".tmp/x", "x\n.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\xff")
    (folder / "000000003.json").symlink_to("/nowhere")
    (folder.parent / "stray").write_text("")


BROKEN: dict[str, tuple[Callable[[Store, Path], None], str | None]] = {
    "as memexp 0.1 wrote it": (as_torch_writes, "its mark is not of this version of memexp, or not whole"),
    "a copy of another trajectory's": (copied, "its mark is of trajectory 0000000000000000, not "),
    "no folder": (replaced, "no snapshot is taken up: cannot list "),
    "no text": (on_marks(lambda path: path.write_bytes(b"\xff\xfe{")), "or not whole"),
    "no JSON": (on_marks(lambda path: path.write_text("{")), "or not whole"),
    "no fields": (on_marks(lambda path: path.write_text("{}")), "or not whole"),
    "deep": (on_marks(lambda path: path.write_text("[" * 100_000)), "or not whole"),
    "6,000 digits": (on_marks(lambda path: path.write_text("9" * 6000)), "or not whole"),
    "a lone surrogate": (on_marks(lambda path: path.write_text('{"files": "\\ud800"}')), "or not whole"),
    "very long": (on_marks(lambda path: path.write_bytes(bytes((1 << 24) + 1))), "its mark has 16777217 bytes"),
    "strangers": (strangers, None),
}


@pytest.mark.parametrize(("break_", "why"), BROKEN.values(), ids=BROKEN)
def test_whatever_lies_there_ends_no_sweep_and_is_told(
    break_: Callable[[Store, Path], None],
    why: str | None,
    killed: Callable[[], tuple[list[str], int]],
    store: Store,
    tmp_path: Path,
) -> None:
    break_(store, tmp_path)
    failures, made = killed()
    said = [row["error"] for row in rows(store, "stages", status="unread")]
    # Of 37 steps all, those since the end of study, or since the newest snapshot.
    assert failures == [] and made == {2: 37, 1: 37 if break_ is replaced else 33, 0: 17}[len(said)]
    assert bool(said) == (why is not None) and all(why in one for one in said if why)
    assert not (tmp_path / "boom").exists()
    assert {row["status"] for row in Log.read(store).last.values()} == {"complete"}


@pytest.mark.parametrize("name", ["list_text", "get_text", "size", "open"])
def test_storage_that_is_gone_is_no_fault_of_a_snapshot(
    name: str, killed: Callable[[], tuple[list[str], int]], store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All would be trained again for an outage that has passed meanwhile."""
    plain = getattr(Store, name)

    def gone(self: Store, path: str, *rest: Any) -> Any:
        if path.startswith(FOLDER):
            raise StoreGoneError("no answer")
        return plain(self, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(Store, name, gone)
        with pytest.raises(StoreGoneError):
            killed()
    assert killed() == ([], 17) and "unread" not in statuses(store)


def test_the_next_older_one_is_taken_up(
    killed: Callable[[], tuple[list[str], int]], store: Store, grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(memexp.core.checkpoint, "forget_older", lambda *_: None)
        assert attempt(line(grid), store, "again", EVERY, until=9)[0] == ["killed"]
    newest, older, *_ = marks_of(store)
    (Path(store.location) / newest.path).write_text("{}")
    last = sum(row["steps"] for row in rows(store, "stages", status="complete"))
    failures, made = killed()
    assert failures == [] and made == 37 - 6 - older.step, (newest, older, last)
    assert [row["error"] for row in rows(store, "stages", status="unread")] == [
        f"snapshot {newest.path} is passed over: its mark is not of this version of memexp, or not whole"
    ]
