"""The store in a local folder: commits happen once, files are whole, what is broken is told from what is missing."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memexp.errors import StoreError
from memexp.store import Store, Verification, option_for

TABLE = pa.table({"item": [0, 1, 2], "nll": [0.5, None, 2.0], "text": ["a", "b", None]})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def file(store: Store, kind: str, name: str) -> Path:
    return Path(store.path(kind, name))


def everything(store: Store) -> list[str]:
    """All files in the store's folder, temporaries included."""
    root = Path(store.location)
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert "\n" not in text and len(text) < 400, text
    return text


# Locations


@pytest.mark.parametrize(
    ("given", "location", "is_local"),
    [
        ("/data/results/", "/data/results", True),
        ("file:///data/my%20results", "/data/my results", True),
        ("s3://bucket/some/prefix/", "s3://bucket/some/prefix", False),
        ("s3://bucket", "s3://bucket", False),
        ("gs://bucket//prefix", "gs://bucket/prefix", False),
        ("~/results", os.path.expanduser("~/results"), True),
    ],
)
def test_location(given: str, location: str, is_local: bool) -> None:
    store = Store(given)
    assert (store.location, store.is_local) == (location, is_local)
    assert store.path("recall") == f"{location}/recall/*.parquet"
    assert store.path("recall", "a-b") == f"{location}/recall/a-b.parquet"


@pytest.mark.parametrize("given", ["", "hdfs://host/results", "s3://", "s3:///"])
def test_impossible_locations_are_refused(given: str) -> None:
    with pytest.raises(StoreError, match="give a path, s3://bucket/prefix or gs://bucket/prefix"):
        Store(given)


def test_a_relative_path_stays_where_it_was_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = Store("results")
    store.commit("recall", "one", TABLE)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    travelled = pickle.loads(pickle.dumps(store))  # as to a Ray actor, which has another working folder
    assert travelled.location == str(tmp_path / "results")
    assert travelled.read("recall", "one") == TABLE


def test_looking_creates_nothing(store: Store) -> None:
    assert store.kinds() == [] and store.names("recall") == set() and not store.exists("recall", "one")
    assert store.scan("recall") is None and store.dataset("recall") is None and store.list_text(".running/") == []
    assert store.verify() == Verification(files=0, rows=0, problems=())
    assert not Path(store.location).exists()


# Commits


def test_the_first_commit_wins(store: Store) -> None:
    assert store.commit("recall", "one", TABLE) is True
    before = file(store, "recall", "one").read_bytes()
    assert store.commit("recall", "one", TABLE.slice(0, 1)) is False
    assert file(store, "recall", "one").read_bytes() == before
    assert everything(store) == ["recall/one.parquet"]
    assert store.exists("recall", "one") and not store.exists("recall", "two")
    assert store.read("recall", "one") == TABLE


RACERS = """
import os, sys, time
import pyarrow as pa
from memexp.store import Store
for how in ("link", "rename"):
    location = f"{sys.argv[1]}/{how}"
    start = time.monotonic() + 0.1
    for me in "ab":  # forked, so that both are ready at once; neither has threads yet
        if os.fork() == 0:
            if how == "rename":  # the negative control: atomic, but it overwrites
                os.link = os.rename
            store = Store(location)
            while time.monotonic() < start:
                pass
            wrote = [str(n) for n in range(40) if store.commit("recall", f"n{n}", pa.table({"writer": [me]}))]
            with open(f"{location}.{me}", "w") as report:
                report.write(" ".join(wrote))
            os._exit(0)
    assert [os.wait()[1] for _ in "ab"] == [0, 0]
"""


