"""Object storage that fails in the middle of a sweep costs time; one that stays away costs no result."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest
from drills.strikes import FILES, same, until
from support import command

from benchmarks.large_store import ENVIRONMENT
from benchmarks.s3 import LOST, SLOW_DOWN, Answer, Request, Server
from memexp.store import Store

pytestmark = pytest.mark.drill


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": server.url}).items():
            monkeypatch.setenv(name, value)
        yield server


def start(script: Path, seconds: int) -> subprocess.Popen[str]:
    return command(
        "run", script, "--store", "s3://bucket/results", "--address", "local", MEMEXP_STORE_RETRY_S=str(seconds)
    )


def results(server: Server) -> int:
    return sum("/recall/" in key or "/recognition/" in key for key in list(server.objects.get("bucket", {})))


def whole(server: Server, undisturbed: dict[str, pa.Table]) -> bool:
    """Whether all is there, once, and equal; nothing failed on the way."""
    stages = Store("s3://bucket/results").scan("stages")
    assert stages is not None and set(stages["status"].to_pylist()) == {"complete"}
    return results(server) == FILES and same("s3://bucket/results", undisturbed)


def test_an_outage_in_the_middle_is_waited_for(server: Server, script: Path, undisturbed: dict[str, pa.Table]) -> None:
    process = start(script, 120)
    until(lambda: results(server) or process.poll() is not None)
    back, turn = time.monotonic() + 12, [0]

    def trouble(request: Request) -> Answer | None:
        if time.monotonic() < back:  # for trials only, so that it is they who say it
            return None if request.key.startswith("results/.running/") else SLOW_DOWN
        turn[0] += request.kind == "PUT"
        return LOST if request.kind == "PUT" and turn[0] % 3 == 0 else None  # done, but nobody is told

    server.trouble = trouble
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0, page
    server.trouble = lambda request: None
    assert whole(server, undisturbed)
    said = [line.strip() for line in page.splitlines() if line.strip().startswith("s3://bucket/results: ")]
    waiting = [line for line in said if "503 Slow Down: the object storage asks for fewer" in line]
    # Two trials go on at a time. That the second waits too is told only where it is heard after the first's good news.
    assert 1 <= len(waiting) <= 2 and all(line.endswith("waiting for it, 2 min at most") for line in waiting), page
    assert all(line != after for line, after in pairwise(said)), page


def test_one_that_stays_away_ends_the_command_in_time_and_the_same_goes_on(
    server: Server, script: Path, undisturbed: dict[str, pa.Table]
) -> None:
    process = start(script, 8)
    until(lambda: results(server) or process.poll() is not None)
    server.fail(3600)
    began = time.monotonic()
    page, _ = process.communicate(timeout=120)
    assert process.returncode == 1 and time.monotonic() - began < 8 + 30, page
    [line] = [line for line in page.splitlines() if line.startswith("memexp: ")]
    assert "cannot reach s3://bucket/results: 503 Slow Down" in line and "the same command goes on" in line
    assert "Traceback" not in page
    server.fail(0)
    process = start(script, 120)
    page, _ = process.communicate(timeout=300)
    assert process.returncode == 0, page
    assert results(server) == FILES and same("s3://bucket/results", undisturbed)
