"""Forgetting of the base model: what has study done to predictions on text that has nothing to do with it?

Kalajdzievski 2024 (arXiv 2401.05605): the cross-entropy of the model against the base model's predictions, where the
loss against the text would also fall by what is learned about text as such. Less the entropy of these predictions it is
the Kullback-Leibler divergence, 0 for the base model itself. Both are exact, over the whole vocabulary.

    SELECT exposures, avg(cross_entropy), avg(kl), exp(sum(loss * (tokens - 1)) / sum(tokens - 1)) AS perplexity
    FROM base_forgetting GROUP BY ALL
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from memexp.spec import Condition, Corpus, Headline, Positive, Probe, spec

if TYPE_CHECKING:
    from memexp.core.divergence import Divergence
    from memexp.core.session import Session

__all__ = ["BaseForgetting"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("cross_entropy", pa.float64()),
        ("base_entropy", pa.float64()),
        ("kl", pa.float64()),
        ("loss", pa.float64()),
        ("base_loss", pa.float64()),
    ]
)
"""One row per text. ``tokens``: of the truncated text, the first (never predicted) included; all else in nats, means
over its predicted tokens. ``cross_entropy``: -sum q log p, with q what the model before study predicts and p what it
predicts now; ``base_entropy``: -sum q log q; ``kl``: the difference, KL(q || p); ``loss``: NLL of the text;
``base_loss``: the same by the model before study. NULL: texts of one token, outputs that are no numbers."""


@spec
class BaseForgetting(Probe):
    """Cross-entropy against what the model before study predicts, and NLL, of texts that have nothing to do with
    study."""

    kind: ClassVar[str] = "base_forgetting"
    headline: ClassVar[Headline] = Headline(
        "cross-entropy against the model before study (nats per token)",
        "cross_entropy",
        why_null="texts of one token have nothing to predict, nor has a model whose outputs are no numbers",
    )

    corpus: Corpus
    """General text, which is not studied."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> BaseForgetting:
        """With the study's block size where none is given."""
        return dataclasses.replace(self, block_size=self.block_size or condition.study.block_size)

    def readings(self) -> float:
        """By the model before study as well."""
        return 2.0

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text, in order."""
        assert self.block_size is not None  # bound
        rows = session.encode(texts["corpus"], self.block_size)
        found = [
            {"item": at, "text": text, "tokens": len(row), **_measured(each)}
            for at, (text, row, each) in enumerate(zip(texts["corpus"], rows, session.divergences(rows), strict=True))
        ]
        return pa.Table.from_pylist(found, schema=SCHEMA)


def _measured(each: Divergence) -> dict[str, Any]:
    """Means over the tokens."""
    if not len(each.nll):
        return {}
    means = [float(one.mean()) for one in (each.cross_entropy, each.entropy, each.nll, each.other_nll)]
    if any(map(math.isnan, means)):
        return {}
    crossed, entropy, loss, before = means
    return {
        **{"cross_entropy": crossed, "base_entropy": entropy, "kl": crossed - entropy},
        **{"loss": loss, "base_loss": before},
    }
