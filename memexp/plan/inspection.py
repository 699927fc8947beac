"""What a model is like before anything is trained: its size, its context, and whether it can be loaded at all.

Sizes come from safetensors headers where there are any; for everything else a child process asks transformers, so that
planning needs no torch in this one. Answers are remembered.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from memexp.errors import ModelError
from memexp.sources import ResolvedModel, Sources, parameters_from_headers
from memexp.sources.cache import recall_answer, remember_answer
from memexp.spec import Model

__all__ = ["Inspection", "depth", "inspected", "sizes"]


@dataclass(frozen=True)
class Inspection:
    """Facts about a model that need neither its weights nor a device."""

    parameters: int
    """Number of parameters, tied ones once."""
    linear: int
    """Sum of inputs and outputs over the linear modules an adapter may sit on; 0 where unknown."""
    context: int | None
    """Longest text in tokens, None where the architecture has no limit."""
    blocks: int | None = None
    """Number of blocks, None where unknown."""
    modules: Sequence[str] = ()
    """Names of what an adapter can sit on, with * for the number of a block; none where unknown."""
    block_parameters: int = 0
    """Parameters of the largest block."""
    vocabulary: int = 0
    """Tokens that logits are of."""
    width: int = 0
    """Numbers of a hidden state."""
    cache_numbers: int = 0
    """Keys and values of a token, over all blocks."""
    tied: bool = False
    """Whether the output embedding is the input embedding."""
    coarse: bool = False
    """Whether its weights are stored in bfloat16."""
    kept_in_files: bool = False
    """Whether a model that has learned goes back to its files, and not to a copy of what it was."""
    token_bytes: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """What is kept of a token for backward, by method and dtype: of a block and outside of all (see footprint.py)."""


def depth(model: Model | str) -> int:
    """Number of blocks of a model: ``range(depth("tiny-s"))`` are its forgetting layers.

    Args:
        model: as in a condition; a name stands for the pretrained model of that name.

    Raises:
        ModelError: it cannot be inspected, or its configuration does not say.
    """
    resolved = Sources().model(Model(model) if isinstance(model, str) else model)
    blocks = resolved.blocks or inspected([resolved])[resolved.id].blocks
    if blocks is None:
        raise ModelError(f"model {resolved.name!r}: its configuration does not say how many blocks it has")
    return blocks


def sizes(models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """Inspect `models`, by identity; where there are headers, they count, and a model that is not known is no error.

    Raises ModelError where one has no headers and cannot be loaded.
    """
    answers, found = _answers(models), {}
    for model in models:
        parameters = parameters_from_headers(model)
        if parameters is None:
            found[model.id] = _inspection(answers[model.id])
        elif "error" in answers[model.id]:  # what of it cannot be loaded is told where it is to be
            found[model.id] = Inspection(parameters, 0, None)
        else:
            found[model.id] = dataclasses.replace(_inspection(answers[model.id]), parameters=parameters)
    return found


def inspected(models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """What a process that may import torch says of models, by identity; what was asked before is remembered.

    Raises ModelError where one cannot be loaded.
    """
    return {name: _inspection(answer) for name, answer in _answers(models).items()}


def _inspection(answer: dict[str, Any]) -> Inspection:
    if "error" in answer:
        raise ModelError(answer["error"])
    return Inspection(**answer)


def _answers(models: Sequence[ResolvedModel]) -> dict[str, dict[str, Any]]:
    """The fields of an inspection, or why there is none under ``error``; only the first are remembered."""
    version = importlib.metadata.version("transformers")
    questions = {model.id: ["inspect", 6, version, model.id] for model in models}
    answers = {name: recall_answer(question) for name, question in questions.items()}
    unknown = list({model.id: model for model in models if answers[model.id] is None}.values())
    if unknown:
        for model, answer in zip(unknown, _asked_of_a_child(unknown), strict=True):
            if "error" not in answer:
                remember_answer(questions[model.id], answer)
            answers[model.id] = answer
    return {name: answer for name, answer in answers.items() if answer is not None}


def _asked_of_a_child(models: Sequence[ResolvedModel]) -> list[dict[str, Any]]:
    child = subprocess.run(
        # -P: a six.py in the folder one is in would be imported instead of the library.
        [sys.executable, "-P", "-m", "memexp.core.inspect"],
        input=pickle.dumps(models),
        capture_output=True,
        check=False,
    )
    if child.returncode == 0:
        answers: list[dict[str, Any]] = json.loads(child.stdout)
        return answers
    last = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
    error = f"inspecting {', '.join(m.name for m in models)} failed: {''.join(last) or child.returncode}"
    return [{"error": error} for _ in models]
