"""README.md and docs/: what is to be typed is what the programs understand, what is to be executed is executed."""

from __future__ import annotations

import csv
import fnmatch
import importlib.util
import json
import re
import shutil
import sys
import types
import zlib
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa
import pytest
from made_results import Made, fill, single_texts
from pages import (
    DOCS,
    LANGUAGES,
    PAGES,
    README,
    ROOT,
    Block,
    blocks,
    commands,
    complaint,
    headings,
    links,
    pages,
    spoken,
)

import memexp
from memexp import Sweep, cli, stats
from memexp.figures import style
from memexp.figures.gathered import gathered
from memexp.figures.own import FAMILIES, plotted
from memexp.sources import Sources
from memexp.store import Store

ELSEWHERE = ("s3://", "creatures")
"""Stores that are not here: a bucket's, and what the tutorial's own sweep measures (tests/drills/test_tutorial.py)."""
HUB = {"README.md", "docs/sweeps.md"}
"""Pages whose sweeps are of models of the hub."""


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def having(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(block.language in languages for block in blocks(page))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `results` and `other-results`."""
    folder = tmp_path_factory.mktemp("docs")
    with patch.multiple("made_results", MODELS=("tiny-s",), HOSTILE=(" and something else",)):  # half the work
        fill(store := Store(folder / "results"))
        single_texts(Made(store))
    listed = store.read("sweeps", "exposures-0")  # what pages say of the quickstart's store they say of this one
    named = pa.array(["quickstart"] * len(listed), listed.schema.field("sweep").type)
    store.commit("sweeps", "quickstart-0", listed.set_column(listed.schema.get_field_index("sweep"), "sweep", named))
    for kind in ("recognition", "sweeps"):
        shutil.copytree(folder / "results" / kind, folder / "other-results" / kind)
    return folder


@pytest.fixture
def here(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """That folder, to be in."""
    monkeypatch.chdir(made)
    monkeypatch.delenv("MEMEXP_STORE", raising=False)
    return made


def test_readme_is_two_screens_with_a_picture_at_its_top() -> None:
    lines = README.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    assert any(re.match(r"!\[.+\]\(docs/pictures/\w+\.png\)$", line) for line in lines[:5])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_code_is_in_fences_that_say_what_it_is(page: Path) -> None:
    said = {block.language for block in blocks(page)}
    assert {language for language in said if not language.startswith("{")} <= LANGUAGES
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    assert "```" not in text and not re.search(r"\n\n    \S", text)


@pytest.mark.parametrize("page", having("sh"), ids=name)
def test_commands_are_understood(page: Path) -> None:
    found = {
        f"{block}: {' '.join(words)}": complaint(words, page)
        for block in blocks(page)
        if block.language == "sh"
        for words in commands(block.text)
    }
    assert found and {command: said for command, said in found.items() if said} == {}


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_in_sentences_are_understood(page: Path) -> None:
    spans = [re.sub(r"\s*\[[^]]*\]", "", span) for span in spoken(page)]
    found = {span: complaint(*commands(span), page, False) for span in spans if "COMMAND" not in span}
    assert {command: said for command, said in found.items() if said} == {}


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("memexp query --nope 'SELECT 1'", "--nope"),
        ("memexp compare a b --marg 1", "--marg"),
        ("memexp draw", "draw"),
        ("memexp run sweeps/nope.py", "no sweeps/nope.py"),
        ("memexp run sweeps/retention.py -- --untli 3", "--untli"),
        ("memexp run sweeps/retention.py -- --unt 3", "--unt"),
        ("memexp run sweeps/quickstart.py -- --models gpt2", "no arguments"),
        ("memexp run", "required"),
        ("sbatch --nodes=2 clusters/nope.sh sweeps/quickstart.py", "no clusters/nope.sh"),
        ("sbatch clusters/slurm.sh sweeps/retention.py -- --unt 3", "--unt"),
        ("kubectl apply -f clusters/nope.yaml", "no clusters/nope.yaml"),
        ("python sweeps/figures.py --papers ohran", "ohran"),
        ("python -m benchmarks --part x", "--part"),
        ("python -m benchmarks.nope", "benchmarks.nope"),
        ("make coffee", "coffee"),
        ("ray up --nope cluster.yaml", "--nope"),
        ("ray exec cluster.yaml 'cd memexp && memexp draw'", "draw"),
        ("lm_eval --include_path memexp/nope --tasks x", "memexp/nope"),
        ("curl x", "curl"),
    ],
)
def test_commands_that_are_wrong_are_noticed(command: str, says: str) -> None:
    [words] = commands(command)
    assert says in (complaint(words, DOCS / "index.md") or "")


def test_commands_are_read_as_a_shell_reads_them() -> None:
    text = "make demo  # a comment\na 'b && c' \\\n  --d > e && f\n\n. .venv/bin/activate\n"
    assert commands(text) == [["make", "demo"], ["a", "b && c", "--d"], ["f"], [".", ".venv/bin/activate"]]


@pytest.mark.parametrize("page", having("python"), ids=name)
def test_python_is_executed(page: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [block for block in blocks(page) if block.language == "python"]
    lines: list[str] = []  # as the page has them, so that errors name its lines
    for block in found:
        lines += [""] * (block.line - 1 - len(lines)) + block.text.splitlines()
    module = types.ModuleType("page")
    named = re.search(r"these as `(\w+)\.py`", page.read_text(encoding="utf-8"))  # lists are found beside it
    module.__file__ = str(here / f"{named[1] if named else f'{page.stem}_page'}.py")
    Path(module.__file__).write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "page", module)  # where its classes are looked for
    write_lists(page, here)
    for block in found:
        module.sweep = None
        exec(compile("\n" * (block.line - 1) + block.text, module.__file__, "exec"), vars(module))
        if module.sweep is not None:
            assert isinstance(module.sweep, Sweep)
            if name(page) not in HUB:
                assert module.sweep.prepare(Sources()) if module.sweep.searches else module.sweep.grow().asks


def write_lists(page: Path, folder: Path) -> None:
    """The lists that a page gives, under the name that it gives them."""
    text = page.read_text(encoding="utf-8")
    for block in (block for block in blocks(page) if block.language == "csv"):
        [file] = set(re.findall(r"`(\w+\.csv)`", text))
        rows = list(csv.DictReader(block.text.splitlines()))
        assert rows and all(all(row.values()) and None not in row for row in rows)
        (folder / file).write_text(block.text, encoding="utf-8")


def asked(*programs: str) -> list[tuple[Block, list[str]]]:
    """Commands of memexp, each once, about stores that are here."""
    found: dict[str, tuple[Block, list[str]]] = {}
    for block in (block for page in PAGES for block in blocks(page)):
        given = [["memexp", "query", block.text]] if block.language == "sql" else []
        given += commands(block.text) if block.language == "sh" else []
        for program, *words in given:
            if program == "memexp" and words[0] in programs and not any(word.startswith(ELSEWHERE) for word in words):
                found.setdefault(" ".join(words), (block, words))
    return [*found.values()]


@pytest.mark.parametrize(("block", "words"), asked("query", "status", "compact", "compare"), ids=str)
def test_questions_are_answered(block: Block, words: list[str], here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if "results-compacted" in words:
        cli.main(["compact", "--store", "results"])
        capsys.readouterr()
    status = cli.main(words)
    said = capsys.readouterr()
    assert status == 0, f"{block}: {said.err}"
    assert said.out.strip()


def test_figures_are_drawn(here: Path) -> None:
    options = [cli._parser().parse_args(words) for _, words in asked("plot")]
    assert {one.kind for one in options} >= {*FAMILIES} - {"best"}
    for sweep in {one.sweep for one in options}:
        with gathered(Store("results"), sweep) as found:
            for one in (one for one in options if one.sweep == sweep and one.kind != "searches"):
                assert plotted(found, one.kind, one.x, one.y, one.by).panels


@pytest.mark.parametrize("page", pages(), ids=name)
def test_links_lead_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), link
        assert not anchor or anchor in headings(file), link


def test_every_page_is_in_the_index() -> None:
    listed = {
        entry
        for block in blocks(DOCS / "index.md")
        if block.language == "{toctree}"
        for entry in block.text.splitlines()
        if entry and not entry.startswith(":")
    }
    found = {page.relative_to(DOCS).with_suffix("").as_posix() for page in PAGES if page != README} - {"index"}
    assert found == {page for page in found if any(fnmatch.fnmatch(page, entry) for entry in listed)}
    assert all(any(fnmatch.fnmatch(page, entry) for page in found) for entry in listed)


def test_the_reference_has_every_public_name() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    named = set(re.findall(r"^\.\. auto\w+:: (\S+)$", text, flags=re.M))
    public = {f"memexp.{one}" for one in (*memexp.__all__, "open") if one != "__version__"}
    public |= {f"memexp.stats.{one}" for one in stats.__all__ if one not in ("OVER", "CURVES")}
    assert public - named == set()


def test_the_pins_of_the_pages_are_there() -> None:
    pinned = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    assert all(re.search(rf"^{one}==", pinned, re.M) for one in ("sphinx", "furo", "myst-parser"))


@pytest.fixture(scope="module")
def drawing() -> types.ModuleType:
    """docs/draw.py, which is in no package."""
    spec = importlib.util.spec_from_file_location("docs_draw", DOCS / "draw.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_picture_is_what_the_code_draws(drawing: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = drawing.SPECIFICATION.read_text(encoding="utf-8")
    assert drawing.written(drawing.specification()) == stored, "figures are drawn otherwise now: run `make pictures`"
    assert drawing.drawn_from(drawing.PICTURE.read_bytes()) == drawing.digest(stored), "run `make pictures`"
    monkeypatch.setattr(drawing, "KINDS", ("recall",))
    monkeypatch.setattr(style, "COLOURS", style.COLOURS[::-1])
    again = json.loads(drawing.written(drawing.specification()))["vconcat"]
    assert len(again) == 1 and again[0] != json.loads(stored)["vconcat"][1]


def test_a_picture_says_what_it_was_drawn_from(drawing: types.ModuleType) -> None:
    text = (
        '{"mark": "point", "data": {"values": [{"x": 1}]}, "encoding": {"x": {"field": "x", "type": "quantitative"}}}'
    )
    png = drawing.rendered(text)
    assert drawing.drawn_from(png) == drawing.digest(text) and drawing.drawn_from(b"PNG") == ""
    size, crc = len(drawing.CHUNK + drawing.KEY) - 4 + 64, png[-16:-12]
    start = png.index(drawing.CHUNK)
    assert int.from_bytes(png[start - 4 : start], "big") == size
    assert zlib.crc32(png[start : start + 4 + size]) == int.from_bytes(crc, "big")


def test_markdown_of_the_repository_is_a_page_in_html() -> None:
    """A link to it leads there; what it links to is where that page expects it."""
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location("docs_conf", DOCS / "conf.py")
    assert spec is not None and spec.loader is not None
    conf = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(conf)
    made = {page: conf.linked(page, page.read_text(encoding="utf-8")) for page in PAGES if page != README}
    for page, text in made.items():
        for _, path, _ in conf.LINK.findall(text):
            target = (page.parent / path).resolve()
            assert target.is_relative_to(DOCS) or target.suffix != ".md" or not target.exists(), (page.name, path)
    architecture = made[DOCS / "repository" / "architecture.md"]
    assert "[README.md](../index.md)" in architecture and "[Concepts](../concepts.md)" in architecture
    assert "## The tree" in architecture and "(contributing.md)" in architecture
