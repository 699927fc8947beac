"""Weights of few bits: is what seems forgotten still there when the model is rounded, and does what was learned stay?

Zhang et al. 2024 (arXiv 2410.16454): models that had unlearned and stayed useful had 21 % of what they were to forget,
and 83 % after rounding to 4 bits: what unlearning changes is smaller than what rounding does. So a test is taken twice,
by the model as it is and by the model with the linear layers of its blocks rounded.

    SELECT probe, bits, avg(as_is), avg(rounded) FROM quantized GROUP BY ALL
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar

import pyarrow as pa
from pydantic import Field

from memexp.errors import SpecError
from memexp.probes.choice import Choice
from memexp.probes.extraction import Extraction
from memexp.probes.qa import QA
from memexp.probes.recall import Recall
from memexp.probes.recognition import Recognition
from memexp.probes.truth_ratio import TruthRatio
from memexp.spec import Condition, Headline, Pair, Positive, Probe, spec
from memexp.store.closed import closed

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["Quantized"]

SCHEMA = pa.schema(
    [
        ("probe", pa.string()),
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prefix_tokens", pa.int64()),
        ("bits", pa.int64()),
        ("group_size", pa.int64()),
        ("as_is", pa.float64()),
        ("rounded", pa.float64()),
    ]
)
"""One row per row of the test. ``probe``: its kind; ``task``: of questions; ``prefix_tokens``: of extraction, NULL as
``task`` is of others; ``bits``, ``group_size``: of the rounding; ``as_is``: the test's own measure of the item, the one
whose mean the table at the end of a sweep shows (recognition: 1 where the target is the likelier; recall: ROUGE-2 of
the completion; qa and choice: 1 where the answer is right; extraction: 1 where the suffix is given exactly;
truth_ratio: how far it is below 1), by the model with its weights as they are; ``rounded``: the same with rounded
weights. NULL where the test has NULL."""


@spec
class Quantized(Probe):
    """A test, taken by the model as it is and with weights of few bits.

    Each linear layer of the blocks is rounded to the nearest of 2^bits - 1 values, evenly spaced and symmetric around 0
    up to the largest weight of its group; embeddings, norms, biases and the head stay. Beside an adapter it is the sum
    of both that is rounded, as in a model that was merged for use. No calibration, no library.
    """

    kind: ClassVar[str] = "quantized"
    headline: ClassVar[Headline] = Headline(
        "mean of the test's own measure with rounded weights", "rounded", why_null="the test has nothing to measure"
    )
    changes_frozen: ClassVar[bool] = True

    probe: Recognition | Recall | QA | Choice | Extraction | TruthRatio
    """The test."""
    bits: Annotated[int, Field(ge=2, le=8)] = 4
    """Of a weight."""
    group: Positive = 64
    """Neighbouring inputs of an output whose weights share a largest one."""

    def __post_init__(self) -> None:
        if isinstance(self.probe, Extraction) and isinstance(self.probe.corpus, Pair):
            raise SpecError("Quantized.probe: foils have no measure here; give Extraction a list instead of a pair")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Quantized:
        """With the test bound."""
        return dataclasses.replace(self, probe=self.probe.bind(condition))

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """As of the test."""
        return self.probe.numerics(condition, model, texts)

    def readings(self) -> float:
        """The test by both models."""
        return 2 * self.probe.readings()

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """As the test checks."""
        self.probe.check(texts, names)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per row of the test, in its order."""
        before = self.probe.measure(session, texts)
        with session.rounded(self.bits, self.group):
            after = self.probe.measure(session, texts)
        count = before.num_rows
        told = {name: before[name] for name in ("task", "prefix_tokens") if name in before.column_names}
        return pa.table(
            {
                "probe": [self.probe.kind] * count,
                "task": told.get("task", pa.nulls(count, pa.string())),
                "item": before["item"],
                "prefix_tokens": told.get("prefix_tokens", pa.nulls(count, pa.int64())),
                "bits": [self.bits] * count,
                "group_size": [self.group] * count,
                "as_is": self._measures(before),
                "rounded": self._measures(after),
            },
            schema=SCHEMA,
        )

    def _measures(self, items: pa.Table) -> pa.ChunkedArray:
        """The test's own measure of each of its rows."""
        with closed() as connection:
            connection.register("items", items)
            found: pa.Table = connection.sql(
                f"SELECT ({self.probe.headline.mean})::DOUBLE AS it FROM items"
            ).to_arrow_table()
        return found["it"]
