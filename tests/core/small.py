"""Eight architectures small enough to load in a tenth of a second, and texts for them.

    lm = language_model("gpt2", initializer_range=0.3)

Imported as `core.small`, by the tests of several ranks too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import processors
from torch.optim import AdamW
from transformers import PreTrainedTokenizerFast

from memexp.core.batches import StudyBatches
from memexp.core.data import Row
from memexp.core.load import load
from memexp.core.model import LanguageModel
from memexp.core.processes import World
from memexp.core.train import Step, train
from memexp.sources import ResolvedModel, Sources
from memexp.spec import Full, LoRA, Model, RandomInit, ShippedText, Study, TrainedTokenizer
from memexp.stimuli import load_list

__all__ = [
    "ARCHITECTURES",
    "CONFIGS",
    "FOILS",
    "NO_DROPOUT",
    "PEAKED",
    "TARGETS",
    "TOKENIZER",
    "WIDE",
    "bos_tokenizer",
    "language_model",
    "resolved",
    "study_exposures",
    "varied",
    "weights",
]

TARGETS, FOILS = load_list("sentences-targets")[:64], load_list("sentences-foils")[:64]
TOKENIZER = TrainedTokenizer(
    (ShippedText("sentences-targets", first=64), ShippedText("sentences-foils", first=64)), vocab_size=600
)

WIDE: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 10,
    "num_attention_heads": 8,
    "vocab_size": 4_000,
    "tie_word_embeddings": False,
}
"""Large enough (38 million numbers) for its memory to be told from that of a process."""

_LLAMA = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 160,
}
_GEMMA = {**_LLAMA, "head_dim": 8}

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "n_positions": 160},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 160,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 8,  # far shorter than the texts, so that local attention shows
    },
    "gptj": {"n_layer": 2, "n_embd": 32, "n_head": 4, "rotary_dim": 4, "n_positions": 160},
    "gpt_neox": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "rotary_pct": 0.5,
        "max_position_embeddings": 160,
    },
    "opt": {
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 64,
        "max_position_embeddings": 160,
        "pad_token_id": None,  # OPT's own is a token of the text here
    },
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "llama": _LLAMA,
    "gemma": _GEMMA,
    "gemma2": {**_GEMMA, "sliding_window": 16, "final_logit_softcapping": 5.0, "attn_logit_softcapping": 5.0},
}

ARCHITECTURES = ("gpt2", "gpt_neo", "gptj", "gpt_neox", "opt", "bloom", "llama", "gemma")
"""Those whose equality with the plain way is promised."""

NO_DROPOUT: dict[str, dict[str, float]] = {
    "gpt2": {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0},
    "opt": {"dropout": 0.0, "attention_dropout": 0.0},
    "llama": {"attention_dropout": 0.0},
}
"""Settings without dropout, for the architectures the tests train."""

PEAKED = 0.3
"""Initial standard deviation at which random models have strong opinions."""


@functools.cache
def _sources() -> Sources:
    return Sources()


def resolved(architecture: str, seed: int = 0, tokenizer: str | None = None, **changes: Any) -> ResolvedModel:
    """A random model of `architecture`; `changes` go into its config."""
    config = {"model_type": architecture, **CONFIGS[architecture], **changes}
    return _sources().model(
        Model(architecture, tokenizer=tokenizer or TOKENIZER, init=RandomInit(config=config, seed=seed))
    )


def language_model(
    architecture: str,
    method: Full | LoRA = Full(),  # noqa: B008 - frozen
    dtype: str = "float32",
    seed: int = 0,
    tokenizer: str | None = None,
    **changes: Any,
) -> LanguageModel:
    """The loaded model of `resolved`, over all ranks there are."""
    return load(resolved(architecture, seed, tokenizer, **changes), method, dtype, World.current())


def bos_tokenizer(folder: Path) -> str:
    """Save a tokenizer that puts a bos before every text, as OPT's and Gemma's do; returns its folder."""
    plain: PreTrainedTokenizerFast = language_model("gpt2").tokenizer  # type: ignore[assignment]
    bpe = plain.backend_tokenizer
    bpe.add_special_tokens(["<bos>"])
    bpe.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", bpe.token_to_id("<bos>"))]
    )
    made = PreTrainedTokenizerFast(tokenizer_object=bpe, bos_token="<bos>", eos_token=plain.eos_token)
    made.save_pretrained(folder)
    return str(folder)


def varied(count: int) -> list[str]:
    """Texts of 1 to about 50 words, in no order of length."""
    words = " ".join(TARGETS).split()
    return [" ".join(words[11 * i : 11 * i + 1 + (17 * i) % 50]) for i in range(count)]


def weights(lm: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of everything that training could change."""
    return {name: parameter.detach().clone() for name, parameter in lm.named_parameters()}


def study_exposures(
    lm: LanguageModel, optimizer: AdamW, study: Study, rows: Sequence[Row], seed: int, first: int, last: int
) -> list[Step]:
    """`train` on every row once per exposure, exposures `first` to `last`."""
    batches = StudyBatches(study, rows, seed)
    each = batches.passes.steps_until(1)
    return train(lm, optimizer, study, batches, (first - 1) * each + 1, last * each)
