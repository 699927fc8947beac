"""How many tokens and rows a batch may have: by type of device, by the model, and by the memory there is for it.

lm.budget = budget_of(lm, resources)
batches_of(lengths, lm.budget.scoring_tokens, rows=len(lengths))
with halved(lm): ...                    # once more, after memory ran out
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from memexp.core.head import LOGIT_BYTES
from memexp.spec import Resources

if TYPE_CHECKING:
    from memexp.core.model import LanguageModel

__all__ = ["Budget", "budget_of", "halved", "largest", "on_gpu", "spare"]


@dataclass(frozen=True)
class Budget:
    """What a batch may have. A single row may always be one."""

    group_overhead: int
    """What a micro-group of training costs by itself, in padded tokens: its gradients are added to the others'."""
    group_tokens: int
    """Padded tokens of a micro-group on one rank."""
    scoring_tokens: int
    """Padded tokens of a batch that is scored."""
    recall_tokens: int
    """Padded tokens of a batch that is completed, those to come included."""
    recall_rows: int
    """Rows of a batch that is completed."""
    answer_rows: int
    """Rows of a batch of answers, which end one by one while it goes on to the last."""

    def prefix_cost(self, steps: int = 0) -> int:
        """What it costs to give rows with a common prefix batches of their own, in tokens; each is completed by so many
        `steps` of few tokens."""
        return (2 + steps) * self.group_overhead

    def halved(self) -> Budget:
        """Half of each."""
        return Budget(self.group_overhead, *(max(1, number // 2) for number in self._numbers))

    def at_most(self, other: Budget) -> Budget:
        """The lesser of each."""
        return Budget(self.group_overhead, *map(min, self._numbers, other._numbers))

    @property
    def _numbers(self) -> tuple[int, ...]:
        return self.group_tokens, self.scoring_tokens, self.recall_tokens, self.recall_rows, self.answer_rows


# Training on a CPU: overheads of 48 to 192 took the same time, 16 and no splitting more. On a GPU a short batch costs
# what a padded one does, so there a batch is split only to bound memory. Scoring on a CPU: larger batches fall out of
# the cache (8,192 tokens were 3 times slower). Answers: 40 to 64 rows were some 8 % faster than 96.
_LARGEST = {
    "cpu": Budget(48, 4_096, 1_024, 6_144, 96, 48),
    "cuda": Budget(4_096, 8_192, 16_384, 32_768, 512, 512),
}


def largest(device: str) -> Budget:
    """By type of device, whatever the model."""
    return _LARGEST[device]


SMALL = 10_000_000
"""Parameters of a model that has `largest` on a CPU."""
CPU_BYTES = 1 << 30
"""For the batch of a larger one, the same on every machine: of what is split depend the last digits. Of 135 million
parameters a step in a quarter of it took a tenth longer, and no less memory at the peak: gradients of the first
micro-group are there beside the activations of the second. A sharded model is gathered anew for every one."""
GPU_RESERVE = 3 << 29
"""Of a GPU's memory what CUDA, its libraries and unused rests of blocks take."""
GPU_TOKENS, GPU_WORK = 1_024, 8e12
"""A micro-group of more tokens, and of more tokens times parameters, is no faster: it keeps a GPU busy for long."""
GPU_SHARE = 0.9
"""Of what is left on a GPU, since the figures below are no measurements."""

# Numbers that are there for each token, per number that a linear layer takes or gives: counted on GPT-2, OPT and Llama,
# where in training norms, activations and residual sums come on top, in float32 whatever the linear layers take.
TRAINED, PASSED = {4: 1.5, 2: 2.5}, 1.0
"""By bytes of a number in a linear layer."""
LOGITS_TRAINED, LOGITS_PASSED = 5, 3
"""Copies of float32 logits that are there where a model does more than its head with them: they are not made in pieces,
see head.py. As they are, capped and normalised, with what a cap keeps and a gradient."""


def budget_of(lm: LanguageModel, resources: Resources, gathered: int = 0, lanes: int = 1) -> Budget:
    """What batches of `lm`, as it is held now, may have on its device; a probe keeps so many bytes `gathered`; what it
    learns with is there for so many `lanes`."""
    if lm.world.device.type != "cpu":
        return on_gpu(lm, resources, _memory(lm, resources), gathered, lanes)
    if sum(parameter.numel() for parameter in lm.parameters()) <= SMALL:
        return largest("cpu")
    return _within(CPU_BYTES, CPU_BYTES, largest("cpu"), lm, resources)


def on_gpu(lm: LanguageModel, resources: Resources, memory: float, gathered: int = 0, lanes: int = 1) -> Budget:
    """What batches of `lm` may have on a GPU with so many bytes; the others as for `budget_of`."""
    parameters = sum(parameter.numel() for parameter in lm.parameters())
    most = largest("cuda")
    busy = max(GPU_TOKENS, min(most.group_tokens, int(GPU_WORK // parameters)))
    held, passing, gradients = _held(lm, resources, lanes), _passing(lm), lanes * _gradients(lm)
    if lanes > 1:  # of which there are gradients at all times, so that the head's are beside them
        held, gradients = held + gradients, _at_the_head(lm, lanes)
    training = _left(memory, held + gradients + passing)
    probing = _left(memory, held + (gathered or passing))
    return _within(training, probing, replace(most, group_tokens=busy), lm, resources)


def _within(free: int, probing: int, most: Budget, lm: LanguageModel, resources: Resources) -> Budget:
    tokens = _Tokens.of(lm, resources.checkpointing)
    groups = max(1, free // tokens.training)
    scored, kept = (max(1, probing // per) for per in (tokens.scoring, tokens.recall))
    return most.at_most(Budget(0, groups, scored, kept, most.recall_rows, most.answer_rows))


def spare(lm: LanguageModel, resources: Resources, memory: float | None = None) -> int:
    """Bytes of its GPU, or of one with so much `memory`, that probes may take beside what is held for training."""
    memory = _memory(lm, resources) if memory is None else memory
    return _left(memory, _held(lm, resources))


def _left(memory: float, taken: int) -> int:
    """Bytes that batches may take of a GPU of which so many are taken."""
    return int(GPU_SHARE * (memory - GPU_RESERVE - taken))


def _memory(lm: LanguageModel, resources: Resources) -> float:
    """Bytes of its GPU that are this trial's."""
    share = resources.gpus if 0 < resources.gpus < 1 else 1.0
    return share * torch.cuda.get_device_properties(lm.world.device).total_memory


@contextlib.contextmanager
def halved(lm: LanguageModel) -> Iterator[None]:
    """Batches of half the size, meanwhile."""
    before, lm.budget = lm.budget, lm.budget.halved()
    try:
        yield
    finally:
        lm.budget = before


@dataclass(frozen=True)
class _Tokens:
    """Bytes that a token costs."""

    training: int
    scoring: int
    recall: int

    @classmethod
    def of(cls, lm: LanguageModel, checkpointing: bool) -> _Tokens:
        from memexp.core.model import blocks

        config: Any = lm.lm.config
        size = 2 if lm.dtype == "bfloat16" else 4
        depth, heads = len(blocks(lm.lm)), _number(config, "num_attention_heads", 1)
        hidden = int(getattr(lm.lm.get_input_embeddings(), "embedding_dim", 0)) or _number(config, "hidden_size", 1)
        head = lm.lm.get_output_embeddings()
        linear = [module for module in lm.modules() if isinstance(module, nn.Linear | Conv1D) and module is not head]
        block = size * sum(map(_extent, linear)) / depth
        passing = PASSED * block + 4 * hidden
        trained = 4 * hidden * depth + TRAINED[size] * block if checkpointing else TRAINED[size] * block * depth
        width = _number(config, "head_dim", hidden // heads)
        logits = 0 if lm.traits.plain_head else 4 * int(config.vocab_size)
        cached = 2 * size * depth * width * _number(config, "num_key_value_heads", heads)
        return cls(int(trained + LOGITS_TRAINED * logits), int(passing + LOGITS_PASSED * logits), int(cached + passing))


def _number(config: Any, name: str, default: int) -> int:
    """What a configuration says, of architectures with a list for all blocks the most."""
    said = getattr(config, name, None)
    if isinstance(said, list | tuple):
        said = max(said, default=None)
    return said if isinstance(said, int) and said > 0 else default


def _extent(module: nn.Module) -> int:
    """What a linear layer takes and gives for a token."""
    if isinstance(module, Conv1D):
        return int(module.nx + module.nf)
    return int(module.in_features) + int(module.out_features)  # type: ignore[arg-type] # of a Linear


def _held(lm: LanguageModel, resources: Resources, lanes: int = 1) -> int:
    """Bytes that a rank has between steps: its weights, and the moments of what it learns."""
    from memexp.core.model import local

    learning = lanes * (1 if resources.offload else 3)
    return sum(local(parameter).nbytes * (learning if parameter.requires_grad else 1) for parameter in lm.parameters())


def _gradients(lm: LanguageModel) -> int:
    """Bytes of a rank's gradients, which are there while it trains only."""
    from memexp.core.model import local

    return sum(local(parameter).nbytes for parameter in lm.parameters() if parameter.requires_grad)


def _at_the_head(lm: LanguageModel, lanes: int) -> int:
    """Bytes of a piece of the logits, and of all lanes' gradients of the head, which are put into one at the end."""
    weight: Any = getattr(lm.lm.get_output_embeddings(), "weight", None)
    of_all = lanes * weight.nbytes if weight is not None and weight.requires_grad else 0
    return max(3 * LOGIT_BYTES + of_all, 2 * of_all)


def _passing(lm: LanguageModel) -> int:
    """Bytes of others' weights that a rank has gathered at a time."""
    from memexp.core.model import blocks

    if lm.world.size == 1:
        return 0
    size = 2 if lm.dtype == "bfloat16" else 4
    inside = [sum(parameter.numel() for parameter in block.parameters()) for block in blocks(lm.lm)]
    apart = sum(parameter.numel() for parameter in lm.parameters()) - sum(inside)
    return size * (2 * max(inside) + apart)
