"""The Arrow schema of every kind of file in the store.

A probe's rows are its item columns plus the settings of the condition, its labels, and what the numbers were made
with. All setting columns exist from the first version on, NULL where the part is absent, so that files of different
ages read together:

    SELECT model, lr, exposures, avg((target_nll < foil_nll)::int) AS recognition
    FROM read_parquet('results/recognition/*.parquet', union_by_name=true) GROUP BY ALL ORDER BY ALL
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from memexp import __version__
from memexp.errors import SpecError
from memexp.identity import NUMERICS

__all__ = [
    "MADE_WITH",
    "RECALL",
    "RECOGNITION",
    "ROUGES",
    "SEARCHES",
    "SETTINGS",
    "STAGES",
    "SWEEPS",
    "TRAINING",
    "check_items",
    "check_labels",
    "complaint",
    "rows_for",
    "versions",
]

SETTINGS = pa.schema(
    [
        ("condition_id", pa.string()),
        ("stage_id", pa.string()),
        ("probe_id", pa.string()),
        ("probe_settings", pa.string()),
        # model and method
        ("model", pa.string()),
        ("model_revision", pa.string()),
        ("model_id", pa.string()),
        ("init", pa.string()),
        ("init_seed", pa.int64()),
        ("tokenizer", pa.string()),
        ("method", pa.string()),
        ("lora_r", pa.int64()),
        ("lora_alpha", pa.float64()),
        ("lora_rslora", pa.bool_()),
        ("lora_dropout", pa.float64()),
        ("lora_targets", pa.string()),
        ("lora_seed", pa.int64()),
        ("dtype", pa.string()),
        # study
        ("corpus", pa.string()),
        ("corpus_id", pa.string()),
        ("exposures", pa.int64()),
        ("lr", pa.float64()),
        ("batch_size", pa.int64()),
        ("block_size", pa.int64()),
        ("schedule", pa.string()),
        ("warmup_steps", pa.int64()),
        ("warmup_ratio", pa.float64()),
        ("dropout", pa.float64()),
        ("weight_decay", pa.float64()),
        ("clip_norm", pa.float64()),
        ("seed", pa.int64()),
        # forgetting and restudy
        ("forget_side", pa.string()),
        ("forget_layer", pa.int64()),
        ("restudy_exposures", pa.int64()),
        # interference
        ("retention_steps", pa.int64()),
        ("interference_corpus", pa.string()),
        ("interference_corpus_id", pa.string()),
        ("interference_lr", pa.float64()),
        ("interference_batch_size", pa.int64()),
        ("interference_block_size", pa.int64()),
        ("interference_optimizer", pa.string()),
        ("interference_dropout", pa.float64()),
        ("interference_weight_decay", pa.float64()),
        ("interference_clip_norm", pa.float64()),
        # pretraining
        ("pretrain_steps", pa.int64()),
        ("pretrain_corpus", pa.string()),
        ("pretrain_corpus_id", pa.string()),
        ("pretrain_lr", pa.float64()),
        ("pretrain_batch_size", pa.int64()),
        ("pretrain_block_size", pa.int64()),
        ("pretrain_schedule", pa.string()),
        ("pretrain_warmup_steps", pa.int64()),
        ("pretrain_dropout", pa.float64()),
        ("pretrain_weight_decay", pa.float64()),
        ("pretrain_clip_norm", pa.float64()),
        ("pretrain_seed", pa.int64()),
    ]
)
"""What was asked for. One row of these is shared by all items of a condition's probe. ``probe_settings``: JSON of what
the probe has that is not at its default, its texts by name."""

MADE_WITH = pa.schema(
    [
        ("numerics", pa.int64()),
        ("memexp", pa.string()),
        ("torch", pa.string()),
        ("transformers", pa.string()),
        ("device", pa.string()),
        ("threads", pa.int64()),
        ("workers", pa.int64()),
    ]
)
"""What equality bit for bit depends on besides the settings (DESIGN.md section 4, rule 7)."""


def versions() -> dict[str, Any]:
    """The columns of `MADE_WITH` that are known wherever memexp is installed. Imports none of what they are about."""
    return {"numerics": NUMERICS, "memexp": __version__, **{name: version(name) for name in ("torch", "transformers")}}


RECOGNITION = pa.schema(
    [
        ("item", pa.int64()),
        ("target", pa.string()),
        ("foil", pa.string()),
        ("target_nll", pa.float64()),
        ("foil_nll", pa.float64()),
        ("target_tokens", pa.int64()),
        ("foil_tokens", pa.int64()),
    ]
)
"""One row per pair. ``*_nll``: mean negative log-likelihood per predicted token, in nats, NULL where it is no number or
no token is predicted; ``*_tokens``: length of the truncated text in tokens, the first (never predicted) included."""

ROUGES = ("rouge1", "rouge2", "rougeL", "rougeLsum")

RECALL = pa.schema(
    [
        ("item", pa.int64()),
        ("cue", pa.string()),
        ("target", pa.string()),
        ("completion", pa.string()),
        ("tokens", pa.int64()),
        ("cue_tokens", pa.int64()),
        ("exact", pa.bool_()),
        *((f"sentence_{name}", pa.float64()) for name in ROUGES),
        *((f"completion_{name}", pa.float64()) for name in ROUGES),
    ]
)
"""One row per studied text. ``exact``: every completed token equals the text's; ``sentence_*``: ROUGE F-measure of cue
and completion against the whole text, as published; ``completion_*``: of the completion against the text's rest."""

