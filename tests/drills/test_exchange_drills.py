"""`memexp compact` and `memexp import` killed with -9: nothing half is seen, and the same command finishes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import signal
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from drills.strikes import Fault
from support import command, ended

from memexp.records import rows_for
from memexp.store import Store
from memexp.wording import amount

pytestmark = pytest.mark.drill

HIDDEN = ".compacting-"
"""In the name of a folder that is to become an export."""
NEW = [
    Fault("os:fsync", path=HIDDEN, nth=1, act="kill"),
    Fault("os:fsync", path=HIDDEN, nth=4, act="kill"),
    Fault("os:rename", path=HIDDEN, act="kill"),
    Fault("os:rename", path=HIDDEN, after=True, act="kill"),
]
IN_PLACE_OF_ANOTHER = [
    Fault("os:fsync", path=HIDDEN, nth=2, act="kill"),
    Fault("os:rename", path=HIDDEN, act="kill"),
    Fault("shutil:rmtree", path=HIDDEN, act="kill"),
]
IMPORT = [
    Fault("os:link", path="/recognition/", nth=1, act="kill"),
    Fault("os:link", path="/recognition/", nth=3, after=True, act="kill"),
    Fault("os:fsync", path="/.tmp/", nth=5, act="kill"),
    Fault("os:fsync", path="/results/recognition", nth=2, act="kill"),
]


def where(fault: Fault) -> str:
    return f"{fault.at}-{fault.nth}{'-after' if fault.after else ''}"


def killed(folder: Path, fault: Fault, *arguments: object) -> None:
    """Give the command, which ends where the fault says."""
    strikes = folder / "strikes"
    strikes.mkdir()
    process = command(
        *arguments,
        MEMEXP_FAULT=json.dumps(dataclasses.asdict(fault) | {"folder": str(strikes)}),
        PYTHONPATH=os.pathsep.join([str(Path(__file__).parent / "faults"), os.environ.get("PYTHONPATH", "")]),
    )
    ended(process, -signal.SIGKILL)


def content(store: Path | str, kinds: Sequence[str] = ("recognition", "recall")) -> list[str]:
    """All rows of a store that is whole, in an order of their own."""
    assert not Store(store).verify().problems
    tables = [table for kind in kinds if (table := Store(store).scan(kind)) is not None]
    return sorted(json.dumps(row, sort_keys=True) for table in tables for row in table.to_pylist())


def files(folder: Path | str) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).rglob("*") if path.is_file()
    }


def grown(store: Store, first: int, last: int) -> None:
    for number in range(first, last):
        items = pa.table({"item": list(range(20)), "score": [number / 7] * 20})
        for kind in ("recognition", "recall"):
            store.commit(kind, f"s{number}-p-c", rows_for(items, {"condition_id": f"c{number}"}, {}, {}))


@pytest.mark.parametrize("fault", NEW, ids=where)
def test_a_new_export_appears_whole_or_not_at_all(tmp_path: Path, fault: Fault) -> None:
    store, out = Store(tmp_path / "results"), tmp_path / "results-compacted"
    grown(store, 0, 6)
    before, rows = files(store.location), content(store.location)
    killed(tmp_path, fault, "compact", "--store", store.location)
    assert files(store.location) == before
    assert out.exists() == fault.after
    if fault.after:
        assert content(out) == rows
    assert "240 rows of 12 files in 2" in ended(command("compact", "--store", store.location), 0)
    assert content(out) == rows and files(store.location) == before


@pytest.mark.parametrize("fault", IN_PLACE_OF_ANOTHER, ids=where)
def test_an_export_is_the_old_one_or_the_new(tmp_path: Path, fault: Fault) -> None:
    store, out = Store(tmp_path / "results"), tmp_path / "results-compacted"
    grown(store, 0, 6)
    old = content(store.location)
    ended(command("compact", "--store", store.location), 0)
    grown(store, 6, 8)
    rows = content(store.location)
    killed(tmp_path, fault, "compact", "--store", store.location)
    assert content(out) == (rows if fault.at == "shutil:rmtree" else old)
    assert "320 rows of 16 files in 2" in ended(command("compact", "--store", store.location), 0)
    assert content(out) == rows == content(store.location)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of the author's."""
    folder, draw = tmp_path_factory.mktemp("published"), np.random.default_rng(0)
    for number in range(8):
        name = f"gpt2_large_seen_data_{number % 4}_0.00003_4_results.npz"
        path = folder / f"shot-{number // 4 + 1}" / "expt3-gpt" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seen, unseen = draw.uniform(0, 5, (2, 25)).astype(np.float32)
        np.savez(path, seen_losses=seen, unseen_losses=unseen, mean_accuracy=np.mean(seen < unseen))
    return folder


@pytest.fixture(scope="module")
def imported(published: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What an import leaves that nothing befalls."""
    store = tmp_path_factory.mktemp("undisturbed") / "results"
    assert "8 files new" in ended(command("import", "llm-memory", published, "--store", store), 0)
    return content(store)


@pytest.mark.parametrize("fault", IMPORT, ids=where)
def test_an_import_goes_on_where_it_was_killed(
    tmp_path: Path, published: Path, imported: list[str], fault: Fault
) -> None:
    store = tmp_path / "results"
    killed(tmp_path, fault, "import", "llm-memory", published, "--store", store)
    there = content(store)
    assert len(imported) == 200 and len(there) < 200 and set(there) <= set(imported)
    page = ended(command("import", "llm-memory", published, "--store", store), 0)
    assert f": {amount(8 - len(there) // 25, 'file')} new, {len(there) // 25} already there" in page
    assert content(store) == imported
