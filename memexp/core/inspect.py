"""Inspects models for `memexp.plan.inspection`, in a process of its own: pickled models on stdin, JSON on stdout.

python -m memexp.core.inspect
"""

from __future__ import annotations

import contextlib
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from memexp.core.footprint import footprint
from memexp.core.load import random_config
from memexp.core.model import blocks
from memexp.core.refusals import REFUSALS
from memexp.core.tokenizer import load_tokenizer
from memexp.core.weights import pickled, places_in
from memexp.errors import MemexpError, ModelError, one_line
from memexp.sources import ResolvedModel, pickles, stored
from memexp.sources.pinned import location, read_config

__all__ = ["answers", "inspect", "memory_facts"]

ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding)
"""What an adapter can sit on."""


def inspect(model: ResolvedModel) -> dict[str, Any]:
    """Parameters, linear extents and context of a model (see `memexp.plan.inspection.Inspection`).

    Raises ModelError where it could not be loaded.
    """
    config = None if model.source is None else _config(model, model.source)
    tokenizer = load_tokenizer(model.tokenizer, model.name)
    if config is None:
        config = random_config(model.name, model.config or {}, tokenizer)
    try:
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (*REFUSALS, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"model {model.name!r}: {one_line(error)}") from error
    kept_in_files = model.source is not None and model.folder is None  # of the hub's, nearly all have safetensors
    if (files := stored(model, fetch=False)) is not None:
        kept_in_files = places_in(lm, files, model.name) is not None  # refuses weights that lack a parameter
    elif model.folder is not None:
        _refuse_unpickling(model, model.folder)
        pickled(lm, pickles(model), model.name)  # likewise
    head = lm.get_output_embeddings()
    linear = [m.weight for m in lm.modules() if isinstance(m, nn.Linear | Conv1D) and m is not head]
    return {
        "parameters": sum(parameter.numel() for parameter in lm.parameters()),
        "linear": sum(sum(weight.shape) for weight in linear),
        "context": getattr(config, "max_position_embeddings", None),
        "blocks": getattr(config, "num_hidden_layers", None),
        "kept_in_files": kept_in_files,
        **memory_facts(lm, config),
        # One name for all blocks: "model.layers.*.mlp.up_proj".
        "modules": sorted(
            {re.sub(r"\b\d+\b", "*", name) for name, m in lm.named_modules() if isinstance(m, ADAPTABLE)}
        ),
    }


def memory_facts(lm: PreTrainedModel, config: PreTrainedConfig) -> dict[str, Any]:
    """What memory depends on; without what cannot be found out for an architecture."""
    head, embedding = lm.get_output_embeddings(), lm.get_input_embeddings()
    width = int(getattr(embedding, "embedding_dim", 0))
    found: dict[str, Any] = {
        "vocabulary": int(getattr(config, "vocab_size", 0)),
        "width": width,
        "tied": head is not None and getattr(head, "weight", None) is getattr(embedding, "weight", None),
        "coarse": str(getattr(config, "dtype", None)) == "torch.bfloat16",
    }
    # Architectures without a list of blocks, or whose settings do not go together with fewer of them: a plan then
    # knows less, and the model is refused where that matters.
    with contextlib.suppress(ModelError, AttributeError, TypeError, ValueError, RuntimeError, KeyError, IndexError):
        found["block_parameters"] = max(sum(one.numel() for one in block.parameters()) for block in blocks(lm))
        heads = int(config.num_attention_heads)
        each = getattr(config, "head_dim", None) or width // heads
        keys = getattr(config, "num_key_value_heads", None) or heads
        found["cache_numbers"] = 2 * int(keys) * int(each) * int(config.num_hidden_layers)
        found["token_bytes"] = footprint(config)
    return found


def _config(model: ResolvedModel, source: str) -> PreTrainedConfig:
    raw = read_config(source, model.commit)
    kind = raw.get("model_type")
    if kind not in CONFIG_MAPPING:
        if raw.get("auto_map"):
            raise ModelError(
                f"model {model.name!r} needs remote code (auto_map in its config.json); memexp executes none"
            )
        raise ModelError(f"model {model.name!r}: transformers does not know the architecture {kind!r}")
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(
            location(source), revision=model.commit or "main", trust_remote_code=False
        )
    except REFUSALS as error:
        raise ModelError(f"model {model.name!r}: its configuration is refused: {one_line(error)}") from error
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(f"model {model.name!r}: the architecture {kind!r} is no causal language model")
    return config


def _refuse_unpickling(model: ResolvedModel, folder: Path) -> None:
    """Open what pickles a local model would be loaded from the restricted way, which executes nothing."""
    files = pickles(model)
    if not files:
        raise ModelError(f"model {model.name!r}: {folder} holds no weights (*.safetensors or pytorch_model.bin)")
    for file in files:
        try:
            held = torch.load(file, map_location="meta", weights_only=True)
        except pickle.UnpicklingError as error:
            if _is_pickle(file):
                raise ModelError(
                    f"{file} would need unrestricted unpickling, which executes code; convert it to safetensors"
                ) from error
            raise ModelError(f"{file}: no weights file; copy or save the model again") from error
        except (*REFUSALS, EOFError, AttributeError) as error:
            raise ModelError(
                f"{file}: not a whole weights file; copy or save the model again: {one_line(error, 150)}"
            ) from error
        if not (isinstance(held, dict) and any(isinstance(one, torch.Tensor) for one in held.values())):
            raise ModelError(f"{file}: no tensors by their names; save the model with save_pretrained")


def _is_pickle(file: Path) -> bool:
    """Whether it begins as one, or as an archive of one: neither is what stands for a file in Git LFS."""
    with file.open("rb") as stream:
        return stream.read(2).startswith((b"PK", b"\x80"))


def answers(models: list[ResolvedModel]) -> list[dict[str, Any]]:
    """What `inspect` says of each, or its refusal under ``error``."""
    found: list[dict[str, Any]] = []
    for model in models:
        try:
            found.append(dict(inspect(model)))
        except MemexpError as error:
            found.append({"error": str(error)})
    return found


if __name__ == "__main__":
    # Libraries chat on stdout; the answer has it to itself.
    with contextlib.redirect_stdout(sys.stderr):
        said = answers(pickle.load(sys.stdin.buffer))
    print(json.dumps(said))
