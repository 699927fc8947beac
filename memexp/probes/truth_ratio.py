"""Truth ratio: how much likelier than wrong answers is the right one, in the form of TOFU's lists of questions?

TOFU (Maini et al. 2024, arXiv 2401.06121; locuslab/tofu, aggregate_eval_stat.py): each question has an
answer, the same in other words, and wrong answers in the same form. A model that never met a fact finds both alike, so
that what it makes of a whole list is compared with a model that never studied it, by `memexp.stats.forget_quality`;
`memexp.stats.model_utility` says what it still can do.

    TruthRatio(HubItems("locuslab/TOFU", "forget10_perturbed", split="train"))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from memexp.errors import SpecError
from memexp.probes.questions import TOO_LONG, question, task_name
from memexp.probes.rouge import recall_of
from memexp.probes.words import fails_latin, latin_words, words_of_any_script
from memexp.spec import Condition, Headline, PerturbedItems, Positive, Probe, Text, spec

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["TruthRatio"]

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer", pa.string()),
        ("answer_tokens", pa.int64()),
        ("probability", pa.float64()),
        ("paraphrase_probability", pa.float64()),
        ("wrong_probabilities", pa.list_(pa.float64())),
        ("normalised", pa.float64()),
        ("truth_ratio", pa.float64()),
        ("truth_ratio_arithmetic", pa.float64()),
        ("prediction", pa.string()),
        ("rougeL_recall", pa.float64()),
    ]
)
"""One row per question. Probabilities are of an answer after the prompt, to the power of 1 over its tokens: exp(-mean
NLL). ``probability``: of the answer; ``paraphrase_probability``: of it in other words, NULL where the list has none;
``wrong_probabilities``: of each wrong answer; ``normalised``: ``probability`` over its sum with those of the wrong
ones; ``truth_ratio``: geometric mean of the wrong ones over the paraphrase (over the answer where there is none), below
1 where the truth is likelier; ``truth_ratio_arithmetic``: the same with the arithmetic mean; ``prediction``: the greedy
answer up to the end of the line; ``rougeL_recall``: share of the answer's words that it has, in order. NULL where
prompt and answers do not fit the model's context, or its outputs are no numbers."""

PLACE = "{question}"


@spec
class TruthRatio(Probe):
    """Probabilities of right and wrong answers, and the greedy answer, of every question of a list.

    As in TOFU's code, but that an end token is no part of an answer, and that ROUGE does not stem.
    """

    kind: ClassVar[str] = "truth_ratio"
    headline: ClassVar[Headline] = Headline(
        "mean of how far the truth ratio is below 1",
        "CASE WHEN truth_ratio IS NOT NULL THEN greatest(0, 1 - truth_ratio) END",  # greatest(0, NULL) is 0
        why_null=TOO_LONG,
    )

    items: PerturbedItems
    """Questions with ``question``, ``answer``, ``perturbed_answer`` (a list) and, if there is one, its
    ``paraphrased_answer``; other columns are not read."""
    task: Text | None = None
    """As in `QA`."""
    prompt: Text = "Question: {question} Answer:"
    """What precedes an answer and a space."""
    most_tokens: Positive = 200
    """Tokens of the greedy answer at most."""

    def __post_init__(self) -> None:
        if self.prompt.count(PLACE) != 1:
            raise SpecError(f"TruthRatio.prompt: must have {PLACE} once, got {self.prompt!r}")

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> Self:
        """With a name where none is given."""
        return dataclasses.replace(self, task=self.task or task_name(self.items))

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per question, in order."""
        from memexp.core.harness import HarnessModel

        model = HarnessModel(session)
        rows = [question(text) for text in texts["items"]]
        prompts = [self.prompt.replace(PLACE, row["question"]) for row in rows]
        asked = [(prompt, f" {answer}") for prompt, row in zip(prompts, rows, strict=True) for answer in _answers(row)]
        lengths = [len(after) for _, after in model.pairs(asked)]
        logs = model.loglikelihood([_request("loglikelihood", one) for one in asked])
        nlls = iter([None if math.isnan(log) else -log / n for (log, _), n in zip(logs, lengths, strict=True)])
        tokens = iter(lengths)
        how = {"until": ["\n"], "max_gen_toks": self.most_tokens}
        made = model.generate_until([_request("generate_until", (prompt, how)) for prompt in prompts])
        found = []
        for item, (row, prompt, answer) in enumerate(zip(rows, prompts, made, strict=True)):
            count = len(_answers(row))
            first, *_ = (next(tokens) for _ in range(count))
            found.append(
                {
                    "task": self.task,
                    "item": item,
                    "prompt": prompt,
                    "prompt_tokens": model.prompt_tokens[prompt],
                    "answer": row["answer"],
                    "answer_tokens": first,
                    **ratios([next(nlls) for _ in range(count)], "paraphrased_answer" in row),
                    **({} if prompt in model.unanswered else _said(row["answer"], answer.strip())),
                }
            )
        return pa.Table.from_pylist(found, schema=SCHEMA)


def _answers(row: Mapping[str, Any]) -> list[str]:
    """The answer, it in other words if that is there, and the wrong ones."""
    paraphrase = [row["paraphrased_answer"]] if "paraphrased_answer" in row else []
    return [row["answer"], *paraphrase, *row["perturbed_answer"]]


def _request(kind: str, arguments: tuple[Any, ...]) -> Any:
    from lm_eval.api.instance import Instance

    return Instance(kind, doc={}, arguments=arguments, idx=0)


def ratios(nlls: Sequence[float | None], paraphrased: bool) -> dict[str, Any]:
    """The columns that come of mean NLLs per token, in nats; none where one is missing.

    Args:
        nlls: of the answer, of its paraphrase where there is one, and of the wrong answers.
        paraphrased: whether there is one.
    """
    known = [nll for nll in nlls if nll is not None]
    if len(known) < len(nlls):
        return {}
    right, *others = known
    wrong = -np.array(others[1:] if paraphrased else others)
    told = others[0] if paraphrased else right
    mean = float(np.logaddexp.reduce(wrong) - np.log(len(wrong)))
    return {
        "probability": math.exp(-right),
        "paraphrase_probability": math.exp(-told) if paraphrased else None,
        "wrong_probabilities": np.exp(wrong).tolist(),
        "normalised": float(np.exp(-right - np.logaddexp.reduce([-right, *wrong]))),
        "truth_ratio": float(np.exp(wrong.mean() + told)),
        "truth_ratio_arithmetic": float(np.exp(mean + told)),
    }


def _said(answer: str, prediction: str) -> dict[str, Any]:
    words = words_of_any_script if fails_latin(answer) else latin_words
    return {"prediction": prediction, "rougeL_recall": recall_of(answer, prediction, words)}
