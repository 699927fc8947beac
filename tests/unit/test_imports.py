"""Who may import whom (ARCHITECTURE.md): no arrow runs up, torch and ray stay where they belong."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import memexp
from memexp.probes import Recall
from memexp.records import rows_for, with_source
from memexp.store import Store

PACKAGE = Path(memexp.__file__).parent

LAYERS = [
    "errors",
    "wording",
    "events",
    "stats",
    "identity",
    "code_columns",
    "setting_schema",
    "spec",
    "stimuli",
    "sources",
    "records",
    "store",
    "signals",
    "core",
    "tasks",
    "probes",
    "plan",
    "trial",
    "search",
    "cluster",
    "figures",
    "report",
    "exchange",
    "results",
    "options",
    "script",
    "driver",
    "local",
    "sweep",
    "first_steps",
    "loading",
    "submission",
    "cli",
]
"""From the ground up: the packages and modules of memexp, each of which may import itself and those before it."""

KNOW_TORCH = {"core", "trial"}
MAY_ASK_TORCH = {*KNOW_TORCH, "probes", "cluster", "local"}
"""Inside functions: on a worker torch is there, in the driver it need not be."""
MAY_ASK_CLUSTER = {
    "sweep": {"executor", "addresses"},
    "local": {"active_search"},
    "first_steps": {"connect"},
    "submission": {"jobs"},
}
"""Inside functions, and these modules of it: `memexp.local` executes searches with the library of Ray's samplers."""
TORCH = {"torch", "transformers", "peft", "accelerate", "lm_eval"}


@dataclass(frozen=True)
class Import:
    """One module that another imports when it executes."""

    name: str
    line: int
    late: bool
    """Inside a function."""


def imports(source: str) -> Iterator[Import]:
    """What a module imports, except for type checkers."""
    yield from _imports(ast.parse(source).body, late=False)


