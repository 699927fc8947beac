"""Sharding: every rank of the world holds a slice of each parameter (FSDP2).

shard(lm)      # a LanguageModel on the CPU
"""

from __future__ import annotations

from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from memexp.core.model import LanguageModel, blocks

__all__ = ["shard"]


def shard(lm: LanguageModel) -> None:
    """Shard `lm` over its world, block by block, in place. All ranks call."""
    # From the CPU, block by block: no device ever holds more than its shards and one whole block.
    mesh = init_device_mesh(lm.world.device.type, (lm.world.size,))
    for block in blocks(lm.lm):
        fully_shard(block, mesh=mesh)
    # The root too gives its parameters back after each pass: named_parameters() then always shows the shards.
    fully_shard(lm, mesh=mesh, reshard_after_forward=True)
