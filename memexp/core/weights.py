"""Content for a model without any: from a checkpoint's files, of rows that a rank drew, or from the rank that has it.

places = places_in(lm, stored, "gpt2")              # which tensor of the files each parameter is
fill(root, Content(stored=places), world)             # the rows of them that this rank holds, onto its device

Names are as transformers would rename them. Pickles are read by rank 0, which hands them over parameter by parameter.
Where transformers would also merge, split or turn tensors (experts of a mixture), rank 0 loads the whole model on its
CPU before it does so: only that rank's host needs the memory. So it is with random weights that cannot be drawn in
parts (see drawing.py).
"""

from __future__ import annotations

import contextlib
import itertools
import pickle
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from memexp.core.hollow import exchange
from memexp.core.processes import World
from memexp.core.refusals import REFUSALS
from memexp.core.slices import Held, hold
from memexp.core.tensor_files import Box, fill_from_whole, room_to_read
from memexp.errors import ModelError, one_line
from memexp.sources import Stored

T = TypeVar("T")

__all__ = ["Content", "fill", "names_of", "pickled", "places_in", "refuse_more_blocks", "taken_out"]

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def found_in(
    lm: PreTrainedModel,
    shapes: Mapping[str, tuple[int, ...]],
    name: str,
    equal: Callable[[list[str]], bool] = lambda _: False,
) -> dict[str, str] | None:
    """Which tensor of a checkpoint each one of `lm` is, by the first name of what is tied; None where that is not all.

    Args:
        lm: a model, which may be without weights.
        shapes: of what the checkpoint has.
        name: what errors call the model.
        equal: whether several tensors of the checkpoint, for what is tied in `lm`, are the same.

    Raises:
        ModelError: the checkpoint lacks a parameter, or has it in another shape, or has more blocks than the model.
    """
    tensors = lm.state_dict(keep_vars=True)
    keys = _keys(lm, shapes, tensors)
    if keys is None:
        return None
    refuse_more_blocks(lm, shapes.keys() - keys.values(), keys.values(), name)
    found: dict[str, str] = {}
    lacking = []
    for names in _tied(tensors):
        there = [keys[name] for name in names if name in keys]
        if len(there) > 1 and not equal(there):  # not tied, perhaps
            return None
        if not there:
            lacking += names[:1]
            continue
        wanted = tuple(tensors[names[0]].shape)
        if shapes[there[0]] != wanted:
            said = f"{there[0]} is {shapes[there[0]]} in its weights, not {wanted}"
            raise ModelError(f"model {name!r} cannot be loaded: {said}")
        found[names[0]] = there[0]
    if any(re.search(pattern, one) for pattern in lm._keys_to_ignore_on_load_missing or () for one in lacking):
        return None
    if lacking:
        raise ModelError(f"model {name!r}: its weights lack {len(lacking)} parameters, among them {sorted(lacking)[0]}")
    return found


def refuse_more_blocks(lm: PreTrainedModel, left: Iterable[str], used: Iterable[str], name: str) -> None:
    """Raise ModelError where what is `left` of a checkpoint are blocks behind those that are `used`.

    transformers goes on without them, with a warning: with another model than the weights are of.
    """
    last: dict[str, int] = {}
    for before, number in _numbered(used):
        last[before] = max(number, last.get(before, 0))
    ignored = lm._keys_to_ignore_on_load_unexpected or ()
    for key in sorted(one for one in left if not any(re.search(pattern, one) for pattern in ignored)):
        if any(number > last.get(before, number) for before, number in _numbered([key])):
            raise ModelError(
                f"model {name!r}: its weights have {key}, a block beyond those of its config.json; use the config.json "
                "that they were saved with"
            )


def _numbered(keys: Iterable[str]) -> Iterator[tuple[str, int]]:
    """What stands before the number of a block in these names, and the number."""
    for key in keys:
        if found := re.match(r"(.*?\.)(\d+)\.", key):
            yield found[1], int(found[2])


