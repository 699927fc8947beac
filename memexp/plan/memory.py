"""How much memory a trial needs, of each worker and each host, before anything is trained.

    need = needed(inspection, LoRA(r=8), "bfloat16", Resources(workers=8, gpus=1), Load(tokens=2048, forks=1))
    need.worker, need.host                    # bytes at the peak; need.parts says of what
    fewest(lambda resources: ..., 80e9)       # workers that it takes

Figures of a token come from the model's own code (`memexp.core.footprint`); all else is arithmetic on sizes. Checked
against the meter of `tests/core` and against processes by `tests/core/test_plan_memory.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from memexp.plan.inspection import Inspection
from memexp.spec import AdamW, Full, LoRA, Resources

__all__ = ["HOST_PROCESS", "Load", "Need", "fewest", "memory_per_worker", "needed"]

HOST_PROCESS = 660_000_000
"""Of a process that has imported torch, transformers and what else memexp stands on, beside all tensors."""
GPU_PROCESS, GPU_HOST_PROCESS = 800_000_000, 1_500_000_000
"""CUDA's context and its libraries' workspaces on a GPU, and on the host the process with them: estimates."""
LOGITS = 1 << 28
"""Bytes of logits that are there at once (`memexp.core.head`)."""
CPU_BATCH, SMALL = 1 << 30, 10_000_000
"""As `memexp.core.batch_sizes` has them."""
COPIED = 1 << 26
"""Bytes of weights that are copied wherever they are from (`memexp.core.original`)."""
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Load:
    """What a trial of a base model does to it."""

    tokens: int
    """Of the largest batch of training, padding included, over all workers."""
    forks: int = 0
    """States that are kept in memory at a time by one that walks through them, the base aside."""
    most_forks: int | None = None
    """The same by any number of lanes, each on its own way; None where each may keep `forks`."""
    cue_tokens: int = 0
    """Of texts that are completed together, tokens to come included."""
    moments: int = AdamW().moments
    """Numbers that an optimizer keeps of each that learns, at most."""
    held: int = 0
    """Numbers that are kept of each that learns, of the model where unlearning by KL or interference with EWC began."""
    parted: bool = False
    """Whether a step may be of two batches of so many tokens: gradients of the first are there while the other is
    passed."""
    diverging: bool = False
    """Whether the other is held against what the model where unlearning began says of it, as KL does."""
    rounding: bool = False
    """Whether a probe asks the model with weights of few bits, while what they were is on the host."""
    ablating: bool = False
    """Whether a probe asks the model without what it has learned: lanes have that on the host meanwhile."""


@dataclass(frozen=True)
class Need:
    """Bytes of one worker, and of all of a trial's workers on one host."""

    parts: Mapping[str, int]
    """Of a worker's device at the peak, by what they are for."""
    copies: int
    """Of a worker, on the host: the base where it is not read again from its files, forks, and what is offloaded."""
    process: int
    """Of a worker's process on its device, beside tensors."""
    host_process: int
    """The same on the host, where the device is a GPU."""
    on_gpu: bool
    workers: int
    """On one host, as if all were."""
    together: int = 0
    """Of a worker's device while weights are kept gathered for recall, which is done where it has so much only; 0 where
    nothing is sharded."""

    @property
    def worker(self) -> int:
        """Of one worker: of its GPU, or on a CPU all that its process takes."""
        return sum(self.parts.values()) + self.process + (0 if self.on_gpu else self.copies)

    @property
    def host(self) -> int:
        """Of a host with all workers of the trial."""
        return self.workers * (self.copies + self.host_process if self.on_gpu else self.worker)


