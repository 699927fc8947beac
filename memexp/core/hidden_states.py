"""What a model holds between its blocks, of given tokens: for probes that look inside. On any number of ranks.

Equal to handling one text at a time, as likelihoods are (scoring.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from memexp.core.copies import to_device
from memexp.core.data import Row, batches_of, right_padded
from memexp.core.model import LanguageModel, blocks
from memexp.core.ranks import deal_to_ranks
from memexp.errors import SpecError

__all__ = ["hidden_states"]

States = list[NDArray[np.float32]]
"""Of one row, for each layer that was asked for."""


def hidden_states(lm: LanguageModel, rows: Sequence[Row], layers: Sequence[int]) -> list[States]:
    """The hidden state at every token of every row, at some layers.

    Args:
        lm: the model; all of its ranks call with the same rows and layers.
        rows: token ids of each text.
        layers: as transformers counts in ``output_hidden_states``: 0 is what goes into the first block, i what the i-th
            block gives, counting from 1; the last, the number of blocks, is after the final norm where there is one.

    Returns:
        For each row an array for each of `layers`, in their order: ``(len(row), width)``, on every rank; ``(0, 0)`` for
        rows without tokens.

    Raises:
        SpecError: the model has no such layer.
    """
    depth = len(blocks(lm.lm))
    for layer in layers:
        if not 0 <= layer <= depth:
            raise SpecError(f"Session.hidden: layers are 0 (before the first block) to {depth}, got {layer}")
    distinct = list(dict.fromkeys(tuple(row) for row in rows if len(row)))  # as in token_nlls
    # What every block gives is there at once, which is less than a token takes on its way through one.
    batches = batches_of([len(row) for row in distinct], max(1, lm.budget.scoring_tokens // depth), rows=len(rows))

    def look(batch: list[int], _: int) -> list[States]:
        # A rank for which nothing is left makes the same pass, which the head takes no part in: others wait for it.
        chosen = [distinct[i] for i in batch] or [(0,)]
        found = [
            layer.cpu().numpy() for layer in lm("hidden", *to_device(lm.world.device, right_padded(chosen)), layers)
        ]
        return [[layer[at, : len(distinct[i])].copy() for layer in found] for at, i in enumerate(batch)]

    with lm.evaluating():
        known = {distinct[i]: states for i, states in deal_to_ranks(lm.world, batches, look)}
    return [known.get(tuple(row), [np.empty((0, 0), np.float32) for _ in layers]) for row in rows]
