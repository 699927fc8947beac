"""How many tokens and rows a batch may have, by type of device.

batches_of(lengths, SCORING_TOKENS[world.device.type], rows=len(lengths))
"""

from __future__ import annotations

__all__ = [
    "ANSWER_ROWS",
    "GROUP_OVERHEAD",
    "GROUP_TOKENS",
    "RECALL_ROWS",
    "RECALL_TOKENS",
    "SCORING_TOKENS",
]

# What a micro-group of training costs by itself (its gradients are added to those of the others) and how large one may
# be, in padded tokens: 48 to 192 took the same time, 16 and no splitting more. On a GPU a short batch costs what a
# padded one does, so there a batch is split only to bound memory.
GROUP_OVERHEAD = {"cpu": 48, "cuda": 4_096}
GROUP_TOKENS = {"cpu": 4_096, "cuda": 8_192}

# Padded tokens in a batch. Small on a CPU, where larger ones fall out of the cache (8,192 was 3 times slower).
SCORING_TOKENS = {"cpu": 1_024, "cuda": 16_384}
RECALL_TOKENS = {"cpu": 6_144, "cuda": 32_768}

# Rows of a batch. Answers end one by one, and a batch goes on to its last: 40 to 64 were some 8 % faster than 96.
RECALL_ROWS = {"cpu": 96, "cuda": 512}
ANSWER_ROWS = {"cpu": 48, "cuda": 512}
