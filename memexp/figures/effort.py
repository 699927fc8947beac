"""What study cost until a stage: its updates and tokens, added up along the path of stages.

effort = Effort.of_store(store)
updates, tokens = effort.of(stage_id)      # None, None where the store does not know
"""

from __future__ import annotations

from collections.abc import Mapping

from memexp.store import Store
from memexp.store.closed import closed, give

__all__ = ["Effort"]

STUDY = ("study", "restudy", "then")


class Effort:
    """Updates and tokens by stage."""

    def __init__(self, stages: Mapping[str, tuple[str | None, int, int]]) -> None:
        """`stages`: parent, updates and tokens of each; 0 of stages that are no study."""
        self._stages = stages
        self._known: dict[str, tuple[int | None, int | None]] = {}

    @classmethod
    def of_store(cls, store: Store) -> Effort:
        """From the attempts that completed, which ``stages/`` has. Raises StoreError where that cannot be read."""
        datasets = store.datasets("stages") if "stages" in store.kinds() else []
        if not datasets:
            return cls({})
        with closed() as connection:
            rows = give(connection, "stages", datasets)
            found = connection.execute(
                "SELECT stage_id, any_value(parent_id), any_value(kind), coalesce(max(steps), 0), "
                f"coalesce(max(tokens), 0) FROM {rows} WHERE status = 'complete' AND probe_id IS NULL GROUP BY stage_id"
            ).fetchall()
        return cls(
            {
                stage: (parent, *((steps, tokens) if kind in STUDY else (0, 0)))
                for stage, parent, kind, steps, tokens in found
            }
        )

    def path(self, stage: str | None) -> list[str]:
        """The stages that lead to `stage`, itself first, as far as the store knows them."""
        found: list[str] = []
        while stage is not None and stage in self._stages and stage not in found:
            found.append(stage)
            stage = self._stages[stage][0]
        return found

    def of(self, stage: str | None) -> tuple[int | None, int | None]:
        """Updates and tokens of study from the pretrained model to `stage`."""
        path = []
        while stage is not None and stage not in self._known:
            if stage not in self._stages or stage in path:
                return None, None
            path.append(stage)
            stage = self._stages[stage][0]
        updates, tokens = self._known[stage] if stage is not None else (0, 0)
        for one in reversed(path):
            _, own_updates, own_tokens = self._stages[one]
            updates, tokens = (updates or 0) + own_updates, (tokens or 0) + own_tokens
            self._known[one] = updates, tokens
        return updates, tokens
