"""Corpora and models: what is read, what pins it, and a line for everything that can be wrong with it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import constants

from memexp import (
    Condition,
    DataError,
    HubStream,
    HubText,
    InlineText,
    MemexpError,
    Model,
    ModelError,
    Pair,
    RandomInit,
    Recall,
    Recognition,
    ShippedText,
    Study,
    TextFile,
    TextStream,
    TrainedTokenizer,
)
from memexp.errors import one_line
from memexp.identity import texts_identity
from memexp.plan import grow
from memexp.sources import ResolvedModel, Sources, parameters_from_headers, read_texts, resolve_model
from memexp.stimuli import load_list

TEXTS = ("The cat sat.", 'A "dog", ran.', "Grüße aus Köln.")


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def complaint(error: pytest.ExceptionInfo[MemexpError]) -> str:
    text = str(error.value)
    assert text.count("\n") <= 1 and len(text) < 600, text
    return text


# Files


def jsonl(**columns: Any) -> str:
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return "".join(json.dumps(row) + "\n" for row in rows)


GOOD = {
    "list.jsonl": jsonl(sent=TEXTS),
    "list.JSONL": jsonl(sent=TEXTS),
    "blank-lines.jsonl": "\n" + jsonl(sent=TEXTS).replace("\n", "\n\n"),
    "windows.jsonl": b"\xef\xbb\xbf" + jsonl(sent=TEXTS).replace("\n", "\r\n").encode(),
    "list.json": jsonl(text=TEXTS, source=("a", "b", "c")),
    "list.csv": 'n,sent\n1,The cat sat.\n2,"A ""dog"", ran."\n\n3,Grüße aus Köln.\n',
    "windows.csv": '\ufeffsent\r\nThe cat sat.\r\n"A ""dog"", ran."\r\nGrüße aus Köln.\r\n',
    "blank-end.csv": 'sent\nThe cat sat.\n"A ""dog"", ran."\nGrüße aus Köln.\n\n\n',
    "list.txt": '\ufeffThe cat sat.\r\n  A "dog", ran. \nGrüße aus Köln.\n\n',
}


@pytest.mark.parametrize("name", GOOD)
def test_texts_are_read_from_files_of_every_kind(name: str, tmp_path: Path) -> None:
    file = TextFile(write(tmp_path / name, GOOD[name]))
    found = read_texts(file)
    assert found.items == TEXTS
    assert found.name == str(tmp_path / name)


def test_texts_are_read_from_parquet(tmp_path: Path) -> None:
    words = pa.array(TEXTS).dictionary_encode()
    pq.write_table(pa.table({"n": range(3), "text": words}), tmp_path / "list.parquet")
    assert read_texts(TextFile(tmp_path / "list.parquet")).items == TEXTS


def test_a_text_of_several_lines_may_have_a_blank_one(tmp_path: Path) -> None:
    file = write(tmp_path / "list.csv", 'sent\n"one\n\ntwo"\nthree\n')
    assert read_texts(TextFile(file)).items == ("one\n\ntwo", "three")


def test_order_and_duplicates_stay(tmp_path: Path) -> None:
    file = write(tmp_path / "list.jsonl", jsonl(sent=["b", "a", "b"]))
    assert read_texts(TextFile(file)).items == ("b", "a", "b")


def test_a_shipped_list_needs_no_file() -> None:
    assert read_texts(ShippedText("sentences-foils", first=64)).items == tuple(load_list("sentences-foils")[:64])


@pytest.mark.parametrize(
    ("columns", "field", "chosen"),
    [
        (("a", "text", "sent"), None, "sent"),
        (("a", "text"), None, "text"),
        (("only",), None, "only"),
        (("a", "sent"), "a", "a"),
    ],
)
def test_the_field_is_guessed_or_named(
    columns: tuple[str, ...], field: str | None, chosen: str, tmp_path: Path
) -> None:
    row = {"id": 7} | {name: f"from {name}" for name in columns}
    file = write(tmp_path / "list.jsonl", json.dumps(row))
    assert read_texts(TextFile(file, field=field)).items == (f"from {chosen}",)


BAD = [
    ("a.jsonl", "", "the corpus is empty"),
    ("a.jsonl", "\n \n", "the corpus is empty"),
    ("a.csv", "n,sent\n", "the corpus is empty"),
    ("a.csv", "", "the corpus is empty"),
    ("a.txt", "\n\n", "the corpus is empty"),
    ("a.jsonl", '{"sent": "a"}\n\n{"sent": "b"\n', "line 3: broken JSON: Expecting ',' delimiter"),
    ("a.jsonl", '{"sent": "a"}\n' + "[" * 100_000, "line 2: JSON that cannot be read: it is nested too deeply"),
    ("a.json", '{"sent": ' + "[" * 100_000 + "\n", "line 1: JSON that cannot be read: it is nested too deeply"),
    ("a.jsonl", '{"sent": "a", "n": ' + "7" * 6_000 + "}\n", "line 1: JSON that cannot be read: Exceeds the limit"),
    ("a.jsonl", '{"sent": "a"}\n["b"]\n', "line 2: expected one JSON object a line, got list"),
    ("a.json", '[\n{"sent": "a"},\n', "line 3: broken JSON"),
    ("a.json", '[{"sent": "a"}, 3]', "entry 2: expected an object or a text, got int"),
    ("a.json", '[{"sent": "a"}, {"text": "b"}]', "entry 2: no field 'sent'"),
    ("a.json", "[" * 100_000, "JSON that cannot be read: it is nested too deeply"),
    ("a.jsonl", b'{"sent": "a"}\n{"sent": "caf\xe9"}\n', "line 2: not UTF-8 (byte 14 is 0xe9)"),
    ("a.csv", b"n,sent\n1,caf\xe9\n", "line 2: not UTF-8 (byte 6 is 0xe9)"),
    ("a.txt", "a\nb\n".encode("utf-16"), "line 1: not UTF-8 (byte 1 is 0xff)"),
    ("a.jsonl", '{"a": "x", "b": "y"}\n', "no field 'sent' or 'text' (it has a, b); name one with field=..."),
    ("a.jsonl", '{"n": 1}\n', "no field 'sent' or 'text' (it has n)"),
    ("a.jsonl", "{}\n", "no field 'sent' or 'text' (it has nothing)"),
    ("a.jsonl", '{"sent": "a"}\n{"text": "b"}\n', "line 2: no field 'sent' (it has text)"),
    ("a.jsonl", '{"sent": "a"}\n{"sent": 3}\n', "line 2: field 'sent' is no string"),
    ("a.jsonl", '{"sent": "a"}\n{"sent": null}\n', "line 2: field 'sent' is empty"),
    ("a.jsonl", '{"sent": "a"}\n{"sent": " "}\n', "line 2: field 'sent' is empty"),
    ("a.jsonl", '{"sent": "a"}\n{"sent": "\\ud83d"}\n', "line 2: field 'sent' holds half of a surrogate pair"),
    ("a.csv", "n,sent\n1,a\n2\n", "line 3: field 'sent' is empty"),
    ("a.csv", "sent\na\n\nb\n", "line 3: is empty"),
    ("a.csv", "\nsent\na\n", "line 2: more values than columns"),
    ("a.csv", "n,sent\n1,a\n2,b, c\n", "line 3: more values than columns"),
    ("a.csv", 'n,sent\n1,a\n2,"b\n3,c\n', "line 3: broken CSV: unexpected end of data"),
    ("a.csv", 'n,sent\n1,"a" b\n', "line 2: broken CSV"),
    ("a.parquet", b"PAR1 but no more", "not a whole Parquet file"),
    ("a.parquet", b"", "not a whole Parquet file"),
    ("a.xlsx", "sent\na\n", "a corpus is a .jsonl, .json, .csv, .txt or .parquet file"),
    ("a", "sent\na\n", "a corpus is a .jsonl, .json, .csv, .txt or .parquet file"),
]


@pytest.mark.parametrize(("name", "content", "expected"), BAD)
def test_a_bad_file_is_one_line_that_names_file_and_line(
    name: str, content: str | bytes, expected: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, content)
    with pytest.raises(DataError) as error:
        read_texts(TextFile(file))
    assert complaint(error).startswith(str(file))
    assert expected in complaint(error)


def test_lines_of_text_have_no_field(tmp_path: Path) -> None:
    file = write(tmp_path / "a.txt", "One.\n")
    with pytest.raises(DataError, match=r"a\.txt: has lines of text and no field 'sent'"):
        read_texts(TextFile(file, field="sent"))


def test_a_truncated_parquet_file_is_told_from_a_whole_one(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(pa.table({"sent": TEXTS}), file)
    whole = file.read_bytes()
    for size in (3, 100, len(whole) - 9, len(whole) - 1):
        file.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"list\.parquet: not a whole Parquet file") as error:
            read_texts(TextFile(file))
        complaint(error)


def test_a_damaged_parquet_page_is_one_line_too(tmp_path: Path) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(pa.table({"sent": TEXTS}), file)
    damaged = bytearray(file.read_bytes())
    damaged[4:40] = bytes(36)
    file.write_bytes(damaged)
    with pytest.raises(DataError, match=r"list\.parquet: ") as error:
        read_texts(TextFile(file))
    assert "\n" not in complaint(error)


def test_a_null_in_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sent": ["a", None]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"list\.parquet, row 2: field 'sent' is empty"):
        read_texts(TextFile(tmp_path / "list.parquet"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(DataError, match=r"missing\.jsonl: no such file$"):
        read_texts(TextFile(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match=r"folder\.jsonl: is not a file$"):
        read_texts(TextFile(tmp_path / "folder.jsonl"))
    with pytest.raises(
        DataError, match="no shipped list has this name; there are sentences-foils, sentences-interference"
    ):
        read_texts(ShippedText("sentences"))


def test_each_corpus_is_read_once(tmp_path: Path) -> None:
    file = write(tmp_path / "list.txt", "One.\n")
    sources = Sources()
    assert sources.texts(TextFile(file)) is sources.texts(TextFile(str(file)))


# Texts given in Python


def test_texts_given_in_python_are_read_as_they_are() -> None:
    found = read_texts(InlineText("mine", [*TEXTS, TEXTS[0]]))
    assert (found.name, found.items) == ("mine", (*TEXTS, TEXTS[0]))
    assert found.id == texts_identity([*TEXTS, TEXTS[0]])


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["A.", ""], "mine, texts[1]: is empty"),
        (["A.", "B.", " \n"], "mine, texts[2]: is empty"),
        (["\ud83d", "A."], "mine, texts[0]: holds half of a surrogate pair"),
    ],
)
def test_a_bad_text_given_in_python_is_named_by_its_place(texts: list[str], expected: str) -> None:
    with pytest.raises(DataError) as error:
        read_texts(InlineText("mine", texts))
    assert complaint(error) == expected


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (TextFile("a.csv"), "a.csv"),
        (TextFile("a.csv", field="hard"), "a.csv:hard"),
        (HubText("someone/lists"), "someone/lists/train"),
        (HubText("someone/lists", "one", field="hard"), "someone/lists/one/train:hard"),
        (TextStream(["a.csv", "b.csv"]), "a.csv and 1 more"),
        (TextStream(["a.csv", "b.csv"], field="hard"), "a.csv and 1 more:hard"),
        (HubStream("someone/lists", field="hard"), "someone/lists/train:hard"),
    ],
)
def test_a_name_says_the_field_that_was_chosen(given: Any, name: str) -> None:
    assert given.name == name


def test_a_field_in_the_name_is_no_part_of_an_identity(tmp_path: Path, tiny_model: Model) -> None:
    """The same texts, in a column that is named or is the obvious one, are the same study."""
    (tmp_path / "a.csv").write_text("sent,hard\none,two\n")
    asked = []
    for corpus in (TextFile(str(tmp_path / "a.csv")), TextFile(str(tmp_path / "a.csv"), field="sent")):
        (ask,) = grow([Condition(tiny_model, Study(corpus, exposures=1, lr=1e-3), probes=[Recall(corpus)])]).asks
        asked.append(ask)
    assert asked[0].name == asked[1].name
    assert [ask.settings["corpus"].removeprefix(str(tmp_path)) for ask in asked] == ["/a.csv", "/a.csv:sent"]
    assert asked[1].settings["probe_settings"] != asked[0].settings["probe_settings"]


def test_lists_of_one_name_are_not_confused() -> None:
    sources = Sources()
    first, second = InlineText("mine", TEXTS), InlineText("mine", TEXTS[::-1])
    assert sources.texts(first).items == TEXTS
    assert sources.texts(second).items == TEXTS[::-1]
    assert sources.texts(InlineText("mine", list(TEXTS))) is sources.texts(first)
    assert sources.texts(InlineText("other", TEXTS)).name == "other"
    # what is no text is not taken for the one it would make if it were joined
    assert sources.texts(InlineText("mine", ["\U0001f600"])).items == ("\U0001f600",)
    with pytest.raises(DataError, match="half of a surrogate pair"):
        sources.texts(InlineText("mine", ["\ud83d\ude00"]))


def test_a_list_given_in_python_is_the_same_study_as_in_a_file(tmp_path: Path) -> None:
    foils = ("The hen sat.", "A fox ran.", "Birds sing.")
    files = [TextFile(write(tmp_path / f"{n}.jsonl", jsonl(sent=texts))) for n, texts in enumerate((TEXTS, foils))]
    given = [InlineText("mine", TEXTS), InlineText("others", foils)]

    def names(targets: TextFile | InlineText, foils: TextFile | InlineText) -> list[str]:
        tokenizer = TrainedTokenizer([targets, foils], vocab_size=300)
        model = Model("new", tokenizer=tokenizer, init=RandomInit({"model_type": "gpt2"}))
        probes = [Recognition(Pair(targets, foils)), Recall(), Recall(corpus=foils)]
        return [ask.name for ask in grow([Condition(model, Study(targets, 2, 1e-3), probes=probes)]).asks]

    assert names(*given) == names(*files)
    assert not set(names(*given)) & set(names(InlineText("mine", TEXTS[::-1]), given[1]))


# Datasets

CARD = """---
configs:
- config_name: animals
  data_files:
  - {split: train, path: animals/train.jsonl}
  - {split: test, path: animals/test.jsonl}
