"""The 19 models of Orhan 2023 (arXiv 2303.17557): their configurations, which is all that a plan needs of them.

planned("gpt2-xl")      # a Model with this architecture and weights that are drawn, were it ever trained

Numbers are those of the config.json files on the hub; where a setting is the architecture's default in transformers it
is left out. Sizes are the parameters of these files, tied ones once, as the hub shows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from memexp import Model, RandomInit

__all__ = ["CONFIGS", "SIZES", "planned"]

Config = Mapping[str, Any]


def _gpt2(blocks: int, width: int, heads: int) -> Config:
    return {"model_type": "gpt2", "n_layer": blocks, "n_embd": width, "n_head": heads, "vocab_size": 50257}


def _neo(blocks: int, width: int, heads: int) -> Config:
    shape = {"num_layers": blocks, "hidden_size": width, "num_heads": heads, "vocab_size": 50257}
    return {"model_type": "gpt_neo", **shape, "attention_types": [[["global", "local"], blocks // 2]]}


def _opt(blocks: int, width: int, heads: int, **others: Any) -> Config:
    shape = {"num_hidden_layers": blocks, "hidden_size": width, "num_attention_heads": heads, "ffn_dim": 4 * width}
    # Padding as OPT has it is no token of the tokenizer that stands in for its own.
    return {
        "model_type": "opt",
        **shape,
        "word_embed_proj_dim": width,
        "vocab_size": 50272,
        "pad_token_id": None,
    } | others


def _bloom(blocks: int, width: int, heads: int) -> Config:
    shape = {"n_layer": blocks, "hidden_size": width, "n_head": heads}
    return {"model_type": "bloom", **shape, "vocab_size": 250880, "pad_token_id": None}


CONFIGS: Mapping[str, Config] = {
    "gpt2": _gpt2(12, 768, 12),
    "gpt2-medium": _gpt2(24, 1024, 16),
    "gpt2-large": _gpt2(36, 1280, 20),
    "gpt2-xl": _gpt2(48, 1600, 25),
    "EleutherAI/gpt-neo-125m": _neo(12, 768, 12),
    "EleutherAI/gpt-neo-1.3B": _neo(24, 2048, 16),
    "EleutherAI/gpt-neo-2.7B": _neo(32, 2560, 20),
    "EleutherAI/gpt-j-6b": {
        **{"model_type": "gptj", "n_layer": 28, "n_embd": 4096, "n_head": 16, "rotary_dim": 64},
        **{"vocab_size": 50400, "tie_word_embeddings": False},
    },
    "facebook/opt-125m": _opt(12, 768, 12),
    "facebook/opt-350m": _opt(24, 1024, 16, word_embed_proj_dim=512, do_layer_norm_before=False),
    "facebook/opt-1.3b": _opt(24, 2048, 32),
    "facebook/opt-2.7b": _opt(32, 2560, 32),
    "facebook/opt-6.7b": _opt(32, 4096, 32),
    "facebook/opt-13b": _opt(40, 5120, 40),
    "bigscience/bloom-560m": _bloom(24, 1024, 16),
    "bigscience/bloom-1b1": _bloom(24, 1536, 16),
    "bigscience/bloom-1b7": _bloom(24, 2048, 16),
    "bigscience/bloom-3b": _bloom(30, 2560, 32),
    "bigscience/bloom-7b1": _bloom(30, 4096, 32),
}
"""By the names that `sweeps/recognition_recall.py` has."""

SIZES: Mapping[str, float] = {
    **{"gpt2": 124.4, "gpt2-medium": 354.8, "gpt2-large": 774.0, "gpt2-xl": 1557.6},
    **{"EleutherAI/gpt-neo-125m": 125.2, "EleutherAI/gpt-neo-1.3B": 1315.6, "EleutherAI/gpt-neo-2.7B": 2651.3},
    "EleutherAI/gpt-j-6b": 6050.9,
    **{"facebook/opt-125m": 125.2, "facebook/opt-350m": 331.2, "facebook/opt-1.3b": 1315.8},
    **{"facebook/opt-2.7b": 2651.6, "facebook/opt-6.7b": 6658.5, "facebook/opt-13b": 12853.5},
    **{"bigscience/bloom-560m": 559.2, "bigscience/bloom-1b1": 1065.3, "bigscience/bloom-1b7": 1722.4},
    **{"bigscience/bloom-3b": 3002.6, "bigscience/bloom-7b1": 7069.0},
}
"""Published sizes in millions of parameters."""


def planned(name: str) -> Model:
    """The model with the architecture that is published under `name`; a plan asks neither weights nor its tokenizer."""
    return Model(name, tokenizer="tiny-s", init=RandomInit(dict(CONFIGS[name])))
