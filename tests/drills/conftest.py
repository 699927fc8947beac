"""The grid that drills of whole sweeps disturb, and at the end of all of them what recoveries took."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from drills.strikes import FILES, RECOVERIES, WITHOUT_RAY, finish, grid
from support import data

LONG = ("drain", "network", "trouble", "kill", "node", "search", "size", "placement", "slurm", "installed")
"""What the files are about whose drills take a minute or more each."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: of two processes that take one after the other, none is then left alone with a long one."""
    items.sort(key=lambda item: not item.path.stem.removeprefix("test_").startswith(LONG))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the grid's lists are: rows name their corpus by its path."""
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="session")
def undisturbed(folder: Path) -> dict[str, pa.Table]:
    """What the grid leaves where nothing happens, no snapshot is made, and there is no Ray either."""
    store = folder / "undisturbed"
    assert finish(grid(folder, snapshots=None), store, where=WITHOUT_RAY) == (0, FILES)
    return data(store)


@pytest.fixture(scope="session")
def script(folder: Path, undisturbed: dict[str, pa.Table]) -> Path:
    """The grid with snapshots: to be disturbed."""
    return grid(folder)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process that pytest-xdist started leaves its recoveries to the one that started it."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["recoveries"] = RECOVERIES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    RECOVERIES.extend(map(tuple, getattr(node, "workeroutput", {}).get("recoveries", [])))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RECOVERIES:
        terminalreporter.section("recoveries: seconds from the second command")
    for after, first, whole in RECOVERIES:
        terminalreporter.write_line(f"{first:6.1f} to its first new result, {whole:6.1f} to its end: after {after}")
