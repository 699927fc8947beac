"""The published per-item results of Orhan 2023 (arXiv 2303.17557) as rows of kind `recognition`.

    memexp import llm-memory DIR

DIR holds the files of github.com/eminorhan/llm-memory, or a part of them, in the folders they were published in:

    shot-2/expt1-gpt/gpt2_large_seen_data_0_0.00003_4_results.npz   exposures, experiment, model, replication, lr, batch
    shot-1/expt1-opt7b/opt_7b_init_seen_data_0_results.npz          the model before study
    re-evals/expt1-data_1/gptj_step_60_results.npz                  three exposures, then 60 steps of interference

Those in scratch-evals and scratch-re-evals are of gpt-j-6B-st, as the paper calls it. Rows hold what names and protocol
say, and NULL elsewhere: texts, tokens, seeds and versions are not published, nor for retention the learning rate and
batch size of study. Losses that are NaN are NULL.

Everything is read and checked before anything is written, and names come from content: a second import adds nothing.
"""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.errors import DataError, one_line
from memexp.identity import identity
from memexp.probes import Recognition
from memexp.records import rows_for, with_source
from memexp.report.progress import counted
from memexp.store import Store
from memexp.wording import amount

__all__ = ["Imported", "import_results"]

KIND = Recognition.kind
MODELS = {
    "gpt2": "gpt2",
    "gpt2_medium": "gpt2-medium",
    "gpt2_large": "gpt2-large",
    "gpt2_xl": "gpt2-xl",
    "neo_125m": "EleutherAI/gpt-neo-125m",
    "neo_1.3b": "EleutherAI/gpt-neo-1.3B",
    "neo_2.7b": "EleutherAI/gpt-neo-2.7B",
    "gpt_j": "EleutherAI/gpt-j-6b",
    "gptj": "EleutherAI/gpt-j-6b",
    "opt_125m": "facebook/opt-125m",
    "opt_350m": "facebook/opt-350m",
    "opt_1.3b": "facebook/opt-1.3b",
    "opt_2.7b": "facebook/opt-2.7b",
    "opt_7b": "facebook/opt-6.7b",
    "opt_13b": "facebook/opt-13b",
    "bloom_560m": "bigscience/bloom-560m",
    "bloom_1b1": "bigscience/bloom-1b1",
    "bloom_1b7": "bigscience/bloom-1b7",
    "bloom_3b": "bigscience/bloom-3b",
    "bloom_7b": "bigscience/bloom-7b1",
}
"""Names as in sweeps/recognition_recall.py by names in the files."""
SCRATCH = "gpt-j-6B-st"
SHARDED = ("gpt_j", "opt_7b", "opt_13b", "bloom_7b")
DEVICES = 4
"""Of `SHARDED` models the files give the batch size of each device (scripts/train_*.sh, accelerate_config*.yaml)."""

STUDY = {
    "method": "full",
    "dtype": "float32",
    "block_size": 128,
    "schedule": "constant",
    "warmup_steps": 0,
    "warmup_ratio": 0.0,
    "weight_decay": 0.0,
    "optimizer": "adamw",
}
INTERFERENCE = {
    "interference_corpus": "cnn_dailymail",
    "interference_lr": 1e-5,
    "interference_batch_size": 16,
    "interference_block_size": 128,
    "interference_optimizer": "fresh",
    "interference_weight_decay": 0.0,
}

_STUDIED = re.compile(
    r"(?:.*?/)?(?P<scratch>scratch-evals/)?shot-(?P<exposures>[1-3])/expt(?P<experiment>[1-6])-\w+/"
    r"(?P<model>[\w.]+?)(?P<untrained>_init)?_seen_data_(?P<replication>[0-3])"
    r"(?(untrained)|_(?P<lr>0\.\d+)_(?P<batch>\d+))_results\.npz"
)
_RETAINED = re.compile(
    r"(?:.*/)?(?P<scratch>scratch-)?re-evals/expt(?P<experiment>[1-6])-data_(?P<replication>[0-3])/"
    r"(?P<model>gptj)_step_(?P<step>\d+)_results\.npz"
)
_ARRAYS = ("seen_losses", "unseen_losses", "mean_accuracy")
_UNREADABLE = (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile, zlib.error)
THREADS = 8
"""Files written at a time: each waits for the disk."""
SHOWN = 10
"""Lines about bad files."""


