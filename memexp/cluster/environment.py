"""What the driver's shell knows of storage, hub and credentials reaches the workers, by a way that is not logged.

    with shared():     # in the driver, while it is connected
    take()             # in a worker, before anything is imported that reads such variables

Ray's own way, the runtime environment, is written to logs that everyone on a node may read. This one is the
`noticeboard`. `HOOK` has every process that Ray starts for the sweep take them first, those of Ray Tune and Ray Train
included. On a Ray of this machine that was started without a runtime environment workers inherit them.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator

from memexp.cluster.noticeboard import found, left

__all__ = ["HOOK", "settings", "shared", "take"]

HOOK = "memexp.cluster.environment.take"
"""For a runtime environment's ``worker_process_setup_hook``."""

PREFIXES = ("AWS_", "AZURE_", "GOOGLE_", "HF_", "HUGGINGFACE_", "HUGGING_FACE_", "MEMEXP_", "TRANSFORMERS_")
"""Of the variables that travel. One that the driver's shell has not got stays what it is on a node."""

NOTICE = "environment"


def settings() -> dict[str, str]:
    """The variables of this process that are to be the same in its workers."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIXES)}


@contextlib.contextmanager
def shared() -> Iterator[None]:
    """While the context lasts, the settings of this process are where the workers of its Ray job find them."""
    with left(NOTICE, json.dumps(settings()).encode()):
        yield


def take() -> None:
    """Make the driver's settings those of this process, where it has left any."""
    shared = found(NOTICE)
    if shared is not None:
        os.environ.update(json.loads(shared))
