"""Sweeps that a cluster with a token executes by itself: submitted, watched, read and stopped by other processes."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import command, data, ended, sweep_script
from three_nodes import guarded_cluster

from memexp.store import Store

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def dashboard() -> Iterator[str]:
    """The address of a head of two CPUs, whose shell finds `memexp`."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    # Ray has a job join the cluster that it finds on its machine; of several, the one that is named in this file.
    with (
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
        guarded_cluster([2], {"PATH": path}, temp_dir=folder) as cluster,
    ):
        (Path(folder) / "ray_current_cluster").write_text(cluster.address)
        yield f"http://{cluster.head_node.webui_url}"


HELD = """
import dataclasses, pathlib, time
from typing import ClassVar
import pyarrow as pa
from memexp.spec import Probe, spec
from beside_the_script import ANSWER


@spec
class Held(Probe):
    kind: ClassVar[str] = "held"

    @classmethod
    def schema(cls):
        return pa.schema([("answer", pa.int64())])

    def measure(self, session, texts):
        (pathlib.Path({here!r}) / ("there" if "ray" in sys.modules else "here")).touch()
        while not (pathlib.Path({here!r}) / "go").exists():
            time.sleep(0.1)
        return pa.table({{"answer": [ANSWER]}}, schema=self.schema())


sweep = dataclasses.replace(sweep, conditions=[
    dataclasses.replace(one, probes=[*one.probes, Held()]) for one in sweep.conditions])
"""
"""A probe at which a trial is held, in a folder that both sides see; what it answers is in a module beside it."""


def project(folder: Path, here: Path) -> Path:
    """A sweep in a folder that is to travel, its lists named from there; returns the script."""
    script = sweep_script(folder, exposures=(0, 1), more=HELD.format(here=str(here)))
    script.write_text(script.read_text().replace(f"{folder}{os.sep}", ""))
    (folder / "beside_the_script.py").write_text("ANSWER = 42\n")
    (folder / ".env").write_text("SECRET=stays here\n")
    return script


def submitted(script: Path, store: Path, dashboard: str) -> str:
    """Submit; returns the job's name."""
    page = ended(command("submit", script, "--dir", script.parent, "--store", store, "--address", dashboard), 0)
    first, *others = [line for line in page.splitlines() if line != "packing ..."]  # said where it takes long
    _, name, *rest = first.split()
    assert " ".join(rest) == f"to {dashboard}; this machine may be switched off"
    assert [line.split()[:2] for line in others] == [["memexp", what] for what in ("status", "logs", "stop")]
    assert others[2].split()[-1] == name.rstrip()
    return name


def until(path: Path) -> None:
    end = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < end, "it never came so far"
        time.sleep(0.1)


def test_a_submitted_sweep_goes_on_by_itself_and_can_be_stopped(dashboard: str, tmp_path: Path) -> None:
    script, store = project(tmp_path / "project", tmp_path), tmp_path / "store"
    there = ["env", "-C", str(script.parent)]  # rows have the lists' names as the script has them
    name = submitted(script, store, dashboard)
    plain = command("run", "--local", "--store", tmp_path / "plain", script, prefix=there)
    until(tmp_path / "there")
    watching = command("status", "--watch", "--store", store)
    said = ended(command("logs", "--address", dashboard), 0)
    assert "small: 0 of 4 conditions are in" in said and "executing" in said
    page = ended(command("stop", "--address", dashboard, name), 0)
    assert page.splitlines()[-1] == f"{name}: stopped; submitted again, it goes on"
    assert "4 conditions" in ended(watching, 1)
    said = ended(command("logs", "--follow", "--address", dashboard, name), 1)
    assert "stopped by SIGTERM: 0 of 4 conditions complete; the same command goes on" in said
    assert "Traceback" not in said and not Store(store).names("held")

    (tmp_path / "go").touch()
    again = submitted(script, store, dashboard)
    assert again != name
    said = ended(command("logs", "--follow", "--address", dashboard, again), 0)
    assert "4 of 4 conditions complete" in said
    ended(plain, 0)
    assert data(store) == data(tmp_path / "plain")
    held = Store(store).scan("held")
    assert held is not None and held.column("answer").to_pylist() == [42] * 4
    page = ended(command("stop", "--address", dashboard), 2)
    assert page.endswith(f"memexp: {dashboard}: no sweep that was submitted runs there\n")


@pytest.mark.parametrize("what", ["no token", "a wrong one"])
def test_without_its_token_a_cluster_is_told_of_in_a_line(dashboard: str, what: str, tmp_path: Path) -> None:
    variables = (
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "b" * 64} if what == "a wrong one" else {"RAY_AUTH_MODE": ""}
    )
    page = ended(command("logs", "--address", dashboard, **variables), 2)
    wants = "another" if what == "a wrong one" else "a"
    assert page.startswith(f"memexp: {dashboard} wants {wants} token: set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN")
    assert page.count("\n") == 1


def test_a_job_that_is_not_there_and_nobody_who_answers(dashboard: str) -> None:
    assert f"{dashboard}: no job 'mine'; none runs there" in ended(command("stop", "--address", dashboard, "mine"), 2)
    page = ended(command("logs", "--address", "http://127.0.0.1:9"), 2)
    assert page.startswith("memexp: no Ray dashboard answers at http://127.0.0.1:9 (") and page.count("\n") == 1
