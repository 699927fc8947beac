"""What the rows of a condition say of it: a column for each of its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from memexp.errors import SpecError
from memexp.identity import canonical, identity
from memexp.plan.forest import Stage
from memexp.plan.passes import Passing, settled
from memexp.plan.reader import Reader
from memexp.sources import Stream, Texts, is_corpus
from memexp.spec import Condition, Interference, LoRA, Pretrain

__all__ = ["check_label_types", "setting_columns"]


def setting_columns(condition: Condition, path: Sequence[Stage], read: Reader) -> dict[str, Any]:
    """The setting columns of a condition's rows, without the probe's."""
    study, method, model = condition.study, condition.method, path[0].model
    texts = read.texts(study.corpus)
    study_key = canonical(study, lambda value: texts.id if is_corpus(value) else None)
    condition_key = {
        "model": [model.name, model.key],
        "method": canonical(method),
        "study": study_key,
        "seed": condition.seed,
        "labels": dict(condition.labels),
    }
    forgetting: dict[str, Any] = {}
    if condition.forget is not None:
        forgetting = {
            "forget_side": condition.forget.side,
            "forget_layer": condition.forget.layer,
            "restudy_exposures": condition.forget.exposures_after(study),
        }
        condition_key["forget"] = forgetting
    passing: dict[str, Any] = {}
    for part in (condition.pretrain, condition.interference):
        if part is not None:
            corpus = read.corpus(part.corpus)
            passing |= _passing_columns(part, corpus)
            condition_key[type(part).__name__.lower()] = settled(part, corpus)
    lora = {}
    if isinstance(method, LoRA):
        targets = method.targets if isinstance(method.targets, str) else ",".join(method.targets)
        lora = {f"lora_{f.name}": getattr(method, f.name) for f in fields(method)} | {"lora_targets": targets}
    return {
        "condition_id": identity(condition_key),
        "stage_id": path[-1].id,
        "model": model.name,
        "model_revision": model.commit,
        "model_id": model.id,
        "init": "pretrained" if model.config is None else "random",
        "init_seed": None if model.config is None else model.seed,
        "tokenizer": model.tokenizer_name,
        "method": type(method).__name__.lower(),
        **lora,
        "corpus": texts.name,
        "corpus_id": texts.id,
        **{f.name: getattr(study, f.name) for f in fields(study) if f.name != "corpus"},
        "seed": condition.seed,
        **forgetting,
        **passing,
    }


def _passing_columns(part: Passing, corpus: Texts | Stream) -> dict[str, Any]:
    """The setting columns of pretraining or of interference."""
    prefix = "pretrain" if isinstance(part, Pretrain) else "interference"
    own = {f"{prefix}_{f.name}": getattr(part, f.name) for f in fields(part) if f.name != "overlap"}
    if isinstance(part, Interference):
        own["retention_steps"] = own.pop("interference_steps")
    return own | {f"{prefix}_corpus": corpus.name, f"{prefix}_corpus_id": corpus.id}


def check_label_types(condition: Condition, known: dict[str, type]) -> None:
    """Refuse a label of another type than in the conditions `known` is of. Raises SpecError."""
    for name, value in condition.labels.items():
        expected = known.setdefault(name.lower(), type(value))
        if type(value) is not expected:
            raise SpecError(
                f"Condition.labels: {name!r} is {expected.__name__} in one condition and "
                f"{type(value).__name__} in another ({value!r}); a column has one type"
            )
