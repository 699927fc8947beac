"""The author's own files as rows, where they are beside the project."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from memexp.exchange import llm_memory
from memexp.exchange.llm_memory import Imported, import_results
from memexp.report.verify import complaint
from memexp.store import Store

REAL = Path(__file__).parents[3] / "shared" / "data" / "llm-memory-results"
pytestmark = [pytest.mark.drill, pytest.mark.skipif(not REAL.is_dir(), reason=f"needs {REAL}")]


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        rows = f"read_parquet('{store.path('recognition')}', union_by_name=true)"
        return connection.execute(sql.replace("recognition", rows)).fetchall()


@pytest.fixture(scope="module")
def all_of_them(tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(tmp_path_factory.mktemp("real") / "results")
    import_results(str(REAL), store)
    return store


def test_rows_are_files_times_items(all_of_them: Store) -> None:
    files = sorted(REAL.rglob("*.npz"))
    items = sum(len(np.load(file)["seen_losses"]) for file in files)
    assert ask(all_of_them, "SELECT count(*), count(DISTINCT probe_id) FROM recognition") == [(items, len(files))]
    found = all_of_them.verify(complaint)
    assert (found.files, found.rows, found.problems) == (len(files), items, ())
    assert import_results(str(REAL), all_of_them) == Imported(len(files), items, new=0)


def test_the_mean_of_every_file_is_the_authors(all_of_them: Store) -> None:
    means = ask(
        all_of_them,
        "SELECT condition_id, avg((target_nll < foil_nll)::int) FROM recognition GROUP BY ALL",
    )
    told = {llm_memory._read(file).settings["condition_id"]: file for file in REAL.rglob("*.npz")}
    assert len(means) == len(told)
    for condition, mean in means:
        assert abs(mean - float(np.load(told[condition])["mean_accuracy"])) < 1e-12


def test_the_published_table_is_one_query(all_of_them: Store) -> None:
    table = ask(
        all_of_them,
        """
        WITH lists AS (SELECT model, experiment, lr, batch_size, replication, avg((target_nll < foil_nll)::int) AS mean
                       FROM recognition WHERE exposures = 1 GROUP BY ALL),
             cells AS (SELECT model, experiment, lr, batch_size, avg(mean) AS mean FROM lists GROUP BY ALL)
        SELECT model, experiment, round(100 * max(mean), 1) FROM cells GROUP BY ALL ORDER BY ALL
        """,
    )
    assert {(model, experiment): best for model, experiment, best in table} == {
        ("gpt2", 1): 93.6,
        ("gpt2", 3): 88.1,
        ("gpt2-medium", 1): 98.0,
        ("gpt2-medium", 3): 92.8,
        ("gpt2-large", 1): 99.0,
        ("gpt2-large", 3): 94.2,
        ("gpt2-xl", 1): 99.3,
        ("gpt2-xl", 3): 95.7,
    }
