"""A store in a bucket is asked few things, however many results it has: requests are counted."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks.large_store import ENVIRONMENT, ITEMS, QUERY, fill
from benchmarks.s3 import SLOW_DOWN, Server
from memexp import Condition, Model, Pair, Recall, Recognition, ShippedText, Study, Sweep
from memexp.errors import StoreError
from memexp.exchange.compact import compact
from memexp.report.status import print_status
from memexp.store import Store, whole
from memexp.store.query import answer

PAIR = Pair(ShippedText("sentences-targets", first=4), ShippedText("sentences-foils", first=4))
SWEEP = Sweep(
    name="large",
    conditions=[
        Condition(
            Model("tiny-s"), Study(PAIR.targets, exposures=1, lr=lr * 1e-4, batch_size=4), seed=seed,
            probes=[Recognition(PAIR), Recall()],
        )
        for lr in range(1, 6) for seed in range(5)
    ],
)  # fmt: skip
RESULTS = 50


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    with Server() as server:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (ENVIRONMENT | {"AWS_ENDPOINT_URL": server.url}).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        yield server


@pytest.fixture
def place(server: Server) -> str:
    """Where all results are."""
    place = "s3://bucket/results"
    fill(Store(place), SWEEP.grow(), "large")
    server.counts.clear()
    return place


def asked(server: Server) -> int:
    """Requests since they were last asked for."""
    count = sum(server.counts.values())
    server.counts.clear()
    return count


def run(place: str) -> bool:
    """The sweep once more, with nothing missing."""
    return SWEEP.run(place, local=True, console=Console(file=io.StringIO()))


def test_what_was_found_whole_is_not_looked_at_again(server: Server, place: str) -> None:
    assert SWEEP.plan(place).stored == 25
    assert asked(server) <= RESULTS + 6  # an end of each, and a page of each kind
    assert SWEEP.plan(place).stored == 25
    assert asked(server) <= 6
    assert run(place)
    assert server.counts["HEAD"] <= 6 and server.counts["LIST"] <= 16
    assert asked(server) <= RESULTS + 36  # its table is made of all rows
    print_status(Store(place))
    assert asked(server) <= 20


def test_many_are_looked_at_in_turn(server: Server, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(whole, "MOST", 20)
    broken = "results/recall/" + max(Store(place).names("recall")) + ".parquet"
    server.objects["bucket"][broken] = server.objects["bucket"][broken][:-1]
    asked(server)
    for _ in range(2):
        SWEEP.plan(place)
        assert asked(server) <= 20 + 6
    with pytest.raises(StoreError, match="cut off or not Parquet"):
        SWEEP.plan(place)
    with pytest.raises(StoreError, match="cut off or not Parquet"):  # what is broken is not remembered
        SWEEP.plan(place)


def test_what_is_remembered_may_be_lost_and_holds_for_no_other_file(server: Server, place: str, tmp_path: Path) -> None:
    SWEEP.plan(place)
    [memory] = (tmp_path / "cache" / "memexp").glob("whole-*")
    memory.write_bytes(memory.read_bytes()[:-3] + b"\xff\n")
    asked(server)
    SWEEP.plan(place)
    assert asked(server) <= 7
    key = next(key for key in server.objects["bucket"] if "/recall/" in key)
    server.objects["bucket"][key] = server.objects["bucket"][key][:-1]
    with pytest.raises(StoreError, match="cut off or not Parquet"):
        SWEEP.plan(place)


def test_a_kind_is_listed_by_its_prefix(server: Server, place: str) -> None:
    store = Store(place)
    objects = server.objects["bucket"]
    objects |= {f"results/stages/{begin}-{number:04}.parquet": b"" for begin in "axz" for number in range(2000)}
    store.kinds()
    asked(server)
    assert len(store.names("stages", "x-")) == 2000 and server.counts == {"LIST": 3}
    asked(server)
    assert store.kinds() == ["recall", "recognition", "stages", "sweeps", "training"] and asked(server) <= 6


def test_an_export_grows_by_a_request_for_each_new_file_and_answers_without_any(
    server: Server, place: str, tmp_path: Path
) -> None:
    store, out = Store(place), tmp_path / "export"
    expected = answer(store, QUERY)
    asked(server)
    done = compact(store, str(out), incremental=True)
    assert asked(server) <= done.sources + 20 and done.sources > RESULTS
    assert answer(Store(out), QUERY) == expected and asked(server) == 0
    store.commit("recall", "new", store.read("recall", min(store.names("recall"))))
    asked(server)
    compact(store, str(out), incremental=True)
    assert asked(server) <= 20


def test_arrow_asks_for_a_file_once_and_can_only_read(server: Server, place: str) -> None:
    store = Store(place)
    server.trouble = lambda request: SLOW_DOWN if server.counts["GET"] == 3 else None
    dataset = store.dataset("recall")
    assert dataset is not None and dataset.to_table().num_rows == 25 * ITEMS
    assert server.counts["HEAD"] == 0 and asked(server) <= 25 + 1 + 3
    before = dict(server.objects["bucket"])
    filesystem, base = store._medium.filesystem()
    with pytest.raises(NotImplementedError):
        filesystem.open_output_stream(f"{base}/recall/new.parquet")
    with pytest.raises(NotImplementedError):
        filesystem.delete_file(dataset.files[0])
    assert server.objects["bucket"] == before
