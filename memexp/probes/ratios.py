"""Comparison and negation ratio: is it the fact that the model knows, or only that two names go together?

Zhang, Li & Wu 2024 (arXiv 2409.14057), section 4. The comparison ratio is p(right tail) over p(wrong tail) after
"The capital of FlarTrun is"; the negation ratio is p(tail) after that over p(tail) after "... is not". Mere
co-occurrence raises the first and leaves the second near 1.

    SELECT relation, exp(avg(log_comparison_ratio)), exp(avg(log_negation_ratio)) FROM ratios GROUP BY ALL
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from string import Formatter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from memexp.errors import DataError, SpecError
from memexp.probes.mended import float32_head
from memexp.probes.questions import question
from memexp.spec import Condition, Items, Positive, Probe, Text, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["FactRatios"]

SCHEMA = pa.schema(
    [
        ("item", pa.int64()),
        ("head", pa.string()),
        ("relation", pa.string()),
        ("tail", pa.string()),
        ("prompt", pa.string()),
        ("log_likelihood", pa.float64()),
        ("wrong_tails", pa.list_(pa.string())),
        ("wrong_log_likelihoods", pa.list_(pa.float64())),
        ("negated_prompt", pa.string()),
        ("negated_log_likelihood", pa.float64()),
        ("log_comparison_ratio", pa.float64()),
        ("log_negation_ratio", pa.float64()),
    ]
)
"""One row per fact. Log-likelihoods are summed over the tail's tokens, in nats, NULL where they do not fit the context;
``log_comparison_ratio``: log of p(tail) over the mean p of the wrong tails, both after the prompt (NULL where the
relation has no other tail); ``log_negation_ratio``: log of p(tail) after the prompt over p(tail) after its negation."""


@spec
class FactRatios(Probe):
    """Log-likelihood of every fact's tail, of wrong tails in its place, and of the tail when the fact is denied."""

    kind: ClassVar[str] = "ratios"

    items: Items
    """Facts: head, relation and tail each."""
    statement: Text = "The {relation} of {head} is"
    """What comes before the tail; with ``{head}`` and, where the facts have several relations, ``{relation}``."""
    negation: Text = "The {relation} of {head} is not"
    """The same, denied."""
    wrong_tails: Positive = 10
    """How many tails of other facts of the relation to compare with: those that come next in the list, each once, and
    that no fact gives for the same head."""

    def __post_init__(self) -> None:
        for name in ("statement", "negation"):
            template = getattr(self, name)
            fields = [field for _, field, _, _ in _parts(template) if field is not None]
            if "head" not in fields or not {"head", "relation"} >= set(fields) or template != template.rstrip():
                raise SpecError(
                    f"FactRatios.{name}: must hold {{head}}, may hold {{relation}}, and nothing else in braces nor a "
                    f"space at its end; got {template!r}"
                )

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """The head in bfloat16; ``right_tails``: of a head's several tails the others were taken for wrong ones."""
        mended = float32_head(condition)
        if _has_several_tails(tuple(texts["items"])):
            mended["right_tails"] = 1
        return mended

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """Facts only."""
        for number, text in enumerate(texts["items"], start=1):
            if "head" not in (item := question(text)):
                other = "a question" if "question" in item else "a text with spans"
                raise DataError(f"FactRatios: item {number} of {names['items']} is {other}, not a fact")

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per fact, in order."""
        facts = [question(text) for text in texts["items"]]
        wrong = [self._wrong(facts, at) for at in range(len(facts))]
        asked: list[tuple[str, str]] = []
        for fact, others in zip(facts, wrong, strict=True):
            stated, denied = (template.format(**fact) for template in (self.statement, self.negation))
            asked += [(stated, fact["tail"]), (denied, fact["tail"]), *((stated, other) for other in others)]
        found = iter(_log_likelihoods(session, asked))
        rows = []
        for at, (fact, others) in enumerate(zip(facts, wrong, strict=True)):
            right, denied_right, *wrongs = (next(found) for _ in range(2 + len(others)))
            rows.append(
                {
                    "item": at,
                    **{name: fact[name] for name in ("head", "relation", "tail")},
                    "prompt": self.statement.format(**fact),
                    "log_likelihood": right,
                    "wrong_tails": others,
                    "wrong_log_likelihoods": wrongs,
                    "negated_prompt": self.negation.format(**fact),
                    "negated_log_likelihood": denied_right,
                    "log_comparison_ratio": _minus(right, _log_mean(wrongs)),
                    "log_negation_ratio": _minus(right, denied_right),
                }
            )
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _wrong(self, facts: Sequence[Mapping[str, Any]], at: int) -> list[str]:
        """The next different tails of the relation after fact `at`, beginning again at the list's end; none of them is
        right for its head by another fact."""
        turned = [*facts[at:], *facts[:at]]
        tails = dict.fromkeys(fact["tail"] for fact in turned if fact["relation"] == facts[at]["relation"])
        right = {fact["tail"] for fact in facts if _asked(fact) == _asked(facts[at])}
        return [tail for tail in tails if tail not in right][: self.wrong_tails]


def _asked(fact: Mapping[str, Any]) -> tuple[str, str]:
    """What a tail answers."""
    return fact["head"], fact["relation"]


@functools.lru_cache(maxsize=64)
def _has_several_tails(texts: tuple[str, ...]) -> bool:
    """Whether a head has several tails of one relation, in a list that many conditions are asked about."""
    facts = [question(text) for text in texts]
    return len({(*_asked(fact), fact["tail"]) for fact in facts}) > len({_asked(fact) for fact in facts})


def _parts(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """What a template consists of; nothing where its braces do not close. Field names only: no index, no format."""
    try:
        parts = list(Formatter().parse(template))
    except ValueError:
        return []
    return [] if any(spec or conversion for _, _, spec, conversion in parts) else parts


def _log_likelihoods(session: Session, asked: Sequence[tuple[str, str]]) -> list[float | None]:
    """Of each tail after its prompt, by the harness's rules of what belongs to a continuation; None if too long."""
    from lm_eval.api.instance import Instance

    from memexp.core.harness import HarnessModel

    requests = [
        Instance("loglikelihood", doc={}, arguments=(prompt, f" {tail}"), idx=i)
        for i, (prompt, tail) in enumerate(asked)
    ]
    return [None if np.isnan(log) else log for log, _ in HarnessModel(session).loglikelihood(requests)]


def _log_mean(logs: Sequence[float | None]) -> float | None:
    """Log of the mean of what `logs` are the logs of."""
    known = [log for log in logs if log is not None]
    return float(np.logaddexp.reduce(known) - np.log(len(known))) if known else None


def _minus(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
