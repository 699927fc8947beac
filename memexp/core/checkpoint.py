"""Snapshots: a trajectory saved to disk or object storage in the middle of a stage, and loaded again exactly.

Kept are what has been learned, the optimizer, the draws still to come, and the losses of the stage's steps so far; what
a step trains on is a function of its number (batches.py). The files of a snapshot, written by all ranks through
torch.distributed.checkpoint, count for nothing until a last small file, the mark, lists them:

    mark = save_snapshot(store, "0123456789abcdef", 400, lm, optimizer, steps)
    loaded = load_snapshot(store, mark, lm, study)
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemBase, FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import AdamW

from memexp.core.data import key_seed
from memexp.core.model import LanguageModel, local
from memexp.core.optimizer import adamw
from memexp.core.processes import World
from memexp.core.train import Step
from memexp.errors import StoreError
from memexp.spec import Training
from memexp.store.snapshots import FOLDER, Mark, SideFiles

__all__ = ["Loaded", "load_snapshot", "save_snapshot"]

CHUNK = 2**24
"""Bytes read at a time to look whether a file is what was written."""

_LEARNED = StateDictOptions(ignore_frozen_params=True)


def save_snapshot(
    store: SideFiles, trajectory: str, step: int, lm: LanguageModel, optimizer: AdamW, steps: Sequence[Step]
) -> Mark:
    """Save a trajectory after its `step`-th step; an older snapshot of it is removed. All ranks call.

    Args:
        store: where to.
        trajectory: its identity.
        step: steps of it that have been made.
        lm: the model.
        optimizer: its optimizer.
        steps: those of the present stage so far, for ``training/``.

    Raises:
        StoreError: it could not be written (on all ranks); training may go on, a restart begins earlier.
    """
    world, mark = lm.world, Mark(trajectory, step)
    folder = world.broadcast(f"{FOLDER}/{trajectory}/{step:09d}-{uuid.uuid4().hex}")
    state, written = _state(lm, optimizer, drawn=True, begun=bool(optimizer.state)), _Files(store)
    try:
        with _explained("write", folder), _unwarned():
            state_dict_saver.save(state, storage_writer=_writer(written, folder), no_dist=world.size == 1)
    except StoreError:  # on all ranks, when all have ended
        _forget(store, folder, world)
        raise
    sums = {path: sum_ for each in world.gather(written.sums) for path, sum_ in each.items()}
    failure = None
    if world.leads:
        try:
            files = {path: [store.size(path), sums[path]] for path in store.list_text(f"{folder}/")}
            text = {"workers": world.size, "files": files, "steps": [dataclasses.astuple(each) for each in steps]}
            begun = "optimizer" in state
            store.put_text(mark.path, json.dumps({"folder": folder, "begun": begun, **text}))
            _forget_older(store, mark, folder)
        except StoreError as error:
            failure = error
    if failure := world.broadcast(failure):  # as one, or the others would train on while rank 0 does not
        _forget(store, folder, world)
        raise failure
    return mark


def _forget(store: SideFiles, folder: str, world: World) -> None:
    """Remove what became no snapshot: on a full disk it would take the room of results."""
    if world.leads:
        with contextlib.suppress(StoreError):
            for path in store.list_text(f"{folder}/"):
                store.delete(path)


def _forget_older(store: SideFiles, newest: Mark, folder: str) -> None:
    """Remove what a newer snapshot has made useless; not what is being written, which has no mark yet."""
    paths = store.list_text(f"{FOLDER}/{newest.trajectory}/")
    for path in [path for path in paths if path.endswith(".json") and path < newest.path]:
        old = json.loads(store.get_text(path) or "{}").get("files", {})
        store.delete(path)
        for file in old:
            store.delete(file)


@dataclass(frozen=True)
class Loaded:
    """What a snapshot gave back beside the model's weights."""

    optimizer: AdamW
    """With the state it had."""
    steps: list[Step]
    """The steps of the stage it was taken in, up to it."""


def load_snapshot(store: SideFiles, mark: Mark, lm: LanguageModel, settings: Training) -> Loaded | None:
    """Bring `lm` and the random draws to a snapshot. All ranks call.

    Returns:
        None where the snapshot is gone or not whole; `lm` may then hold part of it and is of no use as it is.
    """
    said = lm.world.broadcast(_whole(store, mark) if lm.world.leads else None)
    if said is None or _changed(store, said["files"], lm.world):
        return None
    # torch makes room for the moments of a fresh optimizer only where no gradient lies about, as a stage that ran out
    # of memory leaves them; else it loads none, without a word.
    lm.zero_grad()
    optimizer = adamw(lm, settings)
    # Dropout goes on where it was only on as many ranks: each draws for its own rows.
    state = _state(lm, optimizer, drawn=said["workers"] == lm.world.size, begun=said.get("begun", True))
    reader = _reader(_Files(store), said["folder"])
    try:
        with _unwarned():
            state_dict_loader.load(state, storage_reader=reader, no_dist=lm.world.size == 1)
    except (CheckpointException, StoreError, OSError):
        return None  # removed by another attempt just now
    set_model_state_dict(lm, state["model"], options=StateDictOptions(strict=False))
    if "optimizer" in state:
        set_optimizer_state_dict(lm, optimizer, optim_state_dict=state["optimizer"], options=_LEARNED)
        if len(optimizer.state) < len(lm.learning()):
            return None
    if "draws" in state:
        _set_draws(lm.world, state["draws"][str(lm.world.rank)])
    else:
        torch.manual_seed(key_seed(mark.trajectory, mark.step, "draws", lm.world.rank))
    return Loaded(optimizer, [Step(*values) for values in said["steps"]])