def _keys(lm: PreTrainedModel, known: Collection[str], tensors: dict[str, Tensor]) -> dict[str, str] | None:
    """The name in a checkpoint of every tensor of `lm` that is there; None where more is done than renaming."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # an older one loads in another way
        return None
    transforms = get_model_conversion_mapping(lm)
    renamings = [one for one in transforms if isinstance(one, WeightRenaming)]
    converters = [one for one in transforms if isinstance(one, WeightConverter)]
    if len(renamings) + len(converters) != len(transforms):
        return None
    keys: dict[str, str] = {}
    for key in known:
        renamed, converted = rename_source_key(key, renamings, converters, lm.base_model_prefix, tensors)
        if renamed not in tensors and key in tensors:
            renamed, converted = rename_source_key(key, [], [], lm.base_model_prefix, tensors)
        if converted is not None or renamed in keys:
            return None
        if renamed in tensors:
            keys[renamed] = key
    return keys


def places_in(lm: PreTrainedModel, files: Mapping[str, Stored], name: str) -> dict[str, Stored] | None:
    """Where in safetensors files every tensor of `lm` lies; see `found_in`."""
    found = found_in(lm, {key: one.shape for key, one in files.items()}, name)
    return None if found is None else {own: files[key] for own, key in found.items()}


def pickled(lm: PreTrainedModel, files: Sequence[Path], name: str) -> dict[str, Tensor] | None:
    """Every tensor of `lm` as it lies in pickled files, which stay on the disk until it is looked into; see `found_in`.

    None, too, where the files are not to be read in this way; nothing in them is executed.
    """
    if not files:
        return None
    tensors: dict[str, Tensor] = {}
    try:
        for file in files:
            tensors |= torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        shapes = {key: tuple(one.shape) for key, one in tensors.items()}
    except (*REFUSALS, pickle.UnpicklingError, EOFError, AttributeError):  # transformers says what is wrong
        return None

    def equal(keys: list[str]) -> bool:
        return len({tensors[key].data_ptr() for key in keys}) == 1

    found = found_in(lm, shapes, name, equal)
    if found is None:
        return None
    for own in (own for own, _ in lm.named_parameters() if own in found):
        if tensors[found[own]].dtype not in _FLOATS:
            said = f"{found[own]} is {str(tensors[found[own]].dtype).removeprefix('torch.')}"
            raise ModelError(f"model {name!r}: its weights are quantised ({said}); use the model they were made from")
    return {own: tensors[key] for own, key in found.items()}


def names_of(lm: nn.Module) -> dict[int, str]:
    """The first name of every tensor that is saved, by its id: names change where an adapter comes in between."""
    found: dict[int, str] = {}
    for name, tensor in lm.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), name)
    return found


def taken_out(lm: PreTrainedModel, whole: PreTrainedModel, name: str) -> dict[str, Tensor]:
    """The tensors of `whole`, for a model `lm` of the same kind.

    Raises ModelError where not the same ones are tied.
    """
    tensors = whole.state_dict(keep_vars=True)
    ours, theirs = (_tied(one.state_dict(keep_vars=True)) for one in (lm, whole))
    if ours != theirs:
        odd = next(names for names in ours if names not in theirs)
        raise ModelError(f"model {name!r}: {' and '.join(odd)} are tied by its configuration and differ in its weights")
    return {names[0]: tensors[names[0]].detach() for names in theirs}


def _tied(tensors: Mapping[str, Tensor]) -> list[list[str]]:
    """The names of each tensor."""
    names: dict[int, list[str]] = {}
    for name, tensor in tensors.items():
        names.setdefault(id(tensor), []).append(name)
    return list(names.values())


@dataclass(frozen=True)
class Content:
    """What is to be filled in, by the names that tensors have in the model that is filled."""

    stored: Mapping[str, Stored] | None = None
    """Where each lies."""
    whole: dict[str, Tensor] | None = None
    """On rank 0 what it has, where the others have nothing; taken out one by one, so that each is let go."""
    own: dict[str, Tensor] | None = None
    """On every rank the rows that it is to have, if it has them; taken out one by one as well."""

    def renamed(self, names: Mapping[int, str], root: nn.Module) -> Content:
        """By the names that the tensors with these ids have in `root`."""
        held = itertools.chain(root.named_parameters(), root.named_buffers())
        now = {names[id(tensor)]: name for name, tensor in held if id(tensor) in names}

        def by_now(content: Mapping[str, T] | None) -> dict[str, T] | None:
            return None if content is None else {now[name]: one for name, one in content.items()}

        return Content(by_now(self.stored), by_now(self.whole), by_now(self.own))


def fill(root: nn.Module, content: Content, world: World) -> None:
    """Give every hollow parameter of `root` its content on the device, and buffers theirs. All ranks call.

    Raises ModelError, on all ranks, where one of them could not.
    """
    hollow = {name: one for name, one in root.named_parameters() if one.is_meta}
    known = content.stored if content.stored is not None else content.own
    named = set(known if known is not None else world.broadcast(set(content.whole or ())))
    if lacking := hollow.keys() - named:
        raise ModelError(f"the weights that were loaded lack {sorted(lacking)[0]}")
    buffers = {name: one for name, one in root.named_buffers() if name in named}
    targets = hold(world, hollow | buffers)
    made: dict[int, nn.Parameter] = {}
    with torch.no_grad(), contextlib.ExitStack() as opened:
        source = _source(content, world, opened)
        failure: ModelError | None = None
        for name, held in targets.items():
            part = held.tensor
            if part.is_meta:
                part = torch.empty(held.box.lengths, dtype=part.dtype, device=world.device)
                made[id(hollow[name])] = _like(hollow[name], part)
            try:
                source(name, held, part)
            except (OSError, ValueError) as error:  # of files: the other source has none
                failure = failure or ModelError(f"{name}: {one_line(error)}")
    if first := next((one for one in world.gather(failure) if one is not None), None):
        raise first
    exchange(root, made)


_Source = Callable[[str, Held, Tensor], object]


def _source(content: Content, world: World, opened: contextlib.ExitStack) -> _Source:
    if content.stored is not None:
        return _read(content.stored, opened)
    if content.own is not None:
        return _kept(content.own)
    return _handed(content.whole, world)


def _read(stored: Mapping[str, Stored], opened: contextlib.ExitStack) -> _Source:
    """Rows of the files."""
    streams: dict[Path, IO[bytes]] = {}
    room = room_to_read()  # one for all: freed ones would leave holes between the parameters

    def source(name: str, held: Held, part: Tensor) -> None:
        one = stored[name]
        if one.file not in streams:
            streams[one.file] = opened.enter_context(one.file.open("rb"))
        fill_from_whole(streams[one.file], one, held.box, part, room)

    return source


def _kept(own: dict[str, Tensor]) -> _Source:
    """What this rank has."""

    def source(name: str, held: Held, part: Tensor) -> None:
        rows = own.pop(name)
        if tuple(rows.shape) != held.box.lengths:
            raise ValueError(f"rows of another rank were drawn, {tuple(rows.shape)} and not {held.box.lengths}")
        part.copy_(rows)

    return source


def _handed(whole: dict[str, Tensor] | None, world: World) -> _Source:
    """What rank 0 has, one tensor after another."""

    def source(name: str, held: Held, part: Tensor) -> None:
        own = whole.pop(name) if whole is not None else torch.empty(held.shape, dtype=part.dtype)
        shared = world.broadcast_tensor(own.to(world.device, part.dtype).contiguous())
        part.copy_(held.box.of(shared, Box((0,) * len(held.shape), held.shape)))

    return source


def _like(parameter: Tensor, part: Tensor) -> nn.Parameter:
    """A parameter as the hollow one, of which this rank holds `part`."""
    held = part
    if isinstance(parameter, DTensor):
        shape, stride = parameter.shape, parameter.stride()
        held = DTensor.from_local(
            part, parameter.device_mesh, parameter.placements, run_check=False, shape=shape, stride=stride
        )
    return nn.Parameter(held, requires_grad=parameter.requires_grad)
