"""What the progress bar counts: how much of the plan is behind a sweep, whatever was made more than once."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pyarrow.compute as pc
import pytest
from rich.console import Console

import memexp.trial.reporting
from memexp.core.processes import World
from memexp.events import Event, Losses, TrialEnded, TrialStarted
from memexp.plan import Trial, grow, whole
from memexp.plan.attempts import Attempt, Progress
from memexp.probes import Recognition
from memexp.report.progress import Display
from memexp.spec import Condition, Interference, Model, Pair, Resources, Snapshots, Study
from memexp.store import Store
from memexp.trial.execute import execute


class Shown(Display):
    """Remembers every line that it would have shown."""

    def __init__(self, steps: dict[str, int]) -> None:
        super().__init__([], steps, Console(file=io.StringIO(), width=200))
        self.lines: list[str] = []

    def _say(self, line: str) -> None:
        self.lines.append(line)


def test_what_is_made_again_counts_once() -> None:
    shown = Shown({"study": 12, "interference": 6})
    for made in (5, 12):
        shown(Progress(steps=7, reached={"study": made}))
    for made in (5, 12):  # its process has died, and another one begins again
        shown(Progress(steps=7, reached={"study": made}))
    assert "12 of 18 steps" in shown.lines[-1]
    shown(Progress(steps=6, reached={"interference": 6}))
    assert [line.split(", ")[1] for line in shown.lines] == [
        *("5 of 18 steps", "12 of 18 steps", "12 of 18 steps", "12 of 18 steps", "18 of 18 steps")
    ]


def test_what_was_not_planned_does_not_count() -> None:
    """Pretraining that another trial was to leave in the store, made here for want of it."""
    shown = Shown({"study": 12})
    shown(Progress(steps=7, reached={"pretrain": 7}))
    assert "0 of 12 steps" in shown.lines[-1]


def test_time_left_is_told_once_enough_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of the work and twenty seconds of it, at the pace since the first sign of work; time passed always."""
    now = 100.0
    monkeypatch.setattr("memexp.report.progress.time.monotonic", lambda: now)
    shown = Shown({"study": 1000})
    for passed, made in ((60, 0), (61, 150), (85, 160), (100, 200), (180, 200)):
        now = 100.0 + passed
        shown(Progress(reached={"study": made}))
    assert [line.split(", ")[2:] for line in shown.lines] == [
        ["60 s so far"],
        ["61 s so far"],
        ["85 s so far", "about 2 min left"],
        ["100 s so far", "about 3 min left"],
        ["3 min so far", "about 8 min left"],
    ]
    few = Shown({"study": 1000})
    for made in (0, 90):
        few(Progress(reached={"study": made}))
        now += 1000
    assert all(line.endswith("so far") for line in few.lines)


class Notebook:
    """Stands in for IPython's display: what was shown, and what in its place."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def display(self, data: dict[str, str], raw: bool, display_id: bool) -> Notebook:
        assert raw and display_id
        self.shown.append([data["text/plain"]])
        return self

    def update(self, data: dict[str, str], raw: bool) -> None:
        self.shown[-1].append(data["text/plain"])


def test_a_notebook_has_one_line_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most once a second, and at last what is true in the end."""
    notebook, page = Notebook(), io.StringIO()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    with Display([], {"study": 12}, Console(file=page, force_jupyter=True), plain=True) as display:
        for made in (1, 2, 3, 12):
            display(Progress(steps=1, reached={"study": made}))
    (lines,) = notebook.shown
    assert len(lines) == 2 and "1 of 12 steps" in lines[0] and "12 of 12 steps" in lines[1]
    assert page.getvalue() == ""


@pytest.fixture
def trial(tiny_model: Model, pair: Pair) -> Trial:
    """Six steps of study, then ten of interference with a stop on the way."""
    study = Study(pair.targets, exposures=2, lr=1e-3, batch_size=4)
    stops: Sequence[Interference] = [Interference(pair.foils, steps, lr=1e-3, batch_size=4) for steps in (4, 10)]
    probes = [Recognition(pair)]
    forest = grow([Condition(tiny_model, study, probes=probes, interference=stop) for stop in stops])
    trial = whole(forest, forest.asks)
    trial.resources, trial.snapshots = Resources(), Snapshots(minutes=None, steps=3)
    return trial


@pytest.mark.parametrize("snapshots", [True, False])
@pytest.mark.parametrize("killed_at", [2, 8, 14])
def test_a_trial_that_is_tried_again(
    killed_at: int, snapshots: bool, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = {stage.id: stage.steps for stage in trial.stages}
    assert sum(steps.values()) == 16
    trial.snapshots = trial.snapshots if snapshots else Snapshots(minutes=None)
    monkeypatch.setattr(memexp.trial.reporting, "REPORT_STEPS", 1)
    shown, store, made, heard = Shown(steps), Store(tmp_path), list[int](), list[Event]()

    def hearing(progress: Progress) -> None:
        shown(progress)
        heard.extend(progress.events)

    def dying(progress: Progress) -> None:
        hearing(progress)
        made.append(progress.steps)
        if sum(made) == killed_at:
            raise SystemExit

    with pytest.raises(SystemExit):
        execute(trial, store, World.current(), Attempt("test", "first"), dying)
    assert shown.made == killed_at
    first = len(shown.lines)
    execute(trial, store, World.current(), Attempt("test", "second"), hearing)
    counts = [int(line.split(", ")[1].split()[0]) for line in shown.lines]
    assert counts == sorted(counts) and counts[-1] == 16
    assert len(shown.lines) > first + 16 - killed_at, "some were made again"
    begun, *_, ended = heard
    assert isinstance(begun, TrialStarted) and ended == TrialEnded("test", "conditions", failures=0)
    lines: dict[tuple[str, str], dict[int, float | None]] = {}
    for event in heard:
        if isinstance(event, Losses):
            lines.setdefault((event.kind, event.line), {}).update(zip(event.steps, event.losses, strict=True))
    assert {kind: sorted(losses) for (kind, _), losses in lines.items()} == {
        "study": [*range(1, 7)],  # of both exposures
        "interference": [*range(1, 11)],
    }
    told = {step: loss for (kind, _), losses in lines.items() if kind == "study" for step, loss in losses.items()}
    stored = store.scan("training").filter(pc.field("kind") == "study").to_pylist()
    assert {row["step"]: row["loss"] for row in stored} == told
