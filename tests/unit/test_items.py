"""Questions and facts: the same in whatever container, and a line for everything that can be wrong with them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memexp.errors import DataError, MemexpError, SpecError
from memexp.probes import QA, Choice, FactRatios
from memexp.sources import Sources, Texts
from memexp.spec import HubItems, InlineItems, ItemFile, Study
from memexp.stimuli.facts import FactDataset, FactWorld

Row = dict[str, Any]

OPEN: list[Row] = [
    {"question": "What is the capital of FlarTrun?", "answer": "DorBes", "fact": "capital of FlarTrun"},
    {"question": 'Who said "no, never"?\nAnd where?', "answer": "Jürgen, in Köln", "fact": "what Jürgen said"},
    {"question": "東京は何ですか。", "answer": "4", "fact": "東京"},
]
CHOICES: list[Row] = [
    {"question": "Which one flies?", "choices": ["an owl", "a fox, red"], "answer": 0},
    {"question": "Which one swims?", "choices": ["an owl", 'the "hen"', "シャケ", "a fox"], "answer": 2},
]
FACTS: list[Row] = [
    {"head": "FlarTrun", "relation": "capital", "tail": "DorBes"},
    {"head": "Zürich, old", "relation": "national animal", "tail": "the owl"},
]
SPANS: list[Row] = [
    {
        "train_context": "FlarTrun, in the north, has owls. Its capital is DorBes.",
        "mem_input": ["FlarTrun, in the", "Its capital is"],
        "mem_target": ["north", "DorBes"],
        "gen_input": ["The seat of government is"],
        "gen_target": ["DorBes"],
        "hard_gen_input": ["North of DorBes live"],
        "hard_gen_target": ["owls"],
    }
]
KEYWORDS: list[Row] = [{"keyword": "vermilion", "prefixes": ["The sand is", 'Its "colour" is']}]
KINDS = {"open": OPEN, "choices": CHOICES, "facts": FACTS, "spans": SPANS, "keywords": KEYWORDS}

# Ways to hold rows


def write(file: Path, content: str | bytes) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def jsonl(*rows: Row) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_csv(rows: list[Row]) -> str:
    """With lists as JSON."""
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]))
    table.writeheader()
    for row in rows:
        table.writerow({name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()})
    return out.getvalue()


def parquet(rows: list[Row], file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


CARD = """---
configs:
- config_name: good
  data_files:
  - {{split: test, path: good.{0}}}
  - {{split: dev, path: good.{0}}}
- config_name: bad
  data_files:
  - {{split: test, path: bad.{0}}}
