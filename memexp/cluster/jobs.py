"""Sweeps that a cluster executes by itself, as jobs of Ray: submitted, looked at and stopped from anywhere.

jobs = Jobs("http://127.0.0.1:8265")
name = jobs.submit("quickstart", ["memexp", "run", "quickstart.py"], folder)
for text in jobs.log(name, follow=True):
    print(text, end="")
jobs.stop(name)
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import shlex
import time
import urllib.parse
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from memexp.cluster.joining import TOKEN
from memexp.cluster.servers import answers
from memexp.errors import ClusterError, one_line

__all__ = ["ADDRESS", "Jobs"]

ADDRESS = "http://127.0.0.1:8265"
"""Where ``ray dashboard cluster.yaml`` brings a head's dashboard, and where it is on the head itself."""
SWEEP = "memexp-sweep"
"""What a job of ours is known by."""
WITHIN = 60
"""Seconds that a sweep has to end in where it is stopped; Ray's own way is three."""
EVERY = 1.0
"""Seconds between two looks at a job."""
TALKATIVE = ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging")
"""What tells of packing in lines of its own."""


class Jobs:
    """The jobs of one cluster."""

    def __init__(self, address: str | None = None) -> None:
        """The cluster whose dashboard is at `address`, else RAY_API_SERVER_ADDRESS, else `ADDRESS`.

        Raises ClusterError where nobody answers there, or lets nobody in without its token.
        """
        self.address = (address or os.environ.get("RAY_API_SERVER_ADDRESS") or ADDRESS).rstrip("/")
        if not re.match("https?://", self.address):
            raise ClusterError(
                f"{self.address}: jobs are submitted to a dashboard, such as {ADDRESS}, to which "
                "`ray dashboard cluster.yaml` opens the way"
            )
        url = urllib.parse.urlsplit(self.address)
        port = url.port or (443 if url.scheme == "https" else 80)
        if (why_not := answers(url.hostname or "", port, timeout=10)) is not None:
            raise ClusterError(f"{self._silent}: {why_not}")
        for logger in TALKATIVE:
            logging.getLogger(logger).setLevel(logging.ERROR)
        with self._told(), _alone():
            self._client = JobSubmissionClient(self.address)

    def submit(self, sweep: str, command: Sequence[str], folder: Path) -> str:
        """Have the head execute a command in a copy of a folder; returns the job's name.

        Args:
            sweep: the name of the sweep.
            command: what is executed.
            folder: what travels.
        """
        name = f"{re.sub('[^A-Za-z0-9_.-]+', '-', sweep)[:60]}-{uuid.uuid4().hex[:6]}"
        runtime = {
            "working_dir": str(folder),
            "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": str(WITHIN), "PYTHONUNBUFFERED": "1"},
        }
        end = time.monotonic() + WITHIN
        with self._told():
            while True:
                try:
                    self._client.submit_job(
                        entrypoint=shlex.join(command),
                        submission_id=name,
                        runtime_env=runtime,
                        metadata={SWEEP: sweep},
                    )
                    return name
                except RuntimeError as error:  # a head says so for seconds after its start
                    if "No available agent" not in str(error) or time.monotonic() > end:
                        raise
                time.sleep(EVERY)

    def running(self) -> list[str]:
        """The names of the sweeps that are not over, the latest last."""
        with self._told():
            found = [job for job in self._client.list_jobs() if SWEEP in (job.metadata or {})]
        left = [job for job in found if not job.status.is_terminal()]
        return [str(job.submission_id) for job in sorted(left, key=lambda job: job.start_time or 0)]

    def the(self, name: str | None) -> str:
        """`name`, or the only one that runs. Raises ClusterError where that is not one, or there is no such job."""
        if name is None:
            names = self.running()
            if len(names) != 1:
                there = f"name one of {', '.join(names)}" if names else "no sweep that was submitted runs there"
                raise ClusterError(f"{self.address}: {there}")
            return names[0]
        self._info(name)
        return name

    def log(self, name: str, follow: bool = False) -> Iterator[str]:
        """What the sweep's driver has said, in pieces; with `follow` until it is over."""
        said = 0
        while True:
            over = self._info(name).status.is_terminal()  # asked first, so that nothing comes after the last look
            with self._told():
                text = self._client.get_job_logs(name)
            yield text[said:]
            said = len(text)
            if over or not follow:
                return
            time.sleep(EVERY)

    def stop(self, name: str) -> str:
        """End a job, and wait until it is over; returns in a word how it ended. Raises ClusterError if it does not."""
        with self._told():
            self._client.stop_job(name)
        end = time.monotonic() + 2 * WITHIN  # Ray kills what has not ended `WITHIN`
        while not (status := self._info(name).status).is_terminal():
            if time.monotonic() > end:
                raise ClusterError(
                    f"{self.address}: {name} was told to stop and has not; the same command tells it again"
                )
            time.sleep(EVERY)
        return str(status.value).lower()

    def ended(self, name: str) -> tuple[bool, str]:
        """Whether a job that is over did all it should, and what Ray says of it."""
        found = self._info(name)
        return found.status == JobStatus.SUCCEEDED, " ".join(str(found.message or found.status.value).split())

    @property
    def _silent(self) -> str:
        return f"no Ray dashboard answers at {self.address} (`ray dashboard cluster.yaml` opens the way to one)"

    def _info(self, name: str) -> Any:
        with self._told():
            try:
                return self._client.get_job_info(name)
            except RuntimeError as error:
                if "404" not in str(error) and "does not exist" not in str(error):
                    raise
        names = self.running()
        raise ClusterError(
            f"{self.address}: no job {name!r}; " + (f"there run {', '.join(names)}" if names else "none runs there")
        )

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """What goes wrong on the way is a ClusterError of one line."""
        try:
            yield
        except ClusterError:
            raise
        except AuthenticationError as error:
            raise ClusterError(f"{self.address} wants {'another' if _has_token() else 'a'} token: {TOKEN}") from error
        except OSError as error:  # of sockets, and of the library that asks
            raise ClusterError(self._silent) from error
        except (RuntimeError, ValueError) as error:  # as Ray raises what a head answers
            raise ClusterError(f"{self.address}: {one_line(error, 300)}") from error


def _has_token() -> bool:
    given = os.environ.get("RAY_AUTH_TOKEN") or Path("~/.ray/auth_token").expanduser().exists()
    return os.environ.get("RAY_AUTH_MODE") == "token" and bool(given)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """While the context lasts no variable says where the cluster is: Ray's client heeds them before its argument."""
    before = {name: os.environ.pop(name, None) for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")}
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
