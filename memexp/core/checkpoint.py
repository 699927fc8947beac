"""Snapshots: a trajectory saved to disk or object storage in the middle of a stage, and loaded again exactly.

Kept are what has been learned, the optimizer, the draws still to come, and the losses of the stage's steps so far; what
a step trains on is a function of its number (batches.py). Every rank writes its own slices of the tensors, as
safetensors; all else is JSON of a fixed form (kept.py). The files count for nothing until a last small one, the mark,
lists them with their sizes and sums. Nothing is pickled, and nothing that is read can execute anything.

    save_snapshot(store, Mark("0123456789abcdef", 400), plan, lm, optimizer, steps)
    loaded = load_snapshot(store, Mark("0123456789abcdef", 400), plan, lm, study)
"""

from __future__ import annotations

import itertools
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, Any, TypeVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from memexp.core import kept
from memexp.core.data import key_seed
from memexp.core.kept import State
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.slices import Held, deal, fill_all, hold, layout
from memexp.core.tensor_files import Piece, write
from memexp.core.train import Step
from memexp.errors import MemexpError, StoreError, StoreGoneError, one_line
from memexp.identity import NUMERICS
from memexp.spec import Training
from memexp.store.snapshots import (
    FOLDER,
    File,
    Mark,
    SideFiles,
    Snapshot,
    Unfit,
    discard,
    forget_older,
    mark_text,
    read_mark,
)

__all__ = ["Loaded", "load_snapshot", "save_snapshot"]

T = TypeVar("T")

CHUNK = 2**24
"""Bytes read at a time to look whether a file is what was written."""
THREADS = 4
"""Files of a rank that are written or looked at together: object storage is slow for one, and quick for many."""

_STATE = "state.json"
# ---------------------------------------------------------------------------------------------------------
# Saving


def save_snapshot(
    store: SideFiles, mark: Mark, plan: str, lm: LanguageModel, optimizer: Optimizer, steps: Sequence[Step]
) -> None:
    """Save a trajectory after its ``mark.step``-th step; an older snapshot of it is removed. All ranks call.

    Args:
        store: where to.
        mark: the trajectory, and steps of it that have been made.
        plan: identity of the stage that the trajectory begins after.
        lm: the model.
        optimizer: its optimizer.
        steps: those of the present stage so far, for ``training/``.

    Raises:
        StoreError: it could not be written (on all ranks); training may go on, a restart begins earlier.
    """
    world = lm.world
    folder = world.broadcast(f"{mark.step:09d}-{uuid.uuid4().hex}")
    path = f"{FOLDER}/{mark.trajectory}/{folder}"
    held = hold(world, kept.tensors(lm, optimizer), kept.like(lm))

    def publish(files: Mapping[str, _Written]) -> None:
        said = layout(held, {name: one.pieces for name, one in files.items()})
        state = kept.state(lm, optimizer, steps, said, draws)
        there = {name: one.file for name, one in files.items()}
        there[_STATE] = _summed(store, f"{path}/{_STATE}", lambda to: to.write(state.model_dump_json().encode()))
        if gone := [name for name, file in there.items() if store.size(f"{path}/{name}") != file.size]:
            raise StoreError(f"cannot write {path}/{gone[0]}: it is not as long as what was written")
        belongs: dict[str, Any] = vars(mark) | {"plan": plan, "numerics": NUMERICS}
        snapshot = Snapshot(format=1, workers=world.size, folder=folder, files=there, **belongs)
        store.put_text(mark.path, mark_text(snapshot))

    try:
        written = _together(world, lambda: _write(store, path, held, world), StoreError)
        draws = world.gather(kept.draws(world))
        files = {name: one for each in written for name, one in each.items()}
        _together(world, lambda: publish(files) if world.leads else None, StoreError)
    except StoreError:  # on all ranks, or the others would train on while one does not
        if world.leads:  # on a full disk it would take the room of results
            discard(store, f"{mark.trajectory}/{folder}")
        raise
    if world.leads:
        forget_older(store, mark)


@dataclass(frozen=True)
class _Written:
    """A file of tensors."""

    file: File
    pieces: list[Piece]


def _write(store: SideFiles, path: str, held: Mapping[str, Held], world: World) -> dict[str, _Written]:
    """This rank's files."""

    def one(number: int, dealt: Sequence[tuple[Piece, Tensor]]) -> tuple[str, _Written]:
        name = f"{world.rank:05d}-{number:05d}.safetensors"
        file = _summed(store, f"{path}/{name}", lambda stream: write(stream, dealt))
        return name, _Written(file, [piece for piece, _ in dealt])

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(pool.map(one, itertools.count(), deal(held)))


def _summed(store: SideFiles, path: str, writing: Callable[[Any], object]) -> File:
    """A file, written, and what it has to be."""
    with store.open(path, "wb") as stream:
        writing(summed := _Summed(stream))
    return File(size=summed.size, crc32=summed.crc32)