def needed(
    inspection: Inspection,
    method: Full | LoRA,
    dtype: str,
    resources: Resources,
    load: Load,
    on_gpu: bool | None = None,
) -> Need:
    """What a trial needs of each worker. `on_gpu`: where it is planned for, by default as `resources` say."""
    on_gpu = resources.gpus > 0 if on_gpu is None else on_gpu
    model = _Model.of(inspection, method, dtype, resources, on_gpu)
    offloaded = resources.offload and on_gpu
    moments = 4 * load.moments * model.learning // model.workers
    began = 4 * load.held * model.learning // model.workers
    standing = {"weights": model.held, "optimizer": 0 if offloaded else moments}
    if model.lanes > 1:  # each has its own of all that learns, gradients and room for moments at all times
        each, load = model.lanes * 4 * model.learning, replace(load, tokens=model.lanes * load.tokens)
        standing = {
            "weights": model.held - 4 * model.learning + each,
            "optimizer": load.moments * each,
            "lanes": each,
        }
    standing |= {"beginnings": began} if began and not offloaded else {}
    peaks = (*_training(model, resources, load, on_gpu), _recall(model, load))
    peak = max(peaks, key=lambda parts: sum(parts.values()))
    names = ("gathers", "gradients", "activations", "logits", "cache")
    copies = _copies(model, load, on_gpu) + (moments + began if offloaded else 0)
    process = GPU_PROCESS if on_gpu else HOST_PROCESS
    recall = sum(standing.values()) + peaks[-1]["cache"] + _whole(model) + process + (0 if on_gpu else copies)
    return Need(
        standing | {name: peak.get(name, 0) for name in names},
        copies,
        process,
        GPU_HOST_PROCESS if on_gpu else 0,
        on_gpu,
        model.workers,
        recall if model.workers > 1 and load.cue_tokens else 0,
    )


def _copies(model: _Model, load: Load, on_gpu: bool) -> int:
    """Bytes on the host of what a trial goes back to."""
    learning = 4 * model.learning // model.workers
    forks = model.lanes * load.forks
    if model.lanes > 1 and load.most_forks is not None:
        forks = min(forks, load.most_forks)
    base = 0 if model.full and model.sight.kept_in_files and 4 * model.learning > COPIED else 1
    copies = learning * (base + (1 + load.moments) * forks)
    if load.rounding and not model.full:
        copies += model.held - learning
    elif load.rounding and (on_gpu or model.lanes > 1):  # else gradients, which are gone by then, take as much
        copies += model.lanes * learning
    return copies + (model.lanes * learning if load.ablating and model.lanes > 1 else 0)


@dataclass(frozen=True)
class _Model:
    """Sizes of a model that learns in a certain way, sharded over workers."""

    workers: int
    learning: int
    """Numbers that learn."""
    held: int
    """Bytes of weights on each worker."""
    width: int
    """Bytes of a number as it is gathered and passed on."""
    block: int
    """Numbers of a block, of its own."""
    outside: int
    """Numbers outside of the blocks: embeddings, mostly."""
    full: bool
    sight: Inspection
    per_token: tuple[float, float]
    """Bytes that are kept of a token for backward: of a block, and outside of them."""
    lanes: int
    """That are trained in one pass, each with all that learns."""

    @classmethod
    def of(cls, inspection: Inspection, method: Full | LoRA, dtype: str, resources: Resources, on_gpu: bool) -> _Model:
        coarse = dtype == "bfloat16"
        name = f"{'lora' if isinstance(method, LoRA) else 'full'}-{'bfloat16' if coarse else 'float32'}"
        counted = inspection.token_bytes
        plain = counted.get(name) or (40.0 * inspection.width, 0.0)
        per_token = plain if on_gpu else counted.get(f"cpu-{name}") or plain
        depth = inspection.blocks or 1
        inside = min(inspection.parameters, inspection.block_parameters * depth)
        learning = inspection.parameters
        held = 4 * learning
        if isinstance(method, LoRA):
            learning = _adapter(inspection, method)
            held = (2 if coarse and inspection.coarse else 4) * inspection.parameters + 4 * learning
        return cls(
            resources.workers,
            learning,
            held // resources.workers,
            2 if coarse else 4,
            inspection.block_parameters,
            inspection.parameters - inside,
            not isinstance(method, LoRA),
            inspection,
            (per_token[0], per_token[1]),
            1 if resources.lanes == "auto" else resources.lanes,  # "auto": as many as there is memory for
        )

    @property
    def depth(self) -> int:
        return self.sight.blocks or 1

    @property
    def head(self) -> int:
        """Numbers of the head."""
        return self.outside if self.sight.tied else self.outside // 2

    @property
    def together(self) -> bool:
        """Whether all that is outside of the blocks is gathered at once, in float32."""
        return self.sight.tied or self.width == 4


