"""What is made on the CPU, brought to where a model computes: all of a batch in one copy that nobody waits for.

ids, keep = to_device(world.device, padded, positions)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["to_device"]


def to_device(device: torch.device, *arrays: NDArray[np.int64]) -> list[Tensor]:
    """Each of `arrays` as a tensor on `device`.

    A GPU gets them in one piece out of pinned memory: a copy from elsewhere has the CPU wait until it is made, and each
    by itself costs as much as all of them.
    """
    tensors = [torch.from_numpy(array) for array in arrays]
    if device.type == "cpu":
        return tensors
    whole = torch.cat([tensor.reshape(-1) for tensor in tensors]).pin_memory().to(device, non_blocking=True)
    sizes: Any = [tensor.numel() for tensor in tensors]
    return [part.view(tensor.shape) for part, tensor in zip(whole.split(sizes), tensors, strict=True)]
