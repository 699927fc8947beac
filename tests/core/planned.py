"""What a plan says of the memory of the shapes that the meter knows."""

from __future__ import annotations

import functools

from core.fake_ranks import SHAPES
from torch import nn
from transformers import AutoConfig
from transformers.pytorch_utils import Conv1D

from memexp.core.hollow import hollow
from memexp.core.inspect import memory_facts
from memexp.plan.inspection import Inspection
from memexp.plan.memory import Load, Need, needed
from memexp.spec import Full, LoRA, Resources

__all__ = ["TOKENS", "inspection", "planned"]

TOKENS = 16 * 128
"""Of a batch, as the meter's."""


@functools.cache
def inspection(shape: str, **changes: int) -> Inspection:
    values = {**SHAPES[shape], **changes}
    config = AutoConfig.for_model(values.pop("model_type"), **values)
    lm = hollow(config)
    head = lm.get_output_embeddings()
    linear = [one.weight for one in lm.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head]
    facts = memory_facts(lm, config) | {"coarse": True}  # as these are published
    extents = sum(sum(weight.shape) for weight in linear)
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    return Inspection(parameters, extents, None, config.num_hidden_layers, **facts)


def planned(
    shape: str,
    ranks: int,
    adapter: bool,
    dtype: str = "bfloat16",
    load: Load | None = None,
    lanes: int = 1,
    **changes: int,
) -> Need:
    method, resources = LoRA(r=8) if adapter else Full(), Resources(workers=ranks, gpus=1, lanes=lanes)
    return needed(inspection(shape, **changes), method, dtype, resources, load or Load(TOKENS))
