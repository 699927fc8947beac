"""Any task of lm-evaluation-harness, for what a model can do before and after: ``LmEval(["arc_easy"])``.

Prompts, answers and metrics are the harness's; likelihoods and completions are memexp's scorer's, so that a sharded
model answers as well. One row per item and metric:

    SELECT task, metric, exposures, avg(value) FROM lm_eval GROUP BY ALL
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from memexp.errors import DataError, SpecError
from memexp.probes.mended import completions, float32_head
from memexp.spec import Condition, Count, PathText, Positive, Probe, SomeText, Text, spec

if TYPE_CHECKING:
    from memexp.core.session import Session
    from memexp.sources import ResolvedModel

__all__ = ["LmEval"]

DIVIDED = ("word_perplexity", "byte_perplexity", "bits_per_byte")
"""Metrics that the harness gives as a log-likelihood and the words or bytes it is divided by."""

SCHEMA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("filter", pa.string()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer", pa.string()),
        ("response", pa.string()),
        ("choices", pa.list_(pa.string())),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("weight", pa.float64()),
    ]
)
"""One row per item and metric of a task of lm-evaluation-harness. ``prompt``: of the item's first request;
``response``: what was generated, after the task's filter; ``choices`` and ``log_likelihoods``: the continuations scored
and their sums over tokens, in nats; ``value``: the metric of this item, with ``weight`` its words or bytes where the
harness divides by them (perplexities). ``value`` is NULL where the prompt does not fit the context or the metric is no
number."""


@spec
class LmEval(Probe):
    """Tasks of lm-evaluation-harness, by name.

    The identity holds the names, the version of the harness and the content of `include_path`, but not the datasets of
    tasks: those come from the hub at whatever revision the task's file names.
    """

    kind: ClassVar[str] = "lm_eval"

    tasks: SomeText
    """Names of tasks, groups or tags."""
    shots: Count | None = None
    """Number of few-shot examples; by default what each task says. A task that fixes 0 keeps it."""
    limit: Positive | None = None
    """Ask only so many items of each task, from the beginning."""
    include_path: PathText | None = None
    """Folder with task files of your own, on a file system that every node sees; then only these are known. Data files
    that a task names without a folder are looked for in it. Without it, the tasks that come with the harness are known,
    and finding them takes some ten seconds a process. Its path is no part of an identity."""
    shots_seed: Count = 1234
    """Seed of the draw of examples, and of what a task's own functions draw."""
    content: Text | None = None
    """What of the harness and of `include_path` the numbers depend on. Filled in by memexp."""

    @classmethod
    def schema(cls) -> pa.Schema:
        """See `SCHEMA`."""
        return SCHEMA

    def bind(self, condition: Condition) -> LmEval:
        """With the version of the harness and the hash of the task files; the path for workers, who are elsewhere."""
        folder = None if self.include_path is None else str(_folder(self.include_path).resolve())
        return dataclasses.replace(self, include_path=folder, content=_content(self.include_path))

    def known_by(self) -> LmEval:
        """By the content of the folder, not by its path."""
        return dataclasses.replace(self, include_path=None)

    def check(self, texts: Mapping[str, Sequence[str]], names: Mapping[str, str]) -> None:
        """The tasks exist."""
        known = self._index().all_tasks
        for name in self.tasks:
            if name not in known:
                _check_files(self.include_path)
                near = difflib.get_close_matches(name, known, n=3) or known[:10]
                hint = f"near it are {', '.join(near)}" if near else "there is none at all"
                raise DataError(f"LmEval.tasks: {self.include_path or 'lm-eval'} has no task {name!r}; {hint}")

    def numerics(
        self, condition: Condition, model: ResolvedModel, texts: Mapping[str, Sequence[str]]
    ) -> Mapping[str, int]:
        """End tokens, and the head in bfloat16."""
        return completions(model) | float32_head(condition)

    def measure(self, session: Session, texts: Mapping[str, Sequence[str]]) -> pa.Table:
        """One row per item, filter and metric, task by task."""
        from memexp.core.harness import HarnessModel, evaluate

        model = HarnessModel(session)
        with _seeded(self.shots_seed):
            tasks = self._loaded()
            samples = evaluate(model, tasks, self.limit)
        rows = [row for name in tasks for sample in samples[name] for row in _rows(name, sample, model)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _loaded(self) -> dict[str, Any]:
        """The harness's tasks by name, those of groups included."""
        from memexp.core.harness import quiet

        with quiet():
            index = self._index()
        with quiet(), contextlib.chdir(_folder(self.include_path or ".")):
            try:
                tasks = dict(index.load(list(self.tasks))["tasks"])
            except Exception as error:  # whatever a task's file, its functions or its dataset raise
                told = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                raise DataError(f"LmEval: {', '.join(self.tasks)} cannot be loaded: {told}") from error
            for name, task in tasks.items():
                if getattr(task, "UNSAFE_CODE", False):
                    raise SpecError(f"LmEval.tasks: {name} executes code that a model writes, which memexp does not")
                fixed = task.get_config("num_fewshot")
                if self.shots is not None and fixed != 0:
                    task.set_config("num_fewshot", self.shots)
                elif fixed is None:
                    task.set_config("num_fewshot", 0)
                task.set_fewshot_seed(self.shots_seed)
        return tasks

    def _index(self) -> Any:
        return _manager(self.include_path, self.content or _content(self.include_path))


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """While the context lasts, what a task's functions may draw from begins at `seed`, so that every stage is asked the
    same; afterwards each generator goes on where it was."""
    import torch

    python, array = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)  # what is drawn on a GPU is no business of a task's
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


