"""Streams: what is read, known and complained about where text is too large to be held in memory."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from huggingface_hub import constants

import memexp.sources.parts
from memexp.errors import DataError, SpecError
from memexp.probes import Recognition
from memexp.sources import WINDOW, Sources, Texts, Windows, resolve_stream, shared_texts
from memexp.spec import HubStream, Interference, Pair, Study, TextStream, TrainedTokenizer

COUNT = 2 * WINDOW + 1_000
TEXTS = [f"Text {i} says {i * 7 % 13}." for i in range(COUNT)]


def write(file: Path, texts: Sequence[Any], field: str = "text", group: int = 700) -> Path:
    """A file of texts, of the kind that its suffix says."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.suffix == ".parquet":
        ids = pa.array(range(len(texts)), pa.int64())
        pq.write_table(pa.table({"id": ids, field: pa.array(texts, pa.string())}), file, row_group_size=group)
        return file
    inner = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    lines = texts if inner == ".txt" else [json.dumps({"id": i, field: text}) for i, text in enumerate(texts)]
    data = "".join(f"{line}\n" for line in lines).encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts in every kind of file; nobody writes here."""
    folder = tmp_path_factory.mktemp("streams")
    for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "hub/train.parquet"):
        write(folder / name, TEXTS)
    return folder


def sources(folder: Path) -> dict[str, TextStream | HubStream]:
    names = ("a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.parquet")
    return {**{name: TextStream(folder / name) for name in names}, "hub": HubStream(str(folder / "hub"))}


KINDS = ("a.txt", "a.txt.gz", "a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "hub")


# Reading


@pytest.mark.parametrize("kind", KINDS)
def test_windows_in_any_order_hold_the_texts(kind: str, folder: Path) -> None:
    stream = resolve_stream(sources(folder)[kind])
    assert stream.count == (None if kind == "hub" else COUNT)
    windows = Windows(pickle.loads(pickle.dumps(stream)))  # as on a node
    for number in (1, 2, 0, 1, 3, 2):
        assert windows(number) == TEXTS[number * WINDOW : (number + 1) * WINDOW], number


def test_a_window_reaches_over_files(folder: Path, tmp_path: Path) -> None:
    cuts = (0, 3_000, 3_000, 3_001, WINDOW + 100, COUNT)
    kinds = (".txt", ".jsonl", ".parquet", ".jsonl.gz", ".parquet")
    files = [
        write(tmp_path / f"{i}{kind}", TEXTS[first:last])
        for i, (kind, first, last) in enumerate(zip(kinds, cuts, cuts[1:], strict=False))
    ]
    stream = resolve_stream(TextStream(files))
    windows = Windows(stream)
    assert stream.count == COUNT and stream.name == f"{files[0]} and 4 more"
    for number in (2, 0, 1):
        assert windows(number) == TEXTS[number * WINDOW : (number + 1) * WINDOW]


def test_a_pattern_gives_its_files_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path / "news" / f"{name}.txt", [f"Of {name}."])
    assert Windows(resolve_stream(TextStream(tmp_path / "news" / "*.txt")))(0) == ["Of a.", "Of b.", "Of c."]


@pytest.mark.parametrize("kind", ["txt", "jsonl", "parquet"])
def test_blank_texts_keep_their_place(kind: str, tmp_path: Path) -> None:
    texts = ["One.", "", "Three.", ""]
    stream = resolve_stream(TextStream(write(tmp_path / f"a.{kind}", texts)))
    assert (stream.count, Windows(stream)(0)) == (4, texts)


def test_a_window_after_a_text_that_is_none_is_read_anew(tmp_path: Path) -> None:
    texts: list[Any] = [*TEXTS[: WINDOW + 10], None, *TEXTS[:20]]
    windows = Windows(resolve_stream(TextStream(write(tmp_path / "a.parquet", texts))))
    for _ in range(2):
        with pytest.raises(DataError, match=rf"a.parquet, row {WINDOW + 11}: field 'text' is empty"):
            windows(1)
    assert windows(0) == texts[:WINDOW]


# Identity


def test_a_stream_is_known_by_its_content_and_not_by_its_path(folder: Path, tmp_path: Path) -> None:
    ids = {kind: resolve_stream(source).id for kind, source in sources(folder).items()}
    assert ids["a.jsonl"] == ids["a.json"] == ids["a.jsonl.gz"] and ids["a.txt"] == ids["a.txt.gz"]
    assert len(set(ids.values())) == 4  # lines of text, of JSON, Parquet and a dataset are read in ways of their own
    moved = write(tmp_path / "elsewhere" / "b.jsonl", TEXTS)
    assert resolve_stream(TextStream(moved)).id == ids["a.jsonl"]
    assert resolve_stream(HubStream(str(write(tmp_path / "dataset" / "train.parquet", TEXTS).parent))).id == ids["hub"]
    # What is at its default says the same.
    assert resolve_stream(TextStream(folder / "a.jsonl", field="text")).id == ids["a.jsonl"]


def test_order_of_files_field_and_content_count(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{name}.txt", [f"Of {name}."]) for name in "ab")
    two = write(tmp_path / "two.jsonl", [])
    two.write_text('{"text": "A.", "title": "B."}\n')
    made = [
        *(TextStream([first, second]), TextStream([second, first]), TextStream(first)),
        *(TextStream(two), TextStream(two, field="title")),
    ]
    ids = [resolve_stream(one).id for one in made]
    first.write_text("Of c.\n")
    assert len({*ids, resolve_stream(TextStream(first)).id}) == 6


def test_offline_a_dataset_streams_at_the_commit_its_revision_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "datasets--someone--lists"
    for commit, branch in (("a" * 40, "main"), ("b" * 40, "first")):
        write(repo / "snapshots" / commit / "train.jsonl", [f"Of {branch}."])
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / branch).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    found = {revision: resolve_stream(HubStream("someone/lists", revision=revision)) for revision in (None, "first")}
    assert found[None].name == f"someone/lists/train@{'a' * 40}" and not found[None].is_local
    assert Windows(found[None])(0) == ["Of main."] and Windows(found["first"])(0) == ["Of first."]
    assert found["first"].id == resolve_stream(HubStream("someone/lists", revision="b" * 40)).id != found[None].id


def test_a_dataset_is_as_long_as_its_card_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo = tmp_path / "datasets--someone--lists"
    write(repo / "snapshots" / ("a" * 40) / "train.parquet", TEXTS)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert resolve_stream(HubStream("someone/lists")).count is None
    card = {"configs": [{"config_name": "default", "data_files": "train.parquet"}]}
    split = {"name": "train", "num_bytes": 1, "num_examples": COUNT}
    features = [{"name": "id", "dtype": "int64"}, {"name": "text", "dtype": "string"}]
    info = {"config_name": "default", "features": features, "splits": [split]}
    front = yaml.safe_dump(card | {"dataset_info": [info]})
    (repo / "snapshots" / ("a" * 40) / "README.md").write_text(f"---\n{front}---\n")
    assert resolve_stream(HubStream("someone/lists")).count == COUNT


def test_golden_streams(tmp_path: Path) -> None:
    files = [write(tmp_path / name, TEXTS[:3]) for name in ("a.txt", "a.jsonl")]
    assert [resolve_stream(TextStream(file)).id for file in files] == GOLDEN


GOLDEN = ["919884f7ec969350", "15c6005ee71c19e9"]


def test_a_file_is_hashed_once_until_it_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "a.txt", TEXTS[:10])
    opened: list[Path] = []
    plain = memexp.sources.parts._opened
    monkeypatch.setattr(memexp.sources.parts, "_opened", lambda path: (opened.append(path), plain(path))[1])
    before = resolve_stream(TextStream(file))
    once = len(opened)
    assert resolve_stream(TextStream(file)) == before and len(opened) == once + 1  # the first window is looked at
    write(file, TEXTS[:11])
    assert resolve_stream(TextStream(file)).count == 11


# What can be wrong


def complaint(source: TextStream | HubStream) -> str:
    with pytest.raises(DataError) as caught:
        resolve_stream(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_the_driver_complains_about(tmp_path: Path) -> None:
    def of(name: str, content: str | bytes, **fields: Any) -> str:
        file = tmp_path / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        return complaint(TextStream(file, **fields)).replace(str(tmp_path), "")

    assert complaint(TextStream(tmp_path / "none.txt")).endswith("none.txt: no such file")
    assert complaint(TextStream(tmp_path / "*.txt")).endswith("*.txt: no file matches")
    assert "a stream is of .parquet, .jsonl, .json or .txt files" in complaint(TextStream(tmp_path / "a.csv"))
    assert "a stream is of" in complaint(TextStream(tmp_path / "a.parquet.gz"))
    assert of("empty.txt", "") == "/empty.txt: the corpus is empty"
    assert of("empty.jsonl", "") == "/empty.jsonl: the corpus is empty"
    assert of("blank.txt", "\n \n") == "/blank.txt: all of the first 2 texts are blank"
    assert "no field 'sent' or 'text' (it has a, b); name one with field=..." in of("a.jsonl", '{"a": "x", "b": "y"}\n')
    assert of("b.jsonl", '{"text": "x"}\n{"text": null}\n') == "/b.jsonl, line 2: field 'text' is empty"
    assert of("c.jsonl", '{"text": "x"}\n{"text": 3}\n') == "/c.jsonl, line 2: field 'text' is no string"
    assert of("d.jsonl", '{"a": "x"}\n', field="b") == "/d.jsonl, line 1: no field 'b' (it has a)"
    assert of("d.txt", "One.\n", field="b") == "/d.txt: has lines of text and no field 'b'"
    assert of("e.jsonl", '{"a": "x"}\n{"a": \n').startswith("/e.jsonl, line 2: broken JSON: ")
    assert of("f.json", "[1, 2]\n").endswith("line 1: expected one JSON object a line, got list")
    assert of("g.txt", b"One.\nTwo\xff.\n").startswith("/g.txt, line 2: not UTF-8")
    assert of("h.parquet", b"PAR1").startswith("/h.parquet: not a whole Parquet file")
    assert of("i.txt.gz", b"One.\n").startswith("/i.txt.gz: not a whole .gz file")
    assert of("j.txt.gz", gzip.compress(b"One.\n" * 99)[:-9]).startswith("/j.txt.gz: not a whole .gz file")
    write(tmp_path / "k.parquet", ["x", None, "y"])
    assert complaint(TextStream(tmp_path / "k.parquet")).endswith("k.parquet, row 2: field 'text' is empty")
    assert "no field 'sent' (it has id, text)" in complaint(TextStream(tmp_path / "k.parquet", field="sent"))
    write(tmp_path / "l.parquet", [], field="text")
    assert complaint(TextStream(tmp_path / "l.parquet")).endswith("l.parquet: the corpus is empty")


def test_what_is_wrong_with_a_dataset(folder: Path, tmp_path: Path) -> None:
    assert "Bad split: test" in complaint(HubStream(str(folder / "hub"), split="test"))
    write(tmp_path / "bad" / "train.parquet", ["x", None])
    assert complaint(HubStream(str(tmp_path / "bad"))).endswith("row 2: field 'text' is empty")
    assert "is neither a local folder nor to be found on the hub" in complaint(HubStream("nobody/nothing"))
    write(tmp_path / "empty" / "train.jsonl", [])
    assert complaint(HubStream(str(tmp_path / "empty")))


def test_a_node_without_the_files_says_so(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", TEXTS[:10])
    dataset = write(tmp_path / "hub" / "train.jsonl", TEXTS[:10])
    streams = [resolve_stream(TextStream(file)), resolve_stream(HubStream(str(dataset.parent)))]
    write(file, TEXTS[:9])
    with pytest.raises(DataError, match=r"a.txt: has \d+ bytes on this node, and had \d+ when the sweep was planned"):
        Windows(streams[0])
    write(file, [TEXTS[1], TEXTS[0], *TEXTS[2:10]])
    with pytest.raises(DataError, match=r"a.txt: has another content on this node than when the sweep was planned"):
        Windows(streams[0])
    write(file, TEXTS[:10])
    assert Windows(streams[0])(0) == TEXTS[:10]
    file.unlink()
    with pytest.raises(DataError, match=r"a.txt: not on this node"):
        Windows(streams[0])
    dataset.unlink()
    with pytest.raises(DataError, match="this node has no folder with the files"):
        Windows(streams[1])


def test_where_a_list_is_needed_a_stream_is_refused(folder: Path) -> None:
    stream = TextStream(folder / "a.txt")
    wanted = r"a TextStream is for interference and pretraining; here the whole list is needed: TextFile\(...\)"
    with pytest.raises(SpecError, match=rf"Study.corpus: {wanted}"):
        Study(stream, exposures=1, lr=1e-3)
    with pytest.raises(SpecError, match=rf"Pair.targets: {wanted}"):
        Recognition(Pair(stream, stream))
    with pytest.raises(SpecError, match=rf"TrainedTokenizer.corpora: {wanted}"):
        TrainedTokenizer([stream])
    with pytest.raises(SpecError, match=r"here the whole list is needed: HubText"):
        Study(HubStream("a/b"), exposures=1, lr=1e-3)
    with pytest.raises(DataError, match="a stream is for interference and pretraining"):
        Sources().texts(stream)  # a user's own probe
    assert Interference(stream, steps=1, lr=1e-3).corpus == stream


@pytest.mark.parametrize("files", [[], [""], "", [3]])
def test_files_that_make_no_sense(files: Any) -> None:
    with pytest.raises(SpecError, match=r"TextStream\.files"):
        TextStream(files)


# Overlap


@pytest.mark.parametrize("kind", ["a.jsonl.gz", "a.parquet", "hub"])
def test_shared_texts_are_counted_once_each(kind: str, folder: Path) -> None:
    stream = resolve_stream(sources(folder)[kind])
    lists = [
        Texts("one", "one", (TEXTS[5], TEXTS[5], TEXTS[-1], "Not there.")),
        Texts("none", "none", ("Not there.",)),
        Texts("three", "three", (*TEXTS[WINDOW : WINDOW + 2], TEXTS[5])),
    ]
    assert shared_texts(stream, lists) == [2, 0, 3]


def test_overlap_is_looked_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = resolve_stream(TextStream(folder / "a.txt"))
    first, second = Texts("first", "first", (TEXTS[1],)), Texts("second", "second", (TEXTS[2], TEXTS[3]))
    assert shared_texts(stream, [first]) == [1]
    read: list[int] = []
    plain = type(stream).texts
    monkeypatch.setattr(type(stream), "texts", lambda self, start: (read.append(start), plain(self, start))[1])
    assert shared_texts(stream, [first]) == [1] and not read
    assert shared_texts(stream, [second, first]) == [2, 1] and read == [0]


# Memory


MEASURED = """
import re, sys
from memexp.sources import Windows, resolve_stream
from memexp.sources.texts import read_texts
from memexp.spec import TextFile, TextStream

def peak():
    # Not ru_maxrss, which a child takes over from its parent.
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])

before = peak()
how, file = sys.argv[1:]
if how == "stream":
    windows = Windows(resolve_stream(TextStream(file)))
    for number in (*range(14), 10, 3):
        assert windows(number)
else:
    assert read_texts(TextFile(file)).count == 60_000
print((peak() - before) * 1024)
"""


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_a_stream_is_never_held_in_memory(kind: str, tmp_path: Path) -> None:
    texts = [f"Sentence {i}: " + "the quick brown fox jumps over the lazy dog; " * 27 for i in range(60_000)]
    file = write(tmp_path / f"a.{kind}", texts, group=20_000)
    taken = {
        how: int(
            subprocess.run(
                [sys.executable, "-c", MEASURED, how, str(file)],
                capture_output=True, text=True, check=True, env={**os.environ},
            ).stdout
        )
        for how in ("stream", "list")
    }  # fmt: skip
    size = sum(map(len, texts))
    assert size > 70e6 and taken["list"] > size  # what would be seen if it were held
    assert taken["stream"] < min(size, taken["list"] / 5), taken