@pytest.fixture(scope="module")
def races(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes have committed the same 40 names at once; ``.a`` and ``.b`` list what each says it wrote."""
    folder = tmp_path_factory.mktemp("races")
    subprocess.run([sys.executable, "-c", RACERS, str(folder)], check=True, timeout=60)
    return folder


def claims(races: Path, how: str) -> dict[str, set[str]]:
    return {writer: set((races / f"{how}.{writer}").read_text().split()) for writer in "ab"}


def test_of_two_racing_writers_one_wins(races: Path) -> None:
    wrote = claims(races, "link")
    assert not wrote["a"] & wrote["b"] and len(wrote["a"] | wrote["b"]) == 40
    store = Store(races / "link")
    for writer, numbers in wrote.items():
        assert all(store.read("recall", f"n{number}")["writer"].to_pylist() == [writer] for number in numbers)
    assert len(everything(store)) == 40


def test_the_race_catches_a_store_that_overwrites(races: Path) -> None:
    wrote = claims(races, "rename")
    assert wrote["a"] & wrote["b"]


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    words = pa.array(["a", "b", "b", "c"]).dictionary_encode()
    whole = pa.table({"item": range(4), "word": words})
    parts = [pa.array(["a", "b"]).dictionary_encode(), pa.array(["b", "c"]).dictionary_encode()]
    chunked = pa.table({"item": pa.chunked_array([[0], [1, 2, 3]]), "word": pa.chunked_array(parts)})
    contents = set()
    for number, table in enumerate((whole, chunked, pa.concat_tables([whole, whole]).slice(4))):
        store = Store(tmp_path / str(number))
        store.commit("recall", "one", table)
        contents.add(file(store, "recall", "one").read_bytes())
        time.sleep(0.002)  # a time stamp would show
    assert len(contents) == 1


def test_data_is_durable_before_its_name_and_the_name_before_the_answer(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []
    fsync, link = os.fsync, os.link

    def seen_fsync(descriptor: int) -> None:
        steps.append("sync " + os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(store.location))
        fsync(descriptor)

    def seen_link(source: Path, target: Path) -> None:
        steps.append("link " + str(source).removeprefix(store.location))
        link(source, target)

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "link", seen_link)
    store.commit("recall", "one", TABLE)
    temporary = steps[-2].removeprefix("link ")
    assert temporary.startswith("/.tmp/")
    assert steps[-3:] == [f"sync {temporary}", f"link {temporary}", "sync /recall"]
    assert (
        steps[0] == f"sync {Path(store.location).parent}" and steps[1] == "sync "
    )  # the new folders, in their parents


@pytest.mark.parametrize("name", ["", ".hidden", "..", "a/b", "../a", "a*", "a?", "a[b]", "a\\b", "a\nb"])
def test_names_that_leave_their_folder_or_look_like_globs_are_refused(store: Store, name: str) -> None:
    with pytest.raises(StoreError, match="cannot name a kind or a file"):
        store.commit("recall", name, TABLE)
    with pytest.raises(StoreError, match="cannot name a kind or a file"):
        store.commit(name, "one", TABLE)
    with pytest.raises(StoreError, match="cannot name a kind or a file"):
        store.names(name)
    assert not Path(store.location).exists()


def test_columns_of_the_same_name_are_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="two columns"):
        store.commit("recall", "one", pa.table([[1], [2]], names=["lr", "lr"]))


# Names and kinds


def test_names_and_kinds_see_results_only(store: Store) -> None:
    for kind, name in (("recall", "a-1"), ("recall", "a-2"), ("recall", "b-1"), ("choice", "a-1")):
        store.commit(kind, name, TABLE)
    store.put_text(".running/sweep.json", "{}")
    root = Path(store.location)
    (root / ".tmp").mkdir(exist_ok=True)
    (root / ".tmp" / "1234").write_bytes(b"PAR1")
    (root / "recall" / "._a-1.parquet").write_bytes(b"")  # as another system's file manager leaves
    (root / "recall" / "notes.txt").write_text("")
    (root / "recall" / "nested").mkdir()
    (root / "recall" / "nested" / "c.parquet").write_bytes(b"")
    (root / "empty").mkdir()
    (root / ".hidden").mkdir()
    (root / ".hidden" / "a.parquet").write_bytes(b"")
    (root / "stray.parquet").write_bytes(b"")
    assert store.names("recall") == {"a-1", "a-2", "b-1"}
    assert store.names("recall", "a-") == {"a-1", "a-2"}
    assert store.names("empty") == set()
    assert store.kinds() == ["choice", "recall"]


# Reading


def test_scan_matches_columns_by_name(store: Store) -> None:
    store.commit("recall", "1", pa.table({"item": [0], "shot": [1], "label": [7], "old": pa.nulls(1)}))
    store.commit("recall", "2", pa.table({"label": ["x"], "shot": [0.5], "item": [1]}))
    store.commit("recall", "3", pa.table({"item": [2], "old": ["y"], "word": pa.array(["w"]).dictionary_encode()}))
    table = store.scan("recall")
    assert table.column_names == ["item", "shot", "label", "old", "word"]
    assert [str(kind) for kind in table.schema.types] == ["int64", "double", "string", "string", "string"]
    expected = [(0, 1.0, "7", None, None), (1, 0.5, "x", None, None), (2, None, None, "y", "w")]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    lazy = store.dataset("recall")
    assert lazy.schema.names == table.column_names
    assert lazy.to_table().to_pylist() == table.to_pylist()
    sql = f"SELECT item, shot, label, old, word FROM read_parquet('{store.path('recall')}', union_by_name=true)"
    assert sorted(duckdb.connect().execute(sql).fetchall()) == expected


def test_scan_takes_truth_values_for_numbers_and_cases_for_one_as_duckdb_does(store: Store) -> None:
    store.commit("recall", "1", pa.table({"item": [0], "novel": [True], "List": ["a"]}))
    store.commit("recall", "2", pa.table({"item": [1], "novel": [2], "list": ["b"]}))
    store.commit("recall", "3", pa.table({"item": [2], "novel": [0.5], "list": ["c"]}))
    table = store.scan("recall")
    assert table.column_names == ["item", "novel", "List"]
    expected = [(0, 1.0, "a"), (1, 2.0, "b"), (2, 0.5, "c")]
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    sql = f"SELECT item, novel, list FROM read_parquet('{store.path('recall')}', union_by_name=true)"
    assert sorted(duckdb.connect().execute(sql).fetchall()) == expected


def test_scan_names_the_column_that_cannot_be_unified(store: Store) -> None:
    store.commit("recall", "1", pa.table({"shots": [[1]]}))
    store.commit("recall", "2", pa.table({"shots": ["x"]}))
    with pytest.raises(StoreError, match=r"recall/\*.parquet: column 'shots'"):
        store.scan("recall")


def test_scan_is_in_the_order_of_names(store: Store) -> None:
    for number in (3, 1, 2):
        store.commit("recall", f"n{number}", pa.table({"number": [number]}))
    assert store.scan("recall")["number"].to_pylist() == [1, 2, 3]


def test_a_missing_file_is_named(store: Store) -> None:
    with pytest.raises(StoreError) as error:
        store.read("recall", "one")
    assert one_line(error) == f"cannot read {store.location}/recall/one.parquet: no such file"


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


DAMAGES = {
    "empty": lambda data: b"",
    "magic only": lambda data: b"PAR1",
    "cut in half": cut,
    "last byte lost": lambda data: data[:-1],
    "end overwritten": lambda data: data[:-1] + b"2",
    "beginning lost": lambda data: data[16:],
    "middle lost": lambda data: data[:4] + data[-8:],
    "footer length wrong": lambda data: data[:-8] + b"\xff\xff\x00\x00PAR1",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_not_missing_and_not_passed_over(store: Store, damage: str) -> None:
    for name in ("a", "b", "c"):
        store.commit("recall", name, TABLE)
    store.check_whole("recall", ["a", "b", "c"])
    path = file(store, "recall", "b")
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert store.exists("recall", "b") and "b" in store.names("recall")
    assert store.commit("recall", "b", TABLE) is False
    for attempt in (lambda: store.check_whole("recall", ["a", "b", "c"]), lambda: store.scan("recall")):
        with pytest.raises(StoreError) as error:
            attempt()
        assert one_line(error).startswith(f"cannot read {path}: broken (")
        assert "delete it and start the sweep again" in str(error.value)
    with pytest.raises(StoreError):
        store.read("recall", "b")
    found = store.verify()
    assert (found.files, found.rows) == (3, 2 * TABLE.num_rows)
    assert [(problem.kind, problem.name) for problem in found.problems] == [("recall", "b")]
    assert found.problems[0].message.startswith("broken (")
    store.check_whole("recall", ["a", "c"])


def test_a_dataset_of_a_broken_file_is_refused(store: Store) -> None:
    for name in ("a", "b"):
        store.commit("recall", name, TABLE)
    path = file(store, "recall", "b")
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(StoreError) as error:
        store.dataset("recall")
    assert str(path) in one_line(error)


def test_check_whole_names_a_missing_file(store: Store) -> None:
    store.commit("recall", "a", TABLE)
    with pytest.raises(StoreError, match=r"recall/b.parquet: no such file"):
        store.check_whole("recall", ["a", "b"])


def test_verify_finds_flipped_bits_in_the_data(store: Store) -> None:
    """Bits of incompressible numbers decode to other numbers: nothing but the page's checksum tells."""
    numbers = pa.table({"nll": [float(int.from_bytes(os.urandom(6), "big")) for _ in range(500)]})
    store.commit("recall", "a", numbers)
    path = file(store, "recall", "a")
    whole = path.read_bytes()
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    middle = chunk.dictionary_page_offset + chunk.total_compressed_size // 3
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert pq.ParquetFile(path).read() != numbers  # wrong, and read without complaint
    store.check_whole("recall", ["a"])
    assert [problem.name for problem in store.verify().problems] == ["a"]


def test_verify_passes_on_complaints_about_columns(store: Store) -> None:
    store.commit("recall", "a", TABLE)
    store.commit("recall", "b", TABLE.drop_columns("nll"))
    found = store.verify(lambda kind, schema: None if "nll" in schema.names else f"{kind} without nll")
    assert [(problem.name, problem.message) for problem in found.problems] == [("b", "recall without nll")]
    assert (found.files, found.rows) == (2, 3)


# What stands in the way


def test_check_writable_creates_the_store_and_leaves_nothing(store: Store) -> None:
    store.check_writable()
    assert Path(store.location).is_dir() and everything(store) == []


def test_check_writable_removes_what_dead_writers_left(store: Store) -> None:
    store.commit("recall", "a", TABLE)
    old, young = (Path(store.location, ".tmp", age) for age in ("old", "young"))
    for path in (old, young):
        path.write_bytes(b"PAR1")
    os.utime(old, (time.time() - 25 * 3600,) * 2)
    store.check_writable()
    assert young.exists() and not old.exists() and store.names("recall") == {"a"}


def test_a_file_in_place_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("")
    for attempt in (lambda store: store.check_writable(), lambda store: store.commit("recall", "one", TABLE)):
        with pytest.raises(StoreError, match="a file stands where a folder should be") as error:
            attempt(Store(tmp_path / "results"))
        assert str(tmp_path / "results") in one_line(error)


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP])
def test_a_file_system_without_hard_links_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", refuse)
    for attempt in (store.check_writable, lambda: store.commit("recall", "one", TABLE)):
        with pytest.raises(StoreError, match="hard links") as error:
            attempt()
        assert store.location in one_line(error)
    assert everything(store) == []


