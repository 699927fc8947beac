"""The setting columns, which all rows of probes have: what was asked for, part by part of a condition."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["SETTINGS"]

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
        ("optimizer", pa.string()),
        ("momentum", pa.float64()),
        *((name, pa.string()) for name in ("presentation", "filler", "filler_id")),
        *((f"presentation_{name}", pa.int64()) for name in ("gap", "beside", "steps")),
        ("presentation_factor", pa.float64()),
        *((name, pa.string()) for name in ("times", "variants", "variants_id")),
        ("further_batches", pa.int64()),
        ("seed", pa.int64()),
        # forgetting and restudy
        ("forget_side", pa.string()),
        ("forget_layer", pa.int64()),
        ("restudy_exposures", pa.int64()),
        # a second study
        ("then_corpus", pa.string()),
        ("then_corpus_id", pa.string()),
        ("then_exposures", pa.int64()),
        ("then_lr", pa.float64()),
        ("then_batch_size", pa.int64()),
        ("then_block_size", pa.int64()),
        ("then_schedule", pa.string()),
        ("then_warmup_steps", pa.int64()),
        ("then_warmup_ratio", pa.float64()),
        ("then_dropout", pa.float64()),
        ("then_weight_decay", pa.float64()),
        ("then_clip_norm", pa.float64()),
        ("then_optimizer", pa.string()),
        ("then_momentum", pa.float64()),
        # unlearning
        *((f"unlearn_{name}", pa.string()) for name in ("loss", "forget", "forget_id", "retain", "retain_id")),
        *((f"unlearn_{name}", pa.int64()) for name in ("steps", "batch_size", "block_size")),
        *((f"unlearn_{name}", pa.float64()) for name in ("lr", "beta", "weight")),
        ("unlearn_optimizer", pa.string()),
        *((f"unlearn_{name}", pa.float64()) for name in ("momentum", "dropout", "weight_decay", "clip_norm")),
        # interference
        ("retention_steps", pa.int64()),
        ("interference_corpus", pa.string()),
        ("interference_corpus_id", pa.string()),
        ("interference_lr", pa.float64()),
        ("interference_batch_size", pa.int64()),
        ("interference_block_size", pa.int64()),
        ("interference_optimizer", pa.string()),
        ("interference_momentum", pa.float64()),
        ("interference_dropout", pa.float64()),
        ("interference_weight_decay", pa.float64()),
        ("interference_clip_norm", pa.float64()),
        ("interference_replay", pa.float64()),
        ("interference_protect_strength", pa.float64()),
        ("interference_protect_samples", pa.int64()),
        ("interference_protect_empirical", pa.bool_()),
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
        ("pretrain_optimizer", pa.string()),
        ("pretrain_momentum", pa.float64()),
        ("pretrain_seed", pa.int64()),
    ]
)
"""What was asked for. One row of these is shared by all items of a condition's probe. ``probe_settings``: JSON of what
the probe has that is not at its default, its texts by name; ``optimizer``: sgd, NULL for AdamW;
``presentation``: spaced or cyclic, NULL for massed; ``times``: as written, with commas; ``variants``: their names with
commas, ``variants_id``: hash of their texts; ``unlearn_beta``: NULL but for npo; ``unlearn_weight``: NULL without texts
to be kept; ``interference_protect_strength``: of EWC, NULL without it."""