- config_name: cities
  data_files:
  - {split: train, path: cities.jsonl}
---
Two lists.
"""


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder as `load_dataset` and the hub have them."""
    folder = tmp_path / "lists"
    write(folder / "README.md", CARD)
    write(folder / "animals" / "train.jsonl", jsonl(sent=["A fox.", "An owl."]))
    write(folder / "animals" / "test.jsonl", jsonl(sent=["A hen."]))
    write(folder / "cities.jsonl", jsonl(town=["Rome."], where=["Italy."]))
    return folder


def test_a_dataset_is_read_by_subset_and_split(dataset: Path) -> None:
    train = read_texts(HubText(str(dataset), subset="animals"))
    assert (train.items, train.name) == (("A fox.", "An owl."), f"{dataset}/animals/train")
    assert read_texts(HubText(str(dataset), subset="animals", split="test")).items == ("A hen.",)
    assert read_texts(HubText(str(dataset), subset="cities", field="town")).items == ("Rome.",)


def test_what_a_dataset_lacks_is_listed(dataset: Path) -> None:
    for corpus, expected in [
        (HubText(str(dataset), subset="plants"), "'animals', 'cities'"),
        (HubText(str(dataset)), "'animals', 'cities'"),
        (HubText(str(dataset), subset="animals", split="dev"), "'train', 'test'"),
        (HubText(str(dataset), subset="cities"), "no field 'sent' or 'text' (it has town, where)"),
    ]:
        with pytest.raises(DataError) as error:
            read_texts(corpus)
        assert str(dataset) in complaint(error) and expected in complaint(error)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("train.jsonl", '{"sent": "a"}\n{"sent": broken\n', "JSON parse error"),
        ("train.parquet", "no parquet", "Parquet"),
        ("folder.py", "import os", "Dataset scripts are no longer supported"),
        ("README.md", "---\nconfigs: [\n---\n", "parsing"),
        ("notes.unknown", "", "data files"),
    ],
)
def test_a_broken_dataset_is_one_line(name: str, content: str, expected: str, tmp_path: Path) -> None:
    write(tmp_path / "folder" / name, content)
    with pytest.raises(DataError) as error:
        read_texts(HubText(str(tmp_path / "folder")))
    assert "\n" not in complaint(error) and expected in complaint(error)


