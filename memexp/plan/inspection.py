"""What a model is like before anything is trained: its size, its context, and whether it can be loaded at all.

Sizes come from safetensors headers where there are any; for everything else a child process asks transformers, so that
planning needs no torch in this one. Answers are remembered.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from memexp.errors import ModelError, SpecError
from memexp.plan import Forest, Stage
from memexp.sources import ResolvedModel, Sources, parameters_from_headers
from memexp.sources.cache import recall_answer, remember_answer
from memexp.spec import LoRA, Model, Resources

__all__ = ["Inspection", "check_contexts", "check_forgetting", "check_models", "depth", "memory_per_worker", "sizes"]


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


def check_models(forest: Forest, models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """Inspect `models` thoroughly, by identity.

    Raises:
        ModelError: one cannot be loaded (unknown architecture, no tokenizer, remote code, unrestricted unpickling), or
            the block size of a study or probe exceeds its context.
        SpecError: a LoRA target matches none of the modules of its model.
    """
    for model in models:
        if model.folder is not None:
            parameters_from_headers(model)  # refuses weights that were cut off
    found = _ask_child(models)
    check_contexts(forest, found)
    for stage in forest.stages.values():
        if stage.parent is None and isinstance(stage.method, LoRA) and stage.model.id in found:
            _check_targets(stage.model.name, stage.method, found[stage.model.id].modules)
    return found


def check_contexts(forest: Forest, found: Mapping[str, Inspection]) -> None:
    """Refuse block sizes beyond the context of their model, as `found` has it or else as its configuration says it.

    Raises ModelError.
    """
    blocks = [(stage.model, "Study", stage.study.block_size) for stage in forest.stages.values() if stage.study]
    blocks += [
        (stage.model, type(settings).__name__, settings.block_size)
        for stage in forest.stages.values()
        for settings in (stage.pretrain, stage.interference)
        if settings
    ]
    blocks += [  # the untrained model has probes but no study
        (forest.stages[ask.stage].model, type(ask.probe).__name__, getattr(ask.probe, "block_size", None) or 0)
        for ask in forest.asks
    ]
    contexts = {
        stage.model.id: found[stage.model.id].context if stage.model.id in found else stage.model.context
        for stage in forest.stages.values()
        if stage.parent is None
    }
    for model, owner, size in blocks:
        context = contexts[model.id]
        if context is not None and size > context:
            raise ModelError(f"{owner}.block_size {size} exceeds the context of {model.name!r} ({context})")


def _check_targets(model: str, method: LoRA, modules: Sequence[str]) -> None:
    for target in () if isinstance(method.targets, str) else method.targets:
        wanted = re.sub(r"\b\d+\b", "*", target)  # of one block only; the trial sees whether there is such a block
        if modules and not any(f".{name}".endswith(f".{wanted}") for name in modules):
            known = sorted({name.rpartition(".")[2] for name in modules})
            near = difflib.get_close_matches(target, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)[:200]}"
            raise SpecError(f"LoRA.targets: model {model!r} has no module {target!r}; {hint}")


def depth(model: Model | str) -> int:
    """Number of blocks of a model: ``range(depth("tiny-s"))`` are its forgetting layers.

    Args:
        model: as in a condition; a name stands for the pretrained model of that name.

    Raises:
        ModelError: it cannot be inspected, or its configuration does not say.
    """
    resolved = Sources().model(Model(model) if isinstance(model, str) else model)
    blocks = resolved.blocks or _ask_child([resolved])[resolved.id].blocks
    if blocks is None:
        raise ModelError(f"model {resolved.name!r}: its configuration does not say how many blocks it has")
    return blocks


def check_forgetting(forest: Forest) -> None:
    """Refuse forgetting layers outside of their model. Raises SpecError."""
    for stage in forest.stages.values():
        if stage.forget is None or stage.forget.layer is None:
            continue
        depth = stage.model.blocks or _ask_child([stage.model])[stage.model.id].blocks
        if depth is None:
            continue  # the trial finds the blocks themselves
        field, last = ("from_layer", depth - 1) if stage.forget.side == "upper" else ("below_layer", depth)
        if stage.forget.layer > last:
            raise SpecError(
                f"Forget.{field}: {stage.forget.layer} is outside model {stage.model.name!r}, "
                f"which has {depth} blocks; at most {last}"
            )


def sizes(models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """Inspect `models` for their size only, by identity, from their headers where they have any."""
    found = {}
    for model in models:
        parameters = parameters_from_headers(model)
        if parameters is not None:
            found[model.id] = Inspection(parameters, 0, None)
    return found | _ask_child([model for model in models if model.id not in found])


def memory_per_worker(inspection: Inspection, stage: Stage, resources: Resources) -> int:
    """Bytes of weights, gradients and AdamW moments on each worker, float32, without activations.

    Full finetuning: 4 numbers a parameter. LoRA: one a parameter, and 4 for each of the adapter's.
    """
    if isinstance(stage.method, LoRA):
        # Where the linear modules are unknown an adapter of rank 8 is taken for one per cent of the model.
        adapter = stage.method.r * inspection.linear or inspection.parameters * stage.method.r // 800
        numbers = inspection.parameters + 4 * adapter
    else:
        numbers = 4 * inspection.parameters
    return 4 * numbers // resources.workers


def _ask_child(models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """Inspect models in a process that may import torch; what was asked before is remembered."""
    version = importlib.metadata.version("transformers")
    questions = {model.id: ["inspect", 3, version, model.id] for model in models}
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
