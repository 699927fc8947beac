"""Processes that Ray's memory monitor killed: told in a line, and so that Tune can take it.

    why = killed_for_memory(error)     # None where an error tells of something else

Above a share of a node's memory (RAY_memory_usage_threshold, .95) the monitor kills workers there, the latest first,
until enough is free: several at once, and not always the one that took it. Tune knows actors that died and tasks that
raised; a worker killed so is neither to it, and ends the experiment with everything in it. On import it is told that an
actor died, which is not to be started again beside others.
"""

from __future__ import annotations

import functools
import re
from typing import Any

from ray.air.execution._internal.actor_manager import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial

from memexp.errors import one_line

__all__ = ["MEMORY", "killed_for_memory"]

MEMORY = "killed by Ray's memory monitor"
"""What every line begins with that tells of it."""

_KILLED = re.compile(r"(\d+) worker\(s\) were killed due to the node running low on memory")
_NODE = re.compile(r"on the node \(IP: ([^,]+),.*?was ([\d.]+GB) used / ([\d.]+GB) limit")
_THRESHOLD = re.compile(r"exceeded threshold of \d+B \(([\d.]+%)")
_WORKER = re.compile(r"Selected to kill: .*?actual memory used=([\d.]+GB)")


def killed_for_memory(error: BaseException | str) -> str | None:
    """What an error, or its text, says of workers that were killed so, in a line; None where it says nothing of it."""
    text = str(error)
    if text.startswith(MEMORY):
        return text
    count = _KILLED.search(text)
    if count is None:
        return f"{MEMORY}: {one_line(error, 200)}" if isinstance(error, OutOfMemoryError) else None
    node, threshold, taken = _NODE.search(text), _THRESHOLD.search(text), _WORKER.findall(text)
    parts = [f"{node[2]} of {node[3]} were in use on node {node[1]}"] if node else []
    if threshold:
        parts.append(f"{threshold[1]} may be")
    if taken:
        parts.append(f"{' and '.join(dict.fromkeys(taken))} by {'what was' if count[1] == '1' else 'those'} killed")
    return f"{MEMORY}: {', '.join(parts) or one_line(text, 200)}"


class _KilledForMemory(RayActorError):  # type: ignore[misc] # untyped
    """An actor that the monitor killed."""


_failed, _handled = RayActorManager._actor_task_failed, TuneTrial.handle_error


@functools.wraps(_failed)
def _actor_task_failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
    if isinstance(exception, RayError) and not isinstance(exception, (RayActorError, RayTaskError)):
        why = killed_for_memory(exception)
        # Of whatever else Ray has that is neither, the actor is of no use any more either.
        exception = _KilledForMemory(error_msg=why) if why else RayActorError(error_msg=one_line(exception, 200))
    _failed(self, tracked_actor_task, exception)


@functools.wraps(_handled)
def _handle_error(self: TuneTrial, exc: Exception | None = None) -> None:
    why = killed_for_memory(exc) if exc is not None else None
    if why is not None:  # also while it was being started, of which no task tells
        self.max_failures = 0  # `memexp.plan.retries` has it tried again, with nothing beside it
        exc = exc if isinstance(exc, _KilledForMemory) else _KilledForMemory(error_msg=why)
    _handled(self, exc)


RayActorManager._actor_task_failed = _actor_task_failed
TuneTrial.handle_error = _handle_error
