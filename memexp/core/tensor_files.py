"""Slices of tensors in safetensors files: written one after the other, read row by row from wherever they are.

The format is that of the safetensors library, whose own functions want a file with a path or all bytes in memory,
while a store may be a bucket and a rank reads only what it needs. A header is a function of what a file holds, so a
reader who knows that compares it and parses nothing.

    write(stream, pieces)                   # [(Piece("weight", (0, 0), (4, 8), "F32"), tensor), ...]
    for piece, at in places(pieces): fill(stream, at, piece, wanted, target)
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

import torch
from torch import Tensor

from memexp.sources import Stored

__all__ = ["DTYPES", "Box", "Piece", "fill", "fill_from_whole", "header", "places", "room_to_read", "write"]

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""What safetensors calls them."""
_ALIGNED = 8
"""A header's length is a multiple of it."""
CHUNK = 1 << 26
"""Bytes read at a time."""
ROOM = 1 << 22
"""The same of a model's own files: beside what a rank holds, loading should take next to nothing."""


@dataclass(frozen=True)
class Box:
    """Which part of a tensor: from `offsets` on, `lengths` in each dimension."""

    offsets: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def size(self) -> int:
        """Elements."""
        return math.prod(self.lengths)

    def common(self, other: Box) -> Box | None:
        """What two parts have in common, None where that is nothing."""
        spans = list(zip(self.offsets, self.lengths, other.offsets, other.lengths, strict=True))
        first = tuple(max(a, b) for a, _, b, _ in spans)
        lengths = tuple(min(a + n, b + m) - at for at, (a, n, b, m) in zip(first, spans, strict=True))
        return Box(first, lengths) if all(length > 0 for length in lengths) else None

    def of(self, tensor: Tensor, within: Box) -> Tensor:
        """This part of a tensor that is itself the part `within`."""
        for dimension, (at, length, start) in enumerate(zip(self.offsets, self.lengths, within.offsets, strict=True)):
            tensor = tensor.narrow(dimension, at - start, length)
        return tensor


@dataclass(frozen=True)
class Piece:
    """A part of a tensor in a file."""

    tensor: str
    """Name of the whole."""
    box: Box
    """Which part."""
    dtype: str
    """As safetensors calls it."""
    whole: bool
    """Whether it is all of the tensor."""

    @property
    def name(self) -> str:
        """In the file."""
        spans = (f"{at}:{at + length}" for at, length in zip(self.box.offsets, self.box.lengths, strict=True))
        return self.tensor if self.whole else f"{self.tensor}[{', '.join(spans)}]"

    @property
    def bytes(self) -> int:
        """Its size."""
        return self.box.size * DTYPES[self.dtype].itemsize


def header(pieces: Sequence[Piece]) -> bytes:
    """The beginning of a file of these pieces."""
    said, at = {}, 0
    for piece in pieces:
        said[piece.name] = {"dtype": piece.dtype, "shape": piece.box.lengths, "data_offsets": (at, at + piece.bytes)}
        at += piece.bytes
    text = json.dumps(said, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNED)
    return len(text).to_bytes(8, "little") + text


def places(pieces: Sequence[Piece]) -> Iterator[tuple[Piece, int]]:
    """Each piece, and where it begins in a file of them."""
    at = len(header(pieces))
    for piece in pieces:
        yield piece, at
        at += piece.bytes


def write(stream: IO[bytes], pieces: Sequence[tuple[Piece, Tensor]]) -> None:
    """Write a file. Each tensor is that part of the whole that its piece says."""
    stream.write(header([piece for piece, _ in pieces]))
    for _, tensor in pieces:
        stream.write(_bytes(tensor.detach().to("cpu").contiguous()))


def fill(stream: IO[bytes], at: int, piece: Piece, wanted: Box, target: Tensor, room: Tensor | None = None) -> int:
    """Copy what `wanted`, which `target` is, has in common with a piece that begins at `at`; how many elements.

    Only the rows in question are read, as many at a time as `room` (bytes) holds, else about `CHUNK` bytes. Raises
    ValueError where the file ends before.
    """
    common, box = wanted.common(piece.box), piece.box
    if common is None:
        return 0
    rows, first, across = (
        (common.lengths[0], common.offsets[0], box.size // box.lengths[0]) if box.lengths else (1, 0, 1)
    )
    width = across * DTYPES[piece.dtype].itemsize
    stream.seek(at + width * (first - box.offsets[0] if box.lengths else 0))
    for start in range(0, rows, step := max(1, (CHUNK if room is None else len(room)) // width)):
        count = min(step, rows - start)
        read = _read(stream, count * width, room).view(DTYPES[piece.dtype])
        if not box.lengths:
            target.copy_(read[0])
            continue
        here = Box((first + start, *box.offsets[1:]), (count, *box.lengths[1:]))
        part = Box((first + start, *common.offsets[1:]), (count, *common.lengths[1:]))
        part.of(target, wanted).copy_(part.of(read.view(here.lengths), here))
    return common.size


def fill_from_whole(stream: IO[bytes], stored: Stored, wanted: Box, target: Tensor, room: Tensor) -> None:
    """Copy what `wanted`, which `target` is, has of a tensor of a model's file, which `stream` reads.

    Raises ValueError where the file ends before.
    """
    whole = Box((0,) * len(stored.shape), stored.shape)
    fill(stream, stored.at, Piece("", whole, stored.dtype, whole=True), wanted, target, room)


def room_to_read() -> Tensor:
    """For `fill` and what else reads a model's files, again and again."""
    return torch.empty(ROOM, dtype=torch.uint8)


def _bytes(tensor: Tensor) -> memoryview:
    """Those of a contiguous tensor on the CPU."""
    array: Any = tensor.reshape(-1).view(torch.uint8).numpy()
    return memoryview(array)


def _read(stream: IO[bytes], count: int, room: Tensor | None = None) -> Tensor:
    read = torch.empty(count, dtype=torch.uint8) if room is None or len(room) < count else room[:count]
    rest = _bytes(read)
    while rest:
        got = stream.readinto(rest)  # type: ignore[attr-defined] # IO has none, all binary streams do
        if not got:
            raise ValueError("a file ends too early")
        rest = rest[got:]
    return read
