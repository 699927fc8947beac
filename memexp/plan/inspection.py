"""What a model is like before anything is trained: its size, its context, and whether it can be loaded at all.

Sizes come from safetensors headers where there are any; for everything else a child process asks transformers, so that
planning needs no torch in this one. Answers are remembered.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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
    """Inspect `models`, by identity; where there are headers, they count, and a model that is not known is no error."""
    counts = {model.id: parameters_from_headers(model) for model in models}
    found = inspected([model for model in models if counts[model.id] is None])
    with contextlib.suppress(ModelError):  # one process for all of them, and where one is refused one for each
        inspected(models)
    for model in models:
        parameters = counts[model.id]
        if parameters is not None:
            try:
                found[model.id] = dataclasses.replace(inspected([model])[model.id], parameters=parameters)
            except ModelError:  # what of it cannot be loaded is told where it is to be
                found[model.id] = Inspection(parameters, 0, None)
    return found


def inspected(models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """What a process that may import torch says of models, by identity; what was asked before is remembered.

    Raises ModelError where one cannot be loaded.
    """
    version = importlib.metadata.version("transformers")
    questions = {model.id: ["inspect", 6, version, model.id] for model in models}
    answers = {name: recall_answer(question) for name, question in questions.items()}
    unknown = list({model.id: model for model in models if answers[model.id] is None}.values())
    if unknown:
        child = subprocess.run(
            # -P: a six.py in the folder one is in would be imported instead of the library.
            [sys.executable, "-P", "-m", "memexp.core.inspect"],
            input=pickle.dumps(unknown),
            capture_output=True,
            check=False,
        )
        if child.returncode != 0:
            last = child.stderr.decode(errors="replace").strip().splitlines()[-1:]
            raise ModelError(
                f"inspecting {', '.join(m.name for m in unknown)} failed: {''.join(last) or child.returncode}"
            )
        for model, answer in zip(unknown, json.loads(child.stdout), strict=True):
            if "error" in answer:
                raise ModelError(answer["error"])
            remember_answer(questions[model.id], answer)
            answers[model.id] = answer
    return {name: Inspection(**answer) for name, answer in answers.items() if answer is not None}