@functools.lru_cache(maxsize=8)
def _manager(include_path: str | None, content: str) -> Any:
    """The harness's index of tasks: its own, or those of a folder while its `content` is this."""
    from lm_eval.tasks import TaskManager

    if include_path is None:
        return TaskManager()
    return TaskManager(include_defaults=False, include_path=str(_folder(include_path)))


def _check_files(include_path: str | None) -> None:
    """Say which task file cannot be read, of which the harness says nothing. Raises DataError."""
    from lm_eval.tasks._yaml_loader import load_yaml

    for file in sorted(_folder(include_path).rglob("*.yaml")) if include_path else ():
        try:
            load_yaml(file, resolve_func=False)
        except Exception as error:  # of the YAML reader, or of an include that is not there
            raise DataError(f"{file}: {' '.join(str(error).split())[:300]}") from error


def _folder(include_path: str) -> Path:
    folder = Path(include_path).expanduser()
    if not folder.is_dir():
        raise DataError(f"LmEval.include_path: {folder} is no folder")
    return folder


def _content(include_path: str | None) -> str:
    """What `LmEval.content` says of the harness and of a folder."""
    return f"lm-eval {version('lm_eval')} {_hash(include_path)}".strip()


def _hash(include_path: str | None) -> str:
    """Of the names and bytes of all files in a folder, data beside the task files included."""
    if include_path is None:
        return ""
    folder, digest = _folder(include_path), hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        digest.update(
            f"{file.relative_to(folder).as_posix()}\0{hashlib.sha256(file.read_bytes()).hexdigest()}\0".encode()
        )
    return digest.hexdigest()[:16]


def _rows(task: str, sample: Mapping[str, Any], model: Any) -> Iterator[dict[str, Any]]:
    """A row for each metric of one item."""
    arguments = sample["arguments"]
    prompt = str(arguments[0][0])
    responses = sample["filtered_resps"]
    scored = bool(responses) and isinstance(responses[0], tuple)
    fits = not any(str(argument[0]) in model.unanswered for argument in arguments)
    item = {
        "task": task,
        "item": sample["doc_id"],
        "filter": sample["filter"],
        "prompt": prompt,
        "prompt_tokens": model.prompt_tokens.get(prompt),
        "answer": str(sample["target"]),
        "response": str(responses[0]) if isinstance(responses[0], str) and fits else None,
        "choices": [str(argument[1]) for argument in arguments] if scored else None,
        "log_likelihoods": [log for log, _ in responses] if scored and fits else None,
    }
    for metric in sample["metrics"]:
        value, weight = _number(metric, sample[metric])
        yield item | {"metric": metric, "value": value if fits else None, "weight": weight}


def _number(metric: str, value: Any) -> tuple[float | None, float | None]:
    """A metric's value, and what the harness divides it by where it is such a pair; f1 and mcc are others."""
    numbers = value if isinstance(value, tuple) else (value,)
    if len(numbers) > (2 if metric in DIVIDED else 1) or not all(
        isinstance(n, bool | int | float | np.number | np.bool_) for n in numbers
    ):
        return None, None
    found = [float(n) if math.isfinite(n) else None for n in numbers]
    return found[0], found[1] if len(found) > 1 else None
