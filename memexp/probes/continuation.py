"""What a model writes after prompts of one's own, beside what should come: MUSE's two measures of memorisation.

Shi et al. 2024 (arXiv 2407.06460), section 3, and the published code (jaechan-repo/muse_bench). Verbatim memorisation:
prompts of a studied text, each with what comes next (``prompt`` and ``gt``). Knowledge memorisation: questions with
their answers, behind some that are answered (``shots``).

    Continuation(HubItems("muse-bench/MUSE-News", "verbmem", "forget"))
    Continuation(HubItems("muse-bench/MUSE-News", "knowmem", "forget_qa"),
                 shots=HubItems("muse-bench/MUSE-News", "knowmem", "forget_qa_icl"), most_tokens=32)

As there, completion is greedy, an answer ends before the next question, and the reference of a prompt has no more
tokens than are asked for. ROUGE does not stem.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import pyarrow as pa

from memexp.errors import DataError
from memexp.probes.mended import completions
from memexp.probes.questions import TOO_LONG, question, task_name
from memexp.probes.rouge import recall_of, rouge
from memexp.probes.token_parts import NO_END
from memexp.probes.words import fails_latin, latin_words, words_of_any_script
from memexp.spec import Condition, Headline, Items, Positive, Probe, Text, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Continuation"]

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("reference", pa.string()),
        ("prediction", pa.string()),
        ("rougeL", pa.float64()),
        ("rougeL_recall", pa.float64()),
    ]
)
"""One row per item. ``prompt``: all that the model was given, shots included; ``prompt_tokens``: its length;
``reference``: what should come; ``prediction``: the greedy completion; ``rougeL``: ROUGE-L F-measure of the two, 0 to
1; ``rougeL_recall``: the share of the reference's words that the prediction has, in order. The last three are NULL
where prompt and completion do not fit the model's context, or its outputs are no numbers."""

ENDS = ("\n\n", "\nQuestion", "Question:")
"""What an answer ends before."""


@spec
class Continuation(Probe):
    """The greedy completion of every prompt, or the answer to every question, beside the reference."""

    kind: ClassVar[str] = "continuation"
    headline: ClassVar[Headline] = Headline("mean ROUGE-L of what is written", "rougeL", why_null=TOO_LONG)

    items: Items
    """Prompts with ``prompt`` and ``gt``, or questions with ``question`` and ``answer``."""
    shots: Items | None = None
    """Answered questions that precede every question, in their order."""
    most_tokens: Positive = 128
    """Tokens of a completion at most. Published: 128, and 32 of an answer."""
    task: Text | None = None
    """As in `QA`."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Self:
        """With a name where none is given."""
        return dataclasses.replace(self, task=self.task or task_name(self.items))

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Prompts, without shots, or open questions, with open questions as shots."""
        rows = [question(text) for text in texts["items"]]
        wanted: tuple[str, ...] = ("prompt", "gt") if "prompt" in rows[0] else ("question", "answer")
        if self.shots is not None and "prompt" in wanted:
            raise DataError(
                f"Continuation.shots: {names['items']} has prompts, which nothing precedes; leave shots away"
            )
        for name, columns in (("items", wanted), ("shots", ("question", "answer"))):
            for number, text in enumerate(texts.get(name, ()), start=1):
                row = question(text)
                if not set(columns) <= row.keys() or "choices" in row:
                    raise DataError(
                        f"Continuation: item {number} of {names[name]} has not {' and '.join(columns)} alone"
                    )

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """End tokens."""
        return completions(model)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per item, in order."""
        before = "".join(f"{_asked(shot)}{shot['answer']}\n\n" for shot in map(question, texts.get("shots", ())))
        rows = [question(text) for text in texts["items"]]
        prompts = [row["prompt"] if "prompt" in row else before + _asked(row) for row in rows]
        cues = session.without_ends(session.encode(prompts, NO_END))
        room = session.context or math.inf
        able = [at for at, cue in enumerate(cues) if 0 < len(cue) <= room - self.most_tokens]
        stops = [() if "prompt" in rows[at] else ENDS for at in able]
        made = session.answer([cues[at] for at in able], [self.most_tokens] * len(able), stops)
        said = dict(zip(able, made, strict=True))
        found: list[dict[str, Any]] = []
        for item, (row, prompt, cue) in enumerate(zip(rows, prompts, cues, strict=True)):
            reference = row["answer"] if "answer" in row else self._beginning(session, row["gt"])
            where = {"task": self.task, "item": item, "prompt": prompt, "prompt_tokens": len(cue)}
            found.append({**where, "reference": reference, **_compared(reference, said.get(item))})
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _beginning(self, session: Session, text: str) -> str:
        (row,) = session.encode([text], self.most_tokens)
        return session.decode([row])[0]


def _asked(row: Mapping[str, Any]) -> str:
    return f"Question: {row['question']}\nAnswer: "


def _compared(reference: str, prediction: str | None) -> dict[str, Any]:
    if prediction is None:
        return {}
    words = words_of_any_script if fails_latin(reference) else latin_words
    return {
        "prediction": prediction,
        "rougeL": rouge(reference, prediction, words)["rougeL"],
        "rougeL_recall": recall_of(reference, prediction, words),
    }
