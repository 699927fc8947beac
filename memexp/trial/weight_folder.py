"""The weights of one condition as a folder of transformers' own format, whole or as an adapter of PEFT's.

    write_weights(forest, "0123456789abcdef", Store("results"), Path("weights"))

They are made as a trial makes them: from the nearest snapshot that the store has kept, and from the base where it has
none. Nothing is measured, and nothing is written to the store.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, Any, Literal

import pyarrow as pa
from safetensors.torch import save_file
from transformers.utils import logging as hf_logging

from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.errors import MemexpError, SpecError, StoreError
from memexp.plan import Ask, Forest, Trial, whole
from memexp.plan.attempts import Attempt
from memexp.records import versions
from memexp.sources import location
from memexp.spec import LoRA, Snapshots
from memexp.store import Store
from memexp.store.snapshots import find
from memexp.trial.base import WarmBase
from memexp.trial.leaving import Notice
from memexp.trial.walk import Walk

__all__ = ["write_weights"]

ABOUT = "memexp.json"
"""What the folder says of itself: the condition with all its settings."""
_ADAPTER = ".default"
"""How peft calls the one adapter in the names of its parameters, which it leaves out in files."""


def write_weights(forest: Forest, condition: str, store: Store, folder: Path) -> Path:
    """Bring the model to the end of a condition, in this process, and write it.

    Args:
        forest: of the sweep.
        condition: its ``condition_id``, or the beginning of it.
        store: where snapshots are looked for.
        folder: must not be there, or be empty.

    Raises:
        SpecError: there is no such condition, or several; it needs several workers; the folder holds something.
        MemexpError: its training fails.
        StoreError: the folder cannot be written.
    """
    ask = _asked(forest, condition)
    trial = whole(forest, [ask])
    if trial.resources.workers > 1:
        raise SpecError(
            f"condition {ask.condition_id}: its model is shared by {trial.resources.workers} workers, and weights are "
            "written by one process; give Resources(workers=1) where one has the memory"
        )
    if isinstance(trial.base.method, LoRA) and trial.base.model.source is None:
        raise SpecError(
            f"condition {ask.condition_id}: its adapter belongs to weights that were drawn, which are in no file that "
            "PEFT could load; full finetuning can be written"
        )
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpecError(f"{folder}: is there already; weights are written to a folder that is not, or is empty")
    lm = _made(trial, ask, store)
    try:
        with _whole(folder) as partial:
            _write(lm, trial, partial)
            about = {"condition_id": ask.condition_id, "stage_id": ask.stage, **_settings(ask), **versions()}
            (partial / ABOUT).write_text(json.dumps(about, indent=2, default=str) + "\n")
    except OSError as error:
        raise StoreError(f"cannot write {folder}: {error.strerror or error}") from error
    return folder


def _asked(forest: Forest, condition: str) -> Ask:
    """One ask of the condition."""
    found = {ask.condition_id: ask for ask in forest.asks if condition and ask.condition_id.startswith(condition)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        some = ", ".join(sorted(found)[:3]) + (" ..." if len(found) > 3 else "")
        raise SpecError(f"condition {condition}: {len(found)} begin so: {some}")
    raise SpecError(
        f"condition {condition}: the sweep has none; its ids are the column condition_id of its rows, such as "
        f"{forest.asks[0].condition_id}"
    )


def _made(trial: Trial, ask: Ask, store: Store) -> LanguageModel:
    """The model after the stage of `ask`."""
    trial.asks, trial.leaves, trial.snapshots = [], (ask.stage,), Snapshots(minutes=None, keep=True)
    world = World.current(trial.resources.gpus)
    attempt = Attempt("weights", "weights")
    walk = Walk(trial, [], [ask.stage], find(store), _Unchanged(store), world, attempt, lambda _: None, Notice())
    walk.saver.leaves = ()  # nothing is saved on the way
    lines = walk.run(WarmBase(), None)
    if lines or walk.state.at != ask.stage:
        raise MemexpError(lines[0] if lines else f"condition {ask.condition_id}: its weights cannot be had")
    return walk.state.lm


class _Unchanged:
    """A store of which snapshots are read and to which nothing is written."""

    is_local = True

    def __init__(self, store: Store) -> None:
        self._store = store

    def commit(self, kind: str, name: str, table: pa.Table) -> bool:
        return True

    def exists(self, kind: str, name: str) -> bool:
        return False

    def names(self, kind: str, prefix: str) -> set[str]:
        return set()

    def read(self, kind: str, name: str) -> pa.Table:
        return self._store.read(kind, name)

    def open(self, path: str, mode: Literal["rb", "wb"]) -> AbstractContextManager[IO[bytes]]:
        if mode == "wb":
            raise StoreError("nothing is saved on the way to weights")
        return self._store.open(path, mode)

    def size(self, path: str) -> int | None:
        return self._store.size(path)

    def put_text(self, path: str, text: str) -> None:
        """Logs of no trial."""

    def get_text(self, path: str) -> str | None:
        return self._store.get_text(path)

    def list_text(self, prefix: str) -> list[str]:
        return self._store.list_text(prefix)

    def delete(self, path: str) -> None:
        """It stays."""


@contextmanager
def _whole(folder: Path) -> Iterator[Path]:
    """A folder beside it that takes its place in the end, or goes."""
    partial = folder.with_name(f".{folder.name}.{os.getpid()}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if folder.is_dir():
            folder.rmdir()  # it is empty
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(lm: LanguageModel, trial: Trial, folder: Path) -> None:
    lm.tokenizer.save_pretrained(folder)
    method = trial.base.method
    if isinstance(method, LoRA):
        _write_adapter(lm, method, trial, folder)
        return
    lm.lm.config.use_cache = True  # off for training only
    hf_logging.disable_progress_bar()
    lm.lm.save_pretrained(folder)


def _write_adapter(lm: LanguageModel, method: LoRA, trial: Trial, folder: Path) -> None:
    """As `peft.PeftModel.save_pretrained` does it of a model that it wraps; here its modules are in the model."""
    from memexp.core.adapter import lora_config

    config: Any = lora_config(method)
    config.inference_mode = True
    model = trial.base.model
    config.base_model_name_or_path = location(model.source or model.name)
    config.revision = model.commit
    config.save_pretrained(folder)
    tensors = {
        f"base_model.model.{name.removeprefix('lm.').replace(_ADAPTER, '')}": parameter.detach().cpu().contiguous()
        for name, parameter in lm.learning().items()
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})


def _settings(ask: Ask) -> dict[str, Any]:
    """Those of the condition that have a value, and its labels."""
    both = {**ask.settings, **ask.labels}
    return {name: value for name, value in both.items() if value is not None and not name.startswith("probe_")}
