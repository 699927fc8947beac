"""What of a forest its models could not do: refused before anything is trained.

check_forgetting(forest)
check_contexts(forest, {})             # so far as configurations tell
check_models(forest, models)           # when they are about to be trained
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from memexp.errors import ModelError, SpecError
from memexp.plan.forest import BaseStage, Forest, ForgetStage, TrainingStage
from memexp.plan.inspection import Inspection, inspected
from memexp.sources import ResolvedModel, check_weights
from memexp.spec import LoRA
from memexp.wording import amount

__all__ = ["check_contexts", "check_forgetting", "check_models"]


def check_models(forest: Forest, models: Sequence[ResolvedModel]) -> dict[str, Inspection]:
    """Inspect `models` thoroughly, by identity.

    Raises:
        ModelError: one cannot be loaded (unknown architecture, no tokenizer, remote code, unrestricted unpickling,
            weights that are quantised or not all there), or the block size of a study or probe exceeds its context.
        SpecError: a LoRA target matches none of the modules of its model.
    """
    for model in models:
        check_weights(model)
    found = inspected(models)
    check_contexts(forest, found)
    for stage in forest.stages.values():
        if isinstance(stage, BaseStage) and isinstance(stage.method, LoRA) and stage.model.id in found:
            _check_targets(stage.model.name, stage.method, found[stage.model.id].modules)
    return found


def check_contexts(forest: Forest, found: Mapping[str, Inspection]) -> None:
    """Refuse block sizes beyond the context of their model, as `found` has it or else as its configuration says it.

    Raises ModelError.
    """
    blocks = [
        (stage.model, type(stage.settings).__name__, stage.settings.block_size)
        for stage in forest.stages.values()
        if isinstance(stage, TrainingStage)
    ]
    blocks += [  # the untrained model has probes but no study
        (forest.stages[ask.stage].model, type(ask.probe).__name__, getattr(ask.probe, "block_size", None) or 0)
        for ask in forest.asks
    ]
    contexts = {
        stage.model.id: found[stage.model.id].context if stage.model.id in found else stage.model.context
        for stage in forest.stages.values()
        if isinstance(stage, BaseStage)
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


def check_forgetting(forest: Forest) -> None:
    """Refuse forgetting layers outside of their model. Raises SpecError."""
    for stage in forest.stages.values():
        if not isinstance(stage, ForgetStage) or stage.forget.layer is None:
            continue
        depth = stage.model.blocks or inspected([stage.model])[stage.model.id].blocks
        if depth is None:
            continue  # the trial finds the blocks themselves
        field, last = ("from_layer", depth - 1) if stage.forget.side == "upper" else ("below_layer", depth)
        if stage.forget.layer > last:
            raise SpecError(
                f"Forget.{field}: {stage.forget.layer} is outside model {stage.model.name!r}, "
                f"which has {amount(depth, 'block')}; at most {last}"
            )
