"""Extraction: given the first tokens of a studied text, are those that follow what the model would write?

Carlini et al. 2022 (arXiv 2202.07646): a text is extractable with k tokens where greedy decoding goes on with its next
tokens exactly, 50 of them. Hayes et al. 2024 (arXiv 2410.19482): a sampler gives the suffix with the probability p_z,
the product of its tokens', and in n samples at least once with 1 - (1 - p_z)^n, which reaches p at
n = ceil(log(1 - p) / log(1 - p_z)): (n, p)-discoverable extraction.

All from one forward pass, and without generation: greedy decoding gives the suffix exactly where every token of it is
the likeliest after the true ones before it.

    SELECT prefix_tokens, avg(exact::int), avg((queries <= 100)::int) FROM extraction GROUP BY ALL
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
import pyarrow as pa
from pydantic import BeforeValidator, Field

from memexp.errors import DataError, SpecError
from memexp.spec import Condition, Corpus, Count, Headline, Pair, Passed, Positive, Probe, TokenAsk, spec
from memexp.spec.fields import Probability, Rate, as_tuple

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.core.token_stats import TokenStats

__all__ = ["Extraction"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("member", pa.bool_()),
        ("prefix_tokens", pa.int64()),
        ("suffix_tokens", pa.int64()),
        ("tokens", pa.int64()),
        ("prefix", pa.string()),
        ("suffix", pa.string()),
        ("exact", pa.bool_()),
        ("matching", pa.float64()),
        ("strength", pa.float64()),
        ("probability", pa.float64()),
        ("log_probability", pa.float64()),
        ("queries", pa.float64()),
    ]
)
"""One row per text and prefix length. ``item``: its number in its list; ``member``: whether it is a target of a pair,
NULL of texts that are no pair's; ``prefix_tokens``, ``suffix_tokens``: as asked for, ``tokens``: of the truncated
text; ``prefix``, ``suffix``: what of it they are; ``exact``: greedy completion of the prefix gives the suffix;
``matching``: share of the suffix's tokens that are the likeliest after the true ones (exact memorisation, EM);
``strength``: share of the suffix from whose beginning on all are (extraction strength, ES), 0 where the last is not;
``probability``: p_z, that the sampler gives the suffix, 0 where a token of it is not among the ``top_k`` likeliest;
``log_probability``: its logarithm, in nats, NULL where p_z is 0 for that reason; ``queries``: samples after which the
suffix has come with the probability asked for, NULL where p_z is 0 or they are more than 1e300. Of a text that is
shorter than prefix and suffix, or where the model's outputs are no numbers, all that is measured is NULL."""

MOST = 1e300
"""Queries that are still told: beyond it they are no numbers of float64."""


