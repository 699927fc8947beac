"""A sweep whose probes break: what `benchmarks.gpu` has memexp execute in this process, without Ray.

memexp run benchmarks/gpu_faults.py --local --store STORE      # BROKEN=assert or memory; DEVICE=cuda or cpu

On a CPU the errors are raised, on a GPU they happen.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import pyarrow as pa
import torch

from memexp import Condition, Model, Probe, Recognition, Resources, ShippedText, Study, Sweep
from memexp.core.session import Session
from memexp.spec import Pair, spec

DEVICE = os.environ.get("DEVICE", "cpu")
pair = Pair(ShippedText("sentences-targets"), ShippedText("sentences-foils"))


@spec
class Breaking(Probe):
    """Breaks after one exposure, as BROKEN says; memory that ran out is there the next time."""

    kind: ClassVar[str] = "breaking"
    exposures: int = 0
    tries: ClassVar[list[int]] = []

    @classmethod
    def schema(cls) -> pa.Schema:
        return pa.schema([("item", pa.int64())])

    def bind(self, condition: Condition) -> Breaking:
        return Breaking(condition.study.exposures if condition.study else 0)

    def measure(self, session: Session, texts: Any) -> pa.Table:
        if self.exposures == 1:
            self.tries.append(1)
            if os.environ.get("BROKEN") == "assert":
                self._assert(session.lm.world.device)
            if os.environ.get("BROKEN") == "memory" and len(self.tries) == 1:
                self._take_all(session.lm.world.device)
        return pa.table({"item": [0]})

    def _assert(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise RuntimeError("CUDA error: device-side assert triggered")
        torch.zeros(4, device=device)[torch.tensor([9], device=device)]
        torch.cuda.synchronize(device)

    def _take_all(self, device: torch.device) -> None:
        if device.type != "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate all there is")
        torch.empty(2 * torch.cuda.get_device_properties(device).total_memory, dtype=torch.uint8, device=device)


sweep = Sweep(
    name="broken",
    conditions=[
        Condition(
            Model("tiny-s"),
            Study(pair.targets, exposures=exposures, lr=1e-3, batch_size=16),
            probes=[Breaking(), Recognition(pair)],
        )
        for exposures in (0, 1, 2)
    ],
    resources=Resources(gpus=1 if DEVICE == "cuda" else 0),
)

if __name__ == "__main__":
    sweep.main()