class _Summed:
    """A stream that is written from its beginning to its end, with the length and the CRC-32 of what was."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.size, self.crc32 = stream, 0, 0

    def write(self, data: Any) -> None:
        self._stream.write(data)
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)


# ---------------------------------------------------------------------------------------------------------
# Loading


@dataclass(frozen=True)
class Loaded:
    """What a snapshot gave back beside the model's weights."""

    optimizer: Optimizer
    """With the state it had."""
    steps: list[Step]
    """The steps of the stage it was taken in, up to it."""


def load_snapshot(store: SideFiles, mark: Mark, plan: str, lm: LanguageModel, settings: Training) -> Loaded | None:
    """Bring `lm` and the random draws to a snapshot of a trajectory that begins after the stage `plan`. All ranks call.

    Returns:
        None where the snapshot is gone; `lm` may then hold part of it and is of no use as it is.

    Raises:
        Unfit: it is not whole, not what was written, or not of this trajectory (on all ranks); for `lm` see above.
        StoreGoneError: nothing could be read.
    """
    try:
        return _loaded(store, mark, plan, lm, settings)
    except Unfit as error:
        # Another attempt may be at work on the same, and has removed it just now.
        if not lm.world.broadcast(lm.world.leads and _is_there(store, mark)):
            return None
        raise Unfit(f"snapshot {mark.path} is passed over: {error}") from error


def _is_there(store: SideFiles, mark: Mark) -> bool:
    try:
        return store.size(mark.path) is not None
    except StoreError:
        return True


def _loaded(store: SideFiles, mark: Mark, plan: str, lm: LanguageModel, settings: Training) -> Loaded | None:
    world = lm.world

    def read() -> tuple[Snapshot, State] | None:
        snapshot = read_mark(store, mark, plan) if world.leads else None
        return (snapshot, _read_state(store, snapshot)) if snapshot else None

    said = world.broadcast(_together(world, read, Unfit)[0])
    if said is None:
        return None
    snapshot, state = said
    mine = sorted(snapshot.files)[world.rank :: world.size]

    def check() -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda name: _check(store, snapshot, name), mine))

    _together(world, check, Unfit)
    made: list[Optimizer] = []  # which is no other rank's
    _together(world, lambda: made.append(kept.prepared(lm, settings, state)), Unfit)
    optimizer = made[0]
    held = hold(world, kept.tensors(lm, optimizer), kept.like(lm))

    def fill() -> None:
        with torch.no_grad():
            fill_all(lambda name: store.open(snapshot.path(name), "rb"), state.layout, held)
        # Dropout goes on where it was only on as many ranks: each draws for its own rows.
        if snapshot.workers == world.size and state.device == world.device.type:
            kept.set_draws(world, state.draws[world.rank])
        else:
            torch.manual_seed(key_seed(mark.trajectory, mark.step, "draws", world.rank))

    _together(world, fill, Unfit)
    return Loaded(optimizer, [Step(*values) for values in state.steps])


def _read_state(store: SideFiles, snapshot: Snapshot) -> State:
    _check(store, snapshot, _STATE)
    with store.open(snapshot.path(_STATE), "rb") as stream:
        state = State.model_validate_json(stream.read())
    if {*state.layout.files, _STATE} != snapshot.files.keys():  # those of which there is no sum
        raise Unfit(f"its mark and {_STATE} list other files")
    return state


def _check(store: SideFiles, snapshot: Snapshot, name: str) -> None:
    """Raise Unfit where a file is not what was written.

    Reading everything once more takes seconds for every ten GB and rank, on a restart only.
    """
    if name not in snapshot.files:
        raise Unfit(f"its mark does not list {name}")
    path, file = snapshot.path(name), snapshot.files[name]
    size = store.size(path)
    if size != file.size:
        raise Unfit(f"{name} is missing" if size is None else f"{name} has {size} bytes, not {file.size}")
    if _sum(store, path) != file.crc32:
        raise Unfit(f"{name} is not what was written: its sum is wrong")


def _sum(store: SideFiles, path: str) -> int:
    found = 0
    with store.open(path, "rb") as stream:
        while chunk := stream.read(CHUNK):
            found = zlib.crc32(chunk, found)
    return found


# ---------------------------------------------------------------------------------------------------------
# Small parts


def _together(world: World, work: Callable[[], T], failure: type[MemexpError]) -> Sequence[T]:
    """What each rank's `work` returns. Raises `failure` on all ranks where one failed, whatever the reason.

    But for storage that is gone: then StoreGoneError, since of that no snapshot is at fault.
    """
    outcome: tuple[T | None, MemexpError | None]
    try:
        outcome = work(), None
    except StoreGoneError as error:
        outcome = None, StoreGoneError(str(error))
    except MemexpError as error:
        outcome = None, failure(str(error))
    except Exception as error:  # nothing that lies in a snapshot may end a sweep, or leave other ranks waiting
        outcome = None, failure(f"{type(error).__name__}: {one_line(error, 200)}")
    outcomes = world.gather(outcome)
    if errors := [error for _, error in outcomes if error is not None]:
        raise next((error for error in errors if isinstance(error, StoreGoneError)), errors[0])
    return [value for value, _ in outcomes]  # type: ignore[misc] # none failed
