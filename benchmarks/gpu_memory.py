"""The part of `benchmarks.gpu` that compares memory: what the device allocated, what the meter of the tests counts when
the same code is executed once more, and what `memexp plan` tells of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW
from transformers.pytorch_utils import Conv1D

from benchmarks.gpu_models import made, rows
from benchmarks.gpu_speed import settings
from memexp.core import fork
from memexp.core.generate import complete_greedily
from memexp.core.inspect import memory_facts
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.scoring import token_nlls
from memexp.core.train import update
from memexp.plan.inspection import Inspection
from memexp.plan.memory import Load, Need, needed
from memexp.spec import Full, LoRA, Resources

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))  # for the meter

from core.meter import Meter

__all__ = ["memory"]

NEAR = 0.15
"""Share of what is allocated by which the meter and the plan may be off."""
TEXTS, WIDTH = 16, 128
Work = Callable[[], object]
Measure = Callable[[Work], int]


def memory(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Bytes phase by phase, and those of the plan by what they are for; "failed" where they are too far apart."""
    found: dict[str, Any] = {}
    cases = (("tiny-llama", LoRA(r=8)),) if small else (("gpt2-124m", Full()), ("opt-1.3b", Full()))
    for shape, method in cases:
        for precision in ("float32", "bfloat16"):
            name = f"{shape} {type(method).__name__.lower()} {precision}"
            found[name] = compared(shape, method, precision, device)
            if said := _too_far(found[name]):
                found["failed"] = f"{name}: {said}"
    return found


def compared(shape: str, method: Full | LoRA, precision: str, device: torch.device) -> dict[str, Any]:
    """What is allocated (on a GPU), counted and planned."""
    found: dict[str, Any] = {}
    if device.type == "cuda":
        found["allocated"] = _phases(made(shape, method, precision, device), shape, lambda work: _most(device, work))
        torch.cuda.empty_cache()
    with Meter() as meter:
        lm = made(shape, method, precision, device)
        meter.note(*lm.parameters(), *lm.buffers())
        found["counted"] = _phases(lm, shape, lambda work: _counted(meter, work))
    need = _planned(lm, shape, method, precision)
    return found | {"planned": dict(need.parts), "planned at the peak": sum(need.parts.values())}


def _too_far(found: Mapping[str, Any]) -> str | None:
    """What does not agree, None where all does."""
    truth = found.get("allocated", found["counted"])
    if truth["restoring"] > truth["training"]:
        return f"restoring takes {truth['restoring']} bytes and training {truth['training']}"
    peak = max(truth.values())
    for what, told in (("counted", max(found["counted"].values())), ("planned", found["planned at the peak"])):
        if abs(told / peak - 1) > NEAR:
            return f"{what} are {told} bytes at the peak, and {peak} were taken"
    return None


def _phases(lm: LanguageModel, shape: str, most: Measure) -> dict[str, int]:
    """Most bytes in each phase of a trial."""
    texts = rows(shape, TEXTS, WIDTH)
    optimizer: AdamW | None = fresh_optimizer(lm, settings)
    cues = [text[:24] for text in texts]
    lm.train()
    found = {"training": most(lambda: update(lm, optimizer, texts, 1e-5, 1.0))}  # type: ignore[arg-type] # is there
    held = fork.take(lm, optimizer)
    optimizer = None
    kept: list[AdamW | None] = []
    found["restoring"] = most(lambda: kept.append(fork.restore(lm, held, settings)))
    found["scoring"] = most(lambda: token_nlls(lm, texts))
    found["recall"] = most(lambda: complete_greedily(lm, cues, [24] * TEXTS))
    return found


def _most(device: torch.device, work: Work) -> int:
    """Most bytes allocated while `work` runs."""
    torch.cuda.reset_peak_memory_stats(device)
    work()
    return torch.cuda.max_memory_allocated(device)


def _counted(meter: Meter, work: Work) -> int:
    with meter.phase() as phase:
        work()
    return phase.peak


def _planned(lm: LanguageModel, shape: str, method: Full | LoRA, precision: str) -> Need:
    """What a plan would say of the model's shape."""
    plain, head = lm.lm.base_model, lm.lm.get_output_embeddings()
    linear = [one for one in plain.modules() if isinstance(one, nn.Linear | Conv1D) and one is not head]
    adapter = sum(p.numel() for name, p in lm.named_parameters() if "lora_" in name)
    facts = memory_facts(lm.lm, lm.lm.config) | {"coarse": isinstance(method, LoRA) and precision == "bfloat16"}
    extents = adapter // method.r if isinstance(method, LoRA) else sum(sum(one.weight.shape) for one in linear)
    parameters = sum(parameter.numel() for parameter in lm.parameters()) - adapter
    inspection = Inspection(parameters, extents, None, lm.lm.config.num_hidden_layers, **facts)
    load = Load(TEXTS * WIDTH, forks=1, cue_tokens=TEXTS * 48)
    return needed(inspection, method, precision, Resources(gpus=1), load)
