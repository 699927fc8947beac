"""The models of `benchmarks.gpu`: random weights, drawn on the device itself, in the shapes of real ones.

lm = made("gpt2-124m", Full(), "bfloat16", torch.device("cuda", 0))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from memexp.core.adapter import add_adapter
from memexp.core.batch_sizes import budget_of
from memexp.core.model import LanguageModel
from memexp.core.precision import hold_frozen
from memexp.core.processes import World
from memexp.core.tokenizer import load_tokenizer
from memexp.sources import Sources
from memexp.spec import Full, LoRA, Model, Resources

__all__ = ["SHAPES", "Shape", "made", "rows"]


@dataclass(frozen=True)
class Shape:
    """An architecture and what one pass of it costs."""

    kind: str
    """What transformers calls it."""
    settings: Mapping[str, Any]

    @property
    def vocabulary(self) -> int:
        """Number of tokens."""
        return int(self.settings["vocab_size"])


SHAPES = {
    "tiny-gpt2": Shape("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256, "vocab_size": 2048}),
    "tiny-llama": Shape(
        "llama",
        {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 2048,
            "max_position_embeddings": 256,
            "tie_word_embeddings": False,
        },
    ),
    "gpt2-124m": Shape("gpt2", {"vocab_size": 50257}),
    "opt-1.3b": Shape(
        "opt",
        {
            "hidden_size": 2048,
            "ffn_dim": 8192,
            "num_hidden_layers": 24,
            "num_attention_heads": 32,
            "word_embed_proj_dim": 2048,
            "vocab_size": 50272,
        },
    ),
    "llama-8b": Shape(
        "llama",
        {
            "hidden_size": 4096,
            "intermediate_size": 14336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128256,
            "max_position_embeddings": 8192,
            "tie_word_embeddings": False,
        },
    ),
}


def made(shape: str, method: Full | LoRA, dtype: str, device: torch.device, seed: int = 0) -> LanguageModel:
    """A model of that shape with random weights, ready to learn by `method`; as `memexp.core.load` makes it else."""
    of = SHAPES[shape]
    config = AutoConfig.for_model(of.kind, bos_token_id=None, eos_token_id=None, pad_token_id=None, **of.settings)
    torch.manual_seed(seed)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    lm.config.use_cache = False
    if isinstance(method, LoRA):
        add_adapter(lm, method)
        lm.to(device)
    tokenizer = load_tokenizer(Sources().model(Model("tiny-s")).tokenizer, "tiny-s")
    wrapped = LanguageModel(lm, tokenizer, World(0, 1, device), dtype, own_tokenizer=False)
    if dtype == "bfloat16" and isinstance(method, LoRA):
        hold_frozen(wrapped, lm.get_output_embeddings(), {name for name, _ in wrapped.named_parameters()})
    wrapped.budget = budget_of(wrapped, Resources(gpus=1 if device.type == "cuda" else 0))
    return wrapped


def rows(shape: str, count: int, tokens: int, seed: int = 0) -> list[list[int]]:
    """Texts of random token ids, all of one length."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(4, SHAPES[shape].vocabulary, (count, tokens), generator=generator)
    return drawn.tolist()
