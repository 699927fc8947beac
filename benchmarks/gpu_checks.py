"""The parts of `benchmarks.gpu` that check: numbers, waits, NCCL, faults."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from benchmarks.gpu_models import made, rows
from benchmarks.gpu_speed import PRECISIONS, settings
from memexp.core import fork
from memexp.core.generate import complete_greedily
from memexp.core.model import LanguageModel
from memexp.core.optimizer import fresh_optimizer
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.core.shard import shard
from memexp.core.train import update
from memexp.spec import Full, LoRA

__all__ = ["faults", "in_a_process", "nccl", "numbers", "waits"]

TOLERANCE = {"float32": 1e-4, "tf32": 1e-3, "bfloat16": 4e-3}
"""Largest relative difference of losses and mean likelihoods from the CPU's float32 that passes: what ARCHITECTURE.md
calls equal on a GPU."""


@dataclass(frozen=True)
class Outcome:
    """What a short trial comes to."""

    losses: list[float]
    nlls: torch.Tensor
    """Mean of each text."""
    completions: list[list[int] | None]

    def difference(self, other: Outcome) -> float:
        """Largest difference of losses and likelihoods, as a share of those of `other`."""
        steps = max(abs(a - b) / abs(b) for a, b in zip(self.losses, other.losses, strict=True))
        return max(steps, float(((self.nlls - other.nlls) / other.nlls).abs().max()))


def outcome(lm: LanguageModel, shape: str, steps: int = 8) -> Outcome:
    """Train, go back to a fork half-way and train on; score; complete."""
    optimizer, texts, losses = fresh_optimizer(lm, settings), rows(shape, 16, 25), list[float]()
    for step in range(1, steps + 1):
        lm.train()
        loss, _ = update(lm, optimizer, texts, 1e-4, 1.0)
        losses.append(float(loss or 0))
        if step == steps // 2:
            held = fork.take(lm, optimizer)
            update(lm, optimizer, texts[:4], 1e-2, None)
            optimizer = fork.restore(lm, held, settings) or optimizer
    nlls = torch.tensor([float(nll.mean()) for nll in token_nlls(lm, texts)])
    return Outcome(losses, nlls, complete_greedily(lm, [text[:9] for text in texts], [8] * len(texts)))


def numbers(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Beside the CPU's float32, and beside itself."""
    found: dict[str, Any] = {}
    for shape, method in (("tiny-gpt2", Full()), ("tiny-llama", Full()), ("tiny-llama", LoRA(r=8))):
        start = _weights(made(shape, method, "float32", torch.device("cpu")))
        truth = outcome(_with(start, shape, method, "float32", torch.device("cpu")), shape)
        for precision in PRECISIONS if device.type == "cuda" else ("float32", "bfloat16"):
            tries = [outcome(_with(start, shape, method, precision, device), shape) for _ in range(5)]
            apart = tries[0].difference(truth)
            equal = sum(one.losses == tries[0].losses and torch.equal(one.nlls, tries[0].nlls) for one in tries[1:])
            flipped = sum(a != b for a, b in zip(tries[0].completions, truth.completions, strict=True))
            name = f"{shape} {type(method).__name__.lower()} {precision}"
            found[name] = {"apart": apart, "completions that differ": flipped, "repeats bit-equal": f"{equal} of 4"}
            if not apart <= TOLERANCE[precision]:
                raise ArithmeticError(f"{name}: {apart:.2g} from the CPU, {TOLERANCE[precision]:g} may be")
    return found


def _weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}


def _with(
    weights: Mapping[str, torch.Tensor], shape: str, method: Full | LoRA, precision: str, device: torch.device
) -> LanguageModel:
    lm = made(shape, method, precision, device)
    with torch.no_grad():
        for name, parameter in lm.named_parameters():
            parameter.copy_(weights[name])
    return lm


def waits(device: torch.device, small: bool) -> Mapping[str, Any]:
    """What torch's own debug mode counts; nothing on a CPU, where it counts nothing."""
    if device.type != "cuda":
        return {"counted": False}
    lm = made("tiny-gpt2", Full(), "bfloat16", device)
    optimizer, texts = fresh_optimizer(lm, settings), rows("tiny-gpt2", 16, 25)
    lm.train()
    update(lm, optimizer, texts, 1e-4, 1.0)
    found = {"a training step": _counted(lambda: update(lm, optimizer, texts, 1e-4, 1.0))}
    cues = [text[:9] for text in texts]
    few, many = (_counted(lambda n=n: complete_greedily(lm, cues, [n] * len(cues))) for n in (4, 24))  # type: ignore[misc] # a lambda with a default
    found["a token of recall"] = (many - few) / 20
    if found["a training step"] > 1 or found["a token of recall"] > 1:
        raise ArithmeticError(f"the host waits too often: {found}")
    return found


def _counted(work: Any) -> float:
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            work()
        return float(sum("synchronizing" in str(one.message) for one in said))
    finally:
        torch.cuda.set_sync_debug_mode("default")


def in_a_process(code: str, **environment: str) -> Mapping[str, Any]:
    """What `code` prints last, as JSON; its last words where it ends otherwise."""
    child = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, check=False
    )
    if child.returncode != 0:
        raise RuntimeError((child.stderr.strip().splitlines() or [f"status {child.returncode}"])[-1])
    return json.loads(child.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return] # an object


def nccl(device: torch.device, small: bool) -> Mapping[str, Any]:
    """One rank through fully_shard, with NCCL on a GPU and gloo on a CPU, beside the same model unsharded."""
    shape = "tiny-llama"
    start = _weights(made(shape, Full(), "float32", torch.device("cpu")))
    alone = outcome(_with(start, shape, Full(), "float32", device), shape)
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1
        )
        try:
            lm = _with(start, shape, Full(), "float32", device)
            lm.world = World(0, 1, device)
            shard(lm)
            apart = outcome(lm, shape).difference(alone)
        finally:
            dist.destroy_process_group()
    if not apart <= TOLERANCE["float32"]:
        raise ArithmeticError(f"sharded over one rank: {apart:.2g} apart")
    return {"apart": apart}


def faults(device: torch.device, small: bool) -> Mapping[str, Any]:
    """Memory that runs out in a probe, then a device-side assertion: what is recorded, how the process ends, what is
    left for the next."""
    with tempfile.TemporaryDirectory() as folder:
        short = _executed(f"{folder}/memory", device, "memory")
        broken = _executed(f"{folder}/assert", device, "assert")
        mended = _executed(f"{folder}/assert", device, "")
    if (short["status"], broken["status"], mended["status"]) != (0, 1, 0):
        raise ArithmeticError(f"{short}, {broken}, {mended}")
    return {"out of memory": short, "assertion": broken, "the same command again": mended}


def _executed(store: str, device: torch.device, broken: str) -> Mapping[str, Any]:
    """How a command ends, and how often each status stands in the store's ``stages/``."""
    return in_a_process(
        "import sys; sys.modules['ray'] = None\n"
        "import collections, json, pathlib\n"
        "import pyarrow.parquet as pq\n"
        "from memexp.cli import main\n"
        f"status = main(['run', 'benchmarks/gpu_faults.py', '--local', '--store', {store!r}])\n"
        f"files = pathlib.Path({store!r}, 'stages').glob('*.parquet')\n"
        "rows = [row['status'] for file in files for row in pq.read_table(file, columns=['status']).to_pylist()]\n"
        "print(json.dumps({'status': status, 'stages': collections.Counter(rows)}))",
        BROKEN=broken,
        DEVICE=device.type,
        HF_HUB_OFFLINE="1",
    )
