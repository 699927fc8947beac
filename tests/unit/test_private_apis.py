"""What memexp uses of others though they promise nothing about it: all of it is in one table, with what breaks.

A release that moves something makes a test fail here that says what it was good for; a use that is not in the table
fails too.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import memexp

PACKAGE = Path(memexp.__file__).parent


@dataclass(frozen=True)
class Private:
    """One thing that its owner may move without a word."""

    module: str
    name: str
    """Of an attribute of the module, or of one that an object from there has."""
    users: tuple[str, ...]
    """Modules of memexp."""
    breaks: str
    """What does not work any more where it is gone."""
    look: Callable[[Any], object] | None = None
    """Takes the module and raises AttributeError where the thing is gone; None where it is an attribute of it."""

    def check(self) -> None:
        """Raises AssertionError, which says what breaks."""
        try:
            module = importlib.import_module(self.module)
            self.look(module) if self.look else getattr(module, self.name)
        except (ImportError, AttributeError) as error:
            raise AssertionError(f"{self.module}: {self.name} is gone ({error}): {self.breaks}") from error


_NO_SPACE = "memexp.core.kv_cache cannot give a cache space ahead, and completions copy it for every token"
_NO_STORE = "memexp.core.checkpoint cannot have snapshots written to and read from a store, buckets above all"

TABLE = [
    Private(
        "lm_eval.tasks._yaml_loader",
        "load_yaml",
        ("probes/lm_eval.py", "probes/questions.py"),
        "task files of lm-evaluation-harness cannot be read, for LmEval.include_path, QA and Choice",
    ),
    Private(
        "ray.train.v2._internal.constants",
        "ENV_VARS_TO_PROPAGATE",
        ("cluster/groups.py",),
        "Train's cleaner is not told which of several Rays is ours, and a stopped group keeps its place for ever",
    ),
    Private(
        "ray._private.worker",
        "_worker_logs_enabled",
        ("cluster/connect.py",),
        "Ray prints the end of its own logs several times where one of its servers dies, instead of our one line",
    ),
    Private(
        "transformers",
        "_hf_peft_config_loaded",
        ("core/load.py",),
        "an adapter given as a model is not refused: weights of which the identity knows nothing would be measured",
        lambda module: module.PreTrainedModel._hf_peft_config_loaded,
    ),
    Private(
        "transformers.cache_utils",
        "layers",
        ("core/kv_cache.py",),
        _NO_SPACE,
        lambda module: module.DynamicCache().layers,
    ),
    *(
        Private(
            "transformers.cache_utils",
            name,
            ("core/kv_cache.py",),
            _NO_SPACE,
            lambda module, name=name: getattr(module.DynamicLayer(), name),  # type: ignore[misc] # a default's type
        )
        for name in ("keys", "values", "is_initialized", "get_seq_length", "update")
    ),
    *(
        Private(
            "torch.distributed.checkpoint.filesystem",
            name,
            ("core/checkpoint.py",),
            _NO_STORE,
            lambda module, kind=kind, name=name: getattr(getattr(module, kind)("."), name),  # type: ignore[misc] # likewise
        )
        for kind in ("FileSystemReader", "FileSystemWriter")
        for name in ("fs", "path")
    ),
    Private(
        "torch.distributed.checkpoint.filesystem",
        "FileSystemBase",
        ("core/checkpoint.py",),
        _NO_STORE,
    ),
]


@pytest.mark.parametrize("private", TABLE, ids=lambda one: f"{one.module}:{one.name}")
def test_it_is_where_it_was(private: Private) -> None:
    private.check()


@pytest.mark.parametrize("private", TABLE, ids=lambda one: f"{one.module}:{one.name}")
def test_it_is_still_used(private: Private) -> None:
    for user in private.users:
        assert private.name in (PACKAGE / user).read_text(encoding="utf-8"), f"{user} uses it no more"


@pytest.mark.parametrize(
    "private",
    [
        Private("memexp._nowhere", "x", (), "nothing goes"),
        Private("ast", "_nothing", (), "nothing goes"),
        Private("ast", "_nothing", (), "nothing goes", lambda module: module.AST()._nothing),
    ],
)
def test_what_is_gone_is_named_with_what_breaks(private: Private) -> None:
    with pytest.raises(AssertionError, match=r"is gone \(.*\): nothing goes$"):
        private.check()


# What is used


PUBLIC = {"_asdict", "_replace", "_fields", "_make"}
"""Of named tuples, documented."""


def uses(source: str, inherited: frozenset[str] = frozenset()) -> set[str]:
    """The private names of third parties in a module: in full where it shows whose they are, else the last part.

    They are found in imports, in attributes of what was imported, also under another name (``x = ray._private``), and
    in attributes of any other object that the module does not set itself; `inherited` are those that ``self`` may have
    from elsewhere in memexp.
    """
    tree = ast.parse(source)
    imported = dict(_imported(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            chain = _chain(node.value, imported)
            if chain is not None:
                imported.setdefault(node.targets[0].id, chain)
    own = set(_own(tree))
    found = {name for name in imported.values() if _private(name)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            chain = _chain(node, imported)
            known = own | inherited if ast.unparse(node.value) == "self" else own
            if chain is None and node.attr not in known:
                chain = node.attr
            found |= {chain} if chain and _private(chain) else set()
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr"):
            name = node.args[1]
            if isinstance(name, ast.Constant) and _private(str(name.value)) and name.value not in own:
                found.add(str(name.value))
    return found


def _imported(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Names in the module and what they stand for."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top = alias.name.partition(".")[0]
                yield alias.asname or top, alias.name if alias.asname else top
                yield f"import {alias.name}", alias.name  # under no name of its own
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _chain(node: ast.AST, imported: dict[str, str]) -> str | None:
    """``ray.train.x`` in full, where it begins with what was imported."""
    if isinstance(node, ast.Name):
        return imported.get(node.id)
    if isinstance(node, ast.Attribute) and (before := _chain(node.value, imported)):
        return f"{before}.{node.attr}"
    return None


def _own(tree: ast.AST) -> Iterator[str]:
    """What the module itself defines or sets, on whatever object."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            yield node.attr


