"""Published results as rows, tried on a synthetic few (on the author's own: drills/test_published_drills.py)."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

from memexp.cli import main
from memexp.exchange.llm_memory import INTERFERENCE, MODELS, STUDY, Imported, import_results
from memexp.records import MADE_WITH
from memexp.report.verify import complaint
from memexp.store import Store

SWEEP = Path(__file__).parents[2] / "sweeps" / "recognition_recall.py"

GPT2 = "shot-2/expt3-gpt/gpt2_large_seen_data_1_0.00003_4_results.npz"
OPT = "shot-1/expt1-opt7b/opt_7b_seen_data_0_0.0001_4_results.npz"
UNTRAINED = "shot-1/expt1-opt7b/opt_7b_init_seen_data_2_results.npz"
RETAINED = "re-evals/expt1-data_1/gptj_step_60_results.npz"
SCRATCH = "scratch-evals/shot-3/expt6-gptj/gpt_j_seen_data_3_0.00001_2_results.npz"
SCRATCH_RETAINED = "scratch-re-evals/expt5-data_3/gptj_step_100000_results.npz"
ALL = (GPT2, OPT, UNTRAINED, RETAINED, SCRATCH, SCRATCH_RETAINED)


def write(root: Path, path: str, items: int = 5, seed: int | None = None, **changed: Any) -> Path:
    """One file as the author's test.py saves it; `changed` arrays instead, None for none."""
    draw = np.random.default_rng(len(path) if seed is None else seed)
    seen, unseen = (draw.uniform(0, 5, items).astype(np.float32) for _ in range(2))
    seen, unseen = changed.pop("seen_losses", seen), changed.pop("unseen_losses", unseen)
    arrays = {"seen_losses": seen, "unseen_losses": unseen}
    if seen is not None and unseen is not None and seen.shape == unseen.shape and seen.dtype.kind == "f":
        arrays |= {"accuracies": seen < unseen, "mean_accuracy": np.mean(seen < unseen)}
    arrays |= {"mean_accuracy": np.float64(0.5)} if "mean_accuracy" not in arrays else {}
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez(file, **{name: value for name, value in (arrays | changed).items() if value is not None})
    return file


def ask(store: Store, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        rows = f"read_parquet('{store.path('recognition')}', union_by_name=true)"
        return connection.execute(sql.replace("recognition", rows)).fetchall()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    for path in ALL:
        write(tmp_path / "published", path)
    return tmp_path / "published"


def row_of(root: Path, path: str, store: Store) -> dict[str, Any]:
    """The first row of one file, without what is NULL."""
    write(root, path)
    import_results(str(root), store)
    [name] = store.names("recognition")
    first = store.read("recognition", name).slice(0, 1).to_pylist()[0]
    return {key: value for key, value in first.items() if value is not None and not key.endswith("_id")}


def rest(experiment: int, replication: int) -> dict[str, Any]:
    return STUDY | {
        "experiment": experiment,
        "replication": replication,
        "corpus": f"expt{experiment}/seen_data_{replication}.json",
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (GPT2, rest(3, 1) | {"model": "gpt2-large", "exposures": 2, "lr": 3e-5, "batch_size": 4}),
        (OPT, rest(1, 0) | {"model": "facebook/opt-6.7b", "exposures": 1, "lr": 1e-4, "batch_size": 16}),
        (UNTRAINED, rest(1, 2) | {"model": "facebook/opt-6.7b", "exposures": 0}),
        (
            RETAINED,
            rest(1, 1) | {"model": "EleutherAI/gpt-j-6b", "exposures": 3, "retention_steps": 60, **INTERFERENCE},
        ),
        (SCRATCH, rest(6, 3) | {"model": "gpt-j-6B-st", "exposures": 3, "lr": 1e-5, "batch_size": 8}),
        (
            SCRATCH_RETAINED,
            rest(5, 3) | {"model": "gpt-j-6B-st", "exposures": 3, "retention_steps": 100_000, **INTERFERENCE},
        ),
    ],
)
def test_names_and_folders_are_settings(tmp_path: Path, store: Store, path: str, expected: dict[str, Any]) -> None:
    found = row_of(tmp_path / "published", path, store)
    assert found.pop("item") == 0 and found.pop("target_nll") >= 0 and found.pop("foil_nll") >= 0
    if expected["model"] != "gpt-j-6B-st":
        expected = expected | {"init": "pretrained"}
    assert found == expected and not set(MADE_WITH.names) & set(found)