@spec
class Extraction(Probe):
    """Greedy and sampled extraction of what follows the first tokens of every text.

    Greedy decoding takes the likeliest token, the end of a text too where it is that: there `Recall` would go on.
    """

    kind: ClassVar[str] = "extraction"
    headline: ClassVar[Headline] = Headline(
        "share of suffixes that greedy completion gives exactly",
        "CASE WHEN coalesce(member, true) THEN exact::int END",
        why_null="foils of a pair do not count, texts shorter than prefix and suffix have nothing to measure, nor has "
        "a model whose outputs are no numbers",
    )

    corpus: Corpus | Pair | None = None
    """Texts to extract; by default the study list. Of a pair the foils too, which say what a model gives of texts that
    it has not studied, and one pass for this and for `Recognition` and `Membership` of the pair."""
    prefixes: Annotated[tuple[Positive, ...], BeforeValidator(as_tuple), Field(min_length=1)] = (50,)
    """Numbers of tokens given, from the beginning of the text. Each has a row for every text; the headline is over all
    of them."""
    suffix: Positive = 50
    """Number of tokens after the prefix that are to be extracted."""
    temperature: Rate = 1.0
    """Of the sampler."""
    top_k: Count = 40
    """The likeliest tokens that the sampler draws from; 0 for all."""
    p: Probability = 0.5
    """How sure it is to be that the suffix has come, for ``queries``; ``log_probability`` gives those of another p."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    def __post_init__(self) -> None:
        if len(set(self.prefixes)) < len(self.prefixes):
            raise SpecError(f"Extraction.prefixes: give each length once, got {list(self.prefixes)}")
        if self.p == 0:
            raise SpecError("Extraction.p: must be above 0; without a query nothing is sure to have come")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Extraction:
        """With the study list and its block size where none are given.

        Raises SpecError where no text can hold a prefix and the suffix.
        """
        size = self.block_size or condition.study.block_size
        if max(self.prefixes) + self.suffix > size:
            raise SpecError(
                f"Extraction.prefixes: {max(self.prefixes)} tokens and a suffix of {self.suffix} exceed the block_size "
                f"{size}; give shorter ones, or a larger block_size"
            )
        return dataclasses.replace(self, corpus=self.corpus or condition.study.corpus, block_size=size)

    def passed(self, texts: Mapping[str, Sequence[str]]) -> Passed | None:
        """The texts of a pair, whole; of a list no more than is looked at."""
        if not isinstance(self.corpus, Pair):
            return None
        assert self.block_size is not None  # bound
        return Passed(
            [*texts["targets"], *texts["foils"]], self.block_size, TokenAsk((float(self.temperature),), self.top_k)
        )

    def texts_of(self, items: pa.Table, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """Foils too."""
        lists = {None: texts.get("corpus", ()), True: texts.get("targets", ()), False: texts.get("foils", ())}
        rows = zip(items.column("member").to_pylist(), items.column("item").to_pylist(), strict=True)
        return [lists[member][item] for member, item in rows]

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per prefix length and text, in order. A text too short for them keeps its place.

        Raises DataError where all texts are too short for a prefix length.
        """
        assert self.block_size is not None  # bound
        shared = self.passed(texts)
        encoded = session.encode(texts["corpus"] if shared is None else shared.texts, self.block_size)
        rows = session.without_ends(encoded)
        self._check_lengths(max(map(len, rows), default=0))
        if shared is not None:
            passed = encoded  # as whoever shares the pass has them
        else:  # only as far as somebody looks; what is too short for the shortest prefix is not passed through
            shortest, longest = min(self.prefixes) + self.suffix, max(self.prefixes) + self.suffix
            passed = [row[:longest] if len(row) >= shortest else [] for row in rows]
        stats = session.token_stats(passed, [self.temperature], within=self.top_k)
        targets = 0 if shared is None else len(texts["targets"])
        items = [at if at < targets or shared is None else at - targets for at in range(len(rows))]
        members = [None if shared is None else at < targets for at in range(len(rows))]
        found: list[dict[str, Any]] = []
        for prefix in self.prefixes:
            end = prefix + self.suffix
            shown = zip(
                session.decode([row[:prefix] for row in rows]),
                session.decode([row[prefix:end] for row in rows]),
                strict=True,
            )
            listed = zip(items, members, rows, stats, shown, strict=True)
            for item, member, row, each, (given, wanted) in listed:
                sizes = {"member": member, "prefix_tokens": prefix, "suffix_tokens": self.suffix, "tokens": len(row)}
                measured = self._measured(each, prefix) if len(row) >= end else {}
                found.append({"item": item, **sizes, "prefix": given, "suffix": wanted, **measured})
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _check_lengths(self, longest: int) -> None:
        for prefix in self.prefixes:
            if prefix + self.suffix > longest:
                raise DataError(
                    f"Extraction.prefixes: no text of {self.corpus.name if self.corpus else 'the corpus'} has the "
                    f"{prefix + self.suffix} tokens of a prefix of {prefix} and a suffix of {self.suffix}, the longest "
                    f"has {longest}; give shorter ones"
                )

    def _measured(self, each: TokenStats, prefix: int) -> dict[str, Any]:
        """The columns that are measured, none where an output is no number."""
        at = slice(prefix - 1, prefix - 1 + self.suffix)  # the first token has no numbers
        if np.isnan(each.nll[at]).any():
            return {}
        greedy, log = each.greedy[at], float(each.tempered[at, 0].sum())
        return {
            "exact": bool(greedy.all()),
            "matching": float(greedy.mean()),
            "strength": strength(greedy.tolist()),
            "probability": math.exp(min(log, 0.0)),
            "log_probability": None if math.isinf(log) else log,
            "queries": queries(log, self.p),
        }


def strength(matches: Sequence[bool]) -> float:
    """Share of a suffix from whose beginning on every token matches; 0 where the last one does not, 1 where all do.

    Extraction strength as in open-unlearning, 1 - k/n with k the first position, from 0, from which all match; but its
    code never gives 0 (1/n where nothing matches), and does not look at the last token.
    """
    matching = 0
    for match in reversed(matches):
        if not match:
            break
        matching += 1
    return matching / len(matches)


def queries(log_probability: float, p: float) -> float | None:
    """Samples after which a text of that log-probability, in nats, has come at least once with the probability `p`.

    Hayes et al. 2024: the smallest n with 1 - (1 - p_z)^n >= p. None where there is none, or it is above 1e300.
    """
    wanted = -math.log1p(-p)
    if log_probability >= 0:
        return 1.0
    if math.log(wanted) - log_probability > math.log(MOST):
        return None
    # log(1 - p_z), which is exact near 0 one way and near 1 the other.
    near_one = log_probability > -math.log(2)
    failing = math.log(-math.expm1(log_probability)) if near_one else math.log1p(-math.exp(log_probability))
    return float(max(1, math.ceil(wanted / -failing)))
