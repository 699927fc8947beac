"""The documentation as HTML: `make docs` writes it into build/docs, offline, and fails at a warning."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx.application import Sphinx
from sphinx.highlighting import lexers
from sphinx.util.docutils import SphinxDirective

sys.path.insert(0, str(Path(__file__).parents[1]))

import memexp
from memexp.cli import _parser

HERE = Path(__file__).parent.resolve()
LINK = re.compile(r"\[([^]]+)\]\(([^)\s#:]+)(#[^)\s]*)?\)")
"""Of Markdown, to a file: its text, the path, a heading."""

project = "memexp"
author = "the authors of memexp"
version = release = memexp.__version__

lexers["csv"] = TextLexer()
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pictures"]
html_theme = "furo"
html_title = f"memexp {version}"
html_show_sphinx = html_show_sourcelink = html_show_copyright = False
myst_heading_anchors = 3
default_role = "py:obj"  # `Study` in a docstring is a link where there is such a name
add_module_names = False
napoleon_custom_sections = [("Fields", "params_style")]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # a description's fields have their own; aliases of annotations say little
autodoc_default_options = {"exclude-members": "__init__, __new__"}


class Command(SphinxDirective):
    """``memexp-command``: every command of the parser that there is, with its options."""

    def run(self) -> list[nodes.Node]:
        """A section for each command."""
        parser = _parser()
        [commands] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
        found: list[nodes.Node] = []
        for name, sub in commands.choices.items():
            section = nodes.section(ids=[f"memexp-{name}"])
            section += nodes.title(text=f"memexp {name}")
            sub.formatter_class = type("Wide", (sub.formatter_class,), {"__init__": _wide})
            section += nodes.literal_block(text=sub.format_help(), language="text")
            found.append(section)
        return found


class Columns(SphinxDirective):
    """``memexp-columns``: the columns of an Arrow schema, with their types."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """One line of text."""
        module, _, name = self.arguments[0].rpartition(".")
        text = nodes.paragraph()
        for field in getattr(importlib.import_module(module), name):
            text += nodes.Text(", " if text.children else "")
            text += nodes.literal(text=field.name)
            text += nodes.Text(f" {field.type}")
        return [text]


def _wide(self: Any, prog: str, **given: Any) -> None:
    argparse.HelpFormatter.__init__(self, prog, width=100, **given)


def _as_code(app: Any, what: str, name: str, of: Any, options: Any, lines: list[str]) -> None:
    """Indented lines of a docstring are code, which reStructuredText is told by two colons."""
    for at in range(len(lines) - 1, 0, -1):
        if lines[at].startswith("    ") and not lines[at - 1].strip() and at > 1 and lines[at - 2][:1].strip():
            lines[at - 1 : at - 1] = ["", "::"]
    sizes = re.compile(r"\^-\w+|\|\w+\|")
    lines[:] = [sizes.sub(lambda found: "\\" + found[0], line) for line in lines]


def _texts() -> dict[Path, Path]:
    """Markdown beside this folder, with the page of ``repository`` on which its text stands in HTML."""
    found = {HERE.parent / "README.md": HERE / "index.md"}
    for page in (HERE / "repository").glob("*.md"):
        _, path = LINK.findall(page.read_text(encoding="utf-8"))[0][:2]
        found[(page.parent / path).resolve()] = page
    return found


def _outside(app: Any, page: str, source: list[str]) -> None:
    """A link to Markdown beside this folder leads to its page, and that has its text: browsers show none."""
    source[0] = linked(HERE / f"{page}.md", source[0])


def linked(page: Path, text: str) -> str:
    """What HTML is made of, of a page with this text."""
    pages = _texts()
    of = next((path for path, its in pages.items() if its == page and page.name != "index.md"), page)

    def link(found: re.Match[str]) -> str:
        target = (of.parent / found[2]).resolve()
        if target not in pages and (of == page or not target.exists()):
            return found[0]
        anchor = "" if target.name == "README.md" else found[3] or ""
        return f"[{found[1]}]({os.path.relpath(pages.get(target, target), page.parent)}{anchor})"

    return LINK.sub(link, text if of == page else of.read_text(encoding="utf-8"))


def _no_signature(app: Any, what: str, name: str, of: Any, *rest: Any) -> tuple[str, None] | None:
    """Descriptions list their fields below, with what each means."""
    if what == "class" and "__dataclass_fields__" in vars(of):
        return "(" + ", ".join(inspect.signature(of).parameters) + ")", None
    return None


def setup(app: Sphinx) -> None:
    """What Sphinx asks of an extension; this file is one."""
    app.add_directive("memexp-command", Command)
    app.add_directive("memexp-columns", Columns)
    app.connect("autodoc-process-docstring", _as_code, priority=400)  # before napoleon
    app.connect("source-read", _outside)
    app.connect("autodoc-process-signature", _no_signature)
