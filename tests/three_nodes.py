"""A cluster of three nodes and an S3 bucket that all of them reach, on this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence

import boto3
import pytest
from ray._private.authentication import authentication_token_setup
from ray.cluster_utils import Cluster
from ray.experimental import internal_kv
from s3_server import s3_server

from memexp.cluster.connect import DRIVER

__all__ = ["a_bucket", "guarded_cluster", "three_nodes"]


@contextlib.contextmanager
def a_bucket(name: str, host: str = "127.0.0.1") -> Iterator[str]:
    """The address of an S3 bucket at `host`, which this process and those that it starts know how to reach."""
    settings = {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    with s3_server(host) as endpoint, pytest.MonkeyPatch.context() as patch:
        for variable, value in {"AWS_ENDPOINT_URL": endpoint, **settings}.items():
            patch.setenv(variable, value)
        boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket=name)
        yield f"s3://{name}"


@contextlib.contextmanager
def three_nodes(environment: Mapping[str, str] | None = None) -> Iterator[Cluster]:
    """A cluster that wants a token: a head that holds only drivers and two nodes of one CPU; this process is no part.

    Of where the bucket is and how it is reached its nodes know nothing: that has to come from who starts a sweep.

    `environment`: variables for its servers.
    """
    with guarded_cluster([0, 1, 1], environment) as cluster:
        yield cluster


@contextlib.contextmanager
def guarded_cluster(
    cpus: Sequence[int], environment: Mapping[str, str] | None = None, **more: object
) -> Iterator[Cluster]:
    """A cluster that wants a token, of a head and other nodes with so many CPUs; see `three_nodes`.

    `more`: what else Ray is told of the head.
    """
    ours = internal_kv.global_gcs_client
    # Port None: the next free one, since another cluster of this machine may have the usual one.
    free = {"dashboard_port": None, "dashboard_agent_listen_port": None}
    head = {"num_cpus": cpus[0], "resources": {DRIVER: 10}, "include_dashboard": True, **free, **more}
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"RAY_AUTH_MODE": "token", **(environment or {})}.items():
            patch.setenv(variable, value)
        # As `ray.init("local")` does it: a process has one token, and reads the mode once.
        authentication_token_setup._enable_token_auth()
        authentication_token_setup.ensure_token_if_auth_enabled(create_token_if_missing=True)
        with pytest.MonkeyPatch.context() as unknown:
            for variable in [variable for variable in os.environ if variable.startswith("AWS_")]:
                unknown.delenv(variable)
            cluster = Cluster(initialize_head=True, connect=False, head_node_args=head)
            for count in cpus[1:]:
                cluster.add_node(num_cpus=count)
        try:
            yield cluster
        finally:
            cluster.shutdown()
            if ours is not None:  # of the cluster that this process is connected to, which is forgotten with that one's
                internal_kv._initialize_internal_kv(ours)
