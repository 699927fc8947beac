"""Open questions: does the model give the answer?

Zhang, Li & Wu 2024 (arXiv 2409.14057), section 3: ``Question: ... Answer:`` after five answered questions, completed
greedily to the end of the line, scored by the exact match and F1 of SQuAD. Here without shots unless asked for: see
`QA.shots`.

    SELECT task, avg(exact::int), avg(f1) FROM qa GROUP BY ALL
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from memexp.probes.mended import completions
from memexp.probes.questions import TOO_LONG, Questions, ShotsFrom, asked, check_questions
from memexp.spec import Condition, Count, Headline, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["QA"]

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("exact", pa.bool_()),
        ("f1", pa.float64()),
    ]
)
"""One row per open question. ``prompt``: all that the model was given, shots included; ``prediction``: its greedy
completion up to the end of the line; ``exact`` and ``f1`` (0 to 1) as in SQuAD 1.1. The last three are NULL where the
prompt does not fit the model's context."""


@spec
class QA(Questions):
    """The greedy answer to every question of a test."""

    kind: ClassVar[str] = "qa"
    headline: ClassVar[Headline] = Headline("share of answers that match exactly", "exact::int", why_null=TOO_LONG)

    shots: Count = 0
    """Answered questions of the same test that precede each question, never the one asked. Published: 5."""
    shots_from: ShotsFrom = "all"
    """Which questions these may be: all, as published, though other questions about the same fact give its answer away;
    or those about other facts (by the column ``fact``, else by the answer)."""
    shots_seed: Count = 1234
    """Seed of their draw, the same for every model and stage."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Questions without choices, and enough of them for the shots."""
        check_questions("QA", names["items"], texts["items"], False, self.shots, self.shots_from)

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """End tokens."""
        return completions(model)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per question, in order."""
        samples = asked(session, "facts_qa", texts["items"], self.shots, self.shots_from, self.shots_seed)
        results = [sample.result for sample in samples]
        return pa.table(
            {
                "task": [self.task] * len(samples),
                "item": range(len(samples)),
                "prompt": [sample.prompt for sample in samples],
                "prompt_tokens": [sample.prompt_tokens for sample in samples],
                "answer": [sample.item["answer"] for sample in samples],
                "prediction": [r and r["filtered_resps"][0].strip() for r in results],
                "exact": [r and bool(r["exact_match"]) for r in results],
                "f1": [r and r["f1"] for r in results],
            },
            schema=SCHEMA,
        )