@dataclass(frozen=True)
class Imported:
    """What `import_results` found."""

    files: int
    items: int
    new: int
    """Files that were not in the store before."""


@dataclass(frozen=True)
class _Result:
    """One published file; arrays of shape (items,), in nats."""

    path: Path
    settings: dict[str, Any]
    labels: dict[str, int]
    seen: NDArray[np.floating[Any]]
    unseen: NDArray[np.floating[Any]]

    @property
    def name(self) -> str:
        """Name of the file in the store: what was measured, the numbers, who asked."""
        return "-".join(self.settings[part] for part in ("stage_id", "probe_id", "condition_id"))

    def table(self) -> pa.Table:
        items = {
            "item": np.arange(len(self.seen)),
            "target_nll": pa.array(self.seen, pa.float64(), from_pandas=True),  # NaN becomes NULL
            "foil_nll": pa.array(self.unseen, pa.float64(), from_pandas=True),
        }
        schema = Recognition.schema()
        columns = [items.get(field.name, pa.nulls(len(self.seen), field.type)) for field in schema]
        rows = rows_for(pa.table(columns, schema=schema), self.settings, self.labels, {})
        return with_source(rows, KIND, Recognition.headline)


def import_results(folder: str, store: Store) -> Imported:
    """Commit every ``.npz`` under `folder` to `store`, one file each, unless it is there already.

    Raises:
        DataError: a file is not understood, broken, or contradicts another or the store. Then nothing is written.
    """
    paths = _files(folder)
    found = _read_all(paths)
    store.check_writable()
    have = store.names(KIND)
    _check_agreement(found, have)
    store.check_whole(KIND, [name for name in found if name in have])
    missing = [result for name, result in found.items() if name not in have]
    with ThreadPoolExecutor(THREADS) as pool:
        written = pool.map(lambda result: store.commit(KIND, result.name, result.table()), missing)
        new = sum(counted(written, "written", len(missing)))
    return Imported(len(paths), sum(len(result.seen) for result in found.values()), new)


def _files(folder: str) -> list[Path]:
    if not os.path.isdir(folder):
        raise DataError(f"{folder}: no such folder")
    # Absolute, since DIR may be shot-1 itself.
    walk = os.walk(os.path.abspath(os.path.expanduser(folder)))
    paths = sorted(Path(where, name) for where, _, names in walk for name in names if name.endswith(".npz"))
    if not paths:
        raise DataError(f"{folder}: holds no .npz files")
    return paths


def _read_all(paths: Sequence[Path]) -> dict[str, _Result]:
    """All files by name in the store. Raises DataError with a line for each that is not what it should be."""
    found: dict[str, _Result] = {}
    bad = []
    for item in counted(_each(paths), "read", len(paths)):
        if isinstance(item, _Result):
            found.setdefault(item.name, item)
        else:
            bad.append(str(item))
    _refuse(bad)
    return found


def _each(paths: Sequence[Path]) -> Iterator[_Result | DataError]:
    for path in paths:
        try:
            yield _read(path)
        except DataError as error:
            yield error


def _refuse(bad: Sequence[str]) -> None:
    if bad:
        more = [f"and {amount(len(bad) - SHOWN, 'more file')}"] if len(bad) > SHOWN else []
        raise DataError("\n".join([*bad[:SHOWN], *more, "nothing was imported"]))


