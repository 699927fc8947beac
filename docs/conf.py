"""The documentation as HTML: `make docs` writes it into build/docs, offline, and fails at a warning."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import sys
from collections.abc import Callable
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


def _outside(app: Any, page: str, source: list[str]) -> None:
    """Markdown beside this folder is no page: a link to it is one to the file."""
    source[0] = re.sub(r"\[([^]]+)\]\(((?:\.\./)*\.\./[^)#]+\.md)\)", _to_file(page), source[0])


def _to_file(page: str) -> Callable[[re.Match[str]], str]:
    here = Path(__file__).parent

    def link(found: re.Match[str]) -> str:
        inside = (here / page).parent.joinpath(found[2]).resolve().is_relative_to(here.resolve())
        return found[0] if inside else f"{{download}}`{found[1]} <{found[2]}>`"

    return link


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
