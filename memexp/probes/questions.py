"""What `QA` and `Choice` share: naming the test, drawing shots, and asking through lm-evaluation-harness.

samples = asked(session, "facts_qa", texts["items"], shots=5, ...)
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, Literal, Self

from memexp.errors import DataError
from memexp.spec import Condition, HubItems, InlineItems, ItemFile, Items, Probe, Text, spec

if TYPE_CHECKING:
    from memexp.core.session import Session

__all__ = ["TOO_LONG", "Questions", "Sample", "ShotsFrom", "asked", "check_questions", "question", "task_name"]

TOO_LONG = "prompts that do not fit the model's context are not asked"
"""Why an item is NULL."""

ShotsFrom = Literal["all", "other facts"]


@spec
class Questions(Probe):
    """A test. The settings of its shots are not here, as those of `Choice` come after a field of its own."""

    items: Items
    """The questions, with an answer each; for `Choice` with choices and the index of the right one."""
    task: Text | None = None
    """What the rows call the test; by default the subset, the file or the last part of the name of `items`. Rows carry
    it, so that it is part of the identity: with one given, the file may be renamed."""

    def bind(self, condition: Condition) -> Self:
        """With a name where none is given."""
        return dataclasses.replace(self, task=self.task or task_name(self.items))


def task_name(items: ItemFile | HubItems | InlineItems) -> str:
    """A short name for what is asked: the subset, the file without folder and suffix, or the last part of a name."""
    if isinstance(items, HubItems):
        return items.subset or PurePath(items.dataset).name
    return PurePath(items.path).stem if isinstance(items, ItemFile) else PurePath(items.name).name


@dataclass(frozen=True)
class Sample:
    """One item as it was asked."""

    prompt: str
    """All that the model was given."""
    prompt_tokens: int
    """Its length."""
    item: dict[str, Any]
    """The question's columns."""
    result: dict[str, Any] | None
    """What the harness says of it; None where the prompt does not fit the model's context."""


def question(text: str) -> dict[str, Any]:
    """The columns of one item."""
    found: dict[str, Any] = json.loads(text)
    return found


def check_questions(probe: str, name: str, texts: Sequence[str], choices: bool, shots: int, among: ShotsFrom) -> None:
    """Refuse items of another kind, and more shots than can be drawn. Raises `DataError`."""
    rows = [question(text) for text in texts]
    for number, row in enumerate(rows, start=1):
        if "question" not in row:
            other = "a fact (head, relation, tail)" if "head" in row else "a text with spans"
            raise DataError(f"{probe}: item {number} of {name} is {other}, not a question")
        if choices != ("choices" in row):
            other = "Choice" if "choices" in row else "QA"
            has = "has" if "choices" in row else "has no"
            raise DataError(f"{probe}: item {number} of {name} {has} choices; ask it with {other}(...)")
    # An item's twins are no shots of it either.
    kinds = [_fact(row) for row in rows] if among == "other facts" else list(texts)
    left = len(kinds) - max(Counter(kinds).values())
    if shots > left:
        of = " about other facts" if among == "other facts" else ""
        raise DataError(f"{probe}.shots: {shots} are more than the {left} other items{of} that {name} has")


def _fact(row: dict[str, Any]) -> str:
    """What an item is about: the fact it names, else its answer."""
    if row.get("fact"):
        return str(row["fact"])
    return str(row["choices"][row["answer"]] if row.get("choices") else row["answer"])


def asked(session: Session, task: str, texts: Sequence[str], shots: int, among: ShotsFrom, seed: int) -> list[Sample]:
    """Ask every item.

    Args:
        session: the model.
        task: a task of `memexp.tasks`, for its prompt, its way of answering and its metrics.
        texts: the items.
        shots: how many answered items precede each question.
        among: which items these may be; never the one asked.
        seed: of their draw. All stages, models and ranks get the same.

    Returns:
        One for each item, in order.
    """
    from memexp.core.harness import HarnessModel, evaluate

    model = HarnessModel(session)
    made = _task(task, tuple(texts), shots, among)
    made.set_fewshot_seed(seed)  # every time, as each draw moves on
    (samples,) = evaluate(model, {task: made}).values()
    found = []
    for sample in sorted(samples, key=lambda sample: sample["doc_id"]):
        prompt = str(sample["arguments"][0][0])
        result = None if prompt in model.unanswered else sample
        found.append(Sample(prompt, model.prompt_tokens[prompt], sample["doc"], result))
    return found


@functools.lru_cache(maxsize=32)
def _task(name: str, texts: tuple[str, ...], shots: int, among: ShotsFrom) -> Any:
    """The harness's task over these items: every stage asks the same, and making one takes longer than asking."""
    import datasets
    from lm_eval.api.task import ConfigurableTask
    from lm_eval.tasks._yaml_loader import load_yaml

    import memexp.tasks
    from memexp.core.harness import quiet

    (folder,) = memexp.tasks.__path__
    rows = datasets.Dataset.from_list([{**question(text), "fact": _fact(question(text))} for text in texts])
    config = load_yaml(Path(folder, f"{name}.yaml"), resolve_func=True) | {
        "custom_dataset": lambda **_: {"test": rows},
        "num_fewshot": shots,
        "fewshot_config": {"sampler": _sampler() if among == "other facts" else "default"},
    }
    with quiet():
        task = ConfigurableTask(config=config)
    return task


def _sampler() -> type:
    """A way for the harness to draw shots that are about other facts than the item asked."""
    from lm_eval.api.samplers import ContextSampler

    class OtherFacts(ContextSampler):  # type: ignore[misc] # the harness is not typed
        def sample(self, n: int, eval_doc: Any = None, df: Any = None, **_: Any) -> list[Any]:
            pool = [doc for doc in self.fewshot_docs() if doc["fact"] != eval_doc["fact"]]
            return list(self.rnd.sample(pool, n))

    return OtherFacts