@pytest.mark.parametrize("name", ["org/unknown", "lists/of/mine", "unknown"])
def test_an_unknown_dataset_is_told_offline(name: str) -> None:
    with pytest.raises(DataError, match="neither a local folder nor to be found on the hub") as error:
        read_texts(HubText(name))
    assert "\n" not in complaint(error)


# Models


def resolve(model: Model) -> ResolvedModel:
    return resolve_model(model, read_texts)


MAIN, OLD = "1" * 40, "a0" * 20


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of a hub model with two revisions, as huggingface_hub lays it out."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--small"
    write(folder / "refs" / "main", MAIN)
    write(folder / "refs" / "old", OLD)
    for commit in (MAIN, OLD):
        write(folder / "snapshots" / commit / "config.json", '{"model_type": "gpt2"}')
    return folder


@pytest.mark.parametrize(("revision", "commit"), [(None, MAIN), ("main", MAIN), ("old", OLD), (OLD, OLD)])
def test_a_hub_model_is_pinned_offline_to_the_cached_commit(hub: Path, revision: str | None, commit: str) -> None:
    found = resolve(Model("org/small", revision=revision))
    assert (found.name, found.source, found.commit) == ("org/small", "org/small", commit)
    assert found.key == {"hub": "org/small", "commit": commit}
    assert (found.tokenizer.source, found.tokenizer.commit, found.tokenizer_name) == ("org/small", commit, None)
    assert found.folder is None


