"""Which sockets a process and its descendants listen at, and who gets an answer there without a token."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import grpc
import psutil

__all__ = ["HEALTH", "Listening", "answers", "listening"]

METHODS = (
    "/ray.rpc.NodeInfoGcsService/CheckAlive",
    "/ray.rpc.NodeManagerService/GetSystemConfig",
    "/ray.rpc.ObjectManagerService/Pull",
    "/ray.rpc.CoreWorkerService/GetCoreWorkerStats",
    "/ray.rpc.ReporterService/HealthCheck",
)
"""One of each of Ray's services: a server refuses who has no token only where it knows the method."""
HEALTH = "/grpc.health.v1.Health/Check"
PATIENCE = 5.0
"""Seconds for an answer."""


@dataclass(frozen=True)
class Listening:
    """A socket that listens."""

    process: str
    address: str
    port: int

    @property
    def private(self) -> bool:
        """Whether other machines cannot reach it."""
        return ip_address(self.address.removeprefix("::ffff:")).is_loopback


def listening(process: psutil.Process) -> Iterator[Listening]:
    """The TCP sockets that a process and its descendants listen at."""
    for one in [process, *process.children(recursive=True)]:
        try:
            for connection in one.net_connections("tcp"):
                if connection.status == psutil.CONN_LISTEN:
                    yield Listening(one.name(), connection.laddr.ip, connection.laddr.port)
        except psutil.Error:  # has ended meanwhile
            continue


def answers(host: str, port: int) -> set[str]:
    """What a socket says to who has no token: ``refused``, and whatever it answers; nothing in a tongue of its own."""
    found = set(_grpc(host, port))
    return found or set(_http(host, port))


def _grpc(host: str, port: int) -> Iterator[str]:
    with grpc.insecure_channel(f"{host}:{port}") as channel:
        for method in (*METHODS, HEALTH):
            try:
                channel.unary_unary(method)(b"", timeout=PATIENCE)
                yield method
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAUTHENTICATED:
                    yield "refused"
                elif error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                    return


def _http(host: str, port: int) -> Iterator[str]:
    connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        text = answer.read(7)
    except (OSError, http.client.HTTPException):
        return
    finally:
        connection.close()
    if answer.status in (401, 403):
        yield "refused"
    else:
        yield "metrics" if text == b"# HELP " else f"HTTP {answer.status}"
