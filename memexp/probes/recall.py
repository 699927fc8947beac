"""Recall: given the first half of a studied text, does the model complete it?

Orhan 2023 (arXiv 2303.17557), section 2: the cue is the first ``tokens // 2`` tokens, completed greedily to exactly the
text's length with the end-of-text token banned. ROUGE over the whole text, as published, includes the cue and so has a
floor near one half; over the completion alone it has not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from memexp.probes.mended import foreign_end_tokens
from memexp.records import RECALL, ROUGES
from memexp.spec import Condition, Corpus, Positive, Probe, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Recall"]


@spec
class Recall(Probe):
    """Greedy completion of every text from its first half."""

    kind: ClassVar[str] = "recall"

    corpus: Corpus | None = None
    """Texts to recall; by default the study list."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `memexp.records.RECALL`."""
        return RECALL

    def bind(self, condition: Condition) -> Recall:
        """With the study list and its block size where none are given."""
        return dataclasses.replace(
            self,
            corpus=self.corpus or condition.study.corpus,
            block_size=self.block_size or condition.study.block_size,
        )

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """End tokens."""
        return foreign_end_tokens(model)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text, in the order of the list. What a text of one token would recall is NULL."""
        assert self.block_size is not None  # bound
        rows = session.encode(texts["corpus"], self.block_size)
        for row in rows:
            # Some tokenizers close a text with a token that a completion, which must not end, can never give.
            while row and row[-1] in session.end_tokens:
                row.pop()
        cues = [row[: len(row) // 2] for row in rows]
        able = [i for i, cue in enumerate(cues) if cue]
        new = session.complete([cues[i] for i in able], [len(rows[i]) - len(cues[i]) for i in able])
        completions: list[list[int] | None] = [None] * len(rows)
        for i, completion in zip(able, new, strict=True):
            completions[i] = completion
        rests = [row[len(cue) :] for row, cue in zip(rows, cues, strict=True)]
        targets = session.decode(rows)
        known = [completion is not None for completion in completions]
        whole = session.decode([cue + (completion or []) for cue, completion in zip(cues, completions, strict=True)])
        texts_new = session.decode([completion or [] for completion in completions])
        columns = {
            "item": list(range(len(rows))),
            "cue": session.decode(cues),
            "target": targets,
            "completion": [text if k else None for text, k in zip(texts_new, known, strict=True)],
            "tokens": [len(row) for row in rows],
            "cue_tokens": [len(cue) for cue in cues],
            "exact": [c == rest if c is not None else None for c, rest in zip(completions, rests, strict=True)],
            **_rouge("sentence", targets, whole, known),
            **_rouge("completion", session.decode(rests), texts_new, known),
        }
        return pa.table(columns, schema=RECALL)


def _rouge(
    prefix: str, targets: Sequence[str], predictions: Sequence[str], known: Sequence[bool]
) -> dict[str, list[float | None]]:
    """ROUGE F-measures without stemming, one column each; None where nothing was predicted."""
    from rouge_score.rouge_scorer import RougeScorer

    lines = RougeScorer(list(ROUGES), use_stemmer=False)
    line = RougeScorer([name for name in ROUGES if name != "rougeLsum"], use_stemmer=False)
    columns: dict[str, list[float | None]] = {f"{prefix}_{name}": [] for name in ROUGES}
    for target, prediction, k in zip(targets, predictions, known, strict=True):
        # Between two texts of one line each ROUGE-Lsum is ROUGE-L, and half of the work.
        scorer = lines if "\n" in target + prediction else line
        scores = scorer.score(target, prediction) if k else {}
        for name in ROUGES:
            found = scores.get(name, scores.get("rougeL"))
            columns[f"{prefix}_{name}"].append(found.fmeasure if found else None)
    return columns
