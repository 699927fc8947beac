"""What all files of the store have in common: the columns beside a probe's own, and the tables that hold no results.

A probe's rows are its item columns plus the settings of the condition, its labels, and what the numbers were made
with. All setting columns exist from the first version on, NULL where the part is absent, so that files of different
ages read together:

    SELECT model, lr, exposures, avg((target_nll < foil_nll)::int) AS recognition
    FROM read_parquet('results/recognition/*.parquet', union_by_name=true) GROUP BY ALL ORDER BY ALL
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from memexp import __version__
from memexp.errors import SpecError, StoreError, one_line, writable
from memexp.identity import NUMERICS, parsed
from memexp.setting_schema import SETTINGS
from memexp.spec import Headline

__all__ = [
    "BARE",
    "MADE_WITH",
    "MET",
    "METADATA",
    "NEEDED",
    "SEARCHES",
    "SETTINGS",
    "SINCE",
    "SINCE_STAGES",
    "STAGES",
    "SWEEPS",
    "TRAINING",
    "MeasuredBy",
    "check_items",
    "check_labels",
    "measured_by",
    "misfit",
    "rows_for",
    "versions",
    "with_source",
]

METADATA = b"memexp"
"""Key in the metadata of a Parquet file's schema under which results say what measured them, as JSON."""

MADE_WITH = pa.schema(
    [
        ("numerics", pa.int64()),
        ("memexp", pa.string()),
        ("torch", pa.string()),
        ("transformers", pa.string()),
        ("device", pa.string()),
        ("threads", pa.int64()),
        ("workers", pa.int64()),
        ("cuda", pa.string()),
        ("cudnn", pa.string()),
        ("precision", pa.string()),
        ("checkpointing", pa.bool_()),
        ("offload", pa.bool_()),
        ("lanes", pa.int64()),
    ]
)
"""What equality bit for bit depends on besides the settings (see ARCHITECTURE.md, "Equality"). ``cuda``, ``cudnn``:
their versions, NULL on a CPU; ``precision``: the dtype, and where the head's products have another what they have;
``checkpointing``, ``offload``: as in `Resources`; ``lanes``: of the trial, at most as many as in `Resources`."""
YOUNGER = {"cuda", "cudnn", "precision", "checkpointing", "offload", "lanes"}
"""Of these the columns that rows made before they existed do not have; where they are missing they read as NULL."""

MET = pa.schema([("item_exposures", pa.int64()), ("item_steps", pa.string()), ("steps_since", pa.int64())])
"""Of rows that are about a text: how often a study, or replay, has had the very text until then; at which optimizer
steps, counted from 1 over all training since pretraining, as JSON (``item_steps::bigint[]`` in DuckDB), NULL where they
are more than a hundred; and the steps since the last, NULL where there was none. Results of before they were told do
not have these columns."""