def test_a_tokenizer_of_its_own_is_pinned_as_well(hub: Path, tmp_path: Path) -> None:
    write(tmp_path / "words" / "tokenizer.json", "{}")
    weights = write(tmp_path / "words" / "model.safetensors", "weights of something else")
    found = resolve(Model("org/small", tokenizer=str(tmp_path / "words")))
    assert found.tokenizer_name == "words" and set(found.key) == {"hub", "commit", "tokenizer"}
    weights.unlink()
    assert resolve(Model("org/small", tokenizer=str(tmp_path / "words"))).id == found.id
    write(tmp_path / "words" / "tokenizer.json", "{ }")
    assert resolve(Model("org/small", tokenizer=str(tmp_path / "words"))).id != found.id


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Model("org/unknown"), "model 'org/unknown' is neither a local folder nor to be found on the hub"),
        (Model("org/small", revision="new"), "model 'org/small' at revision 'new' is neither"),
        (Model("org/small", revision="b" * 40), f"model 'org/small' has no config.json at {'b' * 40}, or it is not in"),
        (
            Model("tiny-x"),
            "model 'tiny-x' is neither a local folder nor to be found on the hub: the hub is offline (HF_HUB"
            "_OFFLINE) and the cache does not hold it (memexp ships tiny-s, tiny-m, tiny-l)",
        ),
        (Model("models/of/mine"), "model 'models/of/mine' is neither a local folder"),
        (Model("no such: model"), "model 'no such: model' is neither a local folder"),
        (Model("./models/mine"), "model './models/mine': no such folder"),
        (Model("/models/mine"), "model '/models/mine': no such folder"),
        (Model("org/small", tokenizer="org/words"), "model 'org/words' is neither a local folder"),
        (Model("org/small", tokenizer="./words"), "tokenizer './words': no such folder"),
        (Model("new", tokenizer="org/small", init=RandomInit("org/unknown")), "model 'org/unknown' is neither"),
        (Model("new", tokenizer="org/small", init=RandomInit({"n_layer": 2})), "RandomInit.config: no model_type"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_an_unknown_model_is_one_line(hub: Path, model: Model, expected: str) -> None:
    with pytest.raises(ModelError) as error:
        resolve(model)
    assert complaint(error).startswith(expected) and "\n" not in complaint(error)


# Local models


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    write(folder / "config.json", '{"model_type": "gpt2"}')
    write(folder / "model.safetensors", bytes(range(200)))
    write(folder / "tokenizer.json", "{}")
    write(folder / "README.md", "Mine.")
    return folder


def test_a_local_model_is_its_content(folder: Path) -> None:
    first = resolve(Model(str(folder)))
    assert (first.name, first.source, first.commit, first.folder) == ("mine", str(folder), None, folder)
    os.utime(folder / "model.safetensors", (1, 1))
    write(folder / "README.md", "Still mine.")
    write(folder / "logs" / "config.json", "[]")
    assert resolve(Model(str(folder))).id == first.id
    write(folder / "model.safetensors", bytes([1, *range(1, 200)]))
    second = resolve(Model(str(folder)))
    assert second.id != first.id
    write(folder / "tokenizer.json", "{ }")
    assert resolve(Model(str(folder))).id not in (first.id, second.id)


def test_a_relative_folder_is_found_from_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve(Model("mine")).source == resolve(Model("./mine")).source == str(folder)


@pytest.mark.parametrize("content", ["{broken", b"\xff\xfe", "[]"])
def test_a_broken_config_is_named(folder: Path, content: str | bytes) -> None:
    file = write(folder / "config.json", content)
    with pytest.raises(ModelError) as error:
        resolve(Model(str(folder)))
    assert complaint(error).startswith(str(file))


def test_a_folder_without_config_is_no_model(folder: Path) -> None:
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"mine': the folder has no config\.json$"):
        resolve(Model(str(folder)))


