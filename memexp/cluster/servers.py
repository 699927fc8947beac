"""The servers that a connection to Ray cannot do without, watched from before it starts until it is over.

    with watched() as servers:
        ray.init("local")       # ClusterError within a second where one that it started dies, also on the way
        servers.settle()        # those of this machine; join(...) for a cluster that others started

Ray by itself prints the end of its log several times, and after some ten seconds ends this process from below.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import psutil
import ray

from memexp.errors import ClusterError, MemexpError
from memexp.plan.heartbeat import tidy_up
from memexp.signals import asked, interrupt_main, status, stopped_by

__all__ = ["Servers", "answers", "watched"]

SERVERS = ("raylet", "gcs_server")
"""What a local cluster cannot do without."""
LOOK_EVERY = 0.2
"""Seconds between two looks at them: Ray itself takes two to notice."""
KNOCK_EVERY = 1.0
"""Seconds between two looks at those of a cluster that was joined: each is a connection."""
PATIENCE = {"head": 20.0, "raylet": 1.0}
"""Seconds that a server of a joined cluster may be silent: a head may be restarted, or a network be cut. Ray gives up
after sixty, and ends this process without a word of ours."""

STARTS_WITHIN = 120.0
"""Seconds in which there has to be a connection: Ray waits for a server that hangs as long as that does."""

GRACE = 4.0
"""Seconds that what is under way has to end when one of them is dead."""


@dataclass
class Servers:
    """Which servers are watched."""

    children: dict[int, tuple[str, psutil.Process]] = field(default_factory=dict)
    """Those that this process started, by their id."""
    began: float = field(default_factory=time.monotonic)
    """When the connection began to be made."""
    starting: bool = True
    """Whether more of them are to come."""
    addresses: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Where those of a cluster listen that was joined."""
    silent: dict[str, float] = field(default_factory=dict)
    """Since when one of these has not answered."""

    def settle(self) -> None:
        """There are as many as there will be."""
        self._find()
        self.starting = False

    def join(self, **addresses: tuple[str, int]) -> None:
        """There are none here, but the head and the raylet of a cluster that others have started."""
        self.starting, self.addresses = False, addresses

    @property
    def every(self) -> float:
        """Seconds between two looks."""
        return KNOCK_EVERY if self.addresses else LOOK_EVERY

    def dead(self) -> str | None:
        """A line where one is dead."""
        if self.starting:
            self._find()
            if time.monotonic() - self.began > STARTS_WITHIN:
                return f"Ray does not answer within {STARTS_WITHIN:.0f} seconds; the same command tries again"
        now, gone = time.monotonic(), dict(self._gone())
        self.silent = {name: self.silent.get(name, now) for name in gone}
        late = (why for name, why in gone.items() if now - self.silent[name] >= PATIENCE.get(name, 0))
        return next(late, None)

    def gone(self) -> list[str]:
        """A line for each that is not there now, though it may come back."""
        return [why for _, why in self._gone()]

    def _gone(self) -> Iterator[tuple[str, str]]:
        for name, child in self.children.values():
            if not _lives(child):
                yield f"own {name}", f"Ray's {name} died (killed, or out of memory); the same command goes on"
        for name, (host, port) in self.addresses.items():
            if answers(host, port, timeout=5) is not None:
                why = f"the Ray cluster is gone: its {name} at {host}:{port} does not answer any more"
                yield name, f"{why}; once it is back the same command goes on"

    def _find(self) -> None:
        for child in psutil.Process().children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if child.name() in SERVERS:
                    self.children.setdefault(child.pid, (child.name(), child))


def answers(host: str, port: int, timeout: float) -> str | None:
    """None where somebody listens there, else why not."""
    try:
        socket.create_connection((host, port), timeout=timeout).close()
        return None
    except OSError as error:
        return error.strerror or str(error)


@contextlib.contextmanager
def watched() -> Iterator[Servers]:
    """A connection that ends with the context, and at once, with a line, where a server dies."""
    printer = ray._private.worker
    printed, printer._worker_logs_enabled = printer._worker_logs_enabled, False
    watch = _Watch()
    watch.start()
    try:
        try:
            yield watch.servers
        finally:
            watch.end()
    except BaseException as error:
        if not isinstance(error, MemexpError | KeyboardInterrupt):
            watch.look_once_more()
        if watch.dead and asked() is None:  # a closed terminal takes the servers with it
            raise ClusterError(watch.dead[0]) from None
        raise
    finally:
        if not watch.dead:
            watch.over.set()
        ray.shutdown()
        watch.over.set()
        watch.thread.join()
        printer._worker_logs_enabled = printed


class _Watch:
    """The thread that looks at the servers."""

    def __init__(self) -> None:
        self.servers = Servers()
        self.dead: list[str] = []
        """A line, where one of them is."""
        self.over = threading.Event()
        """Whether the connection is, also its end."""
        self._ended, self._turn = threading.Event(), threading.Lock()
        self.thread = threading.Thread(target=self._look, daemon=True, name="memexp-servers")
        self.start = self.thread.start

    def end(self) -> None:
        """From here on the main thread is not interrupted."""
        with self._turn:
            self._ended.set()

    def look_once_more(self) -> None:
        """After an error: what a call to the dead raises may come before the thread has seen it."""
        if not self.dead:
            self.dead.extend(self.servers.gone())
            if self.dead:
                threading.Thread(target=self._wait, daemon=True).start()

    def _look(self) -> None:
        while not self._ended.wait(self.servers.every):
            why = self.servers.dead()
            with self._turn:
                if why is None or self._ended.is_set():
                    continue
                self.dead.append(why)
                interrupt_main()
            return self._wait()

    def _wait(self) -> None:
        if not self.over.wait(GRACE):  # the main thread waits for the dead
            _leave(self.dead[0])


def _leave(why: str) -> None:
    """End this process, which waits for the dead, with a line and without leaving a sign of life."""
    tidy = threading.Thread(target=tidy_up, daemon=True)
    tidy.start()
    tidy.join(GRACE)
    with contextlib.suppress(OSError):  # nobody listens
        print(f"memexp: {why}" if asked() is None else f"stopped by {stopped_by()}", file=sys.stderr, flush=True)
    os._exit(2 if asked() is None else status())


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)  # a child, whom nobody may have waited for yet
    except psutil.NoSuchProcess:
        return False