def _imports(nodes: Iterable[ast.AST], late: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, "relative imports hide where they lead"
            inside = node.module == "memexp"  # from memexp import plan
            names = [f"memexp.{alias.name}" for alias in node.names] if inside else [node.module]
            yield from (Import(name, node.lineno, late) for name in names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            yield from _imports(node.orelse, late)
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(ast.iter_child_nodes(node), late or function)


def violations(layer: str, source: str) -> list[str]:
    """Lines for the imports that a module of `layer` must not have."""
    found = []
    for one in imports(source):
        top, _, rest = one.name.partition(".")
        target = rest.partition(".")[0]
        if top == "memexp" and target in LAYERS and LAYERS.index(target) > LAYERS.index(layer):
            found.append(f"line {one.line}: {layer} is below {target}")
        heavy = top in TORCH or (top == "memexp" and target in KNOW_TORCH)
        if heavy and not (layer in KNOW_TORCH or (layer in MAY_ASK_TORCH and one.late)):
            found.append(f"line {one.line}: {layer} imports {one.name} {'inside' if one.late else 'outside'} functions")
        if layer != "cluster" and (top == "ray" or (top == "memexp" and target == "cluster")):
            asked = {f"memexp.cluster.{name}" for name in MAY_ASK_CLUSTER.get(layer, ())}
            if not (one.late and one.name in asked):
                found.append(f"line {one.line}: {layer} imports {one.name}")
    return found


def layer_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")


def test_every_module_has_a_layer() -> None:
    assert {layer_of(file) for file in FILES} == set(LAYERS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_no_arrow_runs_up(file: Path) -> None:
    assert violations(layer_of(file), file.read_text(encoding="utf-8")) == []


def test_the_package_itself_imports_nothing() -> None:
    found = imports((PACKAGE / "__init__.py").read_text(encoding="utf-8"))
    assert {one.name for one in found} == {"typing", "importlib"}


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("store", "from memexp.plan import Stage"),
        ("store", "from memexp import plan"),
        ("plan", "import memexp.core.data"),
        ("store", "def f():\n    import torch"),
        ("plan", "import torch.nn as nn"),
        ("probes", "from torch import nn"),
        ("probes", "from memexp.core.session import Session"),
        ("cluster", "from memexp.trial.execute import execute"),
        ("cluster", "try:\n    import torch\nexcept ImportError:\n    pass"),
        ("core", "from ray import train"),
        ("trial", "def f():\n    from ray import train"),
        ("sweep", "from memexp.cluster.experiment import execute_trials"),
        ("sweep", "def f():\n    import ray"),
        ("sweep", "def f():\n    from memexp.cluster.searches import execute_searches"),
        ("local", "def f():\n    from memexp.cluster.connect import connected"),
        ("local", "from memexp.cluster.active_search import ActiveSearch"),
        ("cli", "def f():\n    from memexp.cluster.executor import on_cluster"),
        ("driver", "def f():\n    from memexp import cluster"),
        ("search", "def f():\n    from ray import tune"),
        ("cli", "def f():\n    from ray import cloudpickle"),
        ("spec", "if TYPE_CHECKING:\n    pass\nelse:\n    from memexp.plan import Stage"),
    ],
)
def test_the_check_catches(layer: str, source: str) -> None:
    assert violations(layer, source)


@pytest.mark.parametrize(
    ("layer", "source"),
    [
        ("plan", "from memexp.store import Store"),
        ("spec", "if TYPE_CHECKING:\n    from memexp.core.session import Session"),
        ("probes", "def measure():\n    import torch"),
        ("cluster", "import ray\ndef f():\n    from memexp.trial.execute import execute"),
        ("sweep", "def f():\n    from memexp.cluster.executor import on_cluster"),
        ("local", "def f():\n    from memexp.cluster.active_search import ActiveSearch"),
        ("trial", "import torch\nfrom memexp.core import fork"),
    ],
)
def test_the_check_lets_pass(layer: str, source: str) -> None:
    assert violations(layer, source) == []


# What is really imported


PROGRAM = """
import json, sys
children = []
sys.addaudithook(lambda event, given: children.append(event) if event == "subprocess.Popen" else None)
from memexp.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as end:
    status = end.code
names = {name.partition(".")[0] for name in sys.modules}
print(json.dumps({"status": status, "modules": sorted(names), "children": len(children)}), file=sys.stderr)
"""

SWEEP = """
from memexp import Condition, Model, Pair, Recall, Recognition, ShippedText, Study, Sweep

pair = Pair(ShippedText("sentences-targets", first=64), ShippedText("sentences-foils", first=64))
study = Study(pair.targets, exposures=2, lr=1e-3)
sweep = Sweep(name="local", conditions=[Condition(Model("model"), study, probes=[Recognition(pair), Recall()])])
"""


def imported(folder: Path, *arguments: str) -> dict[str, Any]:
    """What a command imports and starts."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "XDG_CACHE_HOME": str(folder / "cache")},
        check=True,
        timeout=300,
    )
    found: dict[str, Any] = json.loads(done.stderr.splitlines()[-1])
    return found


def test_help_imports_next_to_nothing(tmp_path: Path) -> None:
    found = imported(tmp_path, "--help")
    assert found["status"] == 0 and found["children"] == 0
    assert not {"torch", "transformers", "ray", "pyarrow", "pydantic", "duckdb", "rich"} & set(found["modules"])


def test_a_plan_for_weights_with_a_header_imports_neither_torch_nor_ray(tmp_path: Path) -> None:
    """Nor where tokens have to be counted."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text('{"model_type": "gpt2"}')
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "model" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    other = "Condition(Model('tiny-s'), Study(pair.targets, 1, 1e-3, block_size=16), probes=[Recognition(pair)])"
    (tmp_path / "sweep.py").write_text(SWEEP.replace("conditions=[", f"conditions=[{other}, "))
    found = imported(tmp_path, "plan", "--json", "sweep.py")
    assert found["status"] == 0 and found["children"] <= 1  # which is asked what a token costs
    assert {"memexp", "tokenizers"} <= set(found["modules"])
    assert not {"torch", "transformers", "peft", "ray", "datasets", "pandas"} & set(found["modules"])


def test_bad_data_is_found_before_ray_and_torch_are_needed(tmp_path: Path) -> None:
    (tmp_path / "sweep.py").write_text(SWEEP.replace("study = Study(pair.targets", 'study = Study("missing.jsonl"'))
    found = imported(tmp_path, "run", "sweep.py")
    assert found["status"] == 2 and found["children"] == 0
    assert not {"torch", "transformers", "ray"} & set(found["modules"])


READERS = sorted(
    f"memexp.{file.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}".removesuffix(".__init__")
    for room in ("probes", "search", "figures", "report", "stats")
    for file in (PACKAGE / room).glob("*.py")
)
HEAVY = {"torch", "transformers", "peft", "accelerate", "lm_eval", "ray"}


def test_what_reads_results_imports_neither_torch_nor_ray() -> None:
    """One process for all: what one of them would import is named with it."""
    program = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]:\n"
        "    importlib.import_module(name)\n"
        f"    found = sorted({HEAVY!r} & set(sys.modules))\n"
        "    if found: sys.exit(f'{name} imports {found}')\n"
    )
    done = subprocess.run([sys.executable, "-c", program, *READERS], capture_output=True, text=True, check=False)
    assert len(READERS) > 15 and (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", [["status"], ["query", "FROM recall"], ["verify"]], ids=lambda words: words[0])
def test_questions_to_a_store_import_neither_torch_nor_ray(tmp_path: Path, command: list[str]) -> None:
    store = Store(tmp_path / "results")
    items = pa.Table.from_pylist([{"item": 0}], schema=Recall.schema())
    store.commit("recall", "one", with_source(rows_for(items, {}, {}, {}), "recall", Recall.headline))
    found = imported(tmp_path, *command)
    assert found["status"] == 0 and found["children"] == 0
    assert "memexp" in found["modules"] and not HEAVY & set(found["modules"])
