"""What torch finds on this machine, for `memexp.first_steps.doctor`, in a process of its own: JSON on stdout.

python -m memexp.core.here
"""

from __future__ import annotations

import json
from typing import Any

import torch

__all__ = ["found"]


def found() -> dict[str, Any]:
    """Version of torch and of its CUDA, a sum that it worked out, and name and bytes of each GPU.

    Raises whatever torch raises where a library of its own is broken, or a GPU that it sees cannot be used.
    """
    gpus = []
    for index in range(torch.cuda.device_count()):
        traits = torch.cuda.get_device_properties(index)
        float(torch.ones(2, device=f"cuda:{index}").sum())  # that it is seen does not mean that it computes
        gpus.append([traits.name, traits.total_memory])
    sums = float((torch.ones(2, 2) @ torch.ones(2, 2)).sum())
    return {"version": torch.__version__, "cuda": torch.version.cuda, "sum": sums, "gpus": gpus}


if __name__ == "__main__":
    print(json.dumps(found()))
