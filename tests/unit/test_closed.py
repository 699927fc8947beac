"""What `memexp query` cannot be talked into: the ways that SQL has to write, to read elsewhere, to open itself up."""

from __future__ import annotations

import hashlib
import math
import os
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from memexp.errors import SpecError, StoreError
from memexp.store import Store, closed
from memexp.store.query import Metric, answer, totals

FILE = "results/recognition/s1-p-c1.parquet"
COPY = f"COPY (SELECT 1 AS i) TO '{FILE}' (FORMAT parquet)"
WRITES = [
    # A WITH may hold what writes and still belong to a SELECT.
    f"WITH x AS ({COPY}) SELECT 1",
    f"WITH x AS ({COPY}) FROM x",
    f"WITH x AS MATERIALIZED ({COPY}) SELECT count(*) FROM recognition, x",
    f"WITH a AS (SELECT 1), b AS ({COPY}) SELECT * FROM a",
    f"SELECT * FROM (WITH x AS ({COPY}) SELECT 1)",
    f"SELECT (WITH x AS ({COPY}) SELECT 1)",
    f"SELECT 1 WHERE EXISTS (WITH x AS ({COPY}) FROM x)",
    f"SELECT 1 UNION ALL (WITH x AS ({COPY}) SELECT 2)",
    f"/* SELECT */ WITH x AS ({COPY}) SELECT 1 -- SELECT",
    f"-- a comment\nWITH x AS ({COPY})\nSELECT 1",
    f"wItH x aS (copy (WITH y AS (SELECT 2 AS i) FROM y) tO '{FILE}' (format parquet)) sElEcT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results/recognition/new.parquet' (FORMAT parquet)) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results/recognition/new.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results/.tmp/new.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '.tmp/new.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'beside.json') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO '{here}/beside.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'file://{here}/beside.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results/../beside.csv') SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results/link.csv') SELECT 1",
    "WITH x AS (COPY recognition TO 'results/parts' (FORMAT parquet, PARTITION_BY (item))) SELECT 1",
    "WITH x AS (COPY (SELECT 1) TO 'results' (FORMAT parquet, PER_THREAD_OUTPUT, OVERWRITE)) SELECT 1",
    "FROM query('WITH x AS (COPY (SELECT 1) TO ''beside.csv'') SELECT 1')",
]
READS = [
    "SELECT * FROM read_text('secret.csv')",
    "SELECT * FROM read_blob('secret.csv')",
    "SELECT * FROM read_csv('secret.csv')",
    "SELECT * FROM read_csv_auto(['secret.csv'])",
    "SELECT * FROM read_json('secret.json')",
    "SELECT * FROM read_ndjson_objects('secret.json')",
    "SELECT * FROM read_parquet('secret.parquet')",
    "SELECT * FROM read_parquet(['secret.parquet', '" + FILE + "'])",
    "SELECT * FROM system.main.read_parquet('secret.parquet')",
    "SELECT * FROM parquet_scan('{here}/secret.parquet')",
    "SELECT * FROM read_parquet('results/../secret.parquet')",
    "SELECT * FROM read_parquet('results/recognition/../../secret.parquet')",
    "SELECT * FROM parquet_metadata('secret.parquet')",
    "SELECT * FROM parquet_schema('secret.parquet')",
    "SELECT * FROM parquet_file_metadata('secret.parquet')",
    "SELECT * FROM parquet_kv_metadata('secret.parquet')",
    "SELECT * FROM 'secret.csv'",
    "SELECT * FROM 'secret.parquet'",
    'SELECT * FROM "secret.csv"',
    "SELECT * FROM '{here}/secret.csv'",
    "SELECT * FROM glob('*')",
    "SELECT * FROM glob('{here}/**')",
    "SELECT * FROM sniff_csv('secret.csv')",
    "SELECT * FROM read_text('results/link.csv')",
    "SELECT * FROM read_csv('results/../secret.csv')",
    "SELECT * FROM query('SELECT * FROM read_text(''secret.csv'')')",
    "SELECT * FROM query_table('secret.csv')",
    "SELECT * FROM read_text('results/.hidden')",
    "SELECT (SELECT content FROM read_text('secret.csv'))",
    "WITH x AS (SELECT * FROM read_csv('secret.csv')) FROM x",
    "SELECT * FROM read_text('/etc/passwd')",
    "SELECT * FROM read_text('/proc/self/environ')",
]
OPENS = [
    "SELECT getenv('HOME')",
    "SELECT * FROM read_parquet('http://127.0.0.1:9/x.parquet')",
    "SELECT * FROM read_csv('https://127.0.0.1:9/x.csv')",
    "SELECT * FROM read_parquet('s3://bucket/x.parquet')",
    "SELECT * FROM 'hf://datasets/x/y.csv'",
    "SELECT * FROM sqlite_scan('secret.db', 'x')",
    "SELECT * FROM postgres_scan('host=127.0.0.1', 'public', 'x')",
    "SELECT * FROM read_duckdb('secret.db')",
    "SELECT * FROM duckdb_secrets()",
    "SELECT * FROM duckdb_extensions()",
    "SELECT * FROM enable_logging(storage = 'file', storage_path = 'log')",
    "SELECT * FROM python_arrow_scan(1, 2, 3)",
    "SELECT * FROM store",  # a variable of this function's callers
    "SELECT * FROM import_database('results')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('FROM read_text(''secret.csv'')'))",
]
OTHERS = [
    "",
    "SELECT 1; SELECT 2",
    f"SELECT 1; {COPY}",
    f"/* SELECT */ {COPY}",
    COPY,
    "COPY recognition FROM 'secret.parquet'",
    "COPY FROM DATABASE memory TO x",
    "EXPORT DATABASE 'beside'",
    "IMPORT DATABASE 'results'",
    f"EXPLAIN ANALYZE {COPY}",
    f"EXPLAIN {COPY}",
    f"PREPARE x AS {COPY}",
    "EXECUTE x",
    "ATTACH 'beside.db'",
    "ATTACH ':memory:' AS x",
    "DETACH memory",
    "INSTALL httpfs",
    "FORCE INSTALL httpfs FROM 'http://127.0.0.1:9'",
    "LOAD httpfs",
    "UPDATE EXTENSIONS",
    "CREATE TABLE mine AS SELECT 1",
    "CREATE OR REPLACE VIEW recognition AS SELECT 1",
    "CREATE MACRO f() AS 1",
    "CREATE SECRET (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE PERSISTENT SECRET mine (TYPE s3, KEY_ID 'a', SECRET 'b')",
    "CREATE SCHEMA x",
    "CREATE SEQUENCE x",
    "ALTER VIEW recognition RENAME TO x",
    "DROP VIEW recognition",
    "TRUNCATE recognition",
    "INSERT INTO recognition SELECT * FROM recognition",
    "UPDATE recognition SET item = 0",
    "DELETE FROM recognition",
    "MERGE INTO recognition USING recognition AS b ON false WHEN NOT MATCHED THEN INSERT",
    "SET enable_external_access = true",
    "SET allowed_directories = ['/']",
    "SET temp_directory = 'results'",
    "SET VARIABLE x = 1",
    "RESET enable_external_access",
    "PRAGMA version",
    "PRAGMA temp_directory = 'results'",
    "PRAGMA import_database('results')",
    "CALL pragma_version()",
    "CALL enable_logging(storage = 'file', storage_path = 'log')",
    "CHECKPOINT",
    "USE memory",
    "VACUUM",
    "ANALYZE",
    "BEGIN TRANSACTION",
    "COMMENT ON VIEW recognition IS 'x'",
    "SUMMARIZE 'secret.csv'",
    "DESCRIBE 'secret.csv'",
]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Two files of different columns, links out of the store, and beside it what nobody should see."""
    monkeypatch.chdir(tmp_path)
    store = Store("results")
    ids = {"condition_id": ["c"], "probe_id": ["p"]}
    store.commit("recognition", "s1-p-c1", pa.table({**ids, "item": [0], "list": [1]}))
    store.commit("recognition", "s2-p-c2", pa.table({**ids, "item": [1], "list": ["two"]}))
    secret = pa.table({"i": [7]})
    pq.write_table(secret, "secret.parquet")
    Path("secret.csv").write_text("i\n7\n")
    Path("secret.json").write_text('{"i": 7}\n')
    with duckdb.connect("secret.db") as database:
        database.execute("CREATE TABLE x AS SELECT 7 AS i")
    for folder in (".tmp", "results/.tmp"):
        Path(folder).mkdir(exist_ok=True)
    Path("results/.hidden").write_text("secret")
    Path("results/link.csv").symlink_to(tmp_path / "secret.csv")
    return store


def everything() -> dict[str, str]:
    """What there is in and beside the store: names, kinds and bytes."""
    files = {path: path.read_bytes() if path.is_file() else b"" for path in sorted(Path().rglob("*"))}
    return {
        f"{path} {path.is_symlink()} {path.is_dir()}": hashlib.sha256(data).hexdigest() for path, data in files.items()
    }


def outcome(store: Store, sql: str) -> str:
    """What came of asking so: an answer, a line, or bytes that changed."""
    before = everything()
    try:
        answer(store, sql.format(here=os.getcwd()) if "{here}" in sql else sql)
        said = "answered"
    except StoreError as error:
        said = "refused" if "\n" not in str(error) and str(error) else f"refused in many lines: {error}"
    return said if everything() == before else f"{said}, and something changed"


@pytest.mark.parametrize("group", [WRITES, READS, OPENS, OTHERS], ids=["writes", "reads", "opens", "others"])
def test_no_sql_leads_out_of_the_tables(store: Store, group: list[str]) -> None:
    found = {sql: outcome(store, sql) for sql in group}
    assert {sql: said for sql, said in found.items() if said != "refused"} == {}


def test_what_keeps_it_in_is_that_the_database_is_closed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "LOCKED", ())
    written = [sql for sql in WRITES if outcome(store, sql).endswith("something changed")]
    assert len(written) >= 10 and WRITES[0] in written
    found = [sql for sql in READS if outcome(store, sql) == "answered"]
    assert len(found) >= 20 and READS[0] in found


def test_a_folder_that_duckdb_may_read_is_one_it_may_write(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "LOCKED", (f"SET allowed_directories = ['{store.location}']", *closed.LOCKED))
    assert outcome(store, WRITES[0]) == "answered, and something changed"


def test_the_place_for_what_memory_cannot_hold_is_closed_too(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    sql = next(sql for sql in WRITES if "'.tmp/" in sql)
    monkeypatch.setattr(closed, "LOCKED", closed.LOCKED[1:])
    assert outcome(store, sql) == "answered, and something changed"


def test_nor_does_that_of_a_headline_or_metric(store: Store) -> None:
    tables = {"recognition": pa.table({"item": [0]})}
    assert Metric("SELECT 1").of(tables) == 1
    for sql in (WRITES[0], READS[0]):
        before = everything()
        with pytest.raises(SpecError, match="file system operations are disabled"):
            Metric(sql).of(tables)
        with pytest.raises(
            StoreError, match=r"s1-p-c1.parquet: .*(file system operations are disabled|must be at the top)"
        ):
            totals(store, "recognition", ["s1-p-c1"], [f"(SELECT max(x) FROM ({sql}) AS t(x))"])
        assert everything() == before


@pytest.mark.parametrize(
    ("sql", "rows"),
    [
        ("SELECT count(*) FROM recognition", [(2,)]),
        ("FROM recognition SELECT item, list ORDER BY ALL", [(0, "1"), (1, "two")]),
        ("SELECT item FROM RECOGNITION WHERE list = 'two'", [(1,)]),
        ('WITH x AS (SELECT * FROM "recognition") SELECT max(a.item) FROM x AS a, x AS b', [(1,)]),
        ("SELECT * FROM query('SELECT count(*) FROM recognition')", [(2,)]),
        ("SELECT count(*) FROM query_table('recognition')", [(2,)]),
        ("SELECT count(*) FROM read_parquet('results/recognition/*.parquet', union_by_name=true)", [(2,)]),
        ("SELECT count(*) FROM read_parquet('{here}/results/recognition/*.parquet')", [(2,)]),
        ("SELECT list FROM read_parquet('" + FILE + "')", [(1,)]),
        ("SELECT list FROM '" + FILE + "'", [(1,)]),
        ("SELECT count(*) FROM read_parquet(['" + FILE + "', 'results/recognition/s2*.parquet'])", [(2,)]),
        ("SELECT name FROM (SHOW TABLES) WHERE name = 'recognition'", [("recognition",)]),
        ("SELECT 'it''s ' || 'secret.csv'", [("it's secret.csv",)]),
    ],
)
def test_what_is_about_the_tables_is_answered(store: Store, sql: str, rows: list[tuple[object, ...]]) -> None:
    assert answer(store, sql.replace("{here}", os.getcwd()))[1] == rows


AWKWARD = {
    "a": pa.table({"id": [0, 1, 2, 3], "x": [1.5, math.nan, math.inf, None], "Label": [1, 2, None, 4]}),
    "b": pa.table(
        {"id": [4, 5], "x": [2, 3], "label": ["one", None], "when": [datetime(2026, 1, 2, tzinfo=UTC), None]}
    ),
    "c": pa.table({"id": [6, 7], "x": [-0.0, -math.inf], "flag": [True, None], "many": [["a"], None]}),
    "d": pa.table(
        {"id": [8, 9], "flag": [0.5, None], "x": pa.nulls(2), "label": pa.array(["q", "q"]).dictionary_encode()}
    ),
    "e": pa.table({"id": [10], "x": [2**60 + 1], "many": [["b", ""]], "flag": [3]}),
}
QUESTIONS = [
    "*",
    "id WHERE x > 1",
    "id WHERE x = 'nan'::double OR x < -1",
    "id WHERE x <= 2 AND label <> 'one'",
    "id WHERE x IN (2, 1.5) OR label IS NULL",
    "id WHERE x IS NOT NULL AND NOT isnan(x)",
    "id WHERE \"when\" > '2026-01-01' OR label LIKE '%o%'",
    "id WHERE flag OR many[1] = 'a'",
    "label, count(*), max(x), sum(id), bool_or(flag::bool) GROUP BY label",
    'typeof(id), typeof(x), typeof(label), typeof("when"), typeof(flag), typeof(many) LIMIT 1',
]


def test_answers_are_those_of_any_duckdb_over_the_files(store: Store) -> None:
    for name, table in AWKWARD.items():
        store.commit("odd", name, table)
    with duckdb.connect() as connection:
        connection.execute(f"CREATE VIEW odd AS FROM read_parquet('{store.path('odd')}', union_by_name=true)")
        for question in QUESTIONS:
            columns, where = [*question.split(" WHERE ", 1), ""][:2]
            if " GROUP BY " in columns or " LIMIT " in columns:
                sql = f"FROM odd SELECT {columns}"
            else:
                sql = f"SELECT {columns} FROM odd {f'WHERE {where}' if where else ''} ORDER BY id"
            expected = connection.execute(sql)
            names = [column[0] for column in expected.description]
            found = answer(store, sql)
            assert (found[0], repr(sorted(map(repr, found[1])))) == (
                names,
                repr(sorted(map(repr, expected.fetchall()))),
            ), sql


def test_only_what_is_asked_for_is_opened(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("recall", "choice", "multichoice"):
        store.commit(kind, "a", pa.table({"item": [0]}))
    opened: list[str] = []
    datasets = Store.datasets
    monkeypatch.setattr(
        Store, "datasets", lambda self, kind, *names: opened.append(kind) or datasets(self, kind, *names)
    )
    for sql, kinds in {
        "SELECT count(*) FROM Recall": ["recall"],
        "SELECT count(*) FROM multichoice, recall": ["multichoice", "recall"],
        'SELECT 1 FROM "choice"': ["choice"],
        "SELECT 1": [],
        "SHOW TABLES": ["choice", "multichoice", "recall", "recognition"],
    }.items():
        opened.clear()
        assert answer(store, sql)[1] or sql == "SELECT 1"
        assert opened == kinds


@pytest.mark.parametrize("at", [0.2, 0.5])
def test_a_file_that_is_broken_inside_is_named(store: Store, at: float) -> None:
    store.commit("odd", "whole", pa.table({"x": list(range(5000))}))
    store.commit("odd", "broken", pa.table({"x": [i * i % 997 for i in range(5000)]}))
    file = Path(store.path("odd", "broken"))
    data = bytearray(file.read_bytes())
    data[int(len(data) * at)] ^= 0xFF
    file.write_bytes(data)
    with pytest.raises(StoreError, match="broken") as error:
        answer(store, "SELECT sum(x) FROM odd")
    assert str(file) in str(error.value) and "\n" not in str(error.value)
