"""Study, the published scripts' way: one training for one cell of the grid, in a process of its own.

    python benchmarks/published/study.py --model FOLDER --data LIST.jsonl --order ORDER.json --lr 1e-3 --epochs 3 \
        --out FOLDER

Protocol: Orhan 2023 (arXiv 2303.17557). Full finetuning, every sentence its own sequence, truncated and padded to 128
tokens, pad masked out of the labels; AdamW as torch makes it, no weight decay, constant learning rate, no warm-up, no
clipping, float32. The order of the sentences comes from a file instead of a draw, so that others can train the same.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BLOCK = 128


def examples(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[dict[str, Tensor]]:
    """Each text as a sequence of `BLOCK` ids with its mask and labels."""
    tokenizer.pad_token = tokenizer.eos_token
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=BLOCK, return_tensors="pt")
    ids, mask = made["input_ids"], made["attention_mask"]
    labels = ids.masked_fill(mask == 0, -100)
    return [
        {"input_ids": i, "attention_mask": m, "labels": label} for i, m, label in zip(ids, mask, labels, strict=True)
    ]


def train(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    order: Sequence[Sequence[int]],
    lr: float,
    batch_size: int = 16,
) -> list[float]:
    """Train `model` on `texts`, once for every permutation in `order`; the loss of every step."""
    dataset = examples(tokenizer, texts)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.0)
    losses = []
    model.train()
    for permutation in order:
        for batch in DataLoader(dataset, batch_size=batch_size, sampler=permutation):
            loss = model(**batch).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    model.eval()
    return losses


def main() -> None:
    """Load, train, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of model and tokenizer to begin with")
    parser.add_argument("--data", required=True, help="study list, JSON lines with the field sent")
    parser.add_argument("--order", required=True, help="JSON: for every epoch a permutation of the list's indices")
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--out", required=True, help="folder for the trained model, and losses.json")
    options = parser.parse_args()

    texts = [json.loads(line)["sent"] for line in Path(options.data).read_text(encoding="utf-8").splitlines()]
    order = json.loads(Path(options.order).read_text())[: options.epochs]
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    losses = train(model, tokenizer, texts, order, options.lr, options.batch_size)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (Path(options.out) / "losses.json").write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
