"""The parts of `benchmarks.gpu` that time: the card by itself, one process, several processes."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from benchmarks.gpu_models import SHAPES, made, rows
from memexp.core.generate import complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.precision import products
from memexp.core.scoring import token_nlls
from memexp.core.train import update
from memexp.spec import Full, LoRA, ShippedText, Study

__all__ = ["PRECISIONS", "card", "processes", "settings", "speed", "synchronised"]

PRECISIONS = ("float32", "tf32", "bfloat16")
CASES = (("gpt2-124m", Full()), ("opt-1.3b", Full()), ("llama-8b", LoRA(r=8)))
SMALL = (("tiny-gpt2", Full()), ("tiny-llama", LoRA(r=8)))
settings = Study(corpus=ShippedText("sentences-targets"), exposures=1, lr=1e-5, batch_size=16)


def synchronised(device: torch.device) -> None:
    """Wait for all that the device was asked to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds(device: torch.device, work: Callable[[], object], times: int) -> float:
    """Median over `times` of the wall seconds of `work`, after one that does not count."""
    found = []
    for _ in range(times + 1):
        synchronised(device)
        began = time.perf_counter()
        work()
        synchronised(device)
        found.append(time.perf_counter() - began)
    return statistics.median(found[1:])


def card(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Versions, memory, and what the card reaches by itself."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        found |= {"card": properties.name, "bytes": properties.total_memory, "cudnn": torch.backends.cudnn.version()}
    size = 512 if small else 8192
    for precision in PRECISIONS if device.type == "cuda" else ("float32", "bfloat16"):
        found[f"TFLOP/s {precision}"] = round(peak(device, precision, size) / 1e12, 2)
    held = torch.empty(size * size, device=device)
    found["GB/s"] = round(2 * held.nbytes / seconds(device, lambda: held.clone(), 5) / 1e9, 1)
    return found


def peak(device: torch.device, precision: str, size: int) -> float:
    """FLOP/s of a large product."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    with products(precision, device):
        return 2 * size**3 / seconds(device, lambda: a @ b, 5)


def speed(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Milliseconds a step, likelihoods and recall, and the share of the card's own peak that a step reaches."""
    found: dict[str, Any] = {}
    for shape, method in SMALL if small else CASES:
        for precision in PRECISIONS if device.type == "cuda" else ("float32", "bfloat16"):
            name = f"{shape} {type(method).__name__.lower()} {precision}"
            lm = made(shape, method, precision, device)
            found[name] = _timed(lm, shape, method, small) | {
                "peak TFLOP/s": round(peak(device, precision, 512 if small else 8192) / 1e12, 2)
            }
            del lm
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return found


def _timed(lm: LanguageModel, shape: str, method: Full | LoRA, small: bool) -> dict[str, Any]:
    device, found = lm.world.device, dict[str, Any]()
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    optimizer = fresh_optimizer(lm, settings)
    times = 3 if small else 8
    for count, tokens in ((16, 25), (16, 128)):
        batch = rows(shape, count, tokens)
        lm.train()
        took = seconds(device, lambda batch=batch: update(lm, optimizer, batch, 1e-5, 1.0), times)  # type: ignore[misc] # a lambda with a default
        # Forward 2, backward 4 for each parameter and token, 2 of these for a frozen one.
        operations = (6 if isinstance(method, Full) else 4) * parameters * count * (tokens - 1)
        found[f"ms a step of {count} x {tokens}"] = round(1e3 * took, 2)
        found[f"TFLOP/s of {count} x {tokens}"] = round(operations / took / 1e12, 2)
    texts = rows(shape, 32 if small else 600, 25)
    found["ms for likelihoods of 600 texts of 25"] = round(1e3 * seconds(device, lambda: token_nlls(lm, texts), 2), 1)
    cues = [text[:12] for text in texts[: 32 if small else 256]]
    counts = [12] * len(cues)
    took = seconds(device, lambda: complete_greedily(lm, cues, counts), 2)
    found["ms a token of recall, 256 cues"] = round(1e3 * took / 12, 2)
    if device.type == "cuda":
        found["peak bytes"] = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
    return found


def processes(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Steps a second of all processes together, on one card."""
    shape = "tiny-gpt2" if small else "gpt2-124m"
    steps = 5 if small else 150
    found: dict[str, Any] = {}
    for count in (1, 2) if small else (1, 2, 4):
        code = f"from benchmarks.gpu_speed import _steps; _steps({shape!r}, {steps}, {str(device)!r})"
        children = [
            subprocess.Popen(
                [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
            )
            for _ in range(count)
        ]
        for child in children:  # every one is ready before any begins
            assert child.stdout is not None and child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        took = [json.loads(child.communicate()[0])["seconds"] for child in children]
        found[f"{count} at a time, steps a second"] = round(count * steps / max(took), 1)
    return found


def _steps(shape: str, steps: int, where: str) -> None:
    """What a child of `processes` does."""
    device = torch.device(where)
    lm = made(shape, Full(), "bfloat16", device)
    optimizer, batch = fresh_optimizer(lm, settings), rows(shape, 16, 25)
    lm.train()
    for _ in range(3):
        update(lm, optimizer, batch, 1e-5, 1.0)
    synchronised(device)
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    for _ in range(steps):
        update(lm, optimizer, batch, 1e-5, 1.0)
    synchronised(device)
    print(json.dumps({"seconds": time.perf_counter() - began, "vocabulary": SHAPES[shape].vocabulary}))