def test_weights_are_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        hashlib, "file_digest", lambda file, kind: read.append(Path(file.name).name) or digest(file, kind)
    )
    first = resolve(Model(str(folder)))
    assert sorted(read) == ["config.json", "model.safetensors", "tokenizer.json"]
    read.clear()
    assert resolve(Model(str(folder))) == first and read == []
    os.utime(folder / "model.safetensors")
    assert resolve(Model(str(folder))) == first and read == ["model.safetensors"]


def test_a_cache_that_cannot_be_written_costs_only_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = resolve(Model(str(folder)))
    monkeypatch.setenv("XDG_CACHE_HOME", str(write(tmp_path / "a file", "")))
    assert resolve(Model(str(folder))) == first


def test_a_config_may_lie_in_a_folder(folder: Path) -> None:
    by_folder = Model("new", tokenizer=str(folder), init=RandomInit(str(folder)))
    by_content = Model("new", tokenizer=str(folder), init=RandomInit({"model_type": "gpt2"}))
    assert resolve(by_folder) == resolve(by_content)
    assert resolve(by_folder).source is None


def test_a_tokenizer_to_train_takes_its_texts_along(tmp_path: Path) -> None:
    seen, unseen = write(tmp_path / "a.txt", "One.\nTwo."), write(tmp_path / "b.txt", "Three.")
    init = RandomInit({"model_type": "gpt2"})
    found = resolve(Model("new", tokenizer=TrainedTokenizer([seen, unseen], vocab_size=300), init=init))
    assert (found.tokenizer.texts, found.tokenizer.vocab_size) == (("One.", "Two.", "Three."), 300)
    assert found.tokenizer_name == "bpe-300"
    seen.unlink(), unseen.unlink()
    with pytest.raises(DataError, match=r"a\.txt: no such file"):
        resolve(Model("new", tokenizer=TrainedTokenizer([seen, unseen]), init=init))


