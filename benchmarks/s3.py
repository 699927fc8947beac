"""An S3 server in memory, on loopback: fast enough for tens of thousands of objects, and as bad as it is told to be.

    python -m benchmarks.s3 9000        # endpoint http://127.0.0.1:9000; any bucket exists
    curl http://127.0.0.1:9000/-/counts                          # requests so far, by kind
    curl -X POST "http://127.0.0.1:9000/-/fail?seconds=300"      # 503 Slow Down for so long

    with Server() as server:
        server.url, server.counts
        server.trouble = lambda request: SLOW_DOWN

It has what a store asks for: conditional PUTs, which are atomic here as they are in S3, listings page by page, ranges,
uploads in parts.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import hashlib
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qsl, unquote
from xml.sax.saxutils import escape

__all__ = ["CUT", "HANGS", "LOST", "SLOW_DOWN", "Answer", "Request", "Server"]

DATE = "Thu, 01 Jan 2026 00:00:00 GMT"
PAGE = 1000
INITIATED, COMPLETED = "InitiateMultipartUploadResult", "CompleteMultipartUploadResult"


@dataclass(frozen=True)
class Request:
    """What is asked."""

    method: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def kind(self) -> str:
        """LIST for a listing, else the method."""
        return "LIST" if self.method == "GET" and not self.key else self.method


@dataclass(frozen=True)
class Answer:
    """What is answered."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    done: bool = True
    """Whether the request is carried out nevertheless, where this is told as trouble."""


def _error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code></Error>".encode(), done=False)


SLOW_DOWN = _error(503, "SlowDown")
CUT = Answer(0, done=False)
"""The connection ends without an answer, and nothing is done."""
LOST = Answer(0)
"""The same, but it has been done."""
HANGS = Answer(-1, done=False)
"""No answer comes, and the connection stays."""


