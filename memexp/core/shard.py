"""Sharding: every rank of the world holds a slice of each parameter (FSDP2).

shard(lm)                               # a LanguageModel, in place
gathered = gather_together(lm, resources)     # for probes, which gather each weight once where all of them fit
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from memexp.core.batch_sizes import spare
from memexp.core.model import LanguageModel, blocks
from memexp.core.precision import gathered
from memexp.spec import Resources

__all__ = ["gather_together", "shard"]

SHARE = 0.8
"""Of the memory that is free, for gathered weights; the rest is for what a probe computes with them. Together it may be
more than training takes: nobody else has a use for a device's memory, and decoding that gathers every weight for every
token is several times slower. What a trial needs, as `memexp plan` tells it, is without."""


def shard(lm: LanguageModel) -> None:
    """Shard `lm` over its world, block by block, in place. All ranks call."""
    # From the CPU, block by block: no device ever holds more than its shards and one whole block.
    mesh = init_device_mesh(lm.world.device.type, (lm.world.size,))
    policies = gathered(lm.lm, lm.dtype)
    for block in blocks(lm.lm):
        fully_shard(block, mesh=mesh, mp_policy=policies.blocks)
    for module, policy in policies.apart.items():
        fully_shard(module, mesh=mesh, mp_policy=policy)
    # The root too gives its parameters back after each pass: named_parameters() then always shows the shards.
    fully_shard(lm, mesh=mesh, reshard_after_forward=True)


def gather_together(lm: LanguageModel, resources: Resources) -> int:
    """Have the weights of `lm` stay gathered while a probe runs, where all of them fit; how many bytes that takes.

    0 where they do not: a pass then gathers block by block, as in training. All ranks call, and find the same.
    """
    size = _gathered_bytes(lm) if lm.world.size > 1 else 0
    if size == 0 or lm.world.any(size > SHARE * _free_bytes(lm, resources)):
        lm.together = contextlib.nullcontext
        return 0
    lm.together = functools.partial(_kept_gathered, lm)
    return size


@contextlib.contextmanager
def _kept_gathered(lm: LanguageModel) -> Iterator[None]:
    """Each weight is gathered in the first pass and kept to the end; then there are shards again.

    Decoding would gather every weight for every token. All ranks enter and leave together.
    """
    modules = [module for module in lm.modules() if isinstance(module, FSDPModule)]
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(True, recurse=False)
            module.reshard()


def _gathered_bytes(lm: LanguageModel) -> int:
    """Those of all weights, and of two groups of them that are on their way, which arrive in a room of their own."""
    groups = _groups(lm)
    return sum(groups) + sum(sorted(groups)[-2:])


def _groups(lm: LanguageModel) -> list[int]:
    """Bytes of what is gathered together, each number in bfloat16 or, as the head's are, as it is held."""
    policies, seen, found = gathered(lm.lm, lm.dtype), set[int](), []
    by_itself = [(block, policies.blocks) for block in blocks(lm.lm)] + list(policies.apart.items())
    for module, policy in (*by_itself, (lm, MixedPrecisionPolicy())):
        new = [parameter for parameter in module.parameters() if id(parameter) not in seen]
        seen |= {id(parameter) for parameter in new}
        size = policy.param_dtype.itemsize if policy.param_dtype is not None else None
        found.append(sum(parameter.numel() * (size or parameter.itemsize) for parameter in new))
    return found


def _free_bytes(lm: LanguageModel, resources: Resources) -> float:
    """Memory that is free for this rank: of its device, or its part of the host's, if all ranks were on this one."""
    if lm.world.device.type == "cuda":
        return spare(lm, resources)
    import psutil  # not needed on a GPU

    return float(psutil.virtual_memory().available) / lm.world.size