QA = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer", pa.string()),
        ("prediction", pa.string()),
        ("exact", pa.bool_()),
        ("f1", pa.float64()),
    ]
)
"""One row per open question. ``prompt``: all that the model was given, shots included; ``prediction``: its greedy
completion up to the end of the line; ``exact`` and ``f1`` (0 to 1) as in SQuAD 1.1. The last three are NULL where the
prompt does not fit the model's context."""

CHOICE = pa.schema(
    [
        ("task", pa.string()),
        ("item", pa.int64()),
        ("prompt", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("choices", pa.list_(pa.string())),
        ("log_likelihoods", pa.list_(pa.float64())),
        ("answer", pa.int64()),
        ("picked", pa.int64()),
        ("correct", pa.bool_()),
    ]
)
"""One row per multiple-choice question. ``choices``: the texts offered; ``log_likelihoods``: of each (of its letter,
where letters were asked for) after ``prompt``, summed over its tokens, in nats; ``answer`` and ``picked``: indices of
the right and of the likeliest choice. What was measured is NULL where the prompt does not fit the model's context, or
the model's outputs are no numbers."""

LM_EVAL = pa.schema(
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

ABLATION = pa.schema(
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

RATIOS = pa.schema(
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

TRAINING = pa.schema(
    [
        ("stage_id", pa.string()),
        ("parent_id", pa.string()),
        ("kind", pa.string()),
        ("model", pa.string()),
        ("method", pa.string()),
        ("corpus", pa.string()),
        ("seed", pa.int64()),
        ("batch_size", pa.int64()),
        ("exposure", pa.int64()),
        ("step", pa.int64()),
        ("loss", pa.float64()),
        ("lr", pa.float64()),
        ("tokens", pa.int64()),
    ]
)
"""One row per optimizer step of a stage. ``stage_id``: of pretraining and interference their trajectory, which all
stops on it share; ``step`` counts from 1 at the start of pretraining, study, restudy or interference, ``exposure`` the
passes over the corpus; ``loss``: mean NLL over the batch's predicted tokens, before the step; ``lr``: the rate the step
used; ``tokens``: the number of those tokens."""

STAGES = pa.schema(
    [
        ("stage_id", pa.string()),
        ("parent_id", pa.string()),
        ("kind", pa.string()),
        ("probe_id", pa.string()),
        ("sweep", pa.string()),
        ("model", pa.string()),
        ("status", pa.string()),
        ("error", pa.string()),
        ("seconds", pa.float64()),
        ("steps", pa.int64()),
        ("tokens", pa.int64()),
        ("finished", pa.timestamp("us", tz="UTC")),
        ("host", pa.string()),
        ("commit", pa.string()),
        *((field.name, field.type) for field in MADE_WITH),
        ("attempt", pa.string()),
        ("part", pa.string()),
        ("phase", pa.int64()),
        ("trial", pa.int64()),
        ("start", pa.string()),
        ("rank", pa.int64()),
        ("search_id", pa.string()),
        ("suggestion", pa.int64()),
    ]
)
"""One row per attempt at a stage, or where ``probe_id`` is not NULL at measuring it. ``status``: complete, failed,
diverged (the loss was not finite), skipped (a stage before it failed), stopped (not reached, since the rule of a search
ended its trajectory before), differs (a second attempt measured other numbers than the stored ones), or unsaved (a
snapshot could not be written, and training went on). ``attempt`` to ``rank``: who tried (see `memexp.plan.attempts`);
``search_id`` and ``suggestion``: what a rule stopped."""

SWEEPS = pa.schema(
    [
        ("sweep", pa.string()),
        ("kind", pa.string()),
        ("name", pa.string()),
        ("condition_id", pa.string()),
        ("stage_id", pa.string()),
        ("probe_id", pa.string()),
        ("started", pa.timestamp("us", tz="UTC")),
    ]
)
"""One row per condition and probe of a sweep: the result is ``<kind>/<name>.parquet``."""

SEARCHES = pa.schema(
    [
        ("sweep", pa.string()),
        ("search", pa.string()),
        ("search_id", pa.string()),
        ("suggestion", pa.int64()),
        ("point", pa.string()),
        ("axis", pa.string()),
        ("stop", pa.int64()),
        ("condition_id", pa.string()),
        ("stage_id", pa.string()),
        ("results", pa.list_(pa.string())),
        ("metric", pa.string()),
        ("mode", pa.string()),
        ("trials", pa.int64()),
        ("suggested", pa.timestamp("us", tz="UTC")),
    ]
)
"""One row per condition of a suggestion, written before it is tried. ``suggestion``: its number in the search, from 0;
``point``: its values, as JSON; ``stop``: the condition's exposures or retention steps, whichever ``axis`` says; the
last one's ``metric`` is the suggestion's value; ``results``: the files that answer, as ``kind/name``; ``trials``: how
many suggestions the search asked for when this one was made."""

_KNOWN = {
    "recognition": RECOGNITION,
    "recall": RECALL,
    "qa": QA,
    "choice": CHOICE,
    "lm_eval": LM_EVAL,
    "ablation": ABLATION,
    "ratios": RATIOS,
    "training": TRAINING,
    "stages": STAGES,
    "sweeps": SWEEPS,
    "searches": SEARCHES,
}
_BARE = ("training", "stages", "sweeps", "searches")
_SINCE = {
    "probe_settings",
    *("attempt", "part", "phase", "trial", "start", "rank"),  # of stages, as the next two
    *("search_id", "suggestion"),
    *(name for name in SETTINGS.names if name.startswith("pretrain_")),
    *(f"interference_{name}" for name in ("block_size", "dropout", "weight_decay", "clip_norm")),
}
"""Columns that files of memexp 0.1 do not have; where they are missing they read as NULL."""


def check_items(probe: str, items: pa.Schema) -> None:
    """Refuse columns of a probe that would hide those of every row. Raises SpecError."""
    taken = {name.lower() for name in (*SETTINGS.names, *MADE_WITH.names)}
    for name in items.names:
        if name.lower() in taken:
            raise SpecError(f"{probe}.schema: {name!r} is a column of every row already; choose another name")


def check_labels(labels: Mapping[str, Any], items: pa.Schema) -> None:
    """Refuse labels that would hide a column. Raises SpecError."""
    taken = {name.lower() for name in (*SETTINGS.names, *MADE_WITH.names, *items.names)}  # SQL ignores case
    for name in labels:
        if name.lower() in taken:
            raise SpecError(f"Condition.labels: {name!r} is a column already; choose another name")
        taken.add(name.lower())


def rows_for(
    items: pa.Table, settings: Mapping[str, Any], labels: Mapping[str, Any], made_with: Mapping[str, Any]
) -> pa.Table:
    """`items` with the settings, labels and versions of who asked as constant columns, in that order."""
    count = items.num_rows
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in SETTINGS:
        columns[field.name] = pa.repeat(pa.scalar(settings.get(field.name), field.type), count)
    for name, value in sorted(labels.items()):
        columns[name] = pa.repeat(pa.scalar(value), count)
    for field in MADE_WITH:
        columns[field.name] = pa.repeat(pa.scalar(made_with.get(field.name), field.type), count)
    return pa.table(columns | {name: items.column(name) for name in items.column_names})


def complaint(kind: str, schema: pa.Schema) -> str | None:
    """What is wrong with the columns of a file, or None. Files of a user's own probes need the settings only."""
    expected = list(_KNOWN.get(kind, pa.schema([])))
    if kind not in _BARE:
        expected = [*SETTINGS, *MADE_WITH, *expected]
    for field in expected:
        if field.name not in schema.names:
            if field.name in _SINCE:
                continue
            return f"column {field.name!r} is missing"
        found = schema.field(field.name).type
        if found != field.type:
            return f"column {field.name!r} is {found} instead of {field.type}"
    return None
