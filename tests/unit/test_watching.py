"""Watching a sweep: the loss of each running trial, hooks of a user's own, TensorBoard."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memexp import Condition, Model, Pair, Recall, Recognition, SpecError, Study, Sweep
from memexp.driver.hooks import Hooks
from memexp.driver.run import Run
from memexp.events import ConditionComplete, Event, Failed, Losses, SweepEnded, TrialEnded, TrialStarted
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.heartbeat import heartbeat, running
from memexp.report.tensorboard import TensorBoard
from memexp.report.watching import trial_lines, watch
from memexp.spec import Snapshots
from memexp.store import Store


def losses(trial: str = "conditions-0-1", first: int = 1, **others: Any) -> Losses:
    """Three steps."""
    made: dict[str, Any] = {
        "model": "tiny-s",
        "kind": "study",
        "line": "0123456789abcdef",
        "corpus": "mine",
        "lr": 1e-3,
    }
    steps = {"steps": (first, first + 1, first + 2), "losses": (3.0, None, 2.5), "last": 30}
    return Losses(sweep="mine", trial=trial, **made | {"batch_size": 4, "seed": 2} | steps | others)


def page_of(hooks: Hooks) -> str:
    file: Any = hooks.console.file
    return str(file.getvalue())


def hooks(*tell: Any) -> Hooks:
    return Hooks("mine", tell, Console(file=io.StringIO(), width=200))


# Hooks


def test_hooks_hear_what_trials_report_and_what_is_complete(pair: Pair, tiny_model: Model) -> None:
    conditions = [
        Condition(
            tiny_model, Study(pair.targets, exposures=n, lr=1.0), probes=[Recognition(pair), Recall()], labels={"a": n}
        )
        for n in (0, 1)
    ]
    asks = Sweep("mine", conditions).grow().asks
    heard: list[Event] = []
    told, shown = hooks(heard.append), list[Progress]()
    told.expect(asks)
    report = told.beside(shown.append)
    begun, ended = TrialStarted("mine", "conditions-0-1", "tiny"), TrialEnded("mine", "conditions-0-1", 0)
    report(Progress(events=(begun, losses())))
    report(Progress(answered=(asks[0].file,)))
    report(Progress(answered=(asks[0].file,)))  # a trial that is started again reports it again
    assert heard == [begun, losses()]
    report(Progress(answered=(asks[1].file, "recall/of-another"), events=(ended,)))
    assert heard[2] == ended
    [complete] = heard[3:]
    assert isinstance(complete, ConditionComplete)
    assert (complete.condition_id, complete.complete, complete.conditions) == (asks[0].condition_id, 1, 2)
    assert (complete.settings["exposures"], complete.settings["a"]) == (0, 0)
    assert len(shown) == 4
    told.failed(["tiny, study 1 failed: why"])
    told.ended(whole=False)
    told.ended(whole=True)
    assert heard[4:] == [Failed("mine", "tiny, study 1 failed: why"), SweepEnded("mine", whole=False)]


def test_what_a_hook_raises_is_said_once_and_ends_nothing() -> None:
    heard: list[Event] = []

    def broken(event: Event) -> None:
        raise ValueError("no such project")

    told = hooks(broken, heard.append)
    told.ended(whole=True)
    told(Progress(events=(losses(), losses())))
    assert len(heard) == 3
    [line] = page_of(told).splitlines()
    assert "broken: ValueError: no such project (test_watching.py, line " in line and "the sweep goes on" in line


def test_a_stop_is_no_error_of_a_hook() -> None:
    def stopped(event: Event) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hooks(stopped).ended(whole=True)


def test_the_end_of_a_run_is_told_whatever_ends_it(pair: Pair, tiny_model: Model, tmp_path: Path) -> None:
    heard: list[Event] = []
    conditions = [Condition(tiny_model, Study(pair.targets, exposures=0, lr=1.0), probes=[Recall()])]
    sweep = Sweep("mine", conditions, on_event=heard.append)
    forest = sweep.grow()
    console = Console(file=io.StringIO())
    run = Run("mine", forest, [], Store(tmp_path), Snapshots(), False, console, [heard.append])
    with pytest.raises(ZeroDivisionError), run.closing():
        raise ZeroDivisionError
    assert heard == [SweepEnded("mine", whole=False)]
    assert sweep._hooks(None) == [heard.append]


# The sign of life


def test_the_sign_of_life_has_the_latest_loss_of_each_trial(tmp_path: Path) -> None:
    told, store = hooks(), Store(tmp_path)
    told(
        Progress(
            events=(TrialStarted("mine", "conditions-0-0", "tiny-m"), TrialStarted("mine", "conditions-0-1", "tiny-s"))
        )
    )
    told(Progress(events=(losses(), losses(first=4), losses("conditions-0-2"))))
    told(Progress(events=(TrialEnded("mine", "conditions-0-2", 0),)))
    with heartbeat(store, Attempt("mine", "0123456789ab"), 1, told.trials):
        until = time.monotonic() + 20
        while not (signs := running(store)) and time.monotonic() < until:
            time.sleep(0.01)
    assert trial_lines(signs) == [
        "  mine, trial conditions-0-0: tiny-m, begun 0 s ago",
        "  mine, trial conditions-0-1: tiny-s, study with lr 0.001, seed 2: step 6 of 30, loss 2.500 (0 s ago)",
    ]
    told.failed([])
    assert told.trials() == []


def test_trials_that_say_nothing_any_more_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    told = hooks()
    told(Progress(events=(losses(),)))
    assert len(told.trials()) == 1
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3700)
    assert told.trials() == []


def test_signs_that_are_none_are_passed_over_and_names_cannot_command_a_terminal() -> None:
    good = {
        "trial": "0",
        "model": "a\x1b[2Jb\n",
        "kind": "study",
        "lr": 1,
        "seed": 0,
        "last": 9,
        "step": 3,
        "loss": None,
    }
    bad = [None, 3, {}, {**good}, {**good, "time": "soon"}, {**good, "time": 1.0, "step": "x"}, {**good, "time": 1e400}]
    lines = trial_lines({"mine": [{"trials": [*bad, good | {"time": time.time()}]}]})
    assert lines == ["  mine, trial 0: a?[2Jb?, study with lr 1, seed 0: step 3 of 9 (0 s ago)"]


# memexp status --watch


@pytest.mark.parametrize("terminal", [False, True])
def test_watching_ends_when_no_sweep_runs(terminal: bool, tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.put_text(".running/mine-0.json", sign(losses=2.5))
    page = io.StringIO()
    console = Console(file=page, force_terminal=terminal, width=200, soft_wrap=True)
    looks = list[float]()

    def wait(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 1:
            store.put_text(".running/mine-0.json", sign(losses=1.25))
        else:
            store.delete(".running/mine-0.json")

    assert watch(store, console, wait) == 0
    assert len(looks) == 2 and min(looks) >= 5
    assert "loss 2.500" in page.getvalue() and "loss 1.250" in page.getvalue()
    if not terminal:
        assert page.getvalue().count("holds no sweep") == 1  # what stays the same is said once


def sign(losses: float) -> str:
    trial = {
        "trial": "conditions-0-1",
        "model": "tiny-s",
        "kind": "study",
        "lr": 1e-3,
        "seed": 2,
        "last": 30,
        "step": 6,
    }
    own = {"sweep": "mine", "host": socket.gethostname(), "pid": os.getpid(), "results": 1, "time": time.time()}
    return json.dumps(own | {"trials": [trial | {"loss": losses, "time": time.time()}]})


# TensorBoard


def scalars(folder: Path) -> list[tuple[str, int, float]]:
    """Tag, step and value of what is in the files of a run."""
    from tensorboardX.proto.event_pb2 import Event as Record

    found = []
    for file in sorted(folder.iterdir()):
        data, at = file.read_bytes(), 0
        while at < len(data):
            [length] = struct.unpack_from("<Q", data, at)
            record = Record.FromString(data[at + 12 : at + 12 + length])
            found += [(value.tag, record.step, value.simple_value) for value in record.summary.value]
            at += 16 + length
    return found


def test_losses_are_there_for_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memexp.report.tensorboard.MOST_OPEN", 1)
    board = TensorBoard(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    told = hooks(board)
    told(Progress(events=(losses(model="owner/model"), losses(kind="interference", line="fedcba"))))
    told(Progress(events=(losses(model="owner/model", first=4),)))
    told.tell(ConditionComplete("mine", "0", {}, 1, 2))
    told.ended(whole=True)
    assert page_of(told) == ""
    runs = {path.name: sorted(scalars(path)) for path in (tmp_path / "runs" / "mine").iterdir()}
    assert runs == {
        "owner-model-study-lr0.001-seed2-012345": [
            ("loss/study", step, loss) for step, loss in ((1, 3.0), (3, 2.5), (4, 3.0), (6, 2.5))
        ],
        "tiny-s-interference-lr0.001-seed2-fedcba": [("loss/interference", 1, 3.0), ("loss/interference", 3, 2.5)],
        "progress": [("conditions_complete", 1, 1.0)],
    }


def test_a_folder_for_tensorboard_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=r"--tensorboard: .*file is a file; give a folder"):
        TensorBoard(tmp_path / "file")
