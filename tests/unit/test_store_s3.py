"""The store in object storage: moto's S3 server on loopback, and a small fake for what moto cannot do.

The fake answers as told (refused credentials, storage that ignores If-None-Match) and speaks enough of Google's XML
API for the ``gs://`` half.
"""

from __future__ import annotations

import json
import pickle
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import polars
import pyarrow as pa
import pytest
from made_results import Made
from s3_server import s3_server

from memexp.driver.pruning import prune
from memexp.errors import StoreError
from memexp.exchange.compact import compact
from memexp.records import SWEEPS, measured_by, with_source
from memexp.report.answer import print_query
from memexp.spec import Headline
from memexp.store import Store, bucket
from memexp.store.query import totals

TABLE = pa.table({"item": [0, 1, 2], "nll": [0.5, None, 2.0], "text": ["a", "b", None]})
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_REGION": "us-east-1"}


@pytest.fixture(autouse=True, scope="module")
def environment() -> Iterator[pytest.MonkeyPatch]:
    """Only what a test sets, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        for name in (
            "AWS_PROFILE",
            "AWS_SESSION_TOKEN",
            "AWS_DEFAULT_REGION",
            "AWS_ENDPOINT_URL_S3",
            "HTTP_PROXY",
            "http_proxy",
        ):
            patch.delenv(name, raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield patch


@pytest.fixture(scope="module")
def s3(environment: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of moto's server, which has a bucket named ``bucket`` and is AWS_ENDPOINT_URL."""
    with s3_server() as endpoint:
        environment.setenv("AWS_ENDPOINT_URL", endpoint)
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        yield client


@pytest.fixture
def store(s3: Any) -> Store:
    return Store(f"s3://bucket/{uuid.uuid4().hex}/results")


def put(s3: Any, store: Store, key: str, data: bytes) -> None:
    s3.put_object(Bucket="bucket", Key=f"{store.location.removeprefix('s3://bucket/')}/{key}", Body=data)


def get(s3: Any, store: Store, key: str) -> bytes:
    key = f"{store.location.removeprefix('s3://bucket/')}/{key}"
    return bytes(s3.get_object(Bucket="bucket", Key=key)["Body"].read())


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 300, text
    return text


# Against moto


