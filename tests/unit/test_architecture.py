"""ARCHITECTURE.md says what is there: every module is in its tree, its layers are those that the imports keep."""

from __future__ import annotations

import re

from unit.test_imports import LAYERS, PACKAGE

ROOT = PACKAGE.parent
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
AT_LEAST = 20
"""Rows of the table of what to open."""


def section(title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", TEXT, flags=re.M | re.S)
    assert found, f"no section {title!r}"
    return found[1]


def tree(text: str) -> dict[str, str]:
    """What the tree says of each file, by its path."""
    found: dict[str, str] = {}
    folders: dict[int, str] = {}
    for line in text.splitlines():
        entry = re.fullmatch(r"    ( *)(\S+)\s*(.*)", line)
        if entry is None:
            continue
        depth, name, says = len(entry[1]) // 2, entry[2], entry[3]
        above = "".join(folders[level] for level in range(depth))
        if name.endswith("/"):
            folders[depth] = name
        found[above + name] = says
    return found


def modules() -> set[str]:
    files = {path.relative_to(ROOT).as_posix() for path in PACKAGE.rglob("*.py")}
    packages = {f"{file.removesuffix('__init__.py')}" for file in files if file.endswith("/__init__.py")}
    return {file for file in files if not file.endswith("/__init__.py")} | packages | {"memexp/__init__.py"}


def test_the_tree_has_every_module_and_no_other() -> None:
    assert set(tree(section("The tree"))) == modules()


def test_the_tree_says_something_of_each() -> None:
    silent = [name for name, says in tree(section("The tree")).items() if not says and name != "memexp/"]
    assert silent == []


def test_the_tree_is_read_as_it_is_drawn() -> None:
    drawn = "    memexp/\n      a.py    one\n\n      b/      two\n        c.py  three\n"
    assert tree(drawn) == {"memexp/": "", "memexp/a.py": "one", "memexp/b/": "two", "memexp/b/c.py": "three"}


def test_the_layers_are_those_of_the_imports() -> None:
    block = re.findall(r"^    (.*)$", section("Layers"), flags=re.M)
    assert " ".join(block).split() == LAYERS


def test_what_is_to_be_opened_exists() -> None:
    rows = [line for line in section("To change X, open Y").splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= AT_LEAST
    for line in rows:
        files = re.findall(r"`((?:memexp|sweeps|clusters)/[^`]*)`", line)
        assert files, line
        missing = [file for file in files if not (ROOT / file).exists()]
        assert missing == [], line


def test_files_named_elsewhere_exist() -> None:
    named = set(re.findall(r"`((?:\w+/)+\w+\.py)`", TEXT))
    missing = [file for file in named if not any((folder / file).exists() for folder in (ROOT, PACKAGE))]
    assert missing == []
