"""Spans: how likely are marked words of a text that is studied, verbatim, in other words, or put together?

Chang et al. 2024 (arXiv 2406.11813), section 3: of each text of fictional knowledge five spans are asked for after the
words that precede them in it (memorisation), after a paraphrase of these (semantic generalisation), and after a
sentence that needs several of the text's (compositional generalisation). Their code joins input and target with a space
and takes the log-probability per token of the target. What injections add to it and how long it lasts is asked of the
rows:

    memexp.stats.effectivity(rows), memexp.stats.retainability(rows)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from memexp.errors import DataError
from memexp.probes.questions import question
from memexp.probes.token_parts import joined
from memexp.spec import Headline, Items, Probe, spec

if TYPE_CHECKING:
    from memexp.core.scoring import Likelihood
    from memexp.core.session import Session

__all__ = ["Spans"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("depth", pa.string()),
        ("span", pa.int64()),
        ("prompt", pa.string()),
        ("target", pa.string()),
        ("tokens", pa.int64()),
        ("log_probability", pa.float64()),
        ("per_token", pa.float64()),
        ("exact", pa.bool_()),
    ]
)
"""One row per span. ``item``: the number of its text; ``depth``: memorisation, paraphrase or composition; ``span``: its
number among those; ``prompt``: what precedes it; ``target``: the span; ``tokens``: those of the target, with the space
before it; ``log_probability``: of the target after the prompt, summed over these, in nats; ``per_token``: their mean,
as published; ``exact``: whether each of them is the likeliest. The last three are NULL where prompt and target do not
fit the model's context, the prompt has no token of its own, or the outputs are no numbers."""

DEPTHS = {"memorisation": "mem", "paraphrase": "gen", "composition": "hard_gen"}
"""How the fields of each begin."""


@spec
class Spans(Probe):
    """Log-probability of every marked span after what precedes it."""

    kind: ClassVar[str] = "spans"
    headline: ClassVar[Headline] = Headline(
        "log-probability of marked spans (nats per token)",
        "per_token",
        why_null="prompts that do not fit the model's context are not asked",
    )

    items: Items
    """Texts with their spans, in the fields of kaist-ai/fictional-knowledge; see `memexp.ItemFile`. To study the texts
    themselves name the field: ``TextFile(path, field="train_context")``."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Texts with spans only."""
        for number, text in enumerate(texts["items"], start=1):
            if "train_context" not in (item := question(text)):
                other = "a fact" if "head" in item else "a question"
                raise DataError(f"Spans: item {number} of {names['items']} is {other}, not a text with spans")

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per span: text by text, the verbatim ones first."""
        asked: list[dict[str, Any]] = []
        for number, text in enumerate(texts["items"]):
            item = question(text)
            for depth, name in DEPTHS.items():
                given, wanted = (item.get(f"{name}_{part}", []) for part in ("input", "target"))
                for span, (prompt, target) in enumerate(zip(given, wanted, strict=True)):
                    where = {"item": number, "depth": depth, "span": span}
                    asked.append({**where, "prompt": prompt, "target": target})
        pairs = joined(session, [(one["prompt"], one["target"]) for one in asked])
        room = session.context or math.inf
        fitting = [at for at, (first, rest) in enumerate(pairs) if first and rest and len(first + rest) - 1 <= room]
        found = dict(zip(fitting, session.continuations([pairs[at] for at in fitting]), strict=True))
        rows = []
        for at, (one, (_, after)) in enumerate(zip(asked, pairs, strict=True)):
            rows.append({**one, "tokens": len(after), **_measured(found.get(at), len(after))})
        return pa.Table.from_pylist(rows, schema=SCHEMA)


def _measured(found: Likelihood | None, tokens: int) -> dict[str, Any]:
    if found is None or math.isnan(found.log_likelihood):
        return {}
    log = found.log_likelihood
    return {"log_probability": log, "per_token": log / tokens, "exact": found.greedy}