@pytest.mark.parametrize(("whole", "parts"), [(bucket.WHOLE, 1), (1 << 20, 2)])
def test_a_large_file_is_sent_in_one_request_where_it_can_be(
    whole: int, parts: int, s3: Any, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one in parts that is killed on the way the parts stay. A snapshot has no file that needs several."""
    monkeypatch.setattr(bucket, "WHOLE", whole)
    data = bytes(6 << 20)  # more than a part
    with store.open(".snapshots/x/file", "wb") as stream:
        stream.write(data)
    assert get(s3, store, ".snapshots/x/file") == data
    key = f"{store.location.removeprefix('s3://bucket/')}/.snapshots/x/file"
    tag = s3.head_object(Bucket="bucket", Key=key)["ETag"].strip('"')
    assert tag.partition("-")[2] == (f"{parts}" if parts > 1 else "")


def test_the_first_commit_wins(s3: Any, store: Store) -> None:
    store.check_writable()
    assert store.kinds() == [] and not store.exists("recall", "one") and store.scan("recall") is None
    assert store.commit("recall", "one", TABLE) is True
    before = get(s3, store, "recall/one.parquet")
    assert store.commit("recall", "one", TABLE.slice(0, 1)) is False
    assert get(s3, store, "recall/one.parquet") == before
    assert store.exists("recall", "one") and store.read("recall", "one") == TABLE
    assert pickle.loads(pickle.dumps(store)).names("recall") == {"one"}


def test_local_and_object_storage_hold_the_same_bytes(s3: Any, store: Store, tmp_path: Path) -> None:
    local = Store(tmp_path)
    for either in (store, local):
        either.commit("recall", "one", TABLE)
    assert get(s3, store, "recall/one.parquet") == Path(local.path("recall", "one")).read_bytes()


def test_of_racing_threads_one_wins(store: Store) -> None:
    start = threading.Barrier(2)

    def write(writer: int) -> list[bool]:
        own = Store(store.location)
        own.names("recall")  # connected before the start
        outcomes = []
        for number in range(15):
            start.wait(timeout=30)
            outcomes.append(own.commit("recall", f"n{number:02}", pa.table({"writer": [writer]})))
        return outcomes

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(write, range(2))
    assert [one + other for one, other in zip(first, second, strict=True)] == [1] * 15
    assert store.scan("recall")["writer"].to_pylist() == [0 if wrote else 1 for wrote in first]


def test_an_export_of_it_is_a_local_folder(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        store.commit("recall", name, TABLE)
    monkeypatch.chdir(tmp_path)
    assert compact(store).target == str(tmp_path / "results-compacted")
    assert Store("results-compacted").scan("recall") == store.scan("recall")
    assert compact(store).new is False
    store.commit("recall", "three", TABLE)
    assert compact(store).rows == 9


def test_names_and_kinds_see_results_only(s3: Any, store: Store) -> None:
    for kind, name in (("recall", "a-1"), ("recall", "a-2"), ("recall", "b-1"), ("choice", "a-1")):
        store.commit(kind, name, TABLE)
    for key in (
        "recall/.a.parquet",
        "recall/notes.txt",
        "recall/nested/c.parquet",
        ".hidden/a.parquet",
        "stray.parquet",
    ):
        put(s3, store, key, b"")
    put(s3, store, "empty/notes.txt", b"")
    assert store.names("recall") == {"a-1", "a-2", "b-1"} and store.names("recall", "a-") == {"a-1", "a-2"}
    assert store.names("rec") == set()  # a folder, not a prefix of one
    assert store.kinds() == ["choice", "recall"]


def test_scan_and_dataset_match_columns_by_name(store: Store) -> None:
    store.commit("recall", "1", pa.table({"item": [0], "shot": [1]}))
    store.commit("recall", "2", pa.table({"label": ["x"], "shot": [0.5], "item": [1]}))
    expected = [{"item": 0, "shot": 1.0, "label": None}, {"item": 1, "shot": 0.5, "label": "x"}]
    assert store.scan("recall").to_pylist() == expected
    assert store.dataset("recall").to_table().to_pylist() == expected  # through pyarrow.fs
    assert store.dataset("choice") is None


def test_other_tools_read_the_glob(store: Store) -> None:
    store.commit("recall", "1", TABLE)
    store.commit("recall", "2", TABLE)
    assert len(polars.read_parquet(store.path("recall"), storage_options={"aws_allow_http": "true"})) == 6


def test_a_query_reads_a_bucket_and_of_one_sweep_only_its_rows(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    now = datetime.now(UTC)
    for sweep in ("mine", "other"):
        ids = {"condition_id": sweep, "stage_id": "s", "probe_id": "p"}
        manifest = {"sweep": sweep, "kind": "mine", "name": f"s-p-{sweep}", "started": now} | ids
        store.commit("sweeps", sweep, pa.Table.from_pylist([manifest], schema=SWEEPS))
        store.commit("mine", f"s-p-{sweep}", pa.Table.from_pylist([ids | {"item": n} for n in range(3)]))

    def rows(sweep: str | None) -> list[str]:
        assert print_query(store, "SELECT condition_id, count(*) FROM mine GROUP BY ALL ORDER BY 1", "csv", sweep) == 0
        return capsys.readouterr().out.split()[1:]

    assert rows(None) == ["mine,3", "other,3"]
    assert rows("other") == ["other,3"]
    with pytest.raises(StoreError, match="disabled by configuration"):
        print_query(store, "SELECT * FROM read_csv('/etc/passwd')", "csv")


def test_what_a_final_table_needs_is_read_from_a_bucket(store: Store) -> None:
    headline = Headline("mean x", "x")
    for name, x in (("a", [1, 2]), ("b", [3, None]), ("c", [9, 9])):
        rows = pa.table({"condition_id": [name] * 2, "probe_id": ["p"] * 2, "x": x})
        store.commit("mine", name, with_source(rows, "mine", headline))
    found = measured_by(store.schema("mine", "b"))
    assert found is not None and (found.kind, found.headline) == ("mine", headline)
    assert sorted(totals(store, "mine", ["a", "b"], ["x"]).rows) == [("a", "p", 2, 3, 2), ("b", "p", 2, 3, 1)]
    with pytest.raises(StoreError, match="disabled by configuration"):
        totals(store, "mine", ["a"], ["(SELECT size FROM read_text('/etc/passwd'))"])


@pytest.mark.parametrize("keep", [0, 4, 40, -1])
def test_a_broken_object_is_not_missing_and_not_passed_over(s3: Any, store: Store, keep: int) -> None:
    for name in ("a", "b", "c"):
        store.commit("recall", name, TABLE)
    store.check_whole("recall", ["a", "b", "c"])
    put(s3, store, "recall/b.parquet", get(s3, store, "recall/b.parquet")[:keep])
    assert store.exists("recall", "b") and store.commit("recall", "b", TABLE) is False
    for attempt in (lambda: store.check_whole("recall", ["a", "b", "c"]), lambda: store.scan("recall")):
        with pytest.raises(StoreError) as error:
            attempt()
        assert one_line(error).startswith(f"cannot read {store.location}/recall/b.parquet: broken (")
    found = store.verify()
    assert (found.files, found.rows, [problem.name for problem in found.problems]) == (3, 6, ["b"])


def test_missing_objects_are_named(store: Store) -> None:
    for attempt in (lambda: store.read("recall", "one"), lambda: store.check_whole("recall", ["one"])):
        with pytest.raises(StoreError) as error:
            attempt()
        assert one_line(error) == f"cannot read {store.location}/recall/one.parquet: no such file"


def test_side_files(store: Store) -> None:
    assert store.get_text(".running/a.json") is None and store.list_text(".running/") == []
    store.put_text(".running/a.json", "1")
    store.put_text(".running/a.json", "zwei ü")
    store.put_text(".running/deep/b.json", "3")
    assert store.get_text(".running/a.json") == "zwei ü"
    assert store.list_text(".running/") == [".running/a.json", ".running/deep/b.json"]
    store.delete(".running/a.json")
    store.delete(".running/a.json")
    assert store.list_text(".running") == [".running/deep/b.json"] and store.kinds() == []


EVERY_ACCESS: list[Callable[[Store], object]] = [
    lambda store: store.check_writable(),
    lambda store: store.commit("recall", "one", TABLE),
    lambda store: store.exists("recall", "one"),
    lambda store: store.names("recall"),
    lambda store: store.kinds(),
    lambda store: store.scan("recall"),
    lambda store: store.dataset("recall"),
    lambda store: store.verify(),
    lambda store: store.get_text(".running/a.json"),
]


def complaint(location: str) -> str:
    """What the first access says, the same for every kind of access, and soon."""
    said = set()
    for access in EVERY_ACCESS:
        began = time.monotonic()
        with pytest.raises(StoreError) as error:
            access(Store(location))
        assert time.monotonic() - began < 20
        said.add(one_line(error))
    assert len(said) == 1
    return said.pop()


@pytest.mark.usefixtures("s3")
def test_a_missing_bucket_is_said_so() -> None:
    assert complaint("s3://not-there/results") == "cannot open store s3://not-there/results: no such bucket"


def test_a_bucket_that_goes_away_is_said_so(s3: Any) -> None:
    s3.create_bucket(Bucket="short-lived")
    store = Store("s3://short-lived")
    store.check_writable()
    s3.delete_bucket(Bucket="short-lived")
    with pytest.raises(StoreError, match="no such bucket"):
        store.commit("recall", "one", TABLE)


def test_absent_credentials_are_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")  # where a cloud machine would find some
    with pytest.raises(StoreError, match="no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as error:
        Store("s3://unanswered/results").names("recall")  # of one that has answered they would be waited for
    assert "s3://unanswered/results" in one_line(error)


def test_an_endpoint_that_does_not_answer_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("MEMEXP_STORE_RETRY_S", "0")
    with pytest.raises(StoreError, match="no connection; check the network and AWS_ENDPOINT_URL") as error:
        Store("s3://bucket/results").check_writable()
    assert "s3://bucket/results" in one_line(error)


# Against the fake


class Fake(ThreadingHTTPServer):
    """A bucket in memory. `ignores_conditions`: a PUT overwrites whatever it was told; `refusal`: (status, error code)
    for every request; `conflicts`: so many conditional PUTs to come are answered 409 and not done. A listing has
    `page` keys at most."""

    page = 2

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeRequest)
        self.objects: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.ignores_conditions = False
        self.refusal: tuple[int, str] | None = None
        self.conflicts = 0
        self.url = f"http://127.0.0.1:{self.server_port}"


def as_xml(entries: list[str]) -> bytes:
    return f"<ListBucketResult>{''.join(entries)}</ListBucketResult>".encode()


class FakeRequest(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Fake

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.server.lock:
            status, data = self.decide(unquote(urlsplit(self.path).path).split("/", 2)[2:], body)
        size = len(data)
        if self.headers.get("Range") and status == 200:
            first, _, last = self.headers["Range"].removeprefix("bytes=").partition("-")
            status, data = 206, data[int(first) : int(last) + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Last-Modified", formatdate(usegmt=True))
        self.send_header("ETag", '"tag"')
        if status == 206:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_HEAD = do_PUT = do_DELETE = answer

    def decide(self, path: list[str], body: bytes) -> tuple[int, bytes]:
        fake, objects = self.server, self.server.objects
        if fake.refusal:
            return fake.refusal[0], f"<Error><Code>{fake.refusal[1]}</Code></Error>".encode()
        if not path or not path[0]:
            return 200, self.listing()
        key = path[0]
        if self.command == "PUT":
            conditional = "If-None-Match" in self.headers or "x-goog-if-generation-match" in self.headers
            if conditional and fake.conflicts:
                fake.conflicts -= 1
                return 409, b"<Error><Code>ConditionalRequestConflict</Code></Error>"
            if conditional and key in objects and not fake.ignores_conditions:
                return 412, b"<Error><Code>PreconditionFailed</Code></Error>"
            objects[key] = body
            return 200, b""
        if key not in objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>"
        if self.command == "DELETE":
            del objects[key]
            return 204, b""
        return 200, objects[key]

    def listing(self) -> bytes:
        asked = parse_qs(urlsplit(self.path).query)
        prefix = asked.get("prefix", [""])[0]
        keys = [key for key in sorted(self.server.objects) if key.startswith(prefix)]
        if "delimiter" in asked:
            tails = [key.removeprefix(prefix).split("/") for key in keys]
            folders = sorted({f"{prefix}{tail[0]}/" for tail in tails if len(tail) > 1})
            return as_xml([f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in folders])
        start = int(asked.get("continuation-token", ["0"])[0])
        more = f"<NextContinuationToken>{start + self.server.page}</NextContinuationToken>"
        date = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        sizes = {key: len(self.server.objects[key]) for key in keys[start : start + self.server.page]}
        entries = [f"<Contents><Key>{key}</Key><Size>{size}</Size>{date}</Contents>" for key, size in sizes.items()]
        return as_xml([*entries, more] if len(keys) > start + self.server.page else entries)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fake]:
    with Fake() as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "code", "reason"),
    [
        (403, "AccessDenied", "permission denied"),
        (403, "SignatureDoesNotMatch", "the credentials are refused"),
        (403, "InvalidAccessKeyId", "the credentials are refused"),
        (400, "ExpiredToken", "the credentials are refused"),
        (400, "AuthorizationHeaderMalformed", "the bucket is in another region; set AWS_REGION"),
    ],
)
def test_refusals_are_said_in_words(fake: Fake, status: int, code: str, reason: str) -> None:
    fake.refusal = status, code
    assert complaint("s3://bucket/results") == f"cannot open store s3://bucket/results: {reason}"


def test_storage_that_overwrites_is_refused_before_any_work(fake: Fake) -> None:
    store = Store("s3://bucket/results")
    store.check_writable()
    fake.ignores_conditions = True
    with pytest.raises(StoreError, match="s3://bucket/results: this storage does not know If-None-Match") as error:
        store.check_writable()
    assert one_line(error) and fake.objects == {}


def test_a_conflict_that_left_nothing_is_tried_again(fake: Fake) -> None:
    store = Store("s3://bucket/results")
    fake.conflicts = 1
    assert store.commit("recall", "one", TABLE) is True
    fake.conflicts = 1
    assert store.commit("recall", "one", TABLE) is False
    fake.conflicts = 99
    with pytest.raises(StoreError, match=r"s3://bucket/results/recall/two.parquet: it is refused, yet not there"):
        store.commit("recall", "two", TABLE)


def test_names_come_from_all_pages_of_a_listing(fake: Fake) -> None:
    for number in range(5):
        fake.objects[f"results/recall/n{number}.parquet"] = b""
    assert Store("s3://bucket/results").names("recall") == {f"n{number}" for number in range(5)}


def test_google_cloud_storage(fake: Fake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    account = {
        "gcs_base_url": fake.url,
        "disable_oauth": True,
        "client_email": "",
        "private_key": "",
        "private_key_id": "",
    }
    (tmp_path / "account.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_SERVICE_ACCOUNT", str(tmp_path / "account.json"))
    store = Store("gs://bucket/results")
    store.check_writable()
    assert store.commit("recall", "one", TABLE) is True
    assert store.commit("recall", "one", TABLE.slice(0, 1)) is False
    assert store.commit("recall", "two", TABLE) is True
    assert store.kinds() == ["recall"] and store.names("recall") == {"one", "two"}
    assert store.scan("recall") == pa.concat_tables([TABLE, TABLE]).combine_chunks()
    assert store.exists("recall", "one") and not store.exists("recall", "three")
    store.put_text(".running/a.json", "1")
    assert store.get_text(".running/a.json") == "1" and store.list_text(".running/") == [".running/a.json"]
    store.delete(".running/a.json")
    store.delete(".running/a.json")
    fake.objects["results/recall/two.parquet"] = b"PAR1 and then nothing"
    with pytest.raises(StoreError, match=r"gs://bucket/results/recall/two.parquet: broken"):
        store.check_whole("recall", ["one", "two"])
    assert [problem.name for problem in store.verify().problems] == ["two"]


def test_what_no_sweep_lists_is_removed_from_a_bucket_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(store, items=2)
    kept, gone, other = (made.result("recall", made.recall(1.0), {}, model="tiny-s", lr=lr) for lr in (0.1, 0.2, 0.3))
    made.rows = made.rows[:1]
    made.sweep("mine")
    removed: list[str] = []
    remove = Store.remove

    def dying(self: Store, kind: str, name: str) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(name)
        remove(self, kind, name)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("memexp.driver.pruning.AT_ONCE", 1)
        patch.setattr(Store, "remove", dying)
        prune(store, really=True)
    assert store.names("recall") == {kept, gone, other} - set(removed) and not store.verify().problems
    assert prune(store, really=True) == 0
    assert store.names("recall") == {kept} and store.list_text(".running/") == []
