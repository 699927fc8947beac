"""Capacity: how many bits of what is random does a model hold?

Of random strings (Morris et al. 2025, arXiv 2505.24832, section 3): a string that is drawn evenly takes log2 of their
number in bits, given the model it takes -log2 p, and what it saves is what the model holds. Of biographies (Allen-Zhu &
Li 2024, arXiv 2404.05405): with N people, N0 names, S0 combinations of values, p1 the NLL of a name and p2 that of a
person's values after it, summed over their tokens, in nats, means over people,

    bits >= N log2(N0 / e^p1) + N log2(S0 / e^p2)

Either is a sum over parts of known entropy, of entropy less NLL, and rows have one for each; divide the sum by the
number of parameters for bits per parameter. All from one forward pass.

    SELECT seed, sum(stored) FROM capacity GROUP BY ALL
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memexp.errors import DataError
from memexp.probes.token_parts import tokens_of
from memexp.spec import Condition, Corpus, Forget, Headline, Positive, Probe, spec
from memexp.stimuli.biographies import Biographies, Marked, Part
from memexp.stimuli.canaries import Canaries

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["Capacity"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("part", pa.string()),
        ("text", pa.string()),
        ("tokens", pa.int64()),
        ("entropy", pa.float64()),
        ("bits", pa.float64()),
        ("bits_before", pa.float64()),
        ("stored", pa.float64()),
        ("gained", pa.float64()),
    ]
)
"""One row per text and part of it. ``item``: the text's place in the list it stands in, the first of several; ``part``:
secret, or name and values of a biography; ``tokens``: those that the part has; ``entropy``: log2 of the number of
values it was drawn from; ``bits``: -log2 of its probability after what precedes it, summed over its tokens;
``bits_before``: the same by the model before study, NULL where it was not asked for; ``stored``: ``entropy`` less
``bits``, below 0 where the model codes it worse than evenly; ``gained``: ``bits_before`` less ``bits``. What is
measured is NULL where the outputs are no numbers."""


@spec
class Capacity(Probe):
    """Bits that a model holds of random strings or of biographies, part by part: sum ``stored`` over the rows."""

    kind: ClassVar[str] = "capacity"
    headline: ClassVar[Headline] = Headline(
        "bits stored of each part", "stored", why_null="a model whose outputs are no numbers stores nothing"
    )

    source: Canaries | Biographies
    """What was studied: random strings in a sentence, or invented people."""
    corpus: Corpus | None = None
    """The list that its texts stand in, maybe among others; by default the study list."""
    reference: bool = True
    """Whether the model as it was before study is asked as well, which takes as long again."""
    block_size: Positive | None = None
    """Tokens that a text may have; by default as many as in study."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Capacity:
        """With the study list and its block size where none are given."""
        return dataclasses.replace(
            self,
            corpus=self.corpus or condition.study.corpus,
            block_size=self.block_size or condition.study.block_size,
        )

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Every text is in the list."""
        listed = set(texts["corpus"])
        for number, one in enumerate(self.source.marked()):
            if one.text not in listed:
                raise DataError(
                    f"Capacity.source: its text {number}, {one.text!r}, is not in {names['corpus']}; study its "
                    ".corpus() or a list with its texts, or name one with corpus=..."
                )

    def uncut(self, texts: Mapping[str, Sequence[str]]) -> Sequence[str]:
        """All texts with parts."""
        return [one.text for one in self.source.marked()]

    def readings(self) -> float:
        """By the model before study as well, where that is the reference."""
        return 1.0 + self.reference

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per text and part, in order.

        Raises DataError where a text does not fit the block size.
        """
        assert self.block_size is not None  # bound
        marked = self.source.marked()
        rows = session.encode([one.text for one in marked], self.block_size + 1)
        for one, row in zip(marked, rows, strict=True):
            if len(row) > self.block_size:
                raise DataError(
                    f"Capacity.block_size: {one.text!r} has more than {self.block_size} tokens; give a larger one"
                )
        after, before = session.token_nlls(rows), self._before(session, rows)
        places: dict[str, int] = {}
        for place, text in enumerate(texts["corpus"]):
            places.setdefault(text, place)
        found: list[dict[str, Any]] = []
        for at, (one, row) in enumerate(zip(marked, rows, strict=True)):
            for part, tokens in _parts(session, one, row):
                bits, known = (None if nlls is None else _bits(nlls[at], tokens) for nlls in (after, before))
                found.append(
                    {
                        **{"item": places[one.text], "part": part.kind, "text": one.text, "tokens": len(tokens)},
                        **{"entropy": part.bits, "bits": bits, "bits_before": known},
                        "stored": None if bits is None else part.bits - bits,
                        "gained": None if bits is None or known is None else known - bits,
                    }
                )
        return pa.Table.from_pylist(found, schema=SCHEMA)

    def _before(self, session: Session, rows: Sequence[Sequence[int]]) -> Sequence[NDArray[np.float32]] | None:
        """Each token's NLL by the model before study."""
        if not self.reference:
            return None
        with session.ablated(Forget(below_layer=session.depth)):
            return session.token_nlls(rows)


def _parts(session: Session, one: Marked, row: Sequence[int]) -> list[tuple[Part, list[int]]]:
    """Each part with the places of its tokens; the space before a piece is the piece's."""
    found = []
    for part in one.parts:
        tokens: set[int] = set()
        for first, last in part.spans:
            tokens.update(tokens_of(session, one.text, row, first, last))
        found.append((part, sorted(tokens)))
    return found


def _bits(nlls: NDArray[np.float32], tokens: Sequence[int]) -> float | None:
    """Of the tokens at these places, whose first is never predicted; None where an output is no number."""
    total = float(sum(float(nlls[at - 1]) for at in tokens if at > 0))
    return None if math.isnan(total) else total / math.log(2)
