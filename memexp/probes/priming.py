"""Priming: does a studied word come up where it has no business, in contexts that are only of the same theme?

Sun et al. 2025 (arXiv 2504.09522): after study of a text with a keyword ("vermilion"), the mean over thematic prefixes
("The color of the sand is") of the keyword's probability after study over that before. 1 is no priming.

    SELECT exposures, item, avg(ratio) AS priming FROM priming GROUP BY ALL
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from memexp.errors import DataError
from memexp.probes.questions import question
from memexp.probes.token_parts import joined
from memexp.spec import Forget, Headline, Items, Probe, spec

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["Priming"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("keyword", pa.string()),
        ("number", pa.int64()),
        ("prefix", pa.string()),
        ("tokens", pa.int64()),
        ("log_probability", pa.float64()),
        ("log_probability_before", pa.float64()),
        ("ratio", pa.float64()),
    ]
)
"""One row per keyword and prefix. ``number``: of the prefix among those of the keyword; ``tokens``: of the keyword,
with the space before it; ``log_probability``: of the keyword after the prefix, summed over these, in nats;
``log_probability_before``: the same by the model before study; ``ratio``: of the two probabilities. NULL where prefix
and keyword do not fit the model's context, the prefix has no token of its own, or the outputs are no numbers; ``ratio``
also where it is more than 1e300."""

MOST = math.log(1e300)


@spec
class Priming(Probe):
    """The probability of keywords after prefixes of their theme, over what it was before study."""

    kind: ClassVar[str] = "priming"
    headline: ClassVar[Headline] = Headline(
        "probability of keywords after thematic prefixes, over that before study",
        "ratio",
        why_null="prefixes that do not fit the model's context are not asked",
    )

    items: Items
    """Keywords of what is studied, with ``prefixes`` each: see `memexp.ItemFile`."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Keywords with prefixes only."""
        for number, text in enumerate(texts["items"], start=1):
            if "keyword" not in question(text):
                raise DataError(f"Priming: item {number} of {names['items']} has no keyword and prefixes")

    def readings(self) -> float:
        """By the model before study as well."""
        return 2.0

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per keyword and prefix, in order."""
        asked: list[dict[str, Any]] = []
        for at, text in enumerate(texts["items"]):
            item = question(text)
            for number, prefix in enumerate(item["prefixes"]):
                asked.append({"item": at, "keyword": item["keyword"], "number": number, "prefix": prefix})
        pairs = joined(session, [(one["prefix"], one["keyword"]) for one in asked])
        after = _logs(session, pairs)
        with session.ablated(Forget(below_layer=session.depth)):
            before = _logs(session, pairs)
        rows = [
            {
                **one,
                "tokens": len(pair[1]),
                "log_probability": log,
                "log_probability_before": old,
                "ratio": _ratio(log, old),
            }
            for one, pair, log, old in zip(asked, pairs, after, before, strict=True)
        ]
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _logs(session: Session, pairs: Sequence[tuple[list[int], list[int]]]) -> list[float | None]:
    """Of each keyword after its prefix; None where it is not asked, or no number."""
    room = session.context or math.inf
    fitting = [at for at, (first, rest) in enumerate(pairs) if first and rest and len(first + rest) - 1 <= room]
    found = dict(zip(fitting, session.continuations([pairs[at] for at in fitting]), strict=True))
    logs = [found[at].log_likelihood if at in found else math.nan for at in range(len(pairs))]
    return [None if math.isnan(log) else log for log in logs]


def _ratio(after: float | None, before: float | None) -> float | None:
    if after is None or before is None or after - before > MOST:
        return None
    return math.exp(after - before)
