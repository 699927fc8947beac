"""Object storage that fails for a while is waited for and said so, refusals are not; nothing is doubled or lost."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from unittest import mock

import pyarrow as pa
import pytest
from rich.console import Console
from support import command, ended

from benchmarks.s3 import CUT, HANGS, LOST, SLOW_DOWN, Answer, Request, Server
from memexp.cli import main
from memexp.errors import StoreError, StoreGoneError
from memexp.plan.attempts import Attempt, Progress
from memexp.plan.heartbeat import heartbeat
from memexp.report.progress import Display
from memexp.store import Store, bucket, patience
from memexp.store.patience import stop_waiting, told, waiting
from memexp.store.threads import threaded

TABLE = pa.table({"item": [0, 1]})
WAITING = "s3://bucket/results: 503 Slow Down: the object storage asks for fewer requests; waiting for it, 8 s at most"
AGAIN = "s3://bucket/results: the object storage answers again"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    with Server() as server, told(lambda line: None):
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "HTTP_PROXY", "http_proxy"):
            monkeypatch.delenv(name, raising=False)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "8")
        monkeypatch.setattr(patience, "FIRST_PAUSE", 0.02)
        monkeypatch.setattr(patience, "LONGEST_PAUSE", 0.3)
        yield server


@pytest.fixture
def store(server: Server) -> Store:
    store = Store("s3://bucket/results")
    store.commit("recall", "one", TABLE)
    store.put_text(".running/a.json", "1")
    return store


@pytest.fixture
def said(server: Server) -> Iterator[list[str]]:
    lines: list[str] = []
    with told(lines.append):
        yield lines


def first(count: int, answer: Answer, only: str = "") -> Callable[[Request], Answer | None]:
    """Trouble with the first requests, of one kind only where it is named."""
    left = [count]

    def trouble(request: Request) -> Answer | None:
        if only in ("", request.kind) and left[0]:
            left[0] -= 1
            return answer
        return None

    return trouble


def written(store: Store) -> bool:
    with mock.patch.object(bucket, "WHOLE", 1 << 20), store.open(".big/file", "wb") as stream:
        stream.write(bytes(6 << 20))  # in two parts
    return store.size(".big/file") == 6 << 20


def read_back(store: Store) -> bytes:
    with store.open(".running/a.json", "rb") as stream:
        stream.seek(0, io.SEEK_END)
        stream.seek(0)
        return stream.read()


ASKED: list[tuple[Callable[[Store], object], object]] = [
    (lambda store: Store(store.location).kinds(), ["recall"]),
    (lambda store: store.check_writable(), None),
    (lambda store: store.commit("recall", "two", TABLE), True),
    (lambda store: store.commit("recall", "one", TABLE.slice(0, 1)), False),
    (lambda store: store.exists("recall", "one"), True),
    (lambda store: store.exists("recall", "three"), False),
    (lambda store: store.names("recall") >= {"one"}, True),
    (lambda store: store.read("recall", "one"), TABLE),
    (lambda store: store.scan("recall").num_rows >= 2, True),
    (lambda store: store.put_text(".running/a.json", "1"), None),
    (lambda store: store.get_text(".running/a.json"), "1"),
    (lambda store: store.list_text(".running/"), [".running/a.json"]),
    (lambda store: store.delete(".running/none.json"), None),
    (written, True),
    (read_back, b"1"),
]


@pytest.mark.parametrize("answer", [SLOW_DOWN, CUT, Answer(500, done=False), LOST], ids=["503", "cut", "500", "lost"])
def test_whatever_is_asked_is_asked_again(server: Server, store: Store, answer: Answer) -> None:
    for work, expected in ASKED:
        server.trouble = first(2, answer)
        assert work(store) == expected
        assert server.trouble(Request("GET", "", "", {}, {}, b"")) is None  # the trouble was met
    assert sorted(server.objects["bucket"]) == [
        "results/.big/file",
        "results/.running/a.json",
        "results/recall/one.parquet",
        "results/recall/two.parquet",
    ]


def test_an_outage_is_said_once_and_so_is_its_end(server: Server, store: Store, said: list[str]) -> None:
    server.fail(2.6)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda number: store.commit("recall", f"n{number}", TABLE), range(4))] == [True] * 4
    assert said == [WAITING, AGAIN] and not waiting()
    server.trouble = first(2, SLOW_DOWN)
    assert store.exists("recall", "n0") and said == [WAITING, AGAIN]  # nobody needs to know of a moment


def test_an_answer_among_failures_is_no_end(server: Server, store: Store, said: list[str]) -> None:
    server.trouble = lambda request: SLOW_DOWN if request.kind == "PUT" and time.monotonic() < back else None
    back = time.monotonic() + 3
    with ThreadPoolExecutor(1) as pool:
        writes = pool.submit(store.commit, "recall", "two", TABLE)
        while not writes.done():
            assert store.exists("recall", "one")
            time.sleep(0.05)
    assert writes.result() is True and said == [WAITING, AGAIN]


def test_at_the_start_it_is_said_at_once(server: Server, said: list[str]) -> None:
    server.trouble = first(1, SLOW_DOWN)
    assert Store("s3://bucket/results").kinds() == []
    assert said == [WAITING, AGAIN]


def test_one_that_never_comes_back_is_given_up_in_time(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "1.5")
    server.fail(3600)
    began = time.monotonic()
    with pytest.raises(StoreGoneError, match=r"s3://bucket/results: 503 Slow Down: .*; waited 2 s in vain"):
        store.commit("recall", "two", TABLE)
    assert 1.5 <= time.monotonic() - began < 4
    server.counts.clear()
    with pytest.raises(StoreGoneError):  # it has been waited for
        store.names("recall")
    assert server.counts == {"LIST": 1}
    assert main(["status", "--store", store.location]) == 1
    assert "the same command goes on" in capsys.readouterr().err.splitlines()[-1]
    server.fail(0)
    assert store.commit("recall", "two", TABLE) is True


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (404, "NoSuchBucket"), (400, "ExpiredToken"), (501, "NotImplemented")]
)
def test_refusals_are_not_waited_for(server: Server, store: Store, status: int, code: str) -> None:
    server.trouble = lambda request: Answer(status, f"<Error><Code>{code}</Code></Error>".encode(), done=False)
    server.counts.clear()
    with pytest.raises(StoreError) as error:
        store.names("recall")
    assert server.counts == {"LIST": 1} and not isinstance(error.value, StoreGoneError)


def test_what_hangs_is_asked_again(server: Server, store: Store) -> None:
    store = Store("s3://bucket/results")
    server.trouble = first(1, HANGS, "HEAD")
    began = time.monotonic()
    assert store.exists("recall", "one") and time.monotonic() - began < 5


@pytest.mark.usefixtures("said")
@pytest.mark.parametrize(
    ("answer", "pooled"), [(SLOW_DOWN, False), (SLOW_DOWN, True), (HANGS, False)], ids=["503", "in threads", "hangs"]
)
def test_a_signal_ends_waiting_at_once(server: Server, store: Store, answer: Answer, pooled: bool) -> None:
    server.fail(3600, answer)
    threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        if pooled:
            threaded(lambda name: store.exists("recall", name), ["one"] * 20)
        else:
            store.exists("recall", "one")
    stop_waiting()
    server.fail(3600)
    with pytest.raises(StoreGoneError):
        store.names("recall")
    assert time.monotonic() - began < 2


def test_a_command_that_waits_heeds_sigterm(server: Server, store: Store) -> None:
    server.counts.clear()
    server.fail(3600)
    process = command("status", "--store", store.location, MEMEXP_STORE_RETRY_S="60")
    while not server.counts:
        time.sleep(0.05)
    began = time.monotonic()
    process.terminate()
    lines = ended(process, 143).splitlines()
    assert lines[-1] == "stopped by SIGTERM" and time.monotonic() - began < 10


def test_another_writer_is_told_from_an_own_lost_answer(server: Server, store: Store) -> None:
    server.trouble = first(1, LOST, "PUT")
    assert store.commit("recall", "two", TABLE) is True

    def another_is_first(request: Request) -> Answer:
        server.trouble = lambda request: None
        server.objects["bucket"][request.key] = server.objects["bucket"]["results/recall/two.parquet"]
        return CUT

    server.trouble = another_is_first
    assert store.commit("recall", "three", pa.table({"item": [7]})) is False
    assert store.read("recall", "three") == TABLE


def test_of_racing_writers_one_wins_also_where_answers_are_lost(server: Server, store: Store) -> None:
    turn = [0]

    def every_third(request: Request) -> Answer | None:
        turn[0] += request.kind == "PUT"
        return (LOST, CUT)[turn[0] % 2] if request.kind == "PUT" and turn[0] % 3 == 0 else None

    server.trouble = every_third
    jobs = [(writer, number) for number in range(20) for writer in range(4)]
    won = threaded(lambda job: store.commit("choice", f"n{job[1]}", pa.table({"writer": [job[0]]})), jobs)
    winners = {number: writer for (writer, number), wrote in zip(jobs, won, strict=True) if wrote}
    assert sum(won) == len(winners) == 20
    assert {n: store.read("choice", f"n{n}")["writer"][0].as_py() for n in range(20)} == winners


def test_a_listing_goes_on_after_its_last_page(server: Server, store: Store) -> None:
    objects = server.objects["bucket"]
    objects |= {f"results/choice/n{number:04}.parquet": b"" for number in range(2500)}
    store.commit("choice", "z", TABLE)
    server.counts.clear()
    server.trouble = lambda request: SLOW_DOWN if server.counts["LIST"] == 3 else None
    assert len(list(store._medium.walk("choice"))) == len(store.names("choice")) == 2501
    assert server.counts == {"LIST": 4 + 3}


def test_the_sign_of_life_ends_a_sweep_whose_store_is_gone(
    server: Server, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "1")
    server.fail(3600)
    began = time.monotonic()
    with pytest.raises(StoreGoneError, match="cannot reach"), heartbeat(store, Attempt("mine", "0" * 12), 1):
        while True:  # trials
            time.sleep(0.1)
    assert time.monotonic() - began < 5


def test_a_display_says_what_a_trial_waits_for_once() -> None:
    page = io.StringIO()
    console = Console(file=page)
    with told(lambda line: console.print(line, soft_wrap=True)), Display([], {}, console) as display:
        for line in (WAITING, WAITING, AGAIN, AGAIN, WAITING):
            display(Progress(said=(line,)))
    assert page.getvalue().splitlines() == [WAITING, AGAIN, WAITING]


def test_a_worker_that_waits_is_not_taken_for_one_that_hangs(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "4")
    script = """
from memexp.store import Store
from memexp.trial.watch import Activity, watched
store = Store("s3://bucket/results")
store.names("recall")
with watched(0.5 / 60, Activity(None), lambda: print("stuck", flush=True)):
    store.kinds()
print("done", flush=True)
"""
    met: list[float] = []
    first = 2  # what opening the store asks

    def trouble(request: Request) -> Answer | None:
        met.append(time.monotonic())
        return SLOW_DOWN if len(met) > first and met[-1] - met[first] < 2.5 else None

    server.trouble = trouble
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert len(met) > 4 and "waiting for it" in ended.stderr


def test_how_long_is_a_number_of_seconds(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "ten minutes")
    with pytest.raises(StoreError, match="MEMEXP_STORE_RETRY_S: 'ten minutes' is no number of seconds"):
        Store("s3://bucket/results").kinds()
