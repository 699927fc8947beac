"""Multiple choice: which of the options does the model find likeliest, and is it the right one?

Zhang, Li & Wu 2024 (arXiv 2409.14057), section 3: the options follow the question as ``A. ...`` to ``D. ...``, and the
likeliest of the letters is what the model picks, after five answered questions. Small models do not know what letters
are for: ``formulation="cloze"`` compares the options themselves, as continuations of ``Question: ... Answer:``.

    SELECT task, avg(correct::int), avg(1 / len(choices)) AS chance FROM choice GROUP BY ALL
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa

from memexp.probes.mended import float32_head
from memexp.probes.questions import TOO_LONG, Questions, Sample, ShotsFrom, asked, check_questions
from memexp.spec import Condition, Count, Headline, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Choice"]

TASKS = {"letters": "facts_multiple_choice", "cloze": "facts_cloze"}

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("choices", pa.list_(pa.string())),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("answer", pa.int64()),
        ("picked", pa.int64()),
        ("correct", pa.bool_()),
    ]
)
"""One row per multiple-choice question. ``choices``: the texts offered; ``log_likelihoods``: of each (of its letter,
where letters were asked for) after ``prompt``, summed over its tokens, in nats; ``answer`` and ``picked``: indices of
the right and of the likeliest choice. What was measured is NULL where the prompt does not fit the model's context, or
the model's outputs are no numbers."""


@spec
class Choice(Questions):
    """The likeliest option of every multiple-choice question of a test."""

    kind: ClassVar[str] = "choice"
    headline: ClassVar[Headline] = Headline(
        "share of questions answered with the right choice", "correct::int", "1 / len(choices)", TOO_LONG
    )

    formulation: Literal["letters", "cloze"] = "letters"
    """What is compared: the options' letters, as published, or the options' texts."""
    shots: Count = 0
    """As in `QA`. Published: 5."""
    shots_from: ShotsFrom = "all"
    """As in `QA`."""
    shots_seed: Count = 1234
    """As in `QA`."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Questions with choices, and enough of them for the shots."""
        check_questions("Choice", names["items"], texts["items"], True, self.shots, self.shots_from)

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """The head in bfloat16."""
        return float32_head(condition)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per question, in order."""
        samples = asked(session, TASKS[self.formulation], texts["items"], self.shots, self.shots_from, self.shots_seed)
        likelihoods = [_likelihoods(sample) for sample in samples]
        answers = [sample.item["answer"] for sample in samples]
        picked = [logs and int(np.argmax(logs)) for logs in likelihoods]
        return pa.table(
            {
                "task": [self.task] * len(samples),
                "item": range(len(samples)),
                "prompt": [sample.prompt for sample in samples],
                "prompt_tokens": [sample.prompt_tokens for sample in samples],
                "choices": [sample.item["choices"] for sample in samples],
                "log_likelihoods": likelihoods,
                "answer": answers,
                "picked": picked,
                "correct": [p if p is None else p == answer for p, answer in zip(picked, answers, strict=True)],
            },
            schema=SCHEMA,
        )


def _likelihoods(sample: Sample) -> list[float] | None:
    """Of each choice; None where one is no number, of which argmax would make the likeliest."""
    if sample.result is None:
        return None
    found = [float(log) for log, _ in sample.result["filtered_resps"]]
    return None if any(map(math.isnan, found)) else found