def _check_agreement(found: dict[str, _Result], have: set[str]) -> None:
    """Refuse other numbers for a condition that is there already, in another file or in the store."""

    def condition(name: str) -> tuple[str, str]:
        stage, _, asked = name.split("-", 2)
        return stage, asked

    known = {condition(name): (name, f"{KIND}/{name}.parquet in the store") for name in have if name.count("-") == 2}
    bad = []
    for name, result in found.items():
        other, where = known.setdefault(condition(name), (name, str(result.path)))
        if other != name:
            bad.append(f"{result.path}: other numbers for the same condition than {where}")
    _refuse(bad)


def _read(path: Path) -> _Result:
    """One file. Raises DataError, in one line that names it."""
    settings, labels = _described(path)
    try:
        loaded = np.load(path, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):
            raise DataError(f"{path}: not an .npz file")
        with loaded:
            for name in _ARRAYS:
                if name not in loaded:
                    raise DataError(f"{path}: has no array {name!r}, so it is no result of a recognition test")
            seen, unseen, accuracy = (np.asarray(loaded[name]) for name in _ARRAYS)  # bytes, of what is no array
    except _UNREADABLE as error:
        why = one_line(error, 120)
        raise DataError(f"{path}: cannot be read ({why})") from error
    _check(path, seen, unseen, accuracy)
    content = hashlib.sha256(b"".join(losses.astype("<f8").tobytes() for losses in (seen, unseen))).hexdigest()
    settings["probe_id"] = identity({"llm-memory": content})
    return _Result(path, settings, labels, seen, unseen)


def _check(path: Path, seen: NDArray[Any], unseen: NDArray[Any], accuracy: NDArray[Any]) -> None:
    for name, array in zip(_ARRAYS, (seen, unseen), strict=False):
        if array.ndim != 1 or array.dtype.kind != "f" or not array.size:
            raise DataError(f"{path}: {name} is no list of numbers ({array.dtype}, shape {array.shape})")
    if len(seen) != len(unseen):
        raise DataError(f"{path}: {len(seen)} seen_losses, but {len(unseen)} unseen_losses")
    # The author's comparison: an item with a loss that is NaN counts as not recognized.
    told = float(np.mean(seen < unseen))
    if accuracy.shape or accuracy.dtype.kind != "f" or not abs(told - accuracy) < 1e-12:
        raise DataError(f"{path}: mean_accuracy is {accuracy}, but its losses give {told}")


def _described(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Settings and labels from the folders and the name of a file, with the identities that follow from them."""
    studied, retained = _STUDIED.fullmatch(path.as_posix()), _RETAINED.fullmatch(path.as_posix())
    part = studied or retained
    if part is None or part["model"] not in MODELS:
        expected = "shot-N/exptN-FAMILY/MODEL_seen_data_N_LR_BATCH_results.npz or re-evals/exptN-data_N/gptj_step_N_..."
        raise DataError(f"{path}: not named like {expected}")
    if part["scratch"] and MODELS[part["model"]] != MODELS["gpt_j"]:
        raise DataError(f"{path}: {part['model']} in a folder of {SCRATCH}")
    model = {"model": SCRATCH} if part["scratch"] else {"model": MODELS[part["model"]], "init": "pretrained"}
    own = model | (_studied(studied) if studied else {"exposures": 3, "retention_steps": int(part["step"])})
    labels = {name: int(part[name]) for name in ("experiment", "replication")}
    asked = identity({"llm-memory": own | labels})
    corpus = f"expt{labels['experiment']}/seen_data_{labels['replication']}.json"
    fixed = STUDY if studied else STUDY | INTERFERENCE
    return fixed | own | {"corpus": corpus, "stage_id": asked, "condition_id": asked}, labels


def _studied(part: re.Match[str]) -> dict[str, Any]:
    if part["untrained"]:
        return {"exposures": 0}
    devices = DEVICES if part["model"] in SHARDED else 1
    exposures, batch = int(part["exposures"]), int(part["batch"])
    return {"exposures": exposures, "lr": float(part["lr"]), "batch_size": batch * devices}
