"""How long the parts of memexp may be: a function fits a screen, a class and a module can be read in one go.

What is longer for a reason has it in a comment on the line before, decorators included: ``# long: <why>``.
"""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

import memexp

PACKAGE = Path(memexp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))

MODULE, CLASS, FUNCTION = 350, 200, 40
"""Lines; those of a function without its docstring."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def too_long(source: str) -> list[str]:
    """A line for the module and for each class and function in it that is longer than it may be, without saying why."""
    lines = source.splitlines()
    found = [f"the module has {len(lines)} lines, more than {MODULE}"] if len(lines) > MODULE else []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ClassDef | Function):
            continue
        length, limit = _length(node), CLASS if isinstance(node, ast.ClassDef) else FUNCTION
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        before = lines[first - 2].strip() if first > 1 else ""
        if length > limit and not (before.startswith("#") and "long:" in before):
            found.append(f"line {node.lineno}: {node.name} has {length} lines, more than {limit}")
    return found


def _length(node: ast.ClassDef | Function) -> int:
    """From ``def`` or ``class`` to the end, less the docstring of a function."""
    length = (node.end_lineno or 0) - node.lineno + 1
    first = node.body[0]
    if isinstance(node, Function) and ast.get_docstring(node, clean=False) is not None:
        length -= (first.end_lineno or 0) - first.lineno + 1
    return length


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(PACKAGE).as_posix())
def test_nothing_is_too_long(file: Path) -> None:
    assert too_long(file.read_text(encoding="utf-8")) == []


def test_every_module_has_a_name_of_its_own() -> None:
    names = Counter(file.stem for file in FILES if file.stem != "__init__")
    assert len(names) > 100 and [name for name, count in names.items() if count > 1] == []


def function(lines: int, docstring: int = 0, before: str = "", indent: str = "") -> str:
    """A function of so many lines, and so many more of docstring."""
    text = ['    """' + "\n" * (docstring - 1) + '    """'] if docstring else []
    source = "\n".join([before, "def f():", *text, *["    pass"] * (lines - 1)])
    return "\n".join(indent + line for line in source.split("\n")) + "\n"


@pytest.mark.parametrize(
    ("source", "objections"),
    [
        (function(40), 0),
        (function(41), 1),
        (function(41).replace("def", "async def"), 1),
        (function(40, docstring=9), 0),
        (function(41, docstring=9), 1),
        (function(41, before="# long: a table, which reads best as one"), 0),
        (function(41, before="# long: a table, which reads best as one\n@decorator"), 0),
        (function(41, before="# so long"), 1),
        (function(41, before='"long:"'), 1),
        ("# long: why\n\n" + function(41), 1),  # on the line before, not somewhere
        ("class A:\n" + function(41, indent="    "), 1),
        ("def outer():\n" + function(41, indent="    "), 2),
        ("class A:\n" + "    x = 1\n" * 199, 0),
        ("class A:\n" + "    x = 1\n" * 200, 1),
        ('class A:\n    """' + "\n" * 199 + '    """\n', 1),  # what a class says belongs to its length
        ("x = 1\n" * 350, 0),
        ("x = 1\n" * 351, 1),
    ],
)
def test_the_check_catches(source: str, objections: int) -> None:
    assert len(too_long(source)) == objections
