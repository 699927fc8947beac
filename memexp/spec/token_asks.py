"""What a probe asks of every token of its texts, told beforehand: probes of the same texts share one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Passed", "TokenAsk"]


@dataclass(frozen=True)
class TokenAsk:
    """The arguments of `memexp.core.token_stats.token_stats`; without any its log-likelihood is all that is asked."""

    temperatures: tuple[float, ...] = ()
    """Of a sampler."""
    within: int = 0
    """How many of the likeliest tokens the sampler draws among; 0 for all."""


@dataclass(frozen=True)
class Passed:
    """What a probe passes through a model, once and all together."""

    texts: Sequence[str]
    """Whole, in this order."""
    block_size: int
    """Tokens that they are truncated to."""
    ask: TokenAsk | None
    """What is asked beside each token's log-likelihood."""