def versions() -> dict[str, Any]:
    """The columns of `MADE_WITH` that are known wherever memexp is installed. Imports none of what they are about."""
    return {"numerics": NUMERICS, "memexp": __version__, **{name: version(name) for name in ("torch", "transformers")}}


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
ended its trajectory before), differs (a second attempt measured other numbers than the stored ones), unsaved (a
snapshot could not be written, and training went on), unread (a snapshot could not be taken up, and training began
earlier), begun (by a trial that may die of it), halved (memory ran out, and it is tried with half the batch), or left
(the machine was about to be taken away, and the trial goes on elsewhere from what was saved)."""

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

BARE = {"training": TRAINING, "stages": STAGES, "sweeps": SWEEPS, "searches": SEARCHES}
"""The kinds that hold no results, with all their columns."""
SINCE = {
    "probe_settings",
    *(name for name in SETTINGS.names if name.startswith(("pretrain_", "presentation", "filler", "then_", "unlearn_"))),
    *(f"interference_{name}" for name in ("block_size", "dropout", "weight_decay", "clip_norm", "momentum", "replay")),
    *(f"interference_protect_{name}" for name in ("strength", "samples", "empirical")),
    *("optimizer", "momentum", "times", "variants", "variants_id", "further_batches"),
    *YOUNGER,
}
"""Columns that results of memexp 0.1 do not have; where they are missing they read as NULL."""
SINCE_STAGES = {"attempt", "part", "phase", "trial", "start", "rank", "search_id", "suggestion", *YOUNGER}
"""The same of ``stages/``."""
NEEDED = {
    "stages": ("stage_id", "status", "finished"),
    "sweeps": tuple(SWEEPS.names),
    "searches": ("sweep", "search", "search_id", "suggestion", "point", "stage_id", "results", "trials", "suggested"),
}
"""Columns of what memexp reads again that are never NULL."""


_TAKEN = frozenset(name.lower() for name in (*SETTINGS.names, *MADE_WITH.names, *MET.names))


def check_items(probe: str, items: pa.Schema) -> None:
    """Refuse columns of a probe that would hide those of every row. Raises SpecError."""
    for name in items.names:
        if name.lower() in _TAKEN:
            raise SpecError(f"{probe}.schema: {name!r} is a column of every row already; choose another name")


def check_labels(labels: Mapping[str, Any], items: pa.Schema) -> None:
    """Refuse labels that would hide a column. Raises SpecError."""
    taken = {name.lower() for name in items.names} if labels else set()  # SQL ignores case
    for name in labels:
        if name.lower() in _TAKEN or name.lower() in taken:
            raise SpecError(f"Condition.labels: {name!r} is a column already; choose another name")
        taken.add(name.lower())


def rows_for(
    items: pa.Table, settings: Mapping[str, Any], labels: Mapping[str, Any], made_with: Mapping[str, Any]
) -> pa.Table:
    """`items` with the settings, labels and versions of who asked as constant columns, in that order."""
    count = items.num_rows
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    for field in SETTINGS:
        value = settings.get(field.name)
        value = writable(value) if isinstance(value, str) else value
        columns[field.name] = pa.repeat(pa.scalar(value, field.type), count)
    for name, value in sorted(labels.items()):
        columns[name] = pa.repeat(pa.scalar(value), count)
    for field in MADE_WITH:
        columns[field.name] = pa.repeat(pa.scalar(made_with.get(field.name), field.type), count)
    return pa.table(columns | {name: items.column(name) for name in items.column_names})


def with_source(rows: pa.Table, kind: str, headline: Headline | None) -> pa.Table:
    """`rows` of a probe with what a reader needs to know of it, without having its code; see `MeasuredBy`."""
    source = {"kind": kind, "headline": None if headline is None else dataclasses.asdict(headline)}
    return rows.replace_schema_metadata({METADATA: json.dumps(source, sort_keys=True)})


@dataclass(frozen=True)
class MeasuredBy:
    """What a file of results says of the probe that measured it."""

    kind: str
    headline: Headline | None


def measured_by(schema: pa.Schema) -> MeasuredBy | None:
    """What `with_source` has written, as far as this version knows it; None for files of memexp 0.1.

    Raises StoreError where somebody else has written it.
    """
    text = (schema.metadata or {}).get(METADATA)
    if text is None:
        return None
    try:
        found = parsed(text)
        if found["headline"] is None:
            return MeasuredBy(found["kind"], None)
        known = {field.name for field in dataclasses.fields(Headline)}
        headline = Headline(**{name: value for name, value in found["headline"].items() if name in known})
        return MeasuredBy(found["kind"], headline)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise StoreError(f"what its metadata say of the probe is not memexp's ({one_line(error, 160)})") from None


def misfit(schema: pa.Schema, expected: Iterable[pa.Field], younger: Collection[str] = ()) -> str | None:
    """What keeps `schema` from having the `expected` columns, or None; those that are `younger` may be missing."""
    for field in expected:
        if field.name not in schema.names:
            if field.name in younger:
                continue
            return f"column {field.name!r} is missing"
        found = schema.field(field.name).type
        if found != field.type:
            return f"column {field.name!r} is {found} instead of {field.type}"
    return None
