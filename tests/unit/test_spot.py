"""A spot instance's end, as its metadata service tells of it. What trials make of it: drills/test_drain_drills.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from memexp.cluster.spot import NOTICE, SERVICE, watch


class Metadata(ThreadingHTTPServer):
    """IMDSv2, which answers the n-th question with the n-th of `answers`, and the last one again and again."""

    answers: tuple[tuple[int, str], ...] = ()
    asked = 0


class Handler(BaseHTTPRequestHandler):
    server: Metadata
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        assert self.path == "/latest/api/token" and int(self.headers["X-aws-ec2-metadata-token-ttl-seconds"]) > 0
        self.answer(200, "a-token")

    def do_GET(self) -> None:
        if self.headers["X-aws-ec2-metadata-token"] != "a-token":
            self.answer(401, "")
        elif self.path == NOTICE:
            self.server.asked += 1
            self.answer(*self.server.answers[min(self.server.asked, len(self.server.answers)) - 1])

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        return None


@pytest.fixture
def metadata(monkeypatch: pytest.MonkeyPatch) -> Iterator[Metadata]:
    server = Metadata(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv(SERVICE, f"http://127.0.0.1:{server.server_port}")
    yield server
    server.shutdown()
    server.server_close()


def test_it_is_drained_when_its_end_is_said(metadata: Metadata) -> None:
    end = (datetime.now(UTC) + timedelta(seconds=120)).strftime("%Y-%m-%dT%H:%M:%SZ")
    notice = f'{{"action": "terminate", "time": "{end}"}}'
    metadata.answers = ((404, "not found"), (500, "busy"), (200, "no JSON"), (200, "{}"), (200, notice))
    left: list[float] = []
    watch(left.append, every=0.0)
    assert metadata.asked == 5
    assert len(left) == 1 and 110 < left[0] <= 120


def test_an_end_that_is_past_leaves_no_time(metadata: Metadata) -> None:
    metadata.answers = ((200, '{"action": "terminate", "time": "2026-01-01T00:00:00Z"}'),)
    left: list[float] = []
    watch(left.append)
    assert left == [0.0]


def test_where_no_service_answers_it_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVICE, "http://127.0.0.1:9")
    waits: list[float] = []

    def enough(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise TimeoutError

    monkeypatch.setattr("memexp.cluster.spot.time", SimpleNamespace(sleep=enough))  # of this module alone
    with pytest.raises(TimeoutError):
        watch(lambda _: pytest.fail("nothing was said"))
    assert waits == [5.0] * 3