# Headers


def safetensors(shapes: dict[str, list[int]]) -> bytes:
    """A file of float32 zeros."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        size = 4
        for extent in shape:
            size *= extent
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


def test_parameters_are_counted_from_headers(folder: Path) -> None:
    write(folder / "model.safetensors", safetensors({"a": [3, 4], "b": [5], "scale": []}))
    assert parameters_from_headers(resolve(Model(str(folder)))) == 18
    write(folder / "consolidated.safetensors", safetensors({"a": [3, 4]}))  # another library's copy of the same
    assert parameters_from_headers(resolve(Model(str(folder)))) == 18


def test_headers_are_read_without_the_tensors(folder: Path) -> None:
    """In formats too that only torch can hold, and by a library that does not load it."""
    header = json.dumps({"a": {"dtype": "BF16", "shape": [3, 4], "data_offsets": [0, 24]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(24))
    assert parameters_from_headers(resolve(Model(str(folder)))) == 12


def test_sharded_files_add_up(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    assert parameters_from_headers(resolve(Model(str(folder)))) is None
    for i in (1, 2):
        write(folder / f"model-0000{i}-of-00002.safetensors", safetensors({"a": [i, 10]}))
    assert parameters_from_headers(resolve(Model(str(folder)))) == 30


def test_headers_of_a_cached_hub_model_need_no_hub(hub: Path) -> None:
    assert parameters_from_headers(resolve(Model("org/small"))) is None
    write(hub / "snapshots" / MAIN / "model.safetensors", safetensors({"a": [3, 4]}))
    assert parameters_from_headers(resolve(Model("org/small"))) == 12


@pytest.mark.parametrize("size", [0, 5, 30, -1])
def test_weights_that_were_cut_off_are_named(folder: Path, size: int) -> None:
    file = write(folder / "model.safetensors", safetensors({"a": [3, 4]})[:size])
    with pytest.raises(ModelError, match="not a whole safetensors file") as error:
        parameters_from_headers(resolve(Model(str(folder))))
    assert complaint(error).startswith(str(file)) and "\n" not in complaint(error)


@pytest.mark.parametrize("header", ["[]", "{}x", '{"a": 3}', '{"a": {"shape": [2]}}', '{"a": {"data_offsets": []}}'])
def test_what_only_looks_like_weights_is_named(folder: Path, header: str) -> None:
    write(folder / "model.safetensors", len(header).to_bytes(8, "little") + header.encode())
    with pytest.raises(ModelError, match="not a whole safetensors file"):
        parameters_from_headers(resolve(Model(str(folder))))


def test_offline_a_dataset_is_read_at_the_commit_its_revision_stands_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = tmp_path / "datasets--someone--lists"
    for commit, branch, text in (("a" * 40, "main", "The newer text."), ("b" * 40, "first", "The older text.")):
        (repo / "snapshots" / commit).mkdir(parents=True)
        (repo / "snapshots" / commit / "train.jsonl").write_text(json.dumps({"sent": text}) + "\n")
        (repo / "refs").mkdir(exist_ok=True)
        (repo / "refs" / branch).write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    for revision, commit, text in (
        (None, "a" * 40, "The newer text."),
        ("first", "b" * 40, "The older text."),
        ("b" * 40, "b" * 40, "The older text."),
    ):
        read = read_texts(HubText("someone/lists", revision=revision))
        assert read.items == (text,)
        assert read.name == f"someone/lists/train@{commit}"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("list.txt", "The cat sat.\n\nThe dog ran.\n", "list.txt, line 2: is empty"),
        ("list.csv", "sent;id\nThe cat sat.;1\n", "list.csv, line 1: columns are separated by ','"),
    ],
)
def test_what_would_shift_or_swallow_texts_is_refused(tmp_path: Path, name: str, content: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_texts(TextFile(write(tmp_path / name, content)))


@pytest.mark.parametrize("description", [Model("someone/model"), HubText("someone/lists")])
def test_a_hub_that_does_not_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, description: Model | HubText
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.hf_api.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MemexpError, match="neither a local folder nor to be found on the hub") as error:
        Sources().model(description) if isinstance(description, Model) else read_texts(description)
    assert "\n" not in str(error.value)


def test_an_error_without_a_word_is_named_by_its_class() -> None:
    assert one_line(TimeoutError()) == "TimeoutError"
    assert one_line(ValueError("two\n  lines"), 7) == "two lin"
