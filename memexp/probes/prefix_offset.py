"""Recall by prefix length and by where in the text the prefix is taken from.

Xu et al. 2025 (arXiv 2505.13171) find that what follows the very beginning of a studied text comes back best, and the
less the farther from it the prefix begins. The model is given so many tokens from an offset on, and nothing before
them; what follows is scored as in `memexp.Extraction`. All from one forward pass. Special tokens that a tokenizer puts
before a text stand before every prefix, wherever it is from, and count as none.

    SELECT offset_tokens, prefix_tokens, avg(exact::int), avg(matching) FROM prefix_offset GROUP BY ALL ORDER BY ALL
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

from memexp.errors import DataError, SpecError
from memexp.probes.extraction import strength
from memexp.spec import Condition, Corpus, Count, Headline, Positive, Probe, spec
from memexp.spec.fields import as_tuple

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.core.token_stats import TokenStats
    from memexp.sources import ResolvedModel

__all__ = ["PrefixOffset"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("offset_tokens", pa.int64()),
        ("prefix_tokens", pa.int64()),
        ("suffix_tokens", pa.int64()),
        ("tokens", pa.int64()),
        ("exact", pa.bool_()),
        ("matching", pa.float64()),
        ("strength", pa.float64()),
        ("log_probability", pa.float64()),
    ]
)
"""One row per text, offset and prefix length. ``offset_tokens``: tokens of the text before the prefix, which the model
is not given; ``prefix_tokens``, ``suffix_tokens``: as asked for; ``tokens``: of the truncated text, without special
ones; ``exact``, ``matching``, ``strength``: of the suffix, as in extraction; ``log_probability``: of the suffix after
the prefix, summed, in nats. NULL where the text ends before the suffix does, or the outputs are no numbers."""

Several = Annotated[tuple[Positive, ...], BeforeValidator(as_tuple), Field(min_length=1)]
Offsets = Annotated[tuple[Count, ...], BeforeValidator(as_tuple), Field(min_length=1)]


@spec
class PrefixOffset(Probe):
    """What follows prefixes of several lengths, from several places in every text."""

    kind: ClassVar[str] = "prefix_offset"
    headline: ClassVar[Headline] = Headline(
        "share of suffix tokens that are the likeliest",
        "matching",
        why_null="texts that end before the suffix does have nothing to measure",
    )

    corpus: Corpus | None = None
    """Texts to ask for; by default the study list."""
    prefixes: Several = (8, 16, 32)
    """Numbers of tokens given."""
    offsets: Offsets = (0, 8, 16, 32)
    """Numbers of tokens of the text before the prefix; 0 begins where the text does."""
    suffix: Positive = 8
    """Number of tokens after the prefix that are scored."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    def __post_init__(self) -> None:
        for name in ("prefixes", "offsets"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                raise SpecError(f"PrefixOffset.{name}: give each once, got {list(given)}")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> PrefixOffset:
        """With the study list and its block size where none are given.

        Raises SpecError where no text can hold the longest prefix at the last offset.
        """
        size = self.block_size or condition.study.block_size
        if (most := max(self.offsets) + max(self.prefixes) + self.suffix) > size:
            raise SpecError(
                f"PrefixOffset.prefixes: {max(self.prefixes)} tokens from token {max(self.offsets)} on and a suffix of "
                f"{self.suffix} come to {most}, more than the block_size {size}; give less, or a larger block_size"
            )
        return dataclasses.replace(self, corpus=self.corpus or condition.study.corpus, block_size=size)

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """Special tokens before a text, which tokenizers trained here do not put."""
        return {} if model.tokenizer.source is None else {"begin": 1}

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per offset, prefix length and text, in this order.

        Raises DataError where all texts are too short for one of them.
        """
        assert self.block_size is not None  # bound
        rows = session.without_ends(session.encode(texts["corpus"], self.block_size))
        begun = [session.begins(row) for row in rows]
        lengths = [len(row) - of for row, of in zip(rows, begun, strict=True)]
        longest, most = max(lengths, default=0), max(self.offsets) + max(self.prefixes) + self.suffix
        if most > longest:
            raise DataError(
                f"PrefixOffset.prefixes: no text of {self.corpus.name if self.corpus else 'the corpus'} has the {most} "
                f"tokens of the longest prefix at the last offset and a suffix, the longest has {longest}; give less"
            )
        least, span = min(self.prefixes) + self.suffix, max(self.prefixes) + self.suffix
        given = [
            [*row[:of], *row[of + first : of + first + span]] if length >= first + least else []
            for first in self.offsets
            for row, of, length in zip(rows, begun, lengths, strict=True)
        ]
        stats = session.token_stats(given)
        found: list[dict[str, Any]] = []
        for number, offset in enumerate(self.offsets):
            mine = stats[number * len(rows) : (number + 1) * len(rows)]
            for prefix in self.prefixes:
                for item, (of, length, each) in enumerate(zip(begun, lengths, mine, strict=True)):
                    where = {"item": item, "offset_tokens": offset, "prefix_tokens": prefix, "tokens": length}
                    there = length >= offset + prefix + self.suffix
                    measured = self._measured(each, of + prefix) if there else {}
                    found.append({**where, "suffix_tokens": self.suffix, **measured})
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _measured(self, each: TokenStats, prefix: int) -> dict[str, Any]:
        """The columns that are measured, none where an output is no number."""
        at = slice(prefix - 1, prefix - 1 + self.suffix)  # the first token has no numbers
        if np.isnan(each.nll[at]).any():
            return {}
        greedy = each.greedy[at]
        return {
            "exact": bool(greedy.all()),
            "matching": float(greedy.mean()),
            "strength": strength(greedy.tolist()),
            "log_probability": -float(each.nll[at].sum(dtype=np.float64)),
        }
