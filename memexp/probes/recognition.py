"""Recognition: which of two texts does the model find likelier, the studied or the unstudied one (2AFC)?

Orhan 2023 (arXiv 2303.17557), section 2: mean token NLL of the target below that of its foil. Rows keep both numbers,
so ties and thresholds are questions for later:

    SELECT avg((target_nll < foil_nll)::int) FROM recognition
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from memexp.errors import DataError
from memexp.spec import Condition, Headline, Pair, Passed, Positive, Probe, spec

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["Recognition"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("target", pa.string()),
        ("foil", pa.string()),
        ("target_nll", pa.float64()),
        ("foil_nll", pa.float64()),
        ("target_tokens", pa.int64()),
        ("foil_tokens", pa.int64()),
    ]
)
"""One row per pair. ``*_nll``: mean negative log-likelihood per predicted token, in nats, NULL where it is no number or
no token is predicted; ``*_tokens``: length of the truncated text in tokens, the first (never predicted) included."""


@spec
class Recognition(Probe):
    """Mean token NLL of every target and of its foil."""

    kind: ClassVar[str] = "recognition"
    headline: ClassVar[Headline] = Headline(
        "share of pairs told apart",
        "(target_nll < foil_nll)::int",
        chance=0.5,
        why_null="texts of one token have nothing to measure, nor has a model whose outputs are no numbers",
    )

    pair: Pair
    """Targets and foils, matched by index."""
    block_size: Positive | None = None
    """Texts are truncated to this many tokens; by default to as many as in study."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Recognition:
        """With the study's block size where none is given."""
        return dataclasses.replace(self, block_size=self.block_size or condition.study.block_size)

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Every target needs a foil."""
        targets, foils = len(texts["targets"]), len(texts["foils"])
        if foils < targets:
            raise DataError(
                f"{names['foils']}: {foils} foils are too few for the {targets} targets of {names['targets']}"
            )

    def passed(self, texts: Mapping[str, Sequence[str]]) -> Passed:
        """All pairs."""
        assert self.block_size is not None  # bound
        targets = texts["targets"]
        return Passed([*targets, *texts["foils"][: len(targets)]], self.block_size, None)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per pair, in the order of the lists."""
        assert self.block_size is not None  # bound
        targets = session.encode(texts["targets"], self.block_size)
        foils = session.encode(texts["foils"][: len(targets)], self.block_size)
        nlls = session.token_nlls([*targets, *foils])
        # The mean in float64 over float32 token NLLs: no digit depends on how the texts were batched.
        means = [float(nll.astype("float64").mean()) if nll.size else None for nll in nlls]
        means = [None if mean is None or math.isnan(mean) else mean for mean in means]  # to SQL the largest number
        return pa.table(
            {
                "item": range(len(targets)),
                "target": texts["targets"],
                "foil": texts["foils"][: len(targets)],
                "target_nll": means[: len(targets)],
                "foil_nll": means[len(targets) :],
                "target_tokens": [len(row) for row in targets],
                "foil_tokens": [len(row) for row in foils],
            },
            schema=SCHEMA,
        )
