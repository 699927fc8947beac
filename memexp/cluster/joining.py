"""Starting Ray on this machine, or joining a cluster that is there; a line where neither can be done.

with joined("local", sharded=False):
    ray.nodes()
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import ray
from ray.exceptions import AuthenticationError

from memexp.cluster import environment
from memexp.cluster.servers import Servers, answers, watched
from memexp.errors import ClusterError, one_line

__all__ = ["DRIVER", "DRIVERS", "TOKEN", "joined"]

DRIVER = "memexp_driver"
"""Custom resource that a driver of a worker group holds instead of a CPU: on a small machine that CPU would be the one
its workers wait for. Declared by `joined` on a local cluster and by cluster.yaml on a head node."""
DRIVERS = 1_000
TOKEN = (
    "set RAY_AUTH_MODE=token here, and RAY_AUTH_TOKEN or ~/.ray/auth_token to what its head has (`ray get-auth-token` "
    "there)"
)
"""What to do where a cluster wants its token."""

VARIABLES = {
    # Threads that spin while they wait cost other trials on the same cores up to four times their speed.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    # A process that is to be reused has to let go of its last trial: of gigabytes, on a busy machine. Tune allows it
    # two seconds and counts the next trial as failed.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "600",
    "PL_DISABLE_FORK": "1",  # what Tune has its trials know, for Lightning in a probe; see `experiment`
}
"""Of every process that Ray starts for a sweep."""

UNUSED = ("start_monitor", "start_log_monitor", "start_api_server")
"""Methods of Ray's that start what trials of one worker on this machine have no use for: the autoscaler, what passes on
lines that workers print, and the dashboard, of which Ray starts a part where it was told to do without."""


@contextlib.contextmanager
def joined(address: str, sharded: bool) -> Iterator[None]:
    """Connected for the time of the context.

    Args:
        address: ``local``, ``auto`` or ``host:port``.
        sharded: whether there will be worker groups.

    Raises:
        ClusterError: Ray does not start, there is no such cluster or it lets nobody in without its token; or, later,
            a server died that nothing goes on without.
    """
    _check(address)
    with watched() as servers:
        with _without_handlers():
            _init(address, sharded)
        _watch(servers, address)
        yield


def _check(address: str) -> None:
    """Refuse at once what Ray itself would take for something else, or knock at for minutes."""
    scheme, separator, _ = address.partition("://")
    if separator:
        how = {
            "ray": "this is Ray Client, which sweeps cannot use",
            "http": "this is the address of Ray's dashboard, for `ray job submit`",
        }
        why = how.get("http" if scheme == "https" else scheme, "no address of a Ray cluster begins so")
        raise ClusterError(
            f"{address}: {why}: on a machine of the cluster give --address auto, elsewhere in its network the "
            "host:port of its head, 6379 by default"
        )
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit():
        why_not = answers(host.strip("[]"), int(port), timeout=10)
        if why_not is not None:
            raise ClusterError(f"no Ray cluster answers at {address}: {why_not}")


def _init(address: str, sharded: bool) -> None:
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    runtime = {"env_vars": VARIABLES, "worker_process_setup_hook": environment.HOOK}
    try:
        if address != "local":
            ray.init(address, runtime_env=runtime, **quiet)
        elif sharded:
            # Where Tune may stop a nested Train trial its cleaner asks the dashboard; without one the next trial hangs.
            with _on_loopback():
                ray.init("local", resources={DRIVER: DRIVERS}, include_dashboard=True, runtime_env=runtime, **quiet)
        else:
            # Workers inherit all that this process knows. Without a runtime environment trials begin in the processes
            # that Ray starts ahead of them; with one these stay idle, and others are started when trials ask for them.
            with _on_loopback(), _without_unused(), _with_variables():
                ray.init("local", resources={DRIVER: DRIVERS}, include_dashboard=False, **quiet)
    except Exception as error:  # Ray raises plain ones, for what went wrong in one of its servers too
        raise ClusterError(_why(error, address)) from error


@contextlib.contextmanager
def _with_variables() -> Iterator[None]:
    """While the context lasts, what this process starts inherits `VARIABLES`."""
    before = {name: os.environ.get(name) for name in VARIABLES}
    os.environ.update(VARIABLES)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_unused() -> Iterator[None]:
    """While the context lasts, Ray starts without what is `UNUSED`, which `ray.init` has no options for."""
    node = ray._private.node.Node
    before = {name: getattr(node, name) for name in UNUSED}
    for name in UNUSED:
        setattr(node, name, lambda self, **_: None)
    try:
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Have a cluster of this machine alone listen to this machine alone: Ray does so by itself on macOS and Windows."""
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _without_handlers() -> Iterator[None]:
    """Ray sets no handler of SIGTERM while the context lasts: one would leave without a word, one print a page."""
    helpers, constants = ray._private.utils, ray._private.ray_constants
    set_handler, helpers.set_sigterm_handler = helpers.set_sigterm_handler, lambda handler: None
    disabled, constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER, True
    try:
        yield
    finally:
        helpers.set_sigterm_handler = set_handler
        constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = disabled


def _why(error: Exception, address: str) -> str:
    """What an error of `ray.init` comes to."""
    refusal = next((str(one) for one in _chain(error) if isinstance(one, AuthenticationError)), None)
    if refusal is not None:
        wants = "another token" if os.environ.get("RAY_AUTH_MODE") == "token" else "RAY_AUTH_MODE=token and its token"
        if "no authentication token was found" in refusal:
            wants = "its token"
        return f"the Ray cluster at {address} wants {wants}: {TOKEN}"
    if address == "local":
        return f"Ray did not start: {one_line(error, 200)}; the same command tries again"
    return f"no Ray cluster at {address!r}: {one_line(error, 200)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _watch(servers: Servers, address: str) -> None:
    if address == "local":
        servers.settle()
        return
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    own = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == own]
    servers.join(head=(host.strip("[]"), int(port)), raylet=(node["NodeManagerAddress"], node["NodeManagerPort"]))
