"""How much memory a trial needs, as a plan tells it."""

from __future__ import annotations

from memexp.plan.inspection import Inspection
from memexp.spec import Full, LoRA, Resources

__all__ = ["memory_per_worker"]


def memory_per_worker(inspection: Inspection, method: Full | LoRA, resources: Resources) -> int:
    """Bytes of weights, gradients and AdamW moments on each worker, float32, without activations.

    Full finetuning: 4 numbers a parameter. LoRA: one a parameter, and 4 for each of the adapter's.
    """
    if isinstance(method, LoRA):
        # Where the linear modules are unknown an adapter of rank 8 is taken for one per cent of the model.
        adapter = method.r * inspection.linear or inspection.parameters * method.r // 800
        numbers = inspection.parameters + 4 * adapter
    else:
        numbers = 4 * inspection.parameters
    return 4 * numbers // resources.workers