def test_every_item_is_a_row(published: Path, store: Store) -> None:
    assert import_results(str(published), store) == Imported(files=6, items=30, new=6)
    losses = np.load(published / GPT2)
    rows = ask(store, "SELECT item, target_nll, foil_nll FROM recognition WHERE model = 'gpt2-large' ORDER BY item")
    expected = zip(range(5), losses["seen_losses"].tolist(), losses["unseen_losses"].tolist(), strict=True)
    assert rows == list(expected)
    found = store.verify(complaint)
    assert (found.files, found.rows, found.problems) == (6, 30, ())


def test_models_are_called_as_in_the_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["sweep", "--data", str(tmp_path), "--models", "gpt2", "--experiments", "1"])
    assert set(MODELS.values()) == set(runpy.run_path(str(SWEEP))["PUBLISHED"])


def test_a_second_import_adds_nothing(published: Path, store: Store) -> None:
    import_results(str(published), store)
    before = {file: file.read_bytes() for file in Path(store.location).rglob("*.parquet")}
    assert import_results(str(published), store) == Imported(files=6, items=30, new=0)
    assert {file: file.read_bytes() for file in Path(store.location).rglob("*.parquet")} == before


def test_a_part_of_the_folders_will_do_and_the_rest_may_follow(
    published: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert import_results(str(published / "shot-2" / "expt3-gpt"), store).new == 1
    monkeypatch.chdir(published / "scratch-evals" / "shot-3")
    assert import_results(".", store).new == 1
    assert ask(store, "SELECT DISTINCT model FROM recognition ORDER BY ALL") == [("gpt-j-6B-st",), ("gpt2-large",)]
    assert import_results(str(published), store) == Imported(files=6, items=30, new=4)


def test_the_same_file_twice_counts_once(tmp_path: Path, store: Store) -> None:
    for folder in ("one", "two"):
        write(tmp_path / "published" / folder, GPT2)
    assert import_results(str(tmp_path / "published"), store) == Imported(files=2, items=5, new=1)


def test_a_loss_that_is_nan_is_null_and_counts_for_the_author_as_not_recognized(tmp_path: Path, store: Store) -> None:
    seen = np.array([1, np.nan, 1, np.inf], np.float32)
    write(tmp_path, GPT2, seen_losses=seen, unseen_losses=np.array([2, 2, np.nan, 2], np.float32))
    import_results(str(tmp_path), store)
    rows = ask(store, "SELECT target_nll, foil_nll FROM recognition ORDER BY item")
    assert rows == [(1, 2), (None, 2), (1, None), (float("inf"), 2)]


# What is refused, before anything is written


def truncated(root: Path) -> Path:
    file = write(root, GPT2)
    file.write_bytes(file.read_bytes()[:-40])
    return file


def array(root: Path) -> Path:
    file = write(root, GPT2)
    with open(file, "wb") as sink:
        np.save(sink, np.zeros(3))
    return file


def flipped(root: Path) -> Path:
    file = write(root, GPT2)
    data = bytearray(file.read_bytes())
    data[data.index(b"NUMPY") + 140] ^= 1  # in the numbers of seen_losses
    file.write_bytes(data)
    return file


def text(root: Path) -> Path:
    file = write(root, GPT2)
    file.write_text("no archive")
    return file


F32 = np.float32
BAD: list[tuple[Callable[[Path], Path], str]] = [
    (lambda root: write(root, "shot-1/gpt2_seen_data_0_0.0001_1_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "shot-4/expt1-gpt/gpt2_seen_data_0_0.0001_1_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "shot-1/expt7-gpt/gpt2_seen_data_0_0.0001_1_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "shot-1/expt1-gpt/gpt5_seen_data_0_0.0001_1_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "shot-1/expt1-gpt/gpt2_seen_data_0_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "shot-1/expt1-gpt/gpt2_init_seen_data_0_0.1_4_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "re-evals/expt1-data_1/gpt2_step_60_results.npz"), "not named like shot-N/"),
    (lambda root: write(root, "scratch-evals/" + GPT2), "gpt2_large in a folder of gpt-j-6B-st"),
    (lambda root: write(root, GPT2, seen_losses=None), "has no array 'seen_losses'"),
    (lambda root: write(root, GPT2, unseen_losses=None), "has no array 'unseen_losses'"),
    (lambda root: write(root, GPT2, mean_accuracy=None), "has no array 'mean_accuracy'"),
    (lambda root: write(root, GPT2, unseen_losses=np.ones(4, F32)), "5 seen_losses, but 4 unseen_losses"),
    (lambda root: write(root, GPT2, seen_losses=np.ones((5, 1), F32)), "seen_losses is no list of numbers"),
    (lambda root: write(root, GPT2, seen_losses=np.array(list("abcde"))), "seen_losses is no list of numbers"),
    (lambda root: write(root, GPT2, seen_losses=np.array([{}] * 5)), "Object arrays cannot be loaded"),
    (lambda root: write(root, GPT2, items=0, mean_accuracy=0.0), "seen_losses is no list of numbers"),
    (lambda root: write(root, GPT2, mean_accuracy=np.float64(0.51)), "mean_accuracy is 0.51, but its losses give"),
    (lambda root: write(root, GPT2, mean_accuracy=np.float64("nan")), "mean_accuracy is nan, but its losses give"),
    (truncated, "cannot be read"),
    (flipped, "cannot be read"),
    (text, "cannot be read"),
    (array, "not an .npz file"),
]


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The command `import llm-memory`: exit status, stdout, stderr."""

    def command(folder: Path, store: Store) -> tuple[int, str, str]:
        status = main(["import", "llm-memory", str(folder), "--store", store.location])
        return status, *capsys.readouterr()

    return command


@pytest.mark.filterwarnings("ignore:Mean of empty slice", "ignore:invalid value")
@pytest.mark.parametrize(("bad", "expected"), BAD)
def test_a_bad_file_is_a_line_and_nothing_is_written(
    tmp_path: Path, store: Store, said: Any, bad: Callable[[Path], Path], expected: str
) -> None:
    write(tmp_path / "published", RETAINED)
    file = bad(tmp_path / "published")
    status, out, err = said(tmp_path / "published", store)
    first, last = err.splitlines()
    assert (status, out, last) == (2, "", "nothing was imported")
    assert first.startswith(f"memexp: {file}: ") and expected in first and len(first) < 400 + len(str(file))
    assert not Path(store.location).exists()


def test_every_bad_file_has_a_line_up_to_ten(tmp_path: Path, store: Store, said: Any) -> None:
    for number in range(12):
        write(tmp_path, f"re-evals/expt1-data_1/gptj_step_{number}_results.npz", mean_accuracy=None)
    _, _, err = said(tmp_path, store)
    lines = err.splitlines()
    assert len(lines) == 12 and lines[-2:] == ["and 2 more files", "nothing was imported"]
    assert len({line.partition(": has no array")[0] for line in lines[:10]}) == 10


def test_other_numbers_for_the_same_condition_are_refused(tmp_path: Path, store: Store, said: Any) -> None:
    file, other = write(tmp_path / "one", GPT2), write(tmp_path / "two", GPT2, seed=7)
    status, _, err = said(tmp_path, store)
    assert status == 2 and err.startswith(f"memexp: {other}: other numbers for the same condition than {file}\n")
    assert not store.names("recognition")
    import_results(str(tmp_path / "one"), store)
    [name] = store.names("recognition")
    status, _, err = said(tmp_path / "two", store)
    assert status == 2 and f"than recognition/{name}.parquet in the store\n" in err
    assert store.names("recognition") == {name}


def test_a_folder_without_results_is_said(tmp_path: Path, store: Store, said: Any) -> None:
    assert said(tmp_path, store) == (2, "", f"memexp: {tmp_path}: holds no .npz files\n")
    assert said(tmp_path / "no", store) == (2, "", f"memexp: {tmp_path / 'no'}: no such folder\n")


def test_the_command_counts(published: Path, store: Store, said: Any) -> None:
    assert said(published, store) == (0, "6 files, 30 items: 6 files new, 0 already there\n", "")
    assert said(published, store) == (0, "6 files, 30 items: 0 files new, 6 already there\n", "")


def test_progress_is_a_line_now_and_then(
    published: Path, store: Store, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("memexp.report.progress.PLAIN_EVERY", -1.0)
    _, _, err = said(published, store)
    assert "3 of 6 files read" in err.splitlines() and "6 of 6 files written" in err.splitlines()
