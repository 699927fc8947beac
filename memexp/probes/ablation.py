"""Layer ablation: which blocks hold what was learned?

Zhang, Li & Wu 2024 (arXiv 2409.14057), section 4: the learned parameter deltas are taken away block by block, from the
first block up and from the last one down, and the questions are asked again. The sides are those of `Forget`: "upper"
takes from the blocks >= k, "lower" from the blocks < k and from what lies outside of the blocks. Rows also have the
model with all it has learned ("none").

    SELECT ablated_side, ablated_layer, avg(correct::int) FROM ablation GROUP BY ALL ORDER BY ALL
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from memexp.probes.choice import Choice
from memexp.probes.qa import QA
from memexp.spec import Condition, Forget, Probe, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["LayerAblation"]

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("ablated_side", pa.string()),
        ("ablated_layer", pa.int64()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("correct", pa.bool_()),
        ("f1", pa.float64()),
    ]
)
"""One row per question and ablation. ``ablated_side``: none, upper (what the blocks >= ``ablated_layer`` learned is
taken away) or lower (what the blocks below it learned, and all outside of the blocks); ``prediction``: the completion,
or the text of the choice picked; ``f1``: NULL for choices. Not measured: NULL, as in qa and choice."""


@spec
class LayerAblation(Probe):
    """A test of questions, asked again without what some of the blocks have learned."""

    kind: ClassVar[str] = "ablation"

    probe: QA | Choice
    """The test: every item of it gives a row for each ablation, twice the number of blocks and one."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> LayerAblation:
        """With the test bound."""
        return dataclasses.replace(self, probe=self.probe.bind(condition))

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """As of the test."""
        return self.probe.numerics(condition, model, texts)

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """As the test checks."""
        self.probe.check(texts, names)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per ablation and question."""
        tables = []
        for side in _sides(session.depth):
            with session.ablated(side):
                answers = self.probe.measure(session, texts)
            rows = [
                {**_ablation_columns(row), "ablated_side": side.side, "ablated_layer": side.layer}
                for row in answers.to_pylist()
            ]
            tables.append(pa.Table.from_pylist(rows, schema=SCHEMA))
        return pa.concat_tables(tables)


def _sides(depth: int) -> Iterator[Forget]:
    """Nothing, then from the first block up, then from the last block down."""
    yield Forget()
    yield from (Forget(below_layer=k) for k in range(1, depth + 1))
    yield from (Forget(from_layer=k) for k in reversed(range(depth)))


def _ablation_columns(row: Mapping[str, object]) -> dict[str, object]:
    """A row of ``qa`` or ``choice``, as far as ``ablation`` has columns for it."""
    columns = {"task": row["task"], "item": row["item"]}
    if "choices" not in row:
        return columns | {
            "answer": row["answer"],
            "prediction": row["prediction"],
            "correct": row["exact"],
            "f1": row["f1"],
        }
    choices, picked, answer = row["choices"], row["picked"], row["answer"]
    assert isinstance(choices, list) and isinstance(answer, int)
    prediction = choices[picked] if isinstance(picked, int) else None
    return columns | {"answer": choices[answer], "prediction": prediction, "correct": row["correct"]}
