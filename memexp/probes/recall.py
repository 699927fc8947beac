"""Recall: given the first half of a studied text, does the model complete it?

Orhan 2023 (arXiv 2303.17557), section 2: the cue is the first ``tokens // 2`` tokens, completed greedily to exactly the
text's length with the end-of-text token banned. ROUGE over the whole text, as published, includes the cue and so has a
floor near one half; over the completion alone it has not. Its words are rouge-score's (of a to z and 0 to 9) for texts
in Latin letters, and those of any script (`memexp.probes.words`) for others.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from memexp.probes.mended import completions
from memexp.probes.rouge import ROUGES, rouge
from memexp.probes.words import fails_latin, latin_words, words_of_any_script
from memexp.spec import Condition, Corpus, Headline, Positive, Probe, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Recall"]


SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("cue", pa.string()),
        ("target", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("cue_tokens", pa.int64()),
        ("exact", pa.bool_()),
        *((f"sentence_{name}", pa.float64()) for name in ROUGES),
        *((f"completion_{name}", pa.float64()) for name in ROUGES),
    ]
)
"""One row per studied text. ``exact``: every completed token equals the text's; ``sentence_*``: ROUGE F-measure of cue
and completion against the whole text, as published; ``completion_*``: of the completion against the text's rest. ROUGE
is NULL of texts without a word, and of texts in other than Latin letters whose rest has none."""


@spec
class Recall(Probe):
    """Greedy completion of every text from its first half."""

    kind: ClassVar[str] = "recall"
    headline: ClassVar[Headline] = Headline(
        "mean ROUGE-2 of the completion",
        "completion_rouge2",
        why_null="texts of one token have nothing to measure, nor has a model whose outputs are no numbers",
    )

    corpus: Corpus | None = None
    """Texts to recall; by default the study list."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

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
        """End tokens; ``rouge``: of texts in other than Latin letters it was that of their Latin words, or 0."""
        mended = dict(completions(model))
        if _any_other(tuple(texts["corpus"])):
            mended["rouge"] = 1
        return mended

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text, in the order of the list. What a text of one token would recall is NULL."""
        assert self.block_size is not None  # bound
        rows = session.without_ends(session.encode(texts["corpus"], self.block_size))
        cues = [row[: len(row) // 2] for row in rows]
        able = [i for i, cue in enumerate(cues) if cue]
        new = session.complete([cues[i] for i in able], [len(rows[i]) - len(cues[i]) for i in able])
        completions: list[list[int] | None] = [None] * len(rows)
        for i, completion in zip(able, new, strict=True):
            completions[i] = completion
        rests = [row[len(cue) :] for row, cue in zip(rows, cues, strict=True)]
        targets = session.decode(rows)
        known = [completion is not None for completion in completions]
        others = [fails_latin(text) for text in texts["corpus"]]
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
            **_rouge("sentence", targets, whole, known, others),
            **_rouge("completion", session.decode(rests), texts_new, known, others),
        }
        return pa.table(columns, schema=SCHEMA)


@functools.lru_cache(maxsize=64)
def _any_other(texts: tuple[str, ...]) -> bool:
    """Of a list that many conditions study."""
    return any(map(fails_latin, texts))


def _rouge(
    prefix: str, targets: Sequence[str], predictions: Sequence[str], known: Sequence[bool], others: Sequence[bool]
) -> dict[str, list[float | None]]:
    """ROUGE F-measures without stemming, one column each; None where nothing was predicted, or of `others` (see
    `fails_latin`) where the target has no word."""
    columns: dict[str, list[float | None]] = {f"{prefix}_{name}": [] for name in ROUGES}
    for target, prediction, k, other in zip(targets, predictions, known, others, strict=True):
        words = words_of_any_script if other else latin_words
        able = k and not (other and not words(target))
        scores = rouge(target, prediction, words) if able else {}
        for name in ROUGES:
            columns[f"{prefix}_{name}"].append(scores.get(name))
    return columns
