"""LoRA: small matrices beside the frozen ones of a model, drawn from a seed of their own.

add_adapter(lm, LoRA(r=8))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from transformers import PreTrainedModel

from memexp.errors import SpecError, one_line
from memexp.spec import LoRA

if TYPE_CHECKING:
    from peft import LoraConfig

__all__ = ["add_adapter", "lora_config"]


def add_adapter(lm: PreTrainedModel, method: LoRA) -> None:
    """Put a fresh adapter into `lm`, in place: peft's modules replace the targeted linear ones.

    Raises SpecError where a target is no module of the model, or none that can have an adapter.
    """
    from peft import get_peft_model  # a second that full finetuning need not wait for

    names = [name for name, _ in lm.named_modules()]
    for target in () if isinstance(method.targets, str) else method.targets:
        if not any(f".{name}".endswith(f".{target}") for name in names):  # peft is content if any target is there
            raise SpecError(f"LoRA.targets: {type(lm).__name__} has no module {target!r}")
    config = lora_config(method)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(method.seed)
        try:
            get_peft_model(lm, config)
        except ValueError as error:
            raise SpecError(f"LoRA.targets: {one_line(error)}") from error


def lora_config(method: LoRA) -> LoraConfig:
    """The same in peft's terms."""
    from peft import LoraConfig

    return LoraConfig(
        task_type="CAUSAL_LM",
        r=method.r,
        lora_alpha=method.alpha,  # type: ignore[arg-type] # a float works and is what rsLoRA's scale often is
        use_rslora=method.rslora,
        lora_dropout=method.dropout,
        target_modules=method.targets if isinstance(method.targets, str) else list(method.targets),
    )
