"""clusters/slurm.sh on a real SLURM of this machine: a controller and two nodes of one CPU, started by the test."""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from drills.strikes import WITHOUT_RAY, finish, grid, rows, same, until
from support import data
from three_nodes import a_bucket

from memexp.store import Store
from memexp.store.snapshots import find

NEEDED = ("slurmctld", "slurmd", "sbatch", "munged")
STEPS = 3000
"""Of interference: some fifteen seconds, of which the first trial is not to be over when the last one has begun."""

pytestmark = [
    pytest.mark.drill,
    pytest.mark.cluster,
    pytest.mark.skipif(
        any(shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin") is None for name in NEEDED),
        reason="no SLURM here: apt-get install slurmctld slurmd slurm-client munge",
    ),
]

BATCH = Path(__file__).parents[2] / "clusters" / "slurm.sh"
CONFIG = """
ClusterName=memexp
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
FirstJobId={first}
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Its folder, which is a short one: a socket's path has 107 characters."""
    monkeypatch.setenv("PATH", f"{os.environ['PATH']}:/usr/sbin")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        key, conf = folder / "munge.key", folder / "slurm.conf"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        named = {"host": host, "folder": folder, "user": getpass.getuser(), "ports": free_ports(3)}
        # Its number says which port Ray takes: not that of a run of this test that has just ended.
        conf.write_text(CONFIG.format(**named, first=secrets.randbelow(9000) + 1))
        monkeypatch.setenv("SLURM_CONF", str(conf))
        munge = [f"--{what}-file={folder}/munge.{what}" for what in ("key", "pid", "log", "seed")]
        try:
            subprocess.run(["munged", "--force", f"--socket={folder}/munge.socket", *munge], check=True)
            subprocess.run(["slurmctld", "-f", conf], check=True)
            for node in ("n1", "n2"):
                subprocess.run(["slurmd", "-f", conf, "-N", node], check=True)
            until(both_idle, 60)
            yield folder
        finally:
            said("scancel", "--me")
            with contextlib.suppress(AssertionError):
                until(lambda: not said("squeue", "--noheader"), 60)
            for pid in (int(file.read_text()) for file in folder.glob("*.pid") if file.read_text().strip()):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            time.sleep(1)  # they write their last lines into the folder, which is about to go


def said(*command: str) -> str:
    """What one of SLURM's commands says."""
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False).stdout


def both_idle() -> bool:
    """Whether nothing is on the nodes, not even the end of a job."""
    return said("sinfo", "--noheader", "--states=idle", "--format=%D").strip() == "2"


def test_a_job_whose_time_is_over_saves_and_is_queued_again(slurm: Path, tmp_path: Path) -> None:
    script = grid(tmp_path, exposures=(2,), lrs=(1e-3, 3e-3), stops=(STEPS,), snapshots=None)
    assert finish(script, tmp_path / "undisturbed", where=WITHOUT_RAY) == (0, 4)
    environment = {
        **os.environ,
        "MEMEXP_VENV": str(Path(sys.executable).parents[1]),
    }
    with a_bucket("memexp-slurm") as bucket:
        store = f"{bucket}/results"
        job = subprocess.run(
            ["sbatch", "--parsable", "--nodes=2", BATCH, script, "--store", store],
            cwd=tmp_path,
            env={**environment, **{name: value for name, value in os.environ.items() if name.startswith("AWS_")}},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        log = tmp_path / f"memexp-{job}.log"

        def shown() -> str:
            return said("scontrol", "show", "job", job)

        def ended() -> bool:
            return any(f"JobState={state}" in shown() for state in ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL"))

        until(lambda: len(Store(store).names("training")) == 4 or ended(), 200)
        assert "JobState=RUNNING" in shown(), log.read_text()
        said("scancel", "--signal=USR1", "--batch", job)  # as SLURM does two minutes before the time is over
        until(lambda: "Restarts=1" in shown() or ended(), 60)
        page = log.read_text()
        assert page.count("SIGTERM: saved, to go on elsewhere") == 2 and "stopped by SIGTERM: 0 of 2" in page
        assert len(find(Store(store)).found) == 2
        until(lambda: "JobState=PENDING" in shown() and both_idle(), 60)
        # It would wait for two minutes; in less than a second its nodes take it for the one that they have just ended.
        said("scontrol", "update", f"JobId={job}", "StartTime=now+3seconds")
        until(ended, 200)
        print(page := log.read_text(), shown(), (slurm / "slurmctld.log").read_text()[-4000:], sep="\n")
        assert "JobState=COMPLETED" in shown() and "2 of 2 conditions complete" in page
        assert same(store, data(tmp_path / "undisturbed"))
        made = [row for row in rows(store, "stages") if row["kind"] == "interference"]
        assert sum(row["steps"] for row in made) == 2 * STEPS and {row["status"] for row in made} == {
            "left",
            "complete",
        }
    assert not list(Path("/tmp").glob(f"ray-{job}"))
