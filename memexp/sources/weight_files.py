"""Which tensors lie where in a model's safetensors files, by their headers: nothing else is read, no torch is needed.

check_weights(model)               # what is broken or quantised is refused, so far as it is on this machine
found = stored(model, fetch=True)     # {"lm_head.weight": Stored(file, "BF16", (50257, 768), at), ...}
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memexp.errors import ModelError
from memexp.identity import parsed
from memexp.sources.hub import hub_file
from memexp.sources.pinned import ResolvedModel, location, read_config

__all__ = ["Stored", "check_weights", "stored"]

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
_PICKLE = "pytorch_model.bin"
_LONGEST = 100_000_000
"""Bytes of a header, as the library has it."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_FLOATS = ("F64", "F32", "F16", "BF16")
_WHOLE = "use the model they were made from"
_AGAIN = "copy or save the model again"
_WEIGHT = re.compile(r"(^|[._])(weight|qweight|weight_packed|qzeros|blocks)$")
"""What integers would be quantised weights: buffers, as masks and positions, have other names."""


@dataclass(frozen=True)
class Stored:
    """Where a tensor lies."""

    file: Path
    dtype: str
    """As safetensors calls it."""
    shape: tuple[int, ...]
    at: int
    """Its first byte in the file."""


def check_weights(model: ResolvedModel) -> None:
    """Refuse a model whose weights are quantised, cut off or not all there, so far as they are on this machine.

    Raises ModelError.
    """
    if model.source is None:
        return
    if read_config(model.source, model.commit).get("quantization_config"):
        raise ModelError(
            f"model {model.name!r}: its weights are quantised (quantization_config in its config.json); {_WHOLE}"
        )
    stored(model, fetch=False)


def stored(model: ResolvedModel, fetch: bool) -> dict[str, Stored] | None:
    """Every tensor of a pretrained model, None where it has no safetensors files, or none here and may not `fetch` any.

    Raises ModelError where a file is not whole, the index does not fit the files, or weights are quantised.
    """
    try:
        found = _found(model, fetch)
    except _Unfit as error:
        raise ModelError(f"model {model.name!r}: {error}; {_AGAIN}") from None
    for name, one in (found or {}).items():
        if one.dtype not in _BYTES or (one.dtype not in _FLOATS and len(one.shape) > 1 and _WEIGHT.search(name)):
            raise ModelError(f"model {model.name!r}: its weights are quantised ({name} is {one.dtype}); {_WHOLE}")
    return found


def pickles(model: ResolvedModel) -> list[Path]:
    """The files of a pretrained model without safetensors; none where it has no weights that could be loaded.

    Raises ModelError where they, or an index of them or of safetensors, are not all there.
    """
    try:
        return _pickles(model)
    except _Unfit as error:
        raise ModelError(f"model {model.name!r}: {error}; {_AGAIN}") from None


def _pickles(model: ResolvedModel) -> list[Path]:
    single = _file(model, _PICKLE, fetch=True)
    if single is not None:
        return [single]
    index = _file(model, f"{_PICKLE}.index.json", fetch=True)
    if index is None:
        for pattern, whole in (("model*.safetensors", _SINGLE), ("pytorch_model*.bin", _PICKLE)):
            if model.folder is not None and (parts := sorted(model.folder.glob(pattern))):
                raise _Unfit(f"{parts[0]} is there, but neither {whole} nor {whole}.index.json, which names its parts")
        return []
    files = []
    for name in sorted(set(_listed(index, ".bin").values())):
        file = _file(model, name, fetch=True)
        if file is None:
            raise _Unfit(f"{index} names {name}, which is not there")
        files.append(file)
    return files


class _Unfit(Exception):
    """What is wrong with a file."""


def _found(model: ResolvedModel, fetch: bool) -> dict[str, Stored] | None:
    single = _file(model, _SINGLE, fetch)
    if single is not None:
        return _header(single)
    index = _file(model, _INDEX, fetch)
    if index is None:
        return None
    listed = _listed(index)
    found: dict[str, Stored] = {}
    for name in sorted(set(listed.values())):
        file = _file(model, name, fetch)
        if file is None and model.folder is None and not fetch:
            return None
        if file is None:
            raise _Unfit(f"{index} names {name}, which is not there")
        here = _header(file)
        if twice := sorted(found.keys() & here.keys()):
            raise _Unfit(f"{twice[0]} is in {found[twice[0]].file.name} and in {name}, of which only one can count")
        found |= here
    for name, said in listed.items():
        if name not in found or found[name].file.name != said:
            raise _Unfit(f"{index} says that {name} is in {said}, which does not have it")
    if lacking := sorted(found.keys() - listed.keys()):
        raise _Unfit(f"{index} lacks an entry for {lacking[0]}, which is in {found[lacking[0]].file.name}")
    return found


def _file(model: ResolvedModel, name: str, fetch: bool) -> Path | None:
    source = location(model.source or "")
    if model.commit is None or fetch:
        return hub_file(source, name, model.commit)
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, name, revision=model.commit)
    return Path(cached) if isinstance(cached, str) else None


def _listed(index: Path, suffix: str = ".safetensors") -> dict[str, str]:
    """The file of each tensor."""
    try:
        listed = parsed(index.read_text(encoding="utf-8"))["weight_map"]
        files = {str(name): str(file) for name, file in listed.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _Unfit(f"{index} is not an index of weights (no weight_map)") from None
    if outside := [file for file in files.values() if Path(file).name != file or not file.endswith(suffix)]:
        raise _Unfit(f"{index} names {outside[0]!r}, which is no {suffix} file beside it")
    return files


def _header(file: Path) -> dict[str, Stored]:
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > min(size - 8, _LONGEST):
                raise _Unfit(f"{file} is not a whole safetensors file: it ends in its header")
            said = parsed(stream.read(length).decode())
        entries = {name: _entry(entry) for name, entry in said.items() if name != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise _Unfit(f"{file} is not a safetensors file") from None
    begin = 8 + length
    end = begin + max((last for *_, last in entries.values()), default=0)
    if size != end:
        raise _Unfit(f"{file} is not a whole safetensors file: {size:,} bytes, its header says {end:,}")
    found, at = {}, 0
    for name, (dtype, shape, first, last) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if first != at:
            raise _Unfit(f"{file}: {name} does not begin where the tensor before it ends")
        if dtype in _BYTES and math.prod(shape) * _BYTES[dtype] != last - first:
            raise _Unfit(f"{file}: {name} is not as long as its shape says")
        found[name], at = Stored(file, dtype, shape, begin + first), last
    return found


def _entry(said: Any) -> tuple[str, tuple[int, ...], int, int]:
    """What a header says of a tensor: dtype, shape, and where it begins and ends. Raises ValueError, among others."""
    dtype, shape, (first, last) = said["dtype"], tuple(said["shape"]), said["data_offsets"]
    numbers = (*shape, first, last)
    if not isinstance(dtype, str) or any(type(number) is not int or number < 0 for number in numbers) or first > last:
        raise ValueError(f"no entry of a header: {said}")
    return dtype, shape, first, last