def test_a_repeated_link_of_our_own_is_a_success(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    link = os.link

    def twice(source: Path, target: Path) -> None:
        link(source, target)  # the server did it, its answer was lost,
        link(source, target)  # and the client asks again

    monkeypatch.setattr(os, "link", twice)
    assert store.commit("recall", "one", TABLE) is True
    assert everything(store) == ["recall/one.parquet"]


# Side files


def test_side_files(store: Store) -> None:
    assert store.get_text(".running/a.json") is None
    store.put_text(".running/a.json", "1")
    store.put_text(".running/a.json", "zwei ü")
    store.put_text(".running/deep/b.json", "3")
    store.put_text(".searches/c.json", "4")
    assert store.get_text(".running/a.json") == "zwei ü"
    assert store.list_text(".running/") == store.list_text(".running") == [".running/a.json", ".running/deep/b.json"]
    assert store.list_text(".running/d") == [".running/deep/b.json"]
    assert store.list_text(".other/") == []
    store.delete(".running/a.json")
    store.delete(".running/a.json")
    assert everything(store) == [".running/deep/b.json", ".searches/c.json"]
    assert store.kinds() == []


def test_a_side_file_is_replaced_whole_or_not_at_all(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put_text(".running/a.json", "old")

    def fail(source: Path, target: Path) -> None:
        assert Path(source).read_text() == "new"  # complete before it is moved
        raise OSError(errno.EIO, "lost")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(StoreError, match=r"a.json: Input/output error"):
        store.put_text(".running/a.json", "new")
    assert store.get_text(".running/a.json") == "old" and everything(store) == [".running/a.json"]


@pytest.mark.parametrize(
    "path", ["recall/one.parquet", "a.json", ".a.json", "../x/a", ".a/../../b", ".a//b", "/.a/b", "", ".tmp/a"]
)
def test_side_files_stay_off_results_and_inside_the_store(store: Store, path: str) -> None:
    for attempt in (lambda: store.put_text(path, ""), lambda: store.get_text(path), lambda: store.delete(path)):
        with pytest.raises(StoreError, match="hidden folder"):
            attempt()
    assert not Path(store.location).exists()


@pytest.mark.parametrize("name", ["st*", "st?", "st [v2]"])
def test_a_location_that_readers_take_for_a_pattern_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="for a pattern"):
        Store(name)


@pytest.mark.parametrize("name", ["a\\b", "file:///data/a%5Cb", "s3://bucket/a\\b", "a\\b/results"])
def test_a_location_that_duckdb_cannot_find_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="name it otherwise") as error:
        Store(name)
    one_line(error)
    (tmp_path / "a\\b").mkdir()
    pq.write_table(TABLE, tmp_path / "a\\b" / "one.parquet")
    with pytest.raises(duckdb.IOException, match="No files found"):
        duckdb.sql(f"FROM read_parquet('{tmp_path}/a\\b/*.parquet')")


@pytest.mark.parametrize("name", ["lr=7/st", "/data/seed=1/exposures=2/st", "s3://bucket/lr=7/st", "st=1"])
def test_a_location_that_readers_take_for_columns_is_refused(name: str) -> None:
    """With lr=7/ in its path every row of the store had 7 for its learning rate, for DuckDB."""
    with pytest.raises(StoreError, match=r"would take the folder '(lr|seed|st)=\d' for a column"):
        Store(name)


@pytest.mark.parametrize(
    ("location", "variable", "option"),
    [
        ("results", None, ""),
        ("./sub/../results", None, ""),
        ("other", None, "--store {here}/other "),
        ("results", "other", "--store {here}/results "),
        ("other", "other", ""),
        ("my results", None, "--store '{here}/my results' "),
        ("s3://bucket/a", None, "--store s3://bucket/a "),
        ("s3://bucket/a/", "s3://bucket/a", ""),
        ("results", "ftp://nowhere", "--store {here}/results "),
    ],
)
def test_a_command_names_the_store_unless_it_would_find_it(
    location: str, variable: str | None, option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if variable is not None:
        monkeypatch.setenv("MEMEXP_STORE", variable)
    assert option_for(Store(location)) == option.format(here=tmp_path)
