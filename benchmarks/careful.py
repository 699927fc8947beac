"""A careful user's way: transformers' Trainer with dynamic padding, batched scoring, batched `generate`.

No memexp in here. What such a user does and the published scripts do not: pads to the longest text of a batch, takes
texts of like length together where order does not matter, switches off checkpoints and logging, takes fused AdamW.

`SCORING_ROWS` and `RECALL_ROWS` are the fastest of 4, 8, 16, 32 and 64 on the machine of RESULTS.md; `python -m
benchmarks --parts sizes` repeats the comparison.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rouge_score.rouge_scorer import RougeScorer
from torch.utils.data import Sampler
from transformers import (
    DataCollatorForLanguageModeling,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

__all__ = ["RECALL_ROWS", "SCORING_ROWS", "recall", "score", "train"]

BLOCK = 128
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
SCORING_ROWS = 16
RECALL_ROWS = 32


class _Given(Sampler[int]):
    """The order that is given instead of one that is drawn."""

    def __init__(self, order: Sequence[int]) -> None:
        self.order = order

    def __iter__(self) -> Iterator[int]:
        return iter(self.order)

    def __len__(self) -> int:
        return len(self.order)


class _InOrder(Trainer):
    """A Trainer that takes its texts in a given order, so that it can be compared."""

    def __init__(self, order: Sequence[int], **arguments: Any) -> None:
        super().__init__(**arguments)
        self.given = order

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:
        return _Given(self.given)


class _Collator(DataCollatorForLanguageModeling):
    """Dynamic padding, with labels on predicted tokens only."""

    def torch_call(self, examples: list[Any]) -> dict[str, Any]:
        batch = super().torch_call(examples)
        batch["labels"][:, 0] = -100  # never predicted, and for GPT-2 Trainer would count it in the mean
        return batch


class _Losses(TrainerCallback):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **rest: Any) -> None:
        self.losses += [logs["loss"]] if "loss" in logs else []


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    order: Sequence[int],
    lr: float,
    batch_size: int = 16,
) -> list[float]:
    """Train `model` once on `texts` in this order; the loss of every step."""
    tokenizer.pad_token = tokenizer.eos_token
    rows = tokenizer(list(texts), truncation=True, max_length=BLOCK)["input_ids"]
    losses = _Losses()
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=batch_size,
            num_train_epochs=1,
            learning_rate=lr,
            lr_scheduler_type="constant",
            weight_decay=0.0,
            max_grad_norm=0.0,
            optim="adamw_torch_fused",
            save_strategy="no",
            logging_steps=1,  # an order of magnitude below one per cent of the time, and needed for comparison
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
            dataloader_pin_memory=False,
        )
        trainer = _InOrder(
            order,
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": row} for row in rows],
            data_collator=_Collator(tokenizer, mlm=False),
            callbacks=[losses],
        )
        trainer.remove_callback(next(c for c in trainer.callback_handler.callbacks if "Printer" in type(c).__name__))
        trainer.train()
    model.eval()
    return losses.losses


@torch.inference_mode()
def score(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], rows: int = SCORING_ROWS
) -> list[float]:
    """Mean token loss of each text, in batches of like length."""
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "right"
    ids = tokenizer(list(texts), truncation=True, max_length=BLOCK)["input_ids"]
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    losses = [0.0] * len(ids)
    for start in range(0, len(ids), rows):
        chosen = by_length[start : start + rows]
        batch = tokenizer.pad({"input_ids": [ids[i] for i in chosen]}, return_tensors="pt")
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)[:, 1:]
        logits = model(**batch).logits[:, :-1]
        nll = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        means = nll.sum(1) / (labels != -100).sum(1)
        for i, mean in zip(chosen, means.tolist(), strict=True):
            losses[i] = mean
    return losses


@torch.inference_mode()
def recall(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], rows: int = RECALL_ROWS
) -> list[dict[str, Any]]:
    """For each text the completion's ids and the ROUGE F-measures of the whole; None for both without a cue."""
    tokenizer.pad_token, tokenizer.padding_side = tokenizer.eos_token, "left"
    ids = tokenizer(list(texts), truncation=True, max_length=BLOCK)["input_ids"]
    able = sorted((i for i in range(len(ids)) if len(ids[i]) > 1), key=lambda i: len(ids[i]))
    new: dict[int, list[int]] = {}
    for start in range(0, len(able), rows):
        chosen = able[start : start + rows]
        batch = tokenizer.pad({"input_ids": [ids[i][: len(ids[i]) // 2] for i in chosen]}, return_tensors="pt")
        counts = [len(ids[i]) - len(ids[i]) // 2 for i in chosen]
        longest = max(counts)
        found = model.generate(
            **batch,
            do_sample=False,
            min_new_tokens=longest,
            max_new_tokens=longest,
            pad_token_id=tokenizer.eos_token_id,
        )
        for i, row, count in zip(chosen, found[:, batch["input_ids"].shape[1] :].tolist(), counts, strict=True):
            new[i] = row[:count]
    return [_rated(tokenizer, row, new.get(i)) for i, row in enumerate(ids)]


_scorer = RougeScorer(list(ROUGES), use_stemmer=False)


def _rated(tokenizer: PreTrainedTokenizerBase, row: list[int], completion: list[int] | None) -> dict[str, Any]:
    if completion is None:
        return {"completion": None, **dict.fromkeys(ROUGES)}
    target, found = tokenizer.batch_decode([row, row[: len(row) // 2] + completion], skip_special_tokens=True)
    scores = _scorer.score(target, found)
    return {"completion": completion, **{name: scores[name].fmeasure for name in ROUGES}}