def _private(name: str) -> bool:
    top, *_ = parts = name.split(".")
    if top in sys.stdlib_module_names or top == "memexp":
        return False
    return any(part.startswith("_") and not part.endswith("__") and part not in PUBLIC for part in parts)


def unlisted(source: str, inherited: frozenset[str] = frozenset()) -> set[str]:
    """Private names in a module that are not in the table."""
    return {name for name in uses(source, inherited) if not any(_listed(name, one) for one in TABLE)}


def _listed(name: str, one: Private) -> bool:
    """Whether a use is that of the table, on the way to it, or of something public on it."""
    full = f"{one.module}.{one.name}"
    beyond = name.removeprefix(f"{full}.")
    return name == one.name or f"{full}.".startswith(f"{name}.") or (beyond != name and not _private(beyond))


FILES = {file: file.read_text(encoding="utf-8") for file in sorted(PACKAGE.rglob("*.py"))}
OURS = frozenset(name for source in FILES.values() for name in _own(ast.parse(source)))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_all_that_is_used_is_in_the_table(file: Path) -> None:
    assert unlisted(FILES[file], OURS) == set()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from torch._inductor import config", {"torch._inductor.config"}),
        ("from torch import _inductor", {"torch._inductor"}),
        ("def f():\n    import torch._inductor.config", {"torch._inductor.config"}),
        ("import torch._inductor as inductor", {"torch._inductor"}),
        ("import torch\ntorch._dynamo.reset()", {"torch._dynamo", "torch._dynamo.reset"}),
        ("import torch as t\nt._foreach_add(x, y)", {"torch._foreach_add"}),
        ("from ray import tune\nd = tune._x\nd.y._z = 1", {"ray.tune._x", "ray.tune._x.y", "ray.tune._x.y._z"}),
        ("def f(model):\n    return model._tied", {"_tied"}),
        ("def f(model):\n    return getattr(model, '_tied', None)", {"_tied"}),
        ("from ray._private import worker\nworker._worker_logs_enabled", set()),  # in the table
        ("from ray._private import node", {"ray._private.node"}),  # a neighbour of it is not
        (
            "import ray\nray._private.worker._worker_logs_enabled._more",
            {"ray._private.worker._worker_logs_enabled._more"},
        ),
        ("import os, _thread\nos._exit(1)\n_thread.interrupt_main()", set()),
        ("from memexp.core import model\nmodel._of_ours", set()),
        ("class A:\n    def __init__(self):\n        self._x = self._y()\n    def _y(self): ...\n", set()),
        ("class A(Base):\n    def f(self):\n        return self._theirs", {"_theirs"}),
        ("def f(row):\n    return row._asdict(), row.__class__", set()),
    ],
)
def test_the_check_catches_and_lets_pass(source: str, found: set[str]) -> None:
    assert unlisted(source) == found