def _whole(store: SideFiles, mark: Mark) -> dict[str, Any] | None:
    """What a mark says, if every file it lists is there in its full length."""
    try:
        said: dict[str, Any] = json.loads(store.get_text(mark.path) or "null")
        whole = said is not None and all(store.size(path) == size for path, (size, _) in said["files"].items())
    except (ValueError, KeyError, TypeError, AttributeError):  # not JSON, or not ours
        return None
    return said if whole else None


def _changed(store: SideFiles, files: Mapping[str, tuple[int, int]], world: World) -> bool:
    """Whether a file has not the sum it was written with: torch would load it all the same. All ranks call.

    Reading everything once more takes seconds for every ten GB and rank, on a restart only.
    """
    changed = False
    for path in sorted(files)[world.rank :: world.size]:
        try:
            sum_ = 0
            with store.open(path, "rb") as stream:
                while chunk := stream.read(CHUNK):
                    sum_ = zlib.crc32(chunk, sum_)
            changed = changed or sum_ != files[path][1]
        except (StoreError, OSError):  # removed by another attempt just now
            changed = True
    return world.any(changed)


def _state(lm: LanguageModel, optimizer: AdamW, drawn: bool, begun: bool) -> dict[str, Any]:
    """What is kept: draws where they can go on, the optimizer where it has made a step.

    Of one that has made none torch would take the state of one that has.
    """
    state: dict[str, Any] = {"model": get_model_state_dict(lm, options=_LEARNED)}
    if begun:
        _give_all_a_state(lm, optimizer)
        state["optimizer"] = get_optimizer_state_dict(lm, optimizer, options=_LEARNED)
    if drawn:
        state["draws"] = {str(lm.world.rank): _draws(lm.world)}
    return state


def _give_all_a_state(lm: LanguageModel, optimizer: AdamW) -> None:
    """Moments of zero for parameters that no pass uses, as some decoders have: torch asks for those of all."""
    for parameter in lm.learning().values() if optimizer.state else ():
        if parameter not in optimizer.state:
            step = torch.zeros((), device=local(parameter).device)
            moments = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[parameter] = {"step": step, **moments}


def _draws(world: World) -> Tensor:
    return torch.cuda.get_rng_state(world.device) if world.device.type == "cuda" else torch.get_rng_state()


def _set_draws(world: World, state: Tensor) -> None:
    if world.device.type == "cuda":
        torch.cuda.set_rng_state(state, world.device)
    else:
        torch.set_rng_state(state)


@contextlib.contextmanager
def _explained(doing: str, what: str) -> Iterator[None]:
    """torch.distributed.checkpoint puts what went wrong on a rank into an error of its own."""
    try:
        yield
    except CheckpointException as error:
        first = next(iter(error.failures.values()))[0]
        if isinstance(first, StoreError):
            raise StoreError(str(first)) from error
        raise StoreError(f"cannot {doing} snapshot {what}: {' '.join(str(first).split())[:200]}") from error


@contextlib.contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # which is what a single process wants
        yield


# ---------------------------------------------------------------------------------------------------------
# torch.distributed.checkpoint over a store


class _Summed:
    """A stream that is written from its beginning to its end, with the CRC-32 of what was."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sum = stream, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, data: Any) -> int:
        self.sum = zlib.crc32(data, self.sum)
        return self._stream.write(data)


class _Files(FileSystemBase):
    """The few things torch.distributed.checkpoint does with files."""

    def __init__(self, store: SideFiles) -> None:
        self.store = store
        self.sums: dict[str, int] = {}
        """CRC-32 of each file that was written."""

    @contextlib.contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        with self.store.open(os.fspath(path), "wb" if mode == "wb" else "rb") as stream:
            summed = _Summed(stream)
            yield summed if mode == "wb" else stream
        if mode == "wb":
            self.sums[os.fspath(path)] = summed.sum

    def concat_path(self, path: str | os.PathLike[str], suffix: str) -> str:
        return f"{os.fspath(path)}/{suffix}"

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        with self.create_stream(path, "rb") as old, self.create_stream(new_path, "wb") as new:
            shutil.copyfileobj(old, new)
        self.rm_file(path)

    def init_path(self, path: str | os.PathLike[str]) -> str:
        return os.fspath(path)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        return None  # a store makes folders as it needs them

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        return True

    def exists(self, path: str | os.PathLike[str]) -> bool:
        return self.store.size(os.fspath(path)) is not None

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        self.store.delete(os.fspath(path))


def _writer(files: _Files, folder: str) -> FileSystemWriter:
    # The store makes files durable when they are closed.
    writer = FileSystemWriter(folder, sync_files=False)
    writer.fs = files  # type: ignore[assignment] # declared as the one of local files
    writer.path = folder
    return writer


def _reader(files: _Files, folder: str) -> FileSystemReader:
    reader = FileSystemReader(folder)
    reader.fs = files  # type: ignore[assignment] # likewise
    reader.path = folder
    return reader