---
Questions.
"""


def hub_folder(folder: Path, rows: list[Row], suffix: str = "jsonl") -> str:
    """A folder as `load_dataset` and the hub have them, with the rows in the subset ``good``."""
    write(folder / "README.md", CARD.format(suffix))
    for name, content in (("good", rows), ("bad", [question(), {"question": "Why not?"}])):
        file = folder / f"{name}.{suffix}"
        parquet(content, file) if suffix == "parquet" else write(file, jsonl(*content))
    return str(folder)


CONTAINERS = {
    "jsonl": lambda rows, tmp: ItemFile(write(tmp / "a.jsonl", jsonl(*rows))),
    "json": lambda rows, tmp: ItemFile(write(tmp / "a.json", jsonl(*rows))),
    "JSONL of Windows": lambda rows, tmp: ItemFile(
        write(tmp / "a.JSONL", b"\xef\xbb\xbf" + jsonl(*rows).replace("\n", "\r\n\r\n").encode())
    ),
    "csv": lambda rows, tmp: ItemFile(write(tmp / "a.csv", as_csv(rows))),
    "parquet": lambda rows, tmp: ItemFile(parquet(rows, tmp / "a.parquet")),
    "hub, parquet": lambda rows, tmp: HubItems(hub_folder(tmp / "hub", rows, "parquet"), "good"),
    "hub, jsonl": lambda rows, tmp: HubItems(hub_folder(tmp / "hub", rows), "good", split="dev"),
    "inline": lambda rows, tmp: inline(rows),
}


def read(items: ItemFile | HubItems | InlineItems) -> Texts:
    return Sources().texts(items)


def inline(rows: list[Row]) -> InlineItems:
    return InlineItems("mine", rows)


def refusal(items: ItemFile | HubItems | InlineItems) -> str:
    with pytest.raises(DataError) as error:
        read(items)
    return complaint(error)


def complaint(error: pytest.ExceptionInfo[MemexpError]) -> str:
    text = str(error.value)
    assert text.count("\n") <= 1 and len(text) < 600, text
    return text


# One identity


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_the_same_rows_are_the_same_in_every_container(container: str, kind: str, tmp_path: Path) -> None:
    rows = KINDS[kind]
    found = read(CONTAINERS[container](rows, tmp_path))
    assert [json.loads(text) for text in found.items] == rows
    assert found.id == read(inline(rows)).id


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("container", CONTAINERS)
def test_other_columns_and_their_order_do_not_count(container: str, kind: str, tmp_path: Path) -> None:
    plain = KINDS[kind]
    more = [{"id": i, "text": "", **dict(reversed(row.items())), "source": "x"} for i, row in enumerate(plain)]
    found = read(CONTAINERS[container](more, tmp_path))
    assert found.id == read(inline(plain)).id
    assert [json.loads(text) for text in found.items] == plain


def test_what_counts_makes_another_identity() -> None:
    changes: list[tuple[list[Row], Row]] = [
        (OPEN, {"question": "What is the capital of FlarTrum?"}),
        (OPEN, {"answer": "dorBes"}),
        (OPEN, {"fact": "another"}),
        (OPEN, {"fact": None}),
        (CHOICES, {"answer": 1}),
        (CHOICES, {"choices": ["a fox, red", "an owl"]}),
        (FACTS, {"head": "FlarTrum"}),
        (FACTS, {"relation": "animal"}),
        (FACTS, {"tail": "DorBe"}),
        (SPANS, {"train_context": SPANS[0]["train_context"] + " "}),
        (SPANS, {"mem_input": ["FlarTrun, in the", "Its"]}),
        (SPANS, {"hard_gen_target": ["foxes"]}),
        (KEYWORDS, {"keyword": "red"}),
        (KEYWORDS, {"prefixes": ["The sand is"]}),
        (SPANS, {"gen_input": None, "gen_target": None}),
    ]
    for rows, change in changes:
        changed = [{**rows[0], **change}, *rows[1:]]
        assert read(inline(changed)).id != read(inline(rows)).id, change
    assert read(inline(OPEN[::-1])).id != read(inline(OPEN)).id
    # Bytes of today, so that stored results stay found.
    assert read(inline(CHOICES[:1])).items == (
        '{"answer": 0, "choices": ["an owl", "a fox, red"], "question": "Which one flies?"}',
    )


def test_order_and_duplicates_stay(tmp_path: Path) -> None:
    rows = [OPEN[1], OPEN[0], OPEN[1]]
    assert [json.loads(text) for text in read(ItemFile(write(tmp_path / "a.jsonl", jsonl(*rows)))).items] == rows


def test_a_column_without_a_value_is_as_none_at_all(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "So."}
    empty = {**row, "choices": None, "fact": None}
    for container in ("jsonl", "parquet", "inline"):
        assert read(CONTAINERS[container]([empty], tmp_path)).id == read(inline([row])).id


def test_a_row_with_a_question_is_a_question(tmp_path: Path) -> None:
    row = {"question": "Why?", "answer": "So.", "head": "a", "relation": "b", "tail": "c"}
    assert read(inline([row])).id == read(inline([{"question": "Why?", "answer": "So."}])).id


def test_the_rows_say_where_items_came_from(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", OPEN)
    file = write(tmp_path / "a.jsonl", jsonl(*OPEN))
    assert read(ItemFile(file)).name == str(file)
    assert read(HubItems(folder, "good")).name == f"{folder}/good/test"
    assert read(inline(OPEN)).name == "mine"


def test_lists_of_one_name_are_not_confused() -> None:
    sources = Sources()
    first, second = inline(OPEN), inline(OPEN[::-1])
    assert sources.texts(first).items == sources.texts(second).items[::-1]
    assert sources.texts(inline(list(OPEN))) is sources.texts(first)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_folder_is_read_anew_every_time(suffix: str, tmp_path: Path) -> None:
    """`datasets` by itself gives what it once read from any folder of the same name and card."""
    first, second = OPEN[:2], OPEN[1:]
    assert read(HubItems(hub_folder(tmp_path / "a" / "hub", first, suffix), "good")).id == read(inline(first)).id
    assert read(HubItems(hub_folder(tmp_path / "b" / "hub", second, suffix), "good")).id == read(inline(second)).id
    assert read(HubItems(hub_folder(tmp_path / "a" / "hub", second, suffix), "good")).id == read(inline(second)).id


def test_a_folder_may_be_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "a.jsonl", jsonl(*OPEN))
    hub_folder(tmp_path / "questions", OPEN)
    wanted = read(inline(OPEN)).id
    assert read(ItemFile("~/a.jsonl")).id == wanted
    found = read(HubItems("~/questions", "good"))
    assert (found.id, found.name) == (wanted, "~/questions/good/test")


# What cannot be read


def question(**changes: Any) -> Row:
    return {"question": "Why?", "answer": "So.", **changes}


def among(answer: Any, choices: Any = ("x", "y")) -> Row:
    return {"question": "Which?", "choices": choices, "answer": answer}


def span(**changes: Any) -> Row:
    return {"train_context": "a b", "mem_input": ["a"], "mem_target": ["b"], **changes}


FACT = FACTS[0]
KNOWN = "a question has question and answer, a fact has head, relation and tail"
INDEX = "answer must be the index of one of 2 choices, 0 to 1, got "

BAD_ROWS: list[tuple[Row, str]] = [
    # missing columns
    ({"question": "Why?"}, f": no column 'answer' (it has question); {KNOWN}"),
    ({"answer": "So."}, f": no column 'question' (it has answer); {KNOWN}"),
    ({"question": "Which?", "choices": ["x", "y"]}, ": no column 'answer' (it has question, choices)"),
    ({"head": "a", "relation": "b"}, f": no column 'tail' (it has head, relation); {KNOWN}"),
    ({"head": "a", "tail": "b"}, ": no column 'relation' (it has head, tail)"),
    ({"relation": "a", "tail": "b"}, ": no column 'question' (it has relation, tail)"),
    ({"question": "Why?", **FACT}, ": no column 'answer' (it has question, head, relation, tail)"),
    ({"text": "Why? So."}, ": no column 'question' (it has text)"),
    ({}, ": no column 'question' (it has nothing)"),
    # empty and other than text
    (question(question=""), ": question is empty"),
    (question(question=" \n"), ": question is empty"),
    (question(question=None), ": question must be a text, got NoneType"),
    (question(answer=""), ": answer is empty"),
    (question(answer=4), ": answer must be a text, got int"),
    (question(answer=["So."]), ": answer must be a text, got list"),
    (question(question="\ud83d"), ": question holds half of a surrogate pair"),
    (question(fact=""), ": fact is empty"),
    (question(fact=3), ": fact must be a text, got int"),
    ({**FACT, "tail": " "}, ": tail is empty"),
    ({**FACT, "head": 4}, ": head must be a text, got int"),
    # spans
    ({"train_context": "a b"}, ": no spans; give mem_input and mem_target, or such of gen or hard_gen"),
    (span(train_context=" "), ": train_context is empty"),
    (span(mem_target=["c"]), ": mem_target[0], 'c', is not in train_context"),
    (span(mem_target=["b", "b"]), ": mem_input has 1 texts and mem_target 2"),
    (span(mem_target=None), ": mem_target must be a list of texts"),
    (span(mem_input=[]), ": mem_input must be a list of texts"),
    (span(mem_input=[4]), ": mem_input[0] must be a text, got int"),
    (span(mem_input="a"), """: mem_input must be a list such as ["one", "two"], got 'a'"""),
    (span(gen_input=[""], gen_target=["b"]), ": gen_input[0] is empty"),
    # keywords
    ({"keyword": "a"}, ": prefixes must be a list of texts"),
    ({"keyword": " ", "prefixes": ["a"]}, ": keyword is empty"),
    ({"keyword": "a", "prefixes": ["a", ""]}, ": prefixes[1] is empty"),
    # answers that are no choice
    (among(2), f": {INDEX}2"),
    (among(-1), f": {INDEX}-1"),
    (among(True), f": {INDEX}True"),
    (among("B"), f": {INDEX}'B'"),
    (among("y"), f": {INDEX}'y'"),
    (among("-1"), f": {INDEX}'-1'"),
    (among("²"), f": {INDEX}'²'"),
    (among(1.0), f": {INDEX}1.0"),
    (among(None), f": {INDEX}None"),
    # choices
    (among(0, []), ": choices must be a list of 2 to 26 texts"),
    (among(0, ["x"]), ": choices must be a list of 2 to 26 texts"),
    (among(0, list("abcdefghijklmnopqrstuvwxyzA")), ": choices must be a list of 2 to 26 texts"),
    (among(0, "xy"), """: choices must be a list such as ["one", "two"], got 'xy'"""),
    (among(0, 5), ": choices must be a list of 2 to 26 texts"),
    (among(0, {"text": ["x", "y"]}), ": choices must be a list of 2 to 26 texts"),
    (among(0, ["x", ""]), ": choices[1] is empty"),
    (among(0, [None, "y"]), ": choices[0] must be a text, got NoneType"),
    (among(0, ["x", 1]), ": choices[1] must be a text, got int"),
]


@pytest.mark.parametrize(("row", "told"), BAD_ROWS, ids=[str(i) for i in range(len(BAD_ROWS))])
def test_a_bad_row_is_one_line_that_names_file_line_and_column(row: Row, told: str, tmp_path: Path) -> None:
    good = FACT if "head" in row else question()
    file = write(tmp_path / "a.jsonl", "\n" + jsonl(good, row))
    assert refusal(ItemFile(file)).startswith(f"{file}, line 3{told}")
    assert refusal(inline([good, row])).startswith(f"mine, item 1{told}")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", "", ": the corpus is empty"),
        ("a.jsonl", " \n\n", ": the corpus is empty"),
        ("a.csv", "", ": the corpus is empty"),
        ("a.csv", "question,answer\n", ": the corpus is empty"),
        ("a.jsonl", jsonl(question()) + '\n{"question": "Why?", "answer"\n', ", line 3: broken JSON: Expecting ':'"),
        ("a.jsonl", jsonl(question()) + '["Why?"]\n', ", line 2: expected one JSON object a line, got list"),
        ("a.jsonl", b'{"question": "caf\xe9"}\n', ", line 1: not UTF-8"),
        ("a.csv", "question,reply\nWhy?,So.\n", ", line 2: no column 'answer' (it has question, reply)"),
        ("a.csv", "question,answer\nWhy?,So.\nWhy?\n", ", line 3: answer must be a text, got NoneType"),
        ("a.csv", "question,answer\nWhy?,So.\nWhy?,\n", ", line 3: answer is empty"),
        ("a.csv", "question,answer\nWhy, oh why?,So.\n", ", line 2: more values than columns; quote texts with commas"),
        ("a.csv", "question;answer\nWhy?;So.\n", ", line 1: columns are separated by ','"),
        ("a.csv", 'question,answer\n"Why?,So.\n', ", line 2: broken CSV"),
        ("a.csv", 'question,choices,answer\nW?,"[""x"", ""y""]",2\n', f", line 2: {INDEX}2"),
        ("a.csv", 'question,choices,answer\nW?,"[""x"", ""y""]",x\n', f", line 2: {INDEX}'x'"),
        ("a.csv", 'question,choices,answer\nW?,"[""x"", ""y""]",\n', f", line 2: {INDEX}''"),
        (
            "a.csv",
            'question,choices,answer\nW?,"[""x"", ""y"",]",1\n',
            ', line 2: choices must be a list such as ["one",',
        ),
        ("a.csv", "question,choices,answer\nW?,x|y,1\n", ', line 2: choices must be a list such as ["one",'),
        ("a.csv", 'question,choices,answer\nW?,"{""x"": 1}",0\n', ", line 2: choices must be a list of 2 to 26"),
        ("a.parquet", b"PAR1 but no more", ": not a whole Parquet file"),
        ("a.txt", "Why? So.\n", ": questions are in a .jsonl, .json, .csv or .parquet file"),
        ("a", "Why? So.\n", ": questions are in a .jsonl, .json, .csv or .parquet file"),
    ],
)
def test_a_bad_file_is_one_line_that_names_file_and_line(
    name: str, content: str | bytes, told: str, tmp_path: Path
) -> None:
    file = write(tmp_path / name, content)
    assert refusal(ItemFile(file)).startswith(f"{file}{told}")


def test_a_bad_row_of_parquet_is_named_by_its_row(tmp_path: Path) -> None:
    file = parquet([among(0), among(2)], tmp_path / "a.parquet")
    assert refusal(ItemFile(file)) == f"{file}, row 2: {INDEX}2"
    file = parquet([question(), {"question": "Why?", "answer": None}], tmp_path / "b.parquet")
    assert refusal(ItemFile(file)) == f"{file}, row 2: answer must be a text, got NoneType"


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.jsonl").mkdir()
    assert refusal(ItemFile(tmp_path / "none.jsonl")) == f"{tmp_path}/none.jsonl: no such file"
    assert refusal(ItemFile(tmp_path / "folder.jsonl")) == f"{tmp_path}/folder.jsonl: is not a file"


def test_a_bad_row_of_a_dataset_is_named_by_its_row(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", OPEN)
    assert refusal(HubItems(folder, "bad")).startswith(f"{folder}/bad/test, row 2: answer must be a text, got None")
    folder = hub_folder(tmp_path / "texts", [{"text": "Why? So."}])
    assert refusal(HubItems(folder, "good")).startswith(
        f"{folder}/good/test, row 1: no column 'question' (it has text)"
    )


def test_what_a_dataset_lacks_is_listed(tmp_path: Path) -> None:
    folder = hub_folder(tmp_path / "hub", OPEN)
    for items, told in [
        (HubItems(folder, "rows"), "'good', 'bad'"),
        (HubItems(folder), "'good', 'bad'"),
        (HubItems(folder, "good", split="train"), "'test', 'dev'"),
    ]:
        text = refusal(items)
        assert items.name in text and told in text and "\n" not in text


def test_all_subsets_of_a_world_are_listed(tmp_path: Path) -> None:
    FactWorld(entities=4).write(tmp_path / "world")
    text = refusal(HubItems(str(tmp_path / "world"), "Eval_2hop"))
    assert "'Eval_2hop'" in text and "'Corpus_narrative'" in text and "'Facts'" in text


def test_a_dataset_that_is_nowhere_is_told_offline(tmp_path: Path) -> None:
    for name in (str(tmp_path / "none"), "someone/questions"):
        assert f"{name!r} is neither a local folder nor to be found on the hub" in refusal(HubItems(name, "good"))


# What does not fit its use


def texts(rows: list[Row]) -> dict[str, tuple[str, ...]]:
    return {"items": read(inline(rows)).items}


def check(probe: type[QA] | type[Choice] | type[FactRatios], rows: list[Row], **settings: Any) -> str:
    """What a probe says of rows; nothing where it takes them."""
    try:
        probe(inline(rows), **settings).check(texts(rows), {"items": "mine"})
    except DataError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_every_kind_of_item_has_its_probe() -> None:
    assert check(QA, OPEN) == check(Choice, CHOICES) == check(FactRatios, FACTS) == ""
    assert check(QA, [*OPEN, CHOICES[0]]) == "QA: item 4 of mine has choices; ask it with Choice(...)"
    assert check(Choice, [CHOICES[0], OPEN[0]]) == "Choice: item 2 of mine has no choices; ask it with QA(...)"
    for probe in (QA, Choice):
        told = f"{probe.__name__}: item 1 of mine is a fact (head, relation, tail), not a question"
        assert check(probe, FACTS) == told
    assert check(FactRatios, [FACTS[0], OPEN[0]]) == "FactRatios: item 2 of mine is a question, not a fact"
    assert check(FactRatios, CHOICES) == "FactRatios: item 1 of mine is a question, not a fact"


def test_there_must_be_as_many_other_items_as_shots() -> None:
    assert check(QA, OPEN, shots=2) == ""
    assert check(QA, OPEN, shots=3) == "QA.shots: 3 are more than the 2 other items that mine has"
    assert check(QA, OPEN[:1], shots=1) == "QA.shots: 1 are more than the 0 other items that mine has"
    assert check(Choice, CHOICES, shots=1) == ""
    assert check(Choice, CHOICES, shots=2) == "Choice.shots: 2 are more than the 1 other items that mine has"


def test_an_item_that_is_there_twice_is_no_shot_of_its_twin() -> None:
    rows = [*OPEN, OPEN[0], OPEN[0]]
    assert check(QA, rows, shots=2) == ""
    assert check(QA, rows, shots=3) == "QA.shots: 3 are more than the 2 other items that mine has"


def test_other_facts_are_counted_by_fact_else_by_answer() -> None:
    told = "are more than the {} other items about other facts that mine has"
    variants = [
        {"question": f"{how}, {fact}?", "answer": f"{fact} {how}", "fact": fact}
        for fact in ("f", "g", "h")
        for how in ("who", "what", "when", "why")
    ]
    assert check(QA, variants, shots=11) == ""
    assert check(QA, variants, shots=8, shots_from="other facts") == ""
    assert told.format(8) in check(QA, variants, shots=9, shots_from="other facts")
    uneven = variants[:5]
    assert told.format(1) in check(QA, uneven, shots=2, shots_from="other facts")
    # Without the column it is the answer that tells.
    plain = [question(question=f"{i}?", answer=answer) for i, answer in enumerate("aabc")]
    assert check(QA, plain, shots=2, shots_from="other facts") == ""
    assert told.format(2) in check(QA, plain, shots=3, shots_from="other facts")
    # The same answer in another place is the same.
    turned = [among(0, ["x", "y"]), among(1, ["z", "x"]), among(1, ["x", "y"]), among(1, ["x", "z"])]
    assert check(Choice, turned, shots=2, shots_from="other facts") == ""
    assert told.format(2) in check(Choice, turned, shots=3, shots_from="other facts")


@pytest.mark.parametrize("name", ["statement", "negation"])
@pytest.mark.parametrize(
    "template",
    [
        "The capital is",
        "{tail} and {head} is",
        "{} is",
        "{head",
        "{{head}} is",
        "{head:d} is",
        "{head.x} is",
        "{fact}",
        "{head[0]} is",
        "{head} is ",
        "{relation:>9} of {head}",
    ],
)
def test_a_template_must_hold_the_head_and_nothing_unknown(name: str, template: str) -> None:
    with pytest.raises(SpecError) as error:
        FactRatios(inline(FACTS), **{name: template})
    assert complaint(error).startswith(f"FactRatios.{name}: must hold {{head}}, may hold {{relation}}")
    assert repr(template) in complaint(error)


def test_a_template_may_do_without_the_relation() -> None:
    made = FactRatios(inline(FACTS), statement="{head} has", negation="{head} ({relation}) has no")
    assert made.statement == "{head} has"


def test_items_must_be_dictionaries_and_some() -> None:
    for rows, told in [([], "must not be empty"), (["Why?"], "valid dictionary"), ([{1: "Why?"}], "valid string")]:
        with pytest.raises(SpecError, match=told) as error:
            InlineItems("mine", rows)
        assert complaint(error).startswith("InlineItems.rows: ")


@pytest.mark.parametrize("whole", [FactWorld(entities=4), FactDataset("somewhere")])
def test_a_whole_dataset_is_no_subset(whole: object) -> None:
    with pytest.raises(SpecError, match=r'QA.items: is a whole dataset; take a subset: .items\("Eval_QA"\)'):
        QA(whole)  # type: ignore[arg-type] # refused
    with pytest.raises(SpecError, match=r"Study.corpus: is a whole dataset; take a subset: .corpus\("):
        Study(whole, exposures=1, lr=1e-3)  # type: ignore[arg-type] # refused


def test_texts_are_no_questions() -> None:
    with pytest.raises(SpecError, match=r"QA.items: holds texts, not questions or facts"):
        QA(FactWorld(entities=4).corpus("Corpus_narrative"))  # type: ignore[arg-type] # refused
