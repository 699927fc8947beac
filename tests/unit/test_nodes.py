"""What a node lacks is said of it; who asks the nodes is tests/cluster/test_three_nodes.py."""

from __future__ import annotations

import dataclasses
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from memexp import Condition, Interference, Model, Recall, Study, Sweep, TextFile, TextStream
from memexp.cluster import nodes, noticeboard
from memexp.cluster.nodes import Needed, check_here, versions
from memexp.driver.work import Work
from memexp.errors import ClusterError, ModelError
from memexp.plan import find_missing
from memexp.spec import Snapshots
from memexp.stimuli.tiny import model_folder
from memexp.store import Store

SIGN = ".nodes/sign.txt"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "store")
    store.put_text(SIGN, "seen\n")
    return store


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def needed(store: Store, **more: Any) -> Needed:
    return dataclasses.replace(Needed.of(store, SIGN, []), **more)


def test_a_node_that_has_everything_lacks_nothing(store: Store, model: Path) -> None:
    file = str(model / "config.json")
    assert needed(store, folders=(str(model),), files=(file,)).lacking() is None
    assert [path.name for path in Path(store.location).rglob("*") if path.is_file()] == ["sign.txt"]


def test_versions_that_differ_are_named(store: Store) -> None:
    others = {**versions(), "torch": "0.1"}
    assert needed(store, versions=others).lacking() == f"has torch {versions()['torch']} instead of 0.1"


def test_code_of_memexp_that_differs_is_another_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = versions()["memexp"]
    (tmp_path / "__init__.py").write_text("")
    monkeypatch.setattr(nodes.memexp, "__file__", str(tmp_path / "__init__.py"))
    assert versions.__wrapped__()["memexp"] != before


def test_files_that_are_not_there_or_not_to_be_read_are_named(store: Store, model: Path) -> None:
    file = model / "model.safetensors"
    assert (needed(store, files=("/nowhere/a.txt",)).lacking() or "").startswith("cannot read /nowhere/a.txt (No such")
    assert (needed(store, folders=("/nowhere",)).lacking() or "").startswith("cannot read /nowhere (No such")
    file.unlink()
    file.symlink_to(model / "gone")  # as the hub's cache has them
    assert f"cannot read {file} (No such" in (needed(store, folders=(str(model),)).lacking() or "")


def test_another_folder_of_the_same_name_is_no_shared_store(store: Store) -> None:
    why = dataclasses.replace(needed(store), sign=".nodes/another.txt").lacking()
    assert why == f"has another folder {store.location}: it does not see there what the driver wrote"


def test_a_store_that_cannot_be_written_or_does_not_answer_is_named(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    why = dataclasses.replace(needed(store), store=Store(tmp_path / "file" / "store")).lacking() or ""
    assert why.startswith("cannot") and "a file stands where a folder should be" in why
    monkeypatch.setattr(nodes, "STORE_WITHIN", 0.1)
    silent: Any = SimpleNamespace(check_writable=threading.Event().wait)
    why = dataclasses.replace(needed(store), store=silent).lacking() or ""
    assert why.startswith("does not reach the store within")


def test_a_model_of_the_hub_that_does_not_come_is_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ModelError("model 'org/gated': config.json cannot be fetched: 401")

    of_hub = needed(store, hub=(("org/gated", "c" * 40),))
    monkeypatch.setattr(nodes, "hub_file", refuse)
    assert of_hub.lacking() == "model 'org/gated': config.json cannot be fetched: 401"
    monkeypatch.setattr(nodes, "hub_file", lambda *_: None)
    assert "has not got model 'org/gated' in its cache" in (of_hub.lacking() or "")
    monkeypatch.setattr(nodes, "hub_file", lambda *_: Path("config.json"))
    assert of_hub.lacking() is None


def test_what_trials_read_where_they_are_is_asked_for(store: Store, tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    for file in model_folder("tiny-s").iterdir():
        (tmp_path / "own" / file.name).write_bytes(file.read_bytes())
    for name in ("list.txt", "stream.txt"):
        (tmp_path / name).write_text("one text\nand another\n")
    stream = TextStream(tmp_path / "stream.txt")
    sweep = Sweep(
        name="reads",
        conditions=[
            Condition(
                Model(name),
                Study(TextFile(str(tmp_path / "list.txt")), exposures=1, lr=1e-3, batch_size=2),
                interference=Interference(stream, 1, lr=1e-3, batch_size=2),
                probes=[Recall()],
            )
            for name in (str(tmp_path / "own"), "tiny-s")
        ],
    )
    forest = sweep.grow()
    work = Work(sweep.name, forest, find_missing(forest, store), [], store, Snapshots())
    found = Needed.of(store, SIGN, work.reads)
    assert (found.folders, found.files) == ((str(tmp_path / "own"),), (str(tmp_path / "stream.txt"),))
    assert found.lacking() is None


@pytest.mark.parametrize(("asked", "refused"), [(["others"], True), (["others", "mine"], False), (None, False)])
def test_a_node_that_comes_later_is_asked_when_a_trial_begins_there(
    asked: list[str] | None, refused: bool, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = {} if asked is None else {"nodes-7": pickle.dumps((needed(store, files=("/nowhere",)), asked))}
    here = SimpleNamespace(get_node_id=lambda: "mine", get_job_id=lambda: "7")
    monkeypatch.setattr(nodes.ray, "get_runtime_context", lambda: here)
    monkeypatch.setattr(noticeboard.internal_kv, "_internal_kv_get", lambda key, namespace: left.get(key))
    node = {"NodeID": "mine", "NodeManagerAddress": "10.0.0.7", "NodeManagerHostname": "late"}
    monkeypatch.setattr(nodes.ray, "nodes", lambda: [node])
    nodes._check_once.cache_clear()
    if refused:
        with pytest.raises(ClusterError, match=r"^node 10\.0\.0\.7 \(late\) cannot read /nowhere"):
            check_here()
    else:
        check_here()
    nodes._check_once.cache_clear()
