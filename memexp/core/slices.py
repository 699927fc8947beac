"""Which slices of its tensors a rank holds, dealt to files, and read back by ranks that hold other ones.

held = hold(world, {"weights/a": parameter, ...})          # on any number of ranks
for number, pieces in enumerate(deal(held)):    ...    # what this rank writes, file by file
fill_all(open_, said, held)                                # reads what this rank holds, and no more
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO

from pydantic import NonNegativeInt
from torch import Tensor
from torch.distributed.tensor import DTensor, Shard

from memexp.core.model import local
from memexp.core.processes import World
from memexp.core.tensor_files import DTYPES, Box, Piece, fill, header, places
from memexp.store.snapshots import Form

__all__ = ["Held", "Layout", "Part", "Whole", "deal", "fill_all", "hold", "layout"]

LARGEST = 1 << 26
"""Bytes of tensors in a file at most, so that object storage takes each in one request: what is killed on the way
leaves no half upload, which nobody lists and somebody pays for, and a snapshot may be as large as it will."""


@dataclass(frozen=True)
class Held:
    """What this rank holds of a tensor."""

    tensor: Tensor
    """Itself, no copy."""
    box: Box
    """Which part it is."""
    shape: tuple[int, ...]
    """Of the whole."""
    writes: bool
    """Whether it is this rank that writes it: of what all ranks have, one does."""

    @property
    def dtype(self) -> str:
        """As safetensors calls it."""
        return _NAMES[self.tensor.dtype]


_NAMES = {dtype: name for name, dtype in DTYPES.items()}


def hold(world: World, tensors: Mapping[str, Tensor], like: Mapping[str, Tensor] = {}) -> dict[str, Held]:
    """This rank's part of each tensor. All ranks call.

    Args:
        world: the ranks.
        tensors: whole ones, sharded ones, and parts.
        like: of what is a part by itself (offloaded moments), the sharded tensor it goes with; never changed.
    """
    whole = {name: like.get(name, tensor) for name, tensor in tensors.items()}
    lengths = {name: tensor.to_local().shape for name, tensor in whole.items() if isinstance(tensor, DTensor)}
    everyones, held = world.gather(lengths) if lengths else [], dict[str, Held]()
    for name, tensor in whole.items():
        part, offsets = local(tensors[name].detach()), [0] * tensor.ndim
        sharded = False
        if isinstance(tensor, DTensor):
            (placement,) = tensor.placements
            sharded = isinstance(placement, Shard)
            if isinstance(placement, Shard):
                before = (theirs[name][placement.dim] for theirs in everyones[: world.rank])
                offsets[placement.dim] = sum(before)
        box = Box(tuple(offsets), tuple(part.shape))
        held[name] = Held(part, box, tuple(tensor.shape), writes=sharded or world.leads)
    return held


def deal(held: Mapping[str, Held]) -> list[list[tuple[Piece, Tensor]]]:
    """What this rank writes into each of its files, none of which has more than `LARGEST` bytes of tensors."""
    files: list[list[tuple[Piece, Tensor]]] = []
    size = 0
    for name, one in held.items():
        for box in _cut(one) if one.writes and one.box.size else ():
            piece = Piece(name, box, one.dtype, box.lengths == one.shape)
            if not files or size + piece.bytes > LARGEST:
                files.append([])
                size = 0
            files[-1].append((piece, box.of(one.tensor, one.box)))
            size += piece.bytes
    return files


def _cut(one: Held) -> Iterator[Box]:
    """A part in pieces of whole rows, each within `LARGEST` bytes or of one row."""
    if not one.shape:
        yield one.box
        return
    row = one.tensor.element_size() * one.box.size // one.box.lengths[0]
    step = max(1, LARGEST // row)
    for start in range(0, one.box.lengths[0], step):
        count = min(step, one.box.lengths[0] - start)
        yield Box((one.box.offsets[0] + start, *one.box.offsets[1:]), (count, *one.box.lengths[1:]))


# ---------------------------------------------------------------------------------------------------------
# What is said of them


class Whole(Form):
    """A tensor."""

    dtype: str
    shape: tuple[NonNegativeInt, ...]


class Part(Form):
    """A part of a tensor, in a file."""

    tensor: str
    offsets: tuple[NonNegativeInt, ...]
    lengths: tuple[NonNegativeInt, ...]


class Layout(Form):
    """Which tensors there are, and in which files."""

    tensors: dict[str, Whole]
    files: dict[str, tuple[Part, ...]]
    """In the order in which they lie there."""

    def pieces(self, file: str) -> list[Piece]:
        """What is in a file. Raises KeyError or ValueError where that cannot be."""
        found = []
        for part in self.files[file]:
            whole = self.tensors[part.tensor]
            spans = zip(part.offsets, part.lengths, whole.shape, strict=True)
            if not all(0 < length <= size - at for at, length, size in spans) or whole.dtype not in DTYPES:
                raise ValueError(f"{file} cannot hold {part.tensor}")
            found.append(Piece(part.tensor, Box(part.offsets, part.lengths), whole.dtype, part.lengths == whole.shape))
        return found


def layout(held: Mapping[str, Held], files: Mapping[str, Sequence[Piece]]) -> Layout:
    """What is said of tensors that were dealt to files so."""
    tensors = {name: Whole(dtype=one.dtype, shape=one.shape) for name, one in held.items()}
    parts = {
        name: tuple(Part(tensor=piece.tensor, offsets=piece.box.offsets, lengths=piece.box.lengths) for piece in pieces)
        for name, pieces in files.items()
    }
    return Layout(tensors=tensors, files=parts)


def fill_all(open_: Callable[[str], AbstractContextManager[IO[bytes]]], said: Layout, held: Mapping[str, Held]) -> None:
    """Read what this rank holds into where it holds it, from whatever slices it was written in.

    Raises ValueError where the files have not exactly these tensors, or one does not begin as it should.
    """
    if said.tensors != {name: Whole(dtype=one.dtype, shape=one.shape) for name, one in held.items()}:
        raise ValueError("it is of other tensors than the model has")
    left = {name: one.box.size for name, one in held.items()}
    for file in said.files:
        pieces = said.pieces(file)
        wanted = [(piece, at) for piece, at in places(pieces) if held[piece.tensor].box.common(piece.box)]
        if not wanted:
            continue
        with open_(file) as stream:
            beginning = header(pieces)
            if stream.read(len(beginning)) != beginning:
                raise ValueError(f"{file} is not of the tensors it should be of")
            for piece, at in wanted:
                one = held[piece.tensor]
                left[piece.tensor] -= fill(stream, at, piece, one.box, one.tensor)
    if lacking := [name for name, count in left.items() if count]:
        raise ValueError(f"it lacks a part of {lacking[0]}")
