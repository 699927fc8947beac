"""Stores on disks that are full or read-only, from the beginning or midway: one line, and the same command goes on
once there is room. Needs private mount namespaces (`unshare --mount`, as root): root ignores modes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from drills.strikes import FILES, WITHOUT_RAY, finish, held, results, rows, same
from support import command

pytestmark = [pytest.mark.drill, pytest.mark.cluster]


class Disk:
    """A small tmpfs that only its own namespace sees."""

    def __init__(self, holder: subprocess.Popen[str], mount: Path) -> None:
        self.mount = mount
        self.inside = ["nsenter", f"--mount=/proc/{holder.pid}/ns/mnt"]
        self.outside = Path(f"/proc/{holder.pid}/root{mount}")
        """The mount as the test sees it."""
        self.filler: subprocess.Popen[bytes] | None = None

    def sh(self, line: str) -> bool:
        """Whether a shell could do it in the namespace."""
        return subprocess.run([*self.inside, "sh", "-ec", line], capture_output=True).returncode == 0

    def fill(self) -> None:
        """Leave no room, and take what comes free: a snapshot that could not be written gives its own back."""
        ballast = f"cat /dev/zero >> {self.mount}/ballast"
        line = f"while :; do {ballast}; sleep 0.02; done"
        self.filler = subprocess.Popen(
            [*self.inside, "sh", "-c", line], stderr=subprocess.DEVNULL, start_new_session=True
        )
        assert not self.sh(ballast)

    def leave(self) -> None:
        """Take no more."""
        if self.filler is not None:
            os.killpg(self.filler.pid, signal.SIGKILL)
            self.filler.wait()
            self.filler = None

    def empty(self) -> None:
        self.leave()
        assert self.sh(f"rm {self.mount}/ballast")

    def remount(self, how: str) -> None:
        """Read-only ("ro") or writable ("rw"); refused while a file is being written."""
        while not self.sh(f"mount -o remount,{how} {self.mount}"):
            time.sleep(0.05)


@contextlib.contextmanager
def mounted(mount: Path, size: str) -> Iterator[Disk]:
    mount.mkdir(exist_ok=True)
    line = f"mount -t tmpfs -o size={size} drill {mount}; echo mounted; exec sleep 3600"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-ec", line], stdout=subprocess.PIPE, text=True)
    try:
        if not holder.stdout or holder.stdout.readline() != "mounted\n":
            pytest.skip("private mount namespaces are not permitted here")
        found = Disk(holder, mount)
        yield found
        found.leave()
    finally:
        holder.kill()
        holder.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    with mounted(tmp_path / "disk", "64m") as found:
        yield found


BREAK = {"full": ("no space left", Disk.fill, Disk.empty)}
BREAK["read-only"] = (
    "the file system is read-only",
    lambda disk: disk.remount("ro"),
    lambda disk: disk.remount("rw"),
)


@pytest.mark.parametrize("what", BREAK)
def test_a_broken_disk_is_one_line_before_any_trial(script: Path, disk: Disk, what: str) -> None:
    why, broken, _ = BREAK[what]
    broken(disk)
    process = command("run", script, "--store", disk.mount / "store", "--address", "local", prefix=disk.inside)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 2, page
    assert page.splitlines()[-1] == f"memexp: cannot write to store {disk.mount}/store: {why}"
    assert "executing" not in page and "Traceback" not in page


@pytest.mark.parametrize("what", BREAK)
def test_a_disk_that_breaks_midway(script: Path, undisturbed: dict[str, pa.Table], disk: Disk, what: str) -> None:
    why, broken, mended = BREAK[what]
    store, seen = disk.mount / "store", disk.outside / "store"
    with held(script, store, prefix=disk.inside, where=WITHOUT_RAY) as struck:
        broken(disk)
        before = results(seen)
        struck.release()
        status, page = struck.ended()
    assert status == 2, page
    assert why in page.splitlines()[-1] and page.splitlines()[-1].startswith("memexp: cannot write")
    assert "Traceback" not in page
    assert 0 < results(seen) <= before + 2 < FILES  # what was under way may have had its room
    mended(disk)
    assert finish(script, store, f"a store {what} midway", disk.inside, seen, WITHOUT_RAY) == (0, FILES)
    assert same(seen, undisturbed)
    assert 30 in [row["steps"] for row in rows(seen, "stages")]


def test_a_nodes_own_disk_is_full(script: Path, undisturbed: dict[str, pa.Table], tmp_path: Path) -> None:
    """Where Ray keeps its logs and sockets, Tune its records and Python what is temporary: the store is elsewhere."""
    with mounted(Path(tempfile.gettempdir()) / "ray", "64m") as own:
        with held(script, tmp_path, prefix=own.inside) as struck:
            own.fill()
            before = results(tmp_path)
            struck.release()
            status, page = struck.ended()
        assert "Traceback" not in page
        assert before < FILES and (status, results(tmp_path)) != (0, before)
        own.empty()
        assert finish(script, tmp_path, "a node's disk full", prefix=own.inside) == (0, FILES)
        assert same(tmp_path, undisturbed)