def _training(model: _Model, resources: Resources, load: Load, on_gpu: bool) -> tuple[dict[str, int], ...]:
    """What is there beside weights and moments, at the moments of a step that may be the fullest."""
    first = _passed(model, resources, load, on_gpu)
    return (*first, *_passed(model, resources, load, on_gpu, again=True)) if load.parted else first


def _passed(
    model: _Model, resources: Resources, load: Load, on_gpu: bool, again: bool = False
) -> tuple[dict[str, int], ...]:
    """The same of one batch; `again`: of the second one of a step."""
    block, outside = model.per_token
    kept = outside + (4 * model.sight.width if resources.checkpointing else block) * model.depth
    tokens, diverging = math.ceil(load.tokens / model.workers), again and load.diverging
    group = max(1, min(tokens, _group(model, kept, on_gpu)))
    rows = max(1, LOGITS // max(1, 4 * model.sight.vocabulary))
    if diverging:  # as `memexp.core.objectives` cuts what is there of two models
        group = max(1, min(group, rows // 2))
    casts = 2 * model.lanes * model.block * model.depth if model.workers == 1 and model.full and model.width == 2 else 0
    held = {
        "activations": int(kept * group + (block * group if resources.checkpointing else 0)),
        "gathers": casts + _gathered(model),
        "gradients": 4 * model.learning // model.workers if (again or group < tokens) and model.lanes == 1 else 0,
    }
    of_head, logits = 4 * model.head if model.full else 0, 4 * model.sight.vocabulary * min(group, rows)
    if model.lanes > 1 and model.full:
        return _in_lanes(model, held, logits, math.ceil(group / rows), int((outside + block) * group))
    at_head = _at_the_head(held, logits, of_head, math.ceil(group / rows), of_each=5 if diverging else 3)
    return (*at_head, *_in_blocks(model, held, of_head, int((outside + block) * group)))


def _in_lanes(model: _Model, held: dict[str, int], logits: int, pieces: int, of_one: int) -> tuple[dict[str, int], ...]:
    """As a piece of the logits has its gradient, as the lanes' gradients of the head are put into one, and as those of
    the embedding are, to which a tied head's are added."""
    of_heads = 4 * model.head * model.lanes
    at_head = {"logits": 3 * logits, "gradients": of_heads} if pieces > 1 else {"logits": 3 * logits}
    last = {"logits": 2 * logits, "gradients": of_heads}
    embedding = {"activations": of_one, "gathers": 0, "gradients": (3 if model.sight.tied else 2) * of_heads}
    return held | at_head, held | last, held | {"gradients": 2 * of_heads}, embedding


def _at_the_head(
    held: dict[str, int], logits: int, of_head: int, pieces: int, of_each: int
) -> tuple[dict[str, int], ...]:
    """As a piece of the logits has its gradient, and as the head has its own: of pieces that of one, of another, and
    their sum; `of_each`: numbers that there are of a logit: it, its log-probability, its gradient; and with KL the
    log-probability before, and what both are apart."""
    earlier = of_head if pieces > 1 else 0
    with_logits = held | {"logits": of_each * logits, "gradients": held["gradients"] + earlier}
    if pieces > 1:
        return with_logits, held | {"gradients": held["gradients"] + 3 * of_head}
    return with_logits, held | {"logits": (of_each - 1) * logits, "gradients": held["gradients"] + of_head}


def _in_blocks(model: _Model, held: dict[str, int], of_head: int, of_one: int) -> tuple[dict[str, int], ...]:
    """As the last block has its gradient, and as the embedding has; `of_one`: activations of the first block."""
    gradients = 4 * model.learning // model.workers
    alone = {"gradients": gradients, "gathers": 0, "activations": of_one}
    if model.lanes > 1:
        return ()
    if not model.full:
        return (alone | {"gathers": _gathered(model)},)
    if model.workers == 1:  # a tied embedding's is added to the head's
        return (alone, {"gradients": gradients + 2 * of_head}) if model.sight.tied else (alone,)
    if not model.together:  # the embedding's in what is gathered, and in float32 on its way
        return (alone | {"gathers": (4 + model.width) * model.head},)
    last = held | {
        "gathers": held["gathers"] + 2 * model.width * model.block,
        "gradients": held["gradients"] + of_head,
    }
    reduced = (
        held["gradients"]
        or 4 * model.block * (model.depth if model.sight.tied else max(0, model.depth - 2)) // model.workers
    )
    whole = 4 * of_head + 4 * model.block if model.sight.tied else 2 * 4 * (model.outside + model.block)
    return last, {"gradients": reduced, "gathers": whole}


def _group(model: _Model, kept: float, on_gpu: bool) -> int:
    """Tokens of a micro-group on a worker, as `memexp.core.batch_sizes` cuts them."""
    if on_gpu:
        return max(1_024, min(8_192, int(8e12 // model.sight.parameters)))
    if model.sight.parameters <= SMALL:
        return 4_096
    return int(CPU_BATCH / (1.15 * kept))


def _gathered(model: _Model) -> int:
    """Bytes of others' weights that are whole on a worker as backward begins."""
    if model.workers == 1:
        return 0
    if not model.full:
        return _passing(model)
    return model.width * model.block + 4 * (model.outside if model.together else model.head)


def _recall(model: _Model, load: Load) -> dict[str, int]:
    """Keys and values; weights stay gathered only where there is room."""
    cache = load.cue_tokens // model.workers * model.sight.cache_numbers * model.width
    return {"cache": cache, "gathers": _passing(model) if model.workers > 1 else 0}


def _passing(model: _Model) -> int:
    """Bytes of weights that are whole on a worker during a pass: two blocks, and the head as it is held."""
    return 2 * model.width * model.block + (2 if model.sight.coarse and not model.full else 4) * model.head


def _whole(model: _Model) -> int:
    """Bytes of all weights, gathered, and of the head's and a block's that are on their way."""
    held = 2 if model.width == 2 and model.sight.coarse and not model.full else 4
    return model.width * (model.block * (model.depth + 1) + model.outside - model.head) + 2 * held * model.head


def fewest(need: Callable[[int], Need], memory: float) -> int | None:
    """The smallest power of two of workers on which every one fits `memory` bytes; None where no number does."""
    workers = 1
    while workers <= MOST_WORKERS:
        if need(workers).worker <= memory:
            return workers
        workers *= 2
    return None


def memory_per_worker(
    inspection: Inspection, method: Full | LoRA, resources: Resources, moments: int = AdamW().moments
) -> int:
    """Bytes of weights, gradients and moments on each worker, float32, without activations.

    Full finetuning with AdamW: 4 numbers a parameter. LoRA: one a parameter, and 4 for each of the adapter's.
    """
    numbers = (2 + moments) * inspection.parameters
    if isinstance(method, LoRA):
        numbers = inspection.parameters + (2 + moments) * _adapter(inspection, method)
    return 4 * numbers // resources.workers


def _adapter(inspection: Inspection, method: LoRA) -> int:
    """Where the linear modules are unknown an adapter of rank 8 is taken for one per cent of the model."""
    return method.r * inspection.linear or inspection.parameters * method.r // 800
