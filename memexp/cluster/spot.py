"""Watches a spot instance of AWS: two minutes before it is taken away its node is drained, its trials save and leave.

    python -m memexp.cluster.spot &        # on a node, beside Ray; cluster.yaml does it on all but the head

Ray itself does not ask. What asks here is the instance's own metadata service (IMDSv2), every five seconds; on an
instance that is not a spot one it says "not found" for ever, which costs nothing.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlsplit

import ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

from memexp.errors import one_line

__all__ = ["drain", "watch"]

SERVICE = "AWS_EC2_METADATA_SERVICE_ENDPOINT"
"""The variable, also boto's, that says where the metadata service is if not where it always is."""
USUAL = "http://169.254.169.254"
EVERY = 5.0
"""Seconds between two questions, as AWS recommends."""
NOTICE = "/latest/meta-data/spot/instance-action"


def watch(drain: Callable[[float], None], every: float = EVERY) -> None:
    """Ask until the instance is to be taken away, then call `drain` with the seconds that are left, and return.

    A service that does not answer is asked again: it may be busy, and where there is none nothing is taken away.
    """
    where = urlsplit(os.environ.get(SERVICE) or USUAL)
    while (left := _left(where.hostname or "", where.port or 80)) is None:
        time.sleep(every)
    drain(left)


def _left(host: str, port: int) -> float | None:
    """Seconds that are left to this instance; None where nothing is said of an end."""
    connection = http.client.HTTPConnection(host, port, timeout=2)
    try:
        connection.request("PUT", "/latest/api/token", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
        token = connection.getresponse().read().decode()
        connection.request("GET", NOTICE, headers={"X-aws-ec2-metadata-token": token})
        answer = connection.getresponse()
        said = answer.read()
        if answer.status != 200:
            return None
        end = datetime.fromisoformat(json.loads(said)["time"])
        return max(0.0, (end - datetime.now(UTC)).total_seconds())
    except (OSError, http.client.HTTPException, ValueError, KeyError):
        return None
    finally:
        connection.close()


def drain(left: float, address: str = "auto", node: str | None = None) -> None:
    """Have Ray start nothing more on a node that has so many seconds left, and tell its trials.

    Args:
        left: seconds.
        address: of the cluster.
        node: its identity; by default the node that this process is on.
    """
    with ray.init(address, logging_level="ERROR", log_to_driver=False, namespace="memexp"):
        context = ray.get_runtime_context()
        reason = DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        end = int(1000 * (time.time() + left))
        client = ray._raylet.GcsClient(address=context.gcs_address)
        taken, why = client.drain_node(node or context.get_node_id(), reason, "the spot instance is taken back", end)
        if not taken:
            print(f"memexp: the node cannot be drained: {one_line(why)}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    watch(drain)
