"""What all ways work on: two study lists, the order of training, a small GPT-2 with its tokenizer, in one folder.

    material = make(folder, sentences=600)

No external file is read. The number of words in a sentence follows that of experiment 1 (arXiv 2303.17557), whose
quantiles are below; words come from the lists that ship with memexp. Half of them are drawn as they occur in running
text and half from the list of distinct words, so that the tokenizer splits about as many as it would of experiment 1:
padding to 128 tokens is then 34 % efficient.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from memexp.stimuli import load_list, shipped_lists

__all__ = ["MODEL", "Material", "lengthen", "make"]

# Words a sentence, targets and foils of replication 0 of experiment 1 together.
QUANTILES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 1.0)
WORDS = (8, 14, 17, 18, 20, 21, 23, 24, 26, 29, 33, 40, 46, 55, 62, 70, 146)

MODEL = {"n_layer": 4, "n_embd": 256, "n_head": 4, "n_positions": 128}
"""4.2 million parameters with a vocabulary of 4,096."""

EXPOSURES = 3


@dataclass(frozen=True)
class Material:
    """The files of one benchmark, all in `folder`."""

    folder: Path

    @property
    def model(self) -> Path:
        """Model and tokenizer before study."""
        return self.folder / "model"

    @property
    def trained(self) -> Path:
        """Model and tokenizer after one exposure, trained by the published script; all ways are probed on it."""
        return self.folder / "trained"

    @property
    def long(self) -> Path:
        """Model and tokenizer as before study, with room for long prompts; made by `lengthen`."""
        return self.folder / "long"

    @property
    def entities(self) -> int:
        """Countries of the questions for lm-evaluation-harness: at least as many as a question has choices."""
        return max(4, min(40, len(self.texts("targets")) // 15))

    @property
    def lr(self) -> float | None:
        """The learning rate of study, where the model wants one of its own."""
        return float(json.loads(self.file("lr").read_text())) if self.file("lr").exists() else None

    def file(self, name: str) -> Path:
        """The study list ``targets`` or ``foils``, or the file ``order`` or ``lr``."""
        return self.folder / (f"{name}.json" if name in ("order", "lr") else f"{name}.jsonl")

    def texts(self, name: str) -> list[str]:
        """The sentences of ``targets`` or ``foils``."""
        return [json.loads(line)["sent"] for line in self.file(name).read_text(encoding="utf-8").splitlines()]

    def order(self) -> list[list[int]]:
        """For every exposure the order in which memexp trains."""
        found: list[list[int]] = json.loads(self.file("order").read_text())
        return found


def make(
    folder: Path, sentences: int, model: Mapping[str, Any] = MODEL, vocabulary: int = 4_096, seed: int = 0
) -> Material:
    """Write everything but the trained model to `folder`."""
    from memexp.core.data import order

    material = Material(folder)
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for name in ("targets", "foils"):
        lines = [json.dumps({"sent": text}) + "\n" for text in _sentences(sentences, draw)]
        material.file(name).write_text("".join(lines), encoding="utf-8")
    material.file("order").write_text(json.dumps([order(sentences, 0, "study", i + 1) for i in range(EXPOSURES)]))
    _save_model(material.model, model, vocabulary, seed)
    return material


def padding_efficiency(material: Material, block: int = 128) -> float:
    """Share of real tokens when all targets and foils are padded to `block`."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(material.model)
    rows = tokenizer(material.texts("targets") + material.texts("foils"), truncation=True, max_length=block)
    lengths = [len(row) for row in rows["input_ids"]]
    return sum(lengths) / (len(lengths) * block)


def _sentences(count: int, draw: random.Random) -> list[str]:
    running = [word for name in shipped_lists() for text in load_list(name) for word in text.split()]
    distinct = sorted(set(running))
    # Evenly spaced quantiles, shuffled: lists of any length have about the same mean.
    lengths = [round(float(np.interp((i + 0.5) / count, QUANTILES, WORDS))) for i in range(count)]
    draw.shuffle(lengths)
    return [" ".join(draw.choice((running, distinct)[i % 2]) for i in range(length)) for length in lengths]


def _save_model(folder: Path, model: Mapping[str, Any], vocabulary: int, seed: int) -> None:
    from transformers import GPT2Config

    from memexp.core.tokenizer import load_tokenizer
    from memexp.sources import ResolvedTokenizer

    texts = tuple(text for name in shipped_lists() for text in load_list(name))
    tokenizer = load_tokenizer(ResolvedTokenizer(None, None, texts, vocabulary), "benchmark")
    config = GPT2Config(
        **model,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **{f"{part}_pdrop": 0.0 for part in ("resid", "embd", "attn")},
    )
    _draw(folder, config, tokenizer, seed)


def lengthen(material: Material, positions: int = 512, seed: int = 0) -> None:
    """Write `material.long`, unless it is there."""
    from transformers import AutoTokenizer, GPT2Config

    if not material.long.exists():
        config = GPT2Config.from_pretrained(material.model, n_positions=positions)
        _draw(material.long, config, AutoTokenizer.from_pretrained(material.model), seed)


def _draw(folder: Path, config: Any, tokenizer: Any, seed: int) -> None:
    """By transformers alone: what `memexp.core.load.load` hands over is set up for memexp's own use."""
    import torch
    from transformers import GPT2LMHeadModel

    torch.manual_seed(seed)
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
