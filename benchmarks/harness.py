"""What is asked of memexp's scorer and of HFLM behind lm-evaluation-harness, and by whom; nothing here imports torch.

TASKS["qa"].title      # "facts_qa, 0 shots, tiny-m"
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ALONE", "GPT2", "HFLMS", "ROWS", "TASKS", "Asked"]

GPT2 = "GPT-2"
"""The benchmark's model with a longer context, `Material.long`."""


@dataclass(frozen=True)
class Asked:
    """A task of `memexp.tasks` on questions of `memexp.stimuli.facts.FactWorld`, and the model that answers."""

    task: str
    subset: str
    shots: int
    model: str
    """`GPT2`, or a shipped model."""

    @property
    def title(self) -> str:
        """As it stands in RESULTS.md."""
        return f"{self.task}, {self.shots} shots, {self.model}"


TASKS = {
    "qa": Asked("facts_qa", "Eval_QA", 0, "tiny-m"),
    "qa-shots": Asked("facts_qa", "Eval_QA", 5, GPT2),
    "letters": Asked("facts_multiple_choice", "Eval_multiple_choice", 5, GPT2),
    "cloze": Asked("facts_cloze", "Eval_multiple_choice", 0, "tiny-m"),
}
"""Completion and choice, short prompts and long ones."""

HFLMS = {"HFLM": "hflm", "HFLM on memexp's modules": "hflm-on-ours"}
"""The harness's own way of asking a model of transformers, as `benchmarks.harnessed` calls it: on what transformers
loads, and on what memexp loads, whose linear layers are faster."""
ROWS = (4, 8, 16, 32, 64)
"""Prompts in a batch of HFLM, of which each task gets the fastest."""
ALONE = "nobody"
"""A model that answers nothing, for what the harness itself does."""
