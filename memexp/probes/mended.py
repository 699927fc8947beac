"""Ways of computing that were mended, for `Probe.numerics`: named only where the outcome can differ from before.

def numerics(self, condition, model, texts):
    return completions(model) | float32_head(condition)
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from memexp.spec import Condition

if TYPE_CHECKING:
    from memexp.sources import ResolvedModel

__all__ = ["completions", "float32_head"]

WRONG_CACHES = ("minimax",)
"""Architectures that completed wrongly with their key-value cache."""


def completions(model: ResolvedModel) -> dict[str, int]:
    """What was mended of completions, and where."""
    return _foreign_end_tokens(model) | ({"cache": 1} if model.model_type in WRONG_CACHES else {})


def _foreign_end_tokens(model: ResolvedModel) -> dict[str, int]:
    """They once ended at, or were denied, an id of the configuration though the tokenizer was another."""
    if model.tokenizer_name is None:
        return {}
    if model.config is not None:
        if "eos_token_id" not in model.config:  # it was always taken from the tokenizer
            return {}
        from memexp.sources.tokens import end_token  # here: readers of results import probes, and need no tokenizer

        own = end_token(model.tokenizer)
        if own is not None and model.config["eos_token_id"] in (own, [own]):
            return {}
    return {"end_tokens": 1}


def float32_head(condition: Condition) -> dict[str, int]:
    """Likelihoods of continuations once came from logits rounded to bfloat16, of which many tie."""
    return {"float32_head": 1} if condition.study.dtype == "bfloat16" else {}
