"""The distributed processes that hold one model: their number, this one's rank, and the few exchanges the core needs.

world = World.current(gpus=0)     # a single process unless torch.distributed has been initialised
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, overload

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["World"]

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """Rank and size of the process group, and the device this rank computes on."""

    rank: int
    """This process, counting from 0."""
    size: int
    """Number of processes."""
    device: torch.device
    """Where this rank's shard of the model is."""

    @classmethod
    def current(cls, gpus: float = 0) -> World:
        """The initialised process group, or a single process; on the current CUDA device if `gpus` is positive."""
        device = torch.device("cuda", torch.cuda.current_device()) if gpus > 0 else torch.device("cpu")
        if dist.is_available() and dist.is_initialized():
            return cls(dist.get_rank(), dist.get_world_size(), device)
        return cls(0, 1, device)

    @property
    def leads(self) -> bool:
        """Whether this rank is the one that writes."""
        return self.rank == 0

    def blames_peer(self, error: Exception) -> bool:
        """Whether `error` only says that another rank is gone: what happened is for that rank, or its driver, to tell.

        torch has an exception type for NCCL's complaints; gloo's are RuntimeErrors known by the file they come from.
        Where a peer is gone, Train ends the process group of the others before it ends them.
        """
        return self.size > 1 and (
            isinstance(error, dist.DistError) or "gloo/transport" in str(error) or not dist.is_initialized()
        )

    def broadcast(self, value: T) -> T:
        """Rank 0's `value`, on every rank (pickled)."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]  # type: ignore[no-any-return] # unpickled from what rank 0 put in, a T

    def broadcast_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """Rank 0's `tensor`, on every rank: a contiguous one of its shape on the device, written over on the others."""
        if self.size > 1:
            dist.broadcast(tensor, src=0)
        return tensor

    def gather(self, value: T) -> Sequence[T]:
        """Every rank's `value` in rank order, on every rank (pickled)."""
        if self.size == 1:
            return [value]
        boxes: list[Any] = [None] * self.size
        dist.all_gather_object(boxes, value)
        return boxes

    @overload
    def sum(self, value: float) -> float: ...
    @overload
    def sum(self, value: Tensor) -> Tensor: ...
    def sum(self, value: float | Tensor) -> float | Tensor:
        """The sum of every rank's `value`, in float64, on every rank; of a tensor a tensor, which nobody waits for."""
        if self.size == 1:
            return value
        total = torch.as_tensor(value, dtype=torch.float64, device=self.device)
        total = total.clone() if total is value else total
        dist.all_reduce(total)
        return total if isinstance(value, Tensor) else float(total)

    def any(self, value: bool) -> bool:
        """Whether `value` is true on any rank, on every rank."""
        return self.sum(float(value)) > 0