class Server:
    """Serves from a thread of its own for as long as the context lasts."""

    def __init__(self, port: int = 0) -> None:
        self.objects: dict[str, dict[str, bytes]] = {}
        """By bucket and key."""
        self.counts: Counter[str] = Counter()
        """Requests by kind, failed ones too."""
        self.trouble: Callable[[Request], Answer | None] = lambda request: None
        """Asked before every request; what it returns is answered instead."""
        self._sorted: dict[str, list[str]] = {}
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._loop = asyncio.new_event_loop()
        self._listening = self._loop.run_until_complete(
            asyncio.start_server(self._connected, "127.0.0.1", port, limit=1 << 20, backlog=512)
        )
        self.url = f"http://127.0.0.1:{self._listening.sockets[0].getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._end)
        self._thread.join()

    def _end(self) -> None:
        self._listening.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.call_soon(self._loop.stop)

    def fail(self, seconds: float, answer: Answer = SLOW_DOWN) -> None:
        """Answer so from now on for so long."""
        until = time.monotonic() + seconds
        self.trouble = lambda request: answer if time.monotonic() < until else None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                request = await _read(reader)
                answer = self._answer(request)
                if answer.status < 0:
                    await asyncio.sleep(3600)
                if answer.status == 0:
                    break
                body = b"" if request.method == "HEAD" else answer.body
                lines = [f"HTTP/1.1 {answer.status} -", f"Content-Length: {len(answer.body)}"]
                lines += [f"{name}: {value}" for name, value in answer.headers]
                writer.write("\r\n".join([*lines, "", ""]).encode() + body)
                await writer.drain()
        writer.close()

    def _answer(self, request: Request) -> Answer:
        if request.bucket == "-":
            return self._told(request)
        self.counts[request.kind] += 1
        trouble = self.trouble(request)
        if trouble is None or trouble.done:
            found = self._carried_out(request)
        return found if trouble is None else trouble

    def _told(self, request: Request) -> Answer:
        if request.key == "fail":
            self.fail(float(request.query["seconds"]))
        elif request.key == "reset":
            self.counts.clear()
        return Answer(200, json.dumps(self.counts).encode())

    def _carried_out(self, request: Request) -> Answer:
        objects = self.objects.setdefault(request.bucket, {})
        if not request.key:
            return self._listing(request, objects) if request.method == "GET" else Answer(200)
        if request.method == "POST" or "uploadId" in request.query:
            return self._part(request, objects)
        if request.method == "PUT":
            if request.headers.get("if-none-match") == "*" and request.key in objects:
                return _error(412, "PreconditionFailed")
            self._put(request.bucket, objects, request.key, request.body)
            return Answer(200, headers=(("ETag", _tag(request.body)),))
        if request.method == "DELETE":
            if objects.pop(request.key, None) is not None:
                self._sorted.pop(request.bucket, None)
            return Answer(204)
        if request.key not in objects:
            return _error(404, "NoSuchKey")
        return _object(objects[request.key], request.headers.get("range", ""))

    def _put(self, bucket: str, objects: dict[str, bytes], key: str, body: bytes) -> None:
        if key not in objects:
            self._sorted.pop(bucket, None)
        objects[key] = body

    def _part(self, request: Request, objects: dict[str, bytes]) -> Answer:
        if "uploads" in request.query:
            upload = str(len(self._uploads))
            self._uploads[upload] = {}
            return Answer(200, f"<{INITIATED}><UploadId>{upload}</UploadId></{INITIATED}>".encode())
        parts = self._uploads[request.query["uploadId"]]
        if request.method == "PUT":
            parts[int(request.query["partNumber"])] = request.body
        elif request.method == "POST":
            self._put(request.bucket, objects, request.key, b"".join(parts[number] for number in sorted(parts)))
        return Answer(200, f'<{COMPLETED}><ETag>"x"</ETag></{COMPLETED}>'.encode(), (("ETag", '"x"'),))

    def _listing(self, request: Request, objects: dict[str, bytes]) -> Answer:
        query = request.query
        if request.bucket not in self._sorted:
            self._sorted[request.bucket] = sorted(objects)
        keys, prefix, delimiter = self._sorted[request.bucket], query.get("prefix", ""), query.get("delimiter", "")
        after = max(query.get("start-after", ""), query.get("continuation-token", ""))
        at = max(bisect.bisect_left(keys, prefix), bisect.bisect_right(keys, after) if after else 0)
        entries: list[str] = []
        last = more = ""
        while at < len(keys) and keys[at].startswith(prefix):
            if len(entries) == min(PAGE, int(query.get("max-keys", PAGE))):
                more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{escape(last)}</NextContinuationToken>"
                break
            key = last = keys[at]
            folder, cut, _ = key[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            if cut:
                last = prefix + folder + chr(ord(delimiter) + 1)
                entries.append(f"<CommonPrefixes><Prefix>{escape(prefix + folder + cut)}</Prefix></CommonPrefixes>")
                at = bisect.bisect_left(keys, last)
                continue
            facts = f"<Size>{len(objects[key])}</Size><ETag>{_tag(objects[key])}</ETag>"
            date = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            entries.append(f"<Contents><Key>{escape(key)}</Key>{facts}{date}</Contents>")
            at += 1
        return Answer(200, f"<ListBucketResult>{''.join(entries)}{more}</ListBucketResult>".encode())


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, target, _ = head[0].split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length") or 0))
    path, _, query = target.partition("?")
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    return Request(method, bucket, key, dict(parse_qsl(query, keep_blank_values=True)), headers, body)


def _object(data: bytes, asked: str) -> Answer:
    facts = (("ETag", _tag(data)), ("Last-Modified", DATE), ("Accept-Ranges", "bytes"))
    if not asked:
        return Answer(200, data, facts)
    first, _, last = asked.removeprefix("bytes=").partition("-")
    start = int(first) if first else max(0, len(data) - int(last))
    stop = min(int(last) + 1, len(data)) if first and last else len(data)
    return Answer(206, data[start:stop], (*facts, ("Content-Range", f"bytes {start}-{stop - 1}/{len(data)}")))


def _tag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'


if __name__ == "__main__":
    with Server(int(sys.argv[1])) as served:
        print(served.url, flush=True)
        threading.Event().wait()
