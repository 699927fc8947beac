"""Traits of large models, found on small ones: the same architecture and settings, few blocks, narrow, made-up weights.

traits = known_traits(model, lm, tokenizer, world)     # before an adapter is added; all ranks call
if traits is None:
    lm.adopt(asked_traits(model, lm))                  # of the model itself

A trait is the architecture's, not the weights'; a model of billions is not passed through for it, and no rank holds it
whole. What a likeness says to be out of the ordinary is asked of the model itself, as is everything where none can be
made. `tests/core/test_likeness.py` compares both for every architecture of the tests.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from memexp.core.model import LanguageModel, blocks
from memexp.core.processes import World
from memexp.core.traits import Traits
from memexp.sources import ResolvedModel
from memexp.sources.cache import recall_answer, remember_answer

__all__ = ["asked_traits", "known_traits", "likeness"]

SMALL = 10_000_000
"""Parameters up to which a whole model is asked itself, which costs no more than a likeness."""
VOCABULARY = 16
"""Tokens of a likeness."""
HEADS = 2
"""Its heads of keys and values at most."""
_WIDTHS = ("hidden_size", "intermediate_size", "ffn_dim", "n_inner", "word_embed_proj_dim", "ffn_hidden_size")
"""Settings that are the wider the more heads there are, as transformers calls them or as an architecture does."""


def known_traits(
    model: ResolvedModel, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, world: World
) -> Traits | None:
    """The traits of `lm`, with or without weights, as they were remembered or as a likeness has them; else None."""
    if world.size == 1 and _size(lm) <= SMALL:
        return None
    traits = (_recalled(model) or _of_likeness(model, lm, tokenizer)) if world.leads else None
    return world.broadcast(traits)


def _of_likeness(model: ResolvedModel, lm: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> Traits | None:
    small = likeness(lm)
    if small is None:
        return None
    try:
        traits = LanguageModel(small, tokenizer, World(0, 1, torch.device("cpu")), "float32").traits
    except Exception:  # as in `likeness`: settings that do not go together may be noticed as late as here
        return None
    if traits != Traits(plain_head=traits.plain_head, shares=traits.shares):
        return None
    _remember(model, traits)
    return traits


def asked_traits(model: ResolvedModel, lm: LanguageModel) -> Traits:
    """The traits of `lm` as itself says. All ranks call."""
    with torch.no_grad():
        traits: Traits = lm("ask")
    if lm.world.leads and _size(lm) > SMALL:
        _remember(model, traits)
    return traits


def _size(lm: nn.Module) -> int:
    return sum(parameter.numel() for parameter in lm.parameters())


def _remember(model: ResolvedModel, traits: Traits) -> None:
    remember_answer(_question(model), dataclasses.asdict(traits))


def _recalled(model: ResolvedModel) -> Traits | None:
    known = recall_answer(_question(model))
    names = {field.name for field in dataclasses.fields(Traits)}
    if not isinstance(known, dict) or known.keys() != names or not all(isinstance(one, bool) for one in known.values()):
        return None
    return Traits(**known)


def _question(model: ResolvedModel) -> list[Any]:
    return ["traits", 1, torch.__version__, transformers.__version__, model.id]


def likeness(lm: PreTrainedModel) -> PreTrainedModel | None:
    """A small model that is made as `lm` is, block by block; None where none can be that is certainly alike."""
    try:
        stack = blocks(lm)
        kinds = [_kind(block, sizes=True) for block in stack]
        depth = max(2, 1 + max(kinds.index(kind) for kind in kinds))  # every kind of block is among the first
        config = _shortened(lm.config, min(depth, len(stack)))
        _narrow(config)
        small = _drawn(config)
        alike = _outline(small, blocks(small)) == _outline(lm, stack, upto=len(blocks(small)))
    except Exception:  # whatever an architecture raises whose settings do not go together when they are changed
        return None
    return small if alike else None


def _shortened(whole: PreTrainedConfig, depth: int) -> PreTrainedConfig:
    """The settings with fewer blocks and tokens."""
    config = copy.deepcopy(whole)
    before = config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == before:  # what each block is
            setattr(config, name, value[:depth])
    config.num_hidden_layers = depth
    config.vocab_size = VOCABULARY
    pad = getattr(config, "pad_token_id", None)
    if isinstance(pad, int) and pad >= VOCABULARY:
        config.pad_token_id = VOCABULARY - 1  # no token of the questions either
    return config


def _narrow(config: PreTrainedConfig) -> None:
    """Fewer heads of the same width, in place, and all that goes with their number."""
    heads = config.num_attention_heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    kept = min(groups, HEADS)
    fewer, rest = divmod(groups, kept)
    widths = {name: getattr(config, name) for name in _WIDTHS if isinstance(getattr(config, name, None), int)}
    if rest or heads % groups or any(width % fewer for width in widths.values()):
        return
    config.num_attention_heads = heads // fewer
    if getattr(config, "num_key_value_heads", None):
        config.num_key_value_heads = kept
    for name, width in widths.items():
        setattr(config, name, width // fewer)


@torch.no_grad()
def _drawn(config: PreTrainedConfig) -> PreTrainedModel:
    """With weights that let through as much as they get, as those of a trained model do."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for parameter in lm.parameters():
        spread = float(parameter.std()) if parameter.ndim > 1 else 0.0
        if spread > 0:
            parameter.div_(spread * parameter.shape[-1] ** 0.5)
    return lm


def _outline(lm: nn.Module, stack: nn.ModuleList, upto: int | None = None) -> list[Any]:
    """What there is in front of, in and after the first blocks."""
    inside = {id(module) for block in stack for module in block.modules()}
    others = [(name, _of(module, sizes=False)) for name, module in lm.named_modules() if id(module) not in inside]
    return [others, [_kind(block, sizes=False) for block in stack[:upto]]]


def _kind(block: nn.Module, sizes: bool) -> list[Any]:
    return [(name, _of(module, sizes)) for name, module in block.named_modules()]


def _of(module: nn.Module, sizes: bool) -> list[Any]:
    """Its class, its tensors and its plain settings, but for its number; with `sizes` shapes and numbers too."""
    tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    shapes = [(name, one.shape if sizes else one.ndim) for name, one in tensors]
    plain = (bool, str, int, float) if sizes else (bool, str)
    settings = [(name, value) for name, value in _settings(module) if isinstance(value, plain)]
    return [type(module).__qualname__, shapes, settings]


def _settings(module: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, value in sorted(vars(module).items()):
        if not name.startswith("_") and not re.search(r"idx|index|layer_id|layer_number|^training$", name):
            yield name, value
