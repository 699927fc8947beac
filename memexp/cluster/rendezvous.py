"""Where the workers of a group meet: torch's store and gloo, at the address of their node instead of at all there are.

    TorchTrainer(..., torch_config=AtNode())

Neither asks for a token. On a cluster of this machine alone that address is the loopback, which others cannot reach; on
a cluster it is the one that its nodes reach each other by, and a firewall has to stand before it.
"""

from __future__ import annotations

import importlib
import ipaddress
import os
import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import psutil
import ray.util
from ray.train.torch import TorchConfig
from ray.train.torch.config import _TorchBackend

__all__ = ["AtNode", "listen_at_node"]


class AtNode(TorchConfig):  # type: ignore[misc] # untyped
    """Ray Train's process group, met at the node's own address."""

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc] # untyped
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        worker_group.execute(listen_at_node)
        super().on_start(worker_group, backend_config)


def listen_at_node() -> None:
    """Have the process group that this worker is about to join listen at its node's address only."""
    address = ray.util.get_node_ip_address()
    addresses = psutil.net_if_addrs().items()
    for name in [name for name, found in addresses if any(one.address == address for one in found)][:1]:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
        if ipaddress.ip_address(address).is_loopback:
            os.environ.setdefault("NCCL_SOCKET_IFNAME", name)
    _RENDEZVOUS._create_c10d_store = _create_store


# Under that name torch.distributed itself has a function.
_RENDEZVOUS: Any = importlib.import_module("torch.distributed.rendezvous")
_elsewhere: Callable[..., Any] = _RENDEZVOUS._create_c10d_store


def _create_store(
    hostname: str, port: int, rank: int, world_size: int, timeout: timedelta, use_libuv: bool = True
) -> Any:
    """As torch does it, but that the first worker's listens at `hostname` alone."""
    if rank:
        return _elsewhere(hostname, port, rank, world_size, timeout, use_libuv)
    family = socket.AF_INET6 if ":" in hostname else socket.AF_INET
    listening = socket.create_server((hostname, port), family=family, backlog=2048)
    return _RENDEZVOUS.TCPStore(
        hostname,
        port,
        world_size,
        is_master=True,
        timeout=timeout,
        multi_tenant=True,
        master_listen_fd=listening.detach(),
        use_libuv=use_libuv,
    )
