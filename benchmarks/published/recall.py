"""Recall, the published scripts' way: the second half of every studied text from its first, one at a time.

    python benchmarks/published/recall.py --model FOLDER --data LIST.jsonl --out FILE.json

Protocol: Orhan 2023 (arXiv 2303.17557). The cue is the first half (rounded down) of the text's tokens, of at most 128,
unpadded; greedy completion to exactly the text's length; ROUGE of cue and completion against the whole text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rouge_score.rouge_scorer import RougeScorer
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

BLOCK = 128
ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def recall(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[dict[str, Any]]:
    """For each text the completion's ids and the ROUGE F-measures of the whole; None for both without a cue."""
    scorer = RougeScorer(list(ROUGES), use_stemmer=False)
    results: list[dict[str, Any]] = []
    model.eval()
    for text in texts:
        ids = tokenizer(text, truncation=True, max_length=BLOCK, return_tensors="pt")["input_ids"]
        length = ids.shape[1]
        cue = ids[:, : length // 2]
        if cue.shape[1] == 0:
            results.append({"completion": None, **dict.fromkeys(ROUGES)})
            continue
        with torch.no_grad():
            whole = model.generate(
                input_ids=cue,
                attention_mask=torch.ones_like(cue),
                do_sample=False,
                min_length=length,
                max_length=length,
                pad_token_id=tokenizer.eos_token_id,
            )
        target, found = (tokenizer.decode(row, skip_special_tokens=True) for row in (ids[0], whole[0]))
        scores = scorer.score(target, found)
        results.append(
            {"completion": whole[0, cue.shape[1] :].tolist(), **{name: scores[name].fmeasure for name in ROUGES}}
        )
    return results


def main() -> None:
    """Load, recall every text, write items and means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the trained model and its tokenizer")
    parser.add_argument("--data", required=True, help="the studied list, JSON lines with the field sent")
    parser.add_argument("--out", required=True, help="JSON file for the results")
    options = parser.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32)
    texts = [json.loads(line)["sent"] for line in Path(options.data).read_text("utf-8").splitlines()]
    items = recall(model, tokenizer, texts)
    scored = [item for item in items if item["completion"] is not None]
    means = {name: sum(item[name] for item in scored) / len(scored) for name in ROUGES} if scored else {}
    Path(options.out).write_text(json.dumps({"items": items, "means": means}))


if __name__ == "__main__":
    main()
