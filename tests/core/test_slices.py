"""Tensors that any number of ranks wrote slice by slice are read by any other number, each its own slices only."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator, Mapping
from typing import IO

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from memexp.core import slices, tensor_files
from memexp.core.slices import Held, Layout, deal, fill_all, layout
from memexp.core.tensor_files import DTYPES, Box, Piece, write
from memexp.store import bucket

WHOLE: dict[str, tuple[Tensor, int | None]] = {
    "rows": (torch.arange(70, dtype=torch.float32).reshape(10, 7), 0),
    "columns": (torch.arange(48, dtype=torch.int64).reshape(4, 2, 6), 2),
    "few": (torch.arange(2, dtype=torch.bfloat16), 0),
    "unsharded": (torch.tensor([[True, False], [False, True]]), None),
    "number": (torch.tensor(3.5, dtype=torch.float64), None),
    "nothing": (torch.empty(0, 3), 0),
}
"""Tensors, and the dimension that ranks have slices of."""


def held_by(rank: int, size: int, empty: bool = False) -> dict[str, Held]:
    """As FSDP shards: equal slices but for the last ones, which may have less or nothing."""
    found = {}
    for name, (tensor, dimension) in WHOLE.items():
        offsets, part = [0] * tensor.ndim, tensor
        if dimension is not None:
            each = -(-tensor.shape[dimension] // size)
            first = min(rank * each, tensor.shape[dimension])
            offsets[dimension] = first
            part = tensor.narrow(dimension, first, min(each, tensor.shape[dimension] - first))
        part = torch.zeros_like(part) if empty else part
        box = Box(tuple(offsets), tuple(part.shape))
        found[name] = Held(part, box, tuple(tensor.shape), writes=dimension is not None or rank == 0)
    return found


def written(size: int) -> tuple[Layout, dict[str, bytes]]:
    files: dict[str, bytes] = {}
    pieces: dict[str, list[Piece]] = {}
    for rank in range(size):
        for number, dealt in enumerate(deal(held_by(rank, size))):
            stream = io.BytesIO()
            write(stream, dealt)
            files[name := f"{rank}-{number}"] = stream.getvalue()
            pieces[name] = [piece for piece, _ in dealt]
    said = Layout.model_validate_json(layout(held_by(0, size), pieces).model_dump_json())
    return said, files


@contextlib.contextmanager
def opened(files: Mapping[str, bytes], name: str) -> Iterator[IO[bytes]]:
    yield io.BytesIO(files[name])


@pytest.mark.parametrize("largest", [1 << 34, 30])
@pytest.mark.parametrize(("saved_by", "read_by"), itertools.product((1, 2, 3, 5), (1, 2, 4, 7)))
def test_any_number_of_ranks_reads_what_any_number_wrote(
    saved_by: int, read_by: int, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slices, "LARGEST", largest)
    monkeypatch.setattr(tensor_files, "CHUNK", 16)
    said, files = written(saved_by)
    assert len(files) >= saved_by if largest > 30 else len(files) > 3 * saved_by
    for rank in range(read_by):
        held, expected = held_by(rank, read_by, empty=True), held_by(rank, read_by)
        fill_all(lambda name: opened(files, name), said, held)
        for name, one in held.items():
            assert torch.equal(one.tensor, expected[name].tensor), name


def test_the_library_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    said, files = written(1)
    found = load(files["0-0"])
    assert list(said.files) == ["0-0"] and found.keys() == WHOLE.keys() - {"nothing"}
    assert all(torch.equal(found[name], WHOLE[name][0]) for name in found)
    monkeypatch.setattr(slices, "LARGEST", 30)
    _, files = written(2)
    keys = [key for data in files.values() for key in load(data)]
    assert "rows[0:1, 0:7]" in keys and "rows[9:10, 0:7]" in keys and "number" in keys


def test_no_file_is_sent_to_a_bucket_in_parts() -> None:
    assert slices.LARGEST + (1 << 24) < bucket.WHOLE  # with its header


def test_every_dtype_has_a_name() -> None:
    assert {DTYPES[name].itemsize for name in DTYPES} == {1, 2, 4, 8} and len(set(DTYPES.values())) == len(DTYPES)


def test_what_is_lacking_is_noticed() -> None:
    said, files = written(2)
    held = held_by(0, 1, empty=True)
    short = Layout(tensors=said.tensors, files={"0-0": said.files["0-0"]})
    with pytest.raises(ValueError, match="it lacks a part of rows"):
        fill_all(lambda name: opened(files, name), short, held)
    cut = {name: data[:-1] for name, data in files.items()}
    with pytest.raises(ValueError, match="ends too early"):
        fill_all(lambda name: opened(cut, name), said, held)
    changed = held | {"few": held["rows"]}
    with pytest.raises(ValueError, match="other tensors"):
        fill_all(lambda name: opened(files, name), said, changed)
