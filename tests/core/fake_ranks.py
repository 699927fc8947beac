"""A rank of a real model without its memory: memexp's own code on fake tensors, beside ranks that are not there.

found = counted("llama3-8b", ranks=4, method=Full(), dtype="bfloat16")
found["training"].peak

One rank is computed, on what looks like a CPU and holds nothing; what others would send arrives as it is. Only the
sizes of tensors are of meaning.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np
import torch
import torch.distributed as dist
from core.meter import Meter, Phase
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.distributed.device_mesh import init_device_mesh
from torch.optim import AdamW
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers import AutoConfig, PreTrainedModel

from memexp.core import shard as sharding
from memexp.core import weights
from memexp.core.adapter import add_adapter
from memexp.core.batch_sizes import on_gpu, spare
from memexp.core.batches import Batch
from memexp.core.checkpointing import checkpoint_blocks
from memexp.core.consolidation import Consolidation
from memexp.core.forget import ablated
from memexp.core.fork import restore, take
from memexp.core.generate import complete_greedily
from memexp.core.hollow import exchange, hollow, seemingly_full
from memexp.core.lanes import Lanes
from memexp.core.model import LanguageModel
from memexp.core.objectives import Unlearning, remembered
from memexp.core.optimizer import fresh_optimizer, room
from memexp.core.precision import hold_frozen
from memexp.core.processes import World
from memexp.core.scoring import token_nlls
from memexp.core.shard import gather_together, shard
from memexp.core.train import Objective, update
from memexp.core.traits import Traits
from memexp.spec import EWC, Forget, Full, LoRA, Resources, ShippedText, Study, Unlearn

__all__ = ["BY_CHOICE", "FREE", "SHAPES", "alone", "counted", "filled", "most", "ranks_of", "unfilled"]

FREE = 80e9
"""Bytes that the device has, wherever the code asks; what is counted is what it then takes."""
BY_CHOICE = ("gathered", "full recall")
"""Phases that take memory because it is free."""
STUDY = Study(ShippedText("sentences-targets", first=8), exposures=1, lr=1e-5)

SHAPES: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "opt-13b": {
        "model_type": "opt",
        "vocab_size": 50272,
        "hidden_size": 5120,
        "word_embed_proj_dim": 5120,
        "ffn_dim": 20480,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "max_position_embeddings": 2048,
        "dropout": 0.0,
    },
    "llama3-8b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
    "llama3-70b": {
        "model_type": "llama",
        "vocab_size": 128256,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "max_position_embeddings": 8192,
    },
}


@contextlib.contextmanager
def ranks_of(size: int) -> Iterator[World]:
    """The first of so many ranks, the others of which answer everything with what was there."""
    if size > 1:
        dist.init_process_group("fake", rank=0, world_size=size, store=FakeStore())
    mesh = init_device_mesh("cpu", (size,)) if size > 1 else None
    try:
        with mock.patch.object(sharding, "init_device_mesh", lambda *_: mesh):  # it holds tensors, which are no fakes
            yield World(0, size, torch.device("cpu"))
    finally:
        if size > 1:
            dist.destroy_process_group()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Fake tensors: what they were made of is known, all other values are zeros."""
    numpy, tensor_of, from_numpy = torch.Tensor.numpy, torch.tensor, torch.from_numpy

    def remembered(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(values: Any, *args: Any, **kwargs: Any) -> Any:
            tensor = make(values, *args, **kwargs)
            tensor.values_given = np.array(values)
            return tensor

        return made

    def looked(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(tensor, FakeTensor):
            return numpy(tensor, *args, **kwargs)
        zeros = np.zeros(tuple(tensor.shape), np.float32 if tensor.is_floating_point() else np.int64)
        return getattr(tensor, "values_given", zeros)

    patches = [
        mock.patch.object(torch.Tensor, "numpy", looked),
        mock.patch.object(torch, "tensor", remembered(tensor_of)),
        mock.patch.object(torch, "from_numpy", remembered(from_numpy)),
        mock.patch.object(weights, "_read", lambda *_: lambda *_: None),
        mock.patch.object(World, "gather", lambda world, value: [value] * world.size),
        mock.patch.object(World, "broadcast", lambda world, value: value),
        mock.patch.object(World, "sum", lambda world, value: value),
    ]
    with FakeTensorMode(allow_non_fake_inputs=True), contextlib.ExitStack() as patched:
        for patch in patches:
            patched.enter_context(patch)
        yield


def unfilled(shape: str, method: Full | LoRA, checkpointing: bool = False, **changes: Any) -> PreTrainedModel:
    """As `memexp.core.load.load` has it before there are weights, but for the adapter, which is real."""
    values = {**SHAPES[shape], **changes}
    lm = hollow(AutoConfig.for_model(values.pop("model_type"), **values))
    lm.config.use_cache = False
    if isinstance(method, LoRA):
        with seemingly_full(lm):
            add_adapter(lm, method)
    if checkpointing:
        checkpoint_blocks(lm)
    return lm


def filled(lm: PreTrainedModel, world: World, dtype: str) -> LanguageModel:
    """As `load` makes it of a checkpoint in bfloat16, without its content."""
    real = [parameter for parameter in lm.parameters() if not parameter.is_meta]
    exchange(lm, {id(one): nn.Parameter(torch.empty(one.shape), one.requires_grad) for one in real})
    wrapped = LanguageModel(lm, mock.Mock(all_special_ids=[], eos_token_id=None), world, dtype, True, Traits())
    names = [name for name, parameter in wrapped.named_parameters() if parameter.is_meta]
    if dtype == "bfloat16":
        with unset_fake_temporarily():  # shapes and nothing in them
            hold_frozen(wrapped, lm.get_output_embeddings(), names)
    if world.size > 1:
        shard(wrapped)
    weights.fill(wrapped, weights.Content(dict.fromkeys(names), None), world)
    return wrapped


def counted(
    shape: str,
    ranks: int = 1,
    method: Full | LoRA = Full(),  # noqa: B008 - frozen
    dtype: str = "float32",
    rows: int = 16,
    width: int = 128,
    memory: float | None = None,
    aim: Unlearn | EWC | None = None,
    lanes: int = 1,
    **changes: Any,
) -> dict[str, Phase]:
    """Bytes of one rank, phase by phase: a step on so many rows, a fork and back, scoring and recall of as many.

    With an `aim` the step is one of unlearning, half of its rows to be kept, or of a protected memory; what that
    remembers is made in the phase "beginning".

    With a device's `memory`, where weights may stay gathered in it: the phase "gathered" ends while they are, and in
    "full recall" every rank completes as many tokens as it may.
    """
    resources = Resources(workers=ranks, gpus=1)
    texts = [[1] * (width - 1) + [i] for i in range(rows)]
    lm = unfilled(shape, method, **changes)
    if lanes > 1:
        return _counted_in_lanes(lm, lanes, dtype, resources, memory or FREE, texts)
    with ranks_of(ranks) as world, alone(), Meter() as meter:
        found: dict[str, Phase] = {}

        @contextlib.contextmanager
        def phase(name: str) -> Iterator[None]:
            with meter.phase() as found[name]:
                yield

        with phase("load"):
            model = filled(lm, world, dtype)
            meter.note(*model.parameters(), *model.buffers())
        model.budget = on_gpu(model, resources, memory or FREE)
        optimizer: AdamW | None = fresh_optimizer(model, STUDY)
        optimizer.state |= {one: room(optimizer, one) for one in model.learning().values()}
        objective: Objective | None = None
        if aim is not None:
            with phase("beginning"):
                objective = _aimed(model, aim, texts)
        model.train()
        with phase("training"):
            if objective is None:
                update(model, optimizer, texts, 1e-5, 1.0)
            else:
                objective(model, optimizer, Batch(texts, 1, 1e-5, None, rows // 2 * isinstance(aim, Unlearn)), 1.0)
        objective = None
        with phase("fork"):
            kept = take(model, optimizer)
        optimizer = None
        with phase("restore"):
            optimizer = restore(model, kept, STUDY)
        with phase("scoring"), model.evaluating():
            token_nlls(model, texts)
        with phase("recall"), model.evaluating():
            complete_greedily(model, [text[: width // 2] for text in texts], [2] * rows)
        if memory is not None and (kept := _kept_gathered(model, resources, memory)):
            model.budget = on_gpu(model, resources, memory, kept)
            with model.evaluating(), phase("gathered"):
                model.nll(torch.ones((1, 8), dtype=torch.long), torch.tensor([8]))
            cues = ranks * model.budget.recall_tokens // width
            with phase("full recall"):
                complete_greedily(model, [[1] * (width - 2)] * cues, [2] * cues)
    return found


def _counted_in_lanes(
    lm: PreTrainedModel, count: int, dtype: str, resources: Resources, memory: float, texts: list[list[int]]
) -> dict[str, Phase]:
    """The same of lanes, each with so many rows: two steps, a fork of each and back, a step, scoring and recall.

    In the phase "ablation" all are scored without what they have learned.
    """
    found: dict[str, Phase] = {}
    with ranks_of(1) as world, alone(), Meter() as meter:

        @contextlib.contextmanager
        def phase(name: str) -> Iterator[None]:
            with meter.phase() as found[name]:
                yield

        def ask(what: str, given: Callable[[LanguageModel], tuple[Any, ...]]) -> None:
            asked = [(lane, given(model)) for lane, model in enumerate(lanes.models)]
            with mock.patch("memexp.core.lanes.ends_process", lambda _: True):  # or each would try by itself
                for answer in lanes.do(what, asked):
                    if isinstance(answer, Exception):
                        raise answer

        with phase("load"):
            model = filled(lm, world, dtype)
            meter.note(*model.parameters(), *model.buffers())
        model.budget = on_gpu(model, resources, memory, lanes=count)
        with phase("lanes"):
            lanes = Lanes(model, count, moments=2)
        optimizers = {id(model): fresh_optimizer(model, STUDY) for model in lanes.models}

        def step(model: LanguageModel) -> tuple[Any, ...]:
            return optimizers[id(model)], texts, 1e-5, 1.0, None, None

        with phase("first step"):
            ask("update", step)
        with phase("training"):
            ask("update", step)
        with phase("fork"):
            kept = {id(model): take(model, optimizers.pop(id(model))) for model in lanes.models}
        with phase("restore"):
            for model in lanes.models:
                optimizers[id(model)] = restore(model, kept[id(model)], STUDY)
            ask("update", step)
        width = len(texts[0])
        with phase("scoring"):
            ask("nll", lambda _: (torch.from_numpy(np.array(texts)), torch.tensor([width] * len(texts))))
        with phase("ablation"), contextlib.ExitStack() as ablations:
            for model in lanes.models:
                side = Forget(below_layer=model.lm.config.num_hidden_layers)
                ablations.enter_context(ablated(model, side, kept[id(model)]))
            ask("nll", lambda _: (torch.from_numpy(np.array(texts)), torch.tensor([width] * len(texts))))
        with phase("recall"):
            ask("greedy", lambda _: ([text[: width // 2] for text in texts], [2] * len(texts)))
    return found


def _aimed(model: LanguageModel, aim: Unlearn | EWC, texts: list[list[int]]) -> Objective:
    if isinstance(aim, EWC):
        return Consolidation(model, aim, texts[:2], 0)
    return Unlearning(aim, remembered(model, aim, texts[: len(texts) // 2]))


def _kept_gathered(model: LanguageModel, resources: Resources, memory: float) -> int:
    with mock.patch.object(sharding, "_free_bytes", lambda *_: spare(model, resources, memory)):
        return gather_together(model, resources)


def most(found: dict[str, Phase]) -> int:
    """Bytes of the device that are needed."""
    return max(phase.peak for name, phase in found.items() if name not in BY_CHOICE)


if __name__ == "__main__":  # python -m core.fake_ranks llama3-8b 4 full bfloat16
    import sys
    import time

    shape, ranks, method, dtype, *more = sys.argv[1:]
    began = time.monotonic()
    for name, one in counted(
        shape, int(ranks), LoRA(r=8) if method == "lora" else Full(), dtype, **{key: True for key in more}
    ).items():
        print(f"{name:10} {one.peak / 1e9:8.2f} GB, then {one.now / 1e9:8.2f}, host {one.host / 1e9:8.2f}")
    print(f"{time.monotonic() - began:.1f} s")
