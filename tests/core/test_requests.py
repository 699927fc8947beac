"""What a trial asks of object storage, which does not grow with what others have left there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from core.test_trial import Grid, executed, grid

from benchmarks.large_store import ENVIRONMENT
from benchmarks.s3 import PAGE, Server
from memexp.plan import find_missing, grow
from memexp.store import Store

__all__ = ["grid"]  # a fixture

OTHERS = 3 * PAGE
"""Files of each kind that others have left: a listing of them takes four requests."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": server.url}).items():
            monkeypatch.setenv(name, value)
        yield server


def asked(server: Server, grid: Grid, place: str) -> Counter[str]:
    server.counts.clear()
    assert executed(grid((1, 2), lrs=(1e-3, 1e-2)), Store(f"s3://bucket/{place}")) == []
    return Counter(server.counts)


def test_a_trial_asks_no_more_of_a_large_store(server: Server, grid: Grid) -> None:
    few = asked(server, grid, "empty")
    for i in range(OTHERS):
        others = (
            f"recognition/{i:012x}-0-0.parquet",
            f"recall/{i:012x}-0-0.parquet",
            f".snapshots/{i:012x}/000000001.json",
        )
        server.objects["bucket"] |= {f"large/{name}": b"" for name in (*others, f"training/{i:012x}.parquet")}
    assert asked(server, grid, "large") == few
    find_missing(grow(grid((1, 2))), Store("s3://bucket/large"))  # as a search does for every suggestion
    assert server.counts["LIST"] - few["LIST"] <= 2 + 4, "the store, its log, and each of four results"
    Store("s3://bucket/large").names("recall")
    assert server.counts["LIST"] - few["LIST"] > 2 + 4 + OTHERS // PAGE, "what a listing of all would have taken"
