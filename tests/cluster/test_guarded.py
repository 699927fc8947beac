"""Sweeps of one worker and of two on a Ray of their own: no log has secrets, and nothing listens to other machines."""

from __future__ import annotations

import hashlib
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from sockets import Listening, listening
from support import command, sweep_script

from memexp.store import Store

pytestmark = pytest.mark.cluster

SECRETS = {
    "AWS_ACCESS_KEY_ID": "planted-access-key-id",
    "AWS_SECRET_ACCESS_KEY": "planted/secret+access/key",
    "AWS_SESSION_TOKEN": "planted-session-token",
    "HF_TOKEN": "hf_plantedplantedplantedplanted",
}
MARKER = "planted and no secret"

SNOOP = """
import hashlib, os, pathlib, time
from typing import ClassVar
import pyarrow as pa
from memexp.spec import Corpus, Probe, spec


@spec
class Snoop(Probe):
    kind: ClassVar[str] = "snoop"
    corpus: Corpus

    @classmethod
    def schema(cls):
        return pa.schema([("item", pa.int64())])

    def measure(self, session, texts):
        secrets = [os.environ[name] for name in {names!r}]
        print({marker!r}, hashlib.sha256("".join(secrets).encode()).hexdigest())
        print("the keys are", *secrets, "https://anna:planted-password@host/x")
        pathlib.Path({here!r}, "there").touch()
        while not pathlib.Path({here!r}, "seen").exists():
            time.sleep(0.1)
        raise OSError("{marker}, refused: " + " ".join(secrets) + " s3://planted-key:planted/secret@bucket")


conditions = [
    Condition(model, Study(pair.targets, exposures=0, lr=1e-3, block_size=64), probes=[Snoop(pair.targets)])
]
sweep = Sweep(name="snoop", conditions=conditions, resources=Resources(workers={workers}, cpus=0.5))
"""


@dataclass(frozen=True)
class Snooped:
    """What was seen of a sweep."""

    page: str
    session: Path
    """The folder with Ray's logs."""
    store: Path
    listening: list[Listening]
    """Every socket that listened while its workers were at work."""
    commands: list[str]
    """What every process was started with that was there then."""
    workers: int


@pytest.fixture(scope="module", params=[1, 2], ids=["one worker", "two workers"])
def snooped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Snooped]:
    folder = tmp_path_factory.mktemp("snooped")
    session = Path(tempfile.mkdtemp(prefix="mx"))  # Ray's sockets have no room for a long path
    script = sweep_script(folder)
    text = SNOOP.replace("{names!r}", repr(list(SECRETS))).replace("{here!r}", repr(str(folder)))
    text = text.replace("{marker!r}", repr(MARKER)).replace("{marker}", MARKER)
    text = text.replace("{workers}", str(request.param))
    script.write_text(script.read_text().split("if __name__")[0] + text)
    process = command("run", script, "--store", folder / "store", RAY_TMPDIR=str(session), **SECRETS)
    while not (folder / "there").exists() and process.poll() is None:
        time.sleep(0.1)
    found, commands = list[Listening](), list[str]()
    if process.poll() is None:
        own = psutil.Process(process.pid)
        found = [*listening(own)]
        commands = [" ".join(child.cmdline()) for child in own.children(recursive=True)]
    (folder / "seen").touch()
    page, _ = process.communicate(timeout=240)
    yield Snooped(page, session, folder / "store", found, commands, request.param)
    shutil.rmtree(session)


def holding(folder: Path, text: str) -> list[Path]:
    """The files below that have a text in them."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if text.encode() in file.read_bytes()]


def test_a_worker_sees_the_secrets_and_no_log_has_them(snooped: Snooped) -> None:
    assert "0 of 1 condition complete" in snooped.page
    seen = hashlib.sha256("".join(SECRETS.values()).encode()).hexdigest()
    planted = [*SECRETS.values(), "planted-password", "planted-key", "planted/secret"]
    assert f"{MARKER}, refused: *** ***" in snooped.page
    assert holding(snooped.store / ".logs", f"{MARKER} {seen}")
    assert not [secret for secret in planted if secret in snooped.page]
    for folder in (snooped.session, snooped.store):
        assert holding(folder, MARKER), "what is printed and raised goes through there"
        assert not {secret: found for secret in planted if (found := holding(folder, secret))}
    rows = Store(snooped.store).scan("stages")
    assert rows is not None
    assert any(MARKER in error and "***" in error for error in rows.column("error").to_pylist() if error)


def test_nothing_listens_to_other_machines(snooped: Snooped) -> None:
    names = {one.process for one in snooped.listening}
    worker = "ray::ImplicitFunc" if snooped.workers == 1 else "ray::RayTrainWorker"
    assert {"raylet", "gcs_server"} <= names and any(name.startswith(worker) for name in names)
    assert len(snooped.listening) > 5
    assert not [one for one in snooped.listening if not one.private]


def test_servers_that_are_not_asked_are_not_started(snooped: Snooped) -> None:
    servers = ("monitor.py", "log_monitor.py", "dashboard.py")
    there = {name for name in servers for command in snooped.commands if f"/{name} " in command}
    assert there == (set() if snooped.workers == 1 else set(servers))


def test_what_listens_to_them_would_be_seen() -> None:
    before = set(listening(psutil.Process()))  # where tests share a cluster, its servers are among them
    with socket.create_server(("0.0.0.0", 0)) as server:
        new = {one for one in listening(psutil.Process()) if not one.private} - before
        assert ("0.0.0.0", server.getsockname()[1]) in {(one.address, one.port) for one in new}
