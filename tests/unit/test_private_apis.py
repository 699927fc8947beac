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
_NO_PARTS = "a rank cannot keep its rows alone of weights that are drawn, and each would hold the whole model"

TABLE = [
    Private(
        "torch._subclasses.fake_tensor",
        "FakeTensorMode",
        ("core/footprint.py",),
        "a plan cannot count what a token costs in training",
    ),
    Private(
        "torch",
        "_cdata",
        ("core/footprint.py",),
        "a plan counts a tensor that is kept twice as two",
        lambda module: module.zeros(1).untyped_storage()._cdata,
    ),
    Private(
        "ray.air.execution._internal.actor_manager",
        "RayActorManager._actor_task_failed",
        ("cluster/deaths.py",),
        "a worker that Ray's memory monitor kills ends the whole sweep, as Tune does not know its error",
        lambda module: module.RayActorManager._actor_task_failed,
    ),
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
        "ray.train.v2._internal.execution.worker_group.worker_group",
        "placement_group",
        ("cluster/groups.py",),
        "the place of a group whose controller was killed is not found, and the next one waits for it for ever",
    ),
    Private(
        "ray.train.v2._internal.callbacks.datasets",
        "DatasetsCallback",
        ("cluster/groups.py",),
        "every group starts a process that deals out Ray's datasets, of which memexp has none: seconds",
    ),
    Private(
        "ray.train.torch",
        "_create_default_callbacks",
        ("cluster/groups.py",),
        "as DatasetsCallback above",
        lambda module: module.TorchTrainer._create_default_callbacks,
    ),
    Private(
        "ray._private.worker",
        "_worker_logs_enabled",
        ("cluster/servers.py",),
        "Ray prints the end of its own logs several times where one of its servers dies, instead of our one line",
    ),
    Private(
        "ray._private.ray_constants",
        "ENABLE_RAY_CLUSTER",
        ("cluster/joining.py",),
        "a cluster of one machine listens to all others, its metrics without asking for a token",
    ),
    *(
        Private(
            "ray.experimental.internal_kv",
            name,
            ("cluster/noticeboard.py",),
            "endpoint, credentials and tokens of the driver's shell do not reach the workers of a cluster",
        )
        for name in ("_internal_kv_get", "_internal_kv_put", "_internal_kv_del")
    ),
    Private(
        "ray.tune.execution.class_cache",
        "ENV_VARS_TO_PROPAGATE",
        ("cluster/experiment.py",),
        "Tune writes AWS keys into a runtime environment, and Ray that to logs which everyone on a node may read",
    ),
    Private(
        "ray.tune.execution.class_cache",
        "DEFAULT_ENV_VARS",
        ("cluster/experiment.py",),
        "trials do not begin in the processes that Ray starts ahead of them: three CPU seconds of every start",
    ),
    *(
        Private(
            "ray._private.node",
            name,
            ("cluster/joining.py",),
            "Ray starts servers on this machine that nobody asks, or none at all: five CPU seconds of every start",
            lambda module, name=name: module.Node if name == "Node" else getattr(module.Node, name),  # type: ignore[misc] # likewise
        )
        for name in ("Node", "start_monitor", "start_log_monitor", "start_api_server")
    ),
    Private(
        "ray._private.state",
        "state.get_draining_nodes",
        ("cluster/draining.py",),
        "trials on a node that is about to go do not save what they have trained",
        lambda module: module.state.get_draining_nodes,
    ),
    Private(
        "ray._raylet",
        "GcsClient",
        ("cluster/spot.py",),
        "a spot instance that AWS takes back is not drained, and its trials lose what they have not saved",
    ),
    Private(
        "ray.train.torch.config",
        "_TorchBackend",
        ("cluster/rendezvous.py",),
        "the workers of a group meet at all addresses of their node, without a token: _create_c10d_store",
        lambda module: module._TorchBackend.on_start,
    ),
    Private(
        "torch.distributed.rendezvous",
        "_create_c10d_store",
        ("cluster/rendezvous.py",),
        "torch's store of a worker group listens at all addresses of its node and answers without a token",
    ),
    Private(
        "ray._private.utils",
        "set_sigterm_handler",
        ("cluster/joining.py",),
        "SIGTERM while Ray starts ends the command without a word, with exit status 15",
    ),
    Private(
        "ray._private.ray_constants",
        "RAY_DISABLE_FAILURE_SIGNAL_HANDLER",
        ("cluster/joining.py",),
        "SIGTERM prints a page of addresses, and the second one ends the command at once with exit status -15",
    ),
    *(
        Private(
            "torch.nn",
            name,
            ("core/inert.py",),
            "hooks that a probe leaves behind have a say in what is measured and trained after it",
            lambda module, name=name: getattr(module.Module(), name),  # type: ignore[misc] # likewise
        )
        for name in ("_forward_hooks", "_forward_pre_hooks")
    ),
    Private(
        "torch",
        "_version",
        ("core/casts.py",),
        "in bfloat16 a tensor that is written to between two linear layers is taken for what it was",
        lambda module: module.zeros(1)._version,
    ),
    Private(
        "torch.utils._python_dispatch",
        "TorchDispatchMode",
        ("core/drawing.py",),
        _NO_PARTS,
    ),
    Private(
        "torch",
        "_cdata",
        ("core/drawing.py",),
        _NO_PARTS,
        lambda module: module.zeros(1).untyped_storage()._cdata,
    ),
    Private(
        "transformers",
        "_keys_to_ignore_on_load_missing",
        ("core/weights.py",),
        "a checkpoint without what transformers makes up for some architectures is refused",
        lambda module: module.PreTrainedModel._keys_to_ignore_on_load_missing,
    ),
    Private(
        "transformers",
        "_keys_to_ignore_on_load_unexpected",
        ("core/weights.py",),
        "a checkpoint with what transformers leaves out for some architectures is refused",
        lambda module: module.PreTrainedModel._keys_to_ignore_on_load_unexpected,
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
        ("from ray._private import services", {"ray._private.services"}),  # a neighbour of it is not
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
