"""Killing a sweep wherever it may die, then giving the same command again: the data columns end up as if nothing had
happened, bit for bit. Every drill first shows that its fault really struck."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pyarrow as pa
import pytest
from support import command, data, sweep_script

from memexp.store import Store

pytestmark = [pytest.mark.drill, pytest.mark.cluster]

GRID = {"exposures": (0, 1, 2, 3, 4, 5, 6), "lrs": (1e-3, 3e-3), "items": 120}
FILES = 2 * 2 * 7


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two trajectories that take long enough to be interrupted."""
    return sweep_script(tmp_path_factory.mktemp("sweep"), **GRID)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def undisturbed(script: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pa.Table]:
    """What the sweep leaves where nothing happens."""
    store = tmp_path_factory.mktemp("undisturbed")
    assert finish(script, store) == (0, FILES)
    return data(store)


def finish(script: Path, store: Path) -> tuple[int, int]:
    """Give the command and wait: its exit status, and the number of result files afterwards."""
    process = command("run", script, "--store", store, "--address", "local")
    page, _ = process.communicate(timeout=300)
    print(page)
    return process.returncode, results(store)


def results(store: Path) -> int:
    return sum(len(Store(store).names(kind)) for kind in ("recognition", "recall"))


def until(true: Callable[[], object], seconds: float = 120) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.02)


@contextlib.contextmanager
def started(script: Path, store: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The command under way with its first results stored, and the mark that its processes carry."""
    mark = uuid.uuid4().hex
    process = command("run", script, "--store", store, "--address", "local", MEMEXP_DRILL=mark)
    try:
        until(lambda: results(store) >= 3 or process.poll() is not None)
        yield process, mark
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)


def of_mark(mark: str, title: str) -> list[psutil.Process]:
    """The processes of one command whose title begins with `title`; nobody else's carry its mark."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get("MEMEXP_DRILL") == mark and process.cmdline()[:1][0].startswith(title):
                found.append(process)
    return found


def same(store: Path, undisturbed: dict[str, pa.Table]) -> bool:
    """Whether every data column of every row is the same; nothing is missing, doubled or broken."""
    found = data(store)
    assert not Store(store).verify().problems
    return all(found[kind].equals(undisturbed[kind]) for kind in undisturbed)


def test_the_comparison_notices_a_last_digit(script: Path, undisturbed: dict[str, pa.Table]) -> None:
    table = undisturbed["recognition"]
    nll = table.column("target_nll").to_pylist()
    nll[7] += 1e-12
    at = table.schema.get_field_index("target_nll")
    assert not table.set_column(at, "target_nll", pa.array(nll)).equals(table)


def test_kill_9_of_the_driver(script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path) -> None:
    with started(script, tmp_path) as (process, mark):
        process.kill()
        process.wait(30)
    until(lambda: not of_mark(mark, "ray::"))  # its local cluster goes down with it
    assert results(tmp_path) < FILES
    assert finish(script, tmp_path) == (0, FILES)
    assert same(tmp_path, undisturbed)


def test_kill_9_of_a_trials_process(script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path) -> None:
    with started(script, tmp_path) as (process, mark):
        trials = of_mark(mark, "ray::ImplicitFunc")
        assert trials
        before = results(tmp_path)
        trials[0].kill()
        page, _ = process.communicate(timeout=300)
        assert before < FILES
        assert process.returncode == 0, page  # Tune starts a crashed trial once more by itself
    assert same(tmp_path, undisturbed)


def test_a_trial_that_dies_twice_is_recorded_and_the_same_command_goes_on(
    script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path
) -> None:
    with started(script, tmp_path) as (process, mark):
        killed: set[int] = set()

        def kill_all() -> bool:
            for trial in of_mark(mark, "ray::ImplicitFunc"):
                killed.add(trial.pid)
                trial.kill()
            return process.poll() is not None

        until(kill_all)
        page, _ = process.communicate()
        assert process.returncode == 1, page
        assert "a trial died" in page
    assert len(killed) >= 2
    stages = Store(tmp_path).scan("stages")
    assert stages is not None
    assert "failed" in stages.column("status").to_pylist()
    assert finish(script, tmp_path) == (0, FILES)
    assert same(tmp_path, undisturbed)


def test_ctrl_c_stops_within_seconds_and_says_how_to_go_on(
    script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path
) -> None:
    with started(script, tmp_path) as (process, _):
        began = time.monotonic()
        os.kill(process.pid, signal.SIGINT)
        page, _ = process.communicate(timeout=60)
        assert time.monotonic() - began < 15
        assert process.returncode == 130, page
        assert "conditions complete; the same command goes on" in page
    assert results(tmp_path) < FILES
    assert finish(script, tmp_path) == (0, FILES)
    assert same(tmp_path, undisturbed)


def test_two_at_once_leave_no_duplicate_or_broken_row(
    script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path
) -> None:
    both = [command("run", script, "--store", tmp_path, "--address", "local") for _ in range(2)]
    pages = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], pages
    assert results(tmp_path) == FILES
    assert same(tmp_path, undisturbed)


def test_kill_9_of_one_of_two_workers(tmp_path: Path) -> None:
    script = sweep_script(tmp_path / "sweep", workers=2, exposures=(0, 1, 2, 3, 4), lrs=(1e-3,), items=80)
    files = 2 * 5
    assert finish(script, tmp_path / "undisturbed") == (0, files)
    with started(script, tmp_path / "store") as (process, mark):
        workers = of_mark(mark, "ray::_RayTrainWorker") or of_mark(mark, "ray::RayTrainWorker")
        assert workers
        before = results(tmp_path / "store")
        workers[-1].kill()
        page, _ = process.communicate(timeout=300)
        assert before < files
        assert process.returncode == 0, page  # a group that dies without a word is started once more
    assert same(tmp_path / "store", data(tmp_path / "undisturbed"))


IN_PRIVATE = ["unshare", "--mount", "sh", "-ec"]


@pytest.mark.parametrize(
    ("mount", "told"),
    [
        (
            "mount -t tmpfs -o size=200k full {store} && head -c 190k /dev/zero > {store}/ballast || true",
            "no space left",
        ),
        ("mount -t tmpfs -o ro nothing {store}", "read-only"),
    ],
)
def test_a_full_or_read_only_store_is_one_line_before_any_trial(
    script: Path, tmp_path: Path, mount: str, told: str
) -> None:
    store = tmp_path / "store"
    store.mkdir()
    python = f"{sys.executable} -c 'from memexp.cli import main; raise SystemExit(main())'"
    shell = f"{mount.format(store=store)}; exec {python} run {script} --store {store} --address local"
    ended = subprocess.run([*IN_PRIVATE, shell], capture_output=True, text=True, timeout=120)
    if "unshare" in ended.stderr and "not permitted" in ended.stderr:
        pytest.skip("private mount namespaces are not permitted here")
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert told in ended.stderr
    assert len(ended.stderr.strip().splitlines()) <= 2
    assert "executing" not in ended.stdout
