"""Recognition, the published scripts' way: the loss of every target and of every foil, one at a time.

    python benchmarks/published/recognition.py --model FOLDER --targets LIST.jsonl --foils LIST.jsonl --out FILE.json

Protocol: Orhan 2023 (arXiv 2303.17557). Texts are truncated and padded to 128 tokens with pad masked out of the labels,
as in study; a pair counts as recognised where the target's mean token loss is below the foil's.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BLOCK = 128


def score(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[float]:
    """Mean token loss of each text."""
    tokenizer.pad_token = tokenizer.eos_token
    made = tokenizer(list(texts), padding="max_length", truncation=True, max_length=BLOCK, return_tensors="pt")
    labels = made["input_ids"].masked_fill(made["attention_mask"] == 0, -100)
    dataset = [
        {"input_ids": ids, "attention_mask": mask, "labels": label}
        for ids, mask, label in zip(made["input_ids"], made["attention_mask"], labels, strict=True)
    ]
    losses = []
    model.eval()
    for batch in DataLoader(dataset, batch_size=1):
        with torch.no_grad():
            losses.append(model(**batch).loss.item())
    return losses


def main() -> None:
    """Load, score both lists, write the losses and the share of pairs told apart."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the trained model and its tokenizer")
    parser.add_argument("--targets", required=True, help="the studied list, JSON lines with the field sent")
    parser.add_argument("--foils", required=True, help="the unstudied list")
    parser.add_argument("--out", required=True, help="JSON file for the results")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    targets, foils = (
        score(model, tokenizer, [json.loads(line)["sent"] for line in Path(file).read_text("utf-8").splitlines()])
        for file in (options.targets, options.foils)
    )
    told_apart = sum(target < foil for target, foil in zip(targets, foils, strict=True)) / len(targets)
    Path(options.out).write_text(json.dumps({"targets": targets, "foils": foils, "told_apart": told_apart}))


if __name__ == "__main__":
    main()
