"""The page of a store: whole whatever the store holds, and nothing that models wrote is more than text in it."""

from __future__ import annotations

import html.parser
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from made_results import HOSTILE, Made, fill
from rich.console import Console

from memexp.cli import main
from memexp.errors import StoreError
from memexp.report import ending
from memexp.report import page as pages
from memexp.report.ending import SWITCH, say_page
from memexp.report.samples import shown
from memexp.store import Store


@pytest.fixture(autouse=True)
def _without_vega(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Its JavaScript takes seconds to bundle."""
    if "vega" not in request.keywords:
        monkeypatch.setattr(pages, "javascript", lambda: "")


class Parsed(html.parser.HTMLParser):
    """The tags of a page, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_hostile_texts_are_only_shown(tmp_path: Path) -> None:
    store = Store(tmp_path / "results")
    fill(store, lambda name: name == "exposures")
    page = Parsed(pages.page(store))
    assert page.tags.count("script") == 4 and "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "action")]
    assert [value for name, value in page.attributes if name == "href"] == ["data:,"]
    assert HOSTILE[0] in page.text and "⟨U+0007⟩" in page.text and "⟨U+202E⟩" in page.text and "\x1b" not in page.text
    assert "more characters)" in page.text and "RuntimeError: <b>no</b> memory left" in page.text


def test_hostile_labels_are_only_data(tmp_path: Path) -> None:
    made = Made(Store(tmp_path / "results"))
    for exposures in (0, 1):
        for text in HOSTILE[:2]:
            rows = made.recognition(1.0, 0)
            made.result("recognition", rows, {"text": text}, model=text, exposures=exposures, seed=0)
    made.sweep("s")
    source = pages.page(made.store)
    page = Parsed(source)
    assert page.tags.count("script") == 4 and "img" not in page.tags
    data = re.search(r'id="charts">(.*?)</script>', source, flags=re.S)
    assert data is not None and "<" not in data[1]
    names = {row["model"] for panel in json.loads(data[1])[0]["panels"] for row in panel["rows"]}
    assert names == set(HOSTILE[:2])


@pytest.mark.parametrize("value", ["<b>", "a & b", "\x00\x7f", "\u202e", "\ud800", "'\"", "x" * 30_000, None, 3])
def test_shown_is_text(value: object) -> None:
    parsed = Parsed(shown(value))
    assert set(parsed.tags) <= {"i"} and not re.search(r"[\x00-\x08\u202e\ud800]", parsed.text)


def test_json_ends_no_script() -> None:
    texts = ["</script>", "<!--", "&lt;", "\u2028"]
    told = pages.in_script(texts)
    assert not set("<>&\u2028") & set(told) and json.loads(told) == texts


def test_nothing_is_asked_for(tmp_path: Path) -> None:
    source = pages.page(Store(tmp_path / "results"))
    assert any("default-src 'none'" in (value or "") for _, value in Parsed(source).attributes)
    assert not re.search(r"(src|href)=[\"'](?!data:)", source)


def test_an_empty_store_is_a_page_that_says_so(tmp_path: Path) -> None:
    text = Parsed(pages.page(Store(tmp_path / "results"))).text
    assert "nothing to draw" in text


@pytest.mark.parametrize("case", ["one item", "one seed", "all NULL", "no texts"])
def test_thin_results(tmp_path: Path, case: str) -> None:
    made = Made(Store(tmp_path / "results"), items=1 if case == "one item" else 12)
    for exposures in (0, 1):
        for seed in range(1 if case == "one seed" else 3):
            rows = made.recognition(1.0, seed)
            for row in rows:
                row |= {"target_nll": None, "foil_nll": None} if case == "all NULL" else {}
                row |= {"target": None, "foil": None} if case == "no texts" else {}
            made.result("recognition", rows, {}, model="gpt2", exposures=exposures, seed=seed, lr=1e-4)
    made.sweep("thin")
    text = Parsed(pages.page(made.store, "thin")).text
    assert ("nothing to draw" if case == "all NULL" else "Recognition by exposures") in text
    if case == "one item":
        assert "an interval needs 3" in text


def test_a_sweep_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(Store(tmp_path / "results"))
    made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=0)
    made.sweep("there")
    with pytest.raises(StoreError, match="has no sweep 'gone'; it has there"):
        pages.page(made.store, "gone")
    assert main(["report", "--store", made.store.location, "--sweep", "gone"]) == 2
    assert "it has there" in capsys.readouterr().err and not list(Path(made.store.location).glob("*.html"))


def test_a_kind_of_a_users_own_is_drawn(tmp_path: Path) -> None:
    """By the headline that its files declare, and a broken one is an error that names the kind."""
    from memexp.records import rows_for, with_source
    from memexp.spec import Headline

    store = Store(tmp_path / "results")
    for exposures in (0, 1):
        items = pa.table({"item": [0, 1, 2], "hits": [exposures, 1, 0]})
        settings = {"stage_id": f"s{exposures}", "condition_id": f"c{exposures}", "probe_id": "p", "model": "gpt2"}
        rows = rows_for(items, settings | {"exposures": exposures, "seed": 0}, {}, {})
        name = f"s{exposures}-p-c{exposures}"
        store.commit("darts", name, with_source(rows, "darts", Headline("mean of hits", "hits", chance=0.25)))
    text = Parsed(pages.page(store)).text
    assert "Darts by exposures" in text and "chance (0.25)" in text


def test_a_run_ends_with_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(Store(tmp_path / "results"))
    made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=0)
    made.sweep("s")

    def said(store: Store, sweep: str = "s") -> str:
        console = Console(record=True, width=400)
        say_page(store, sweep, console)
        return console.export_text().strip()

    monkeypatch.delenv(SWITCH, raising=False)
    path = Path(said(made.store).removeprefix("report: "))  # of one point there is no other figure to draw
    assert path.is_file() and path.parent == tmp_path / "results" and "gpt2" in path.read_text(encoding="utf-8")

    made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=1)
    made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=3)
    made.sweep("curve", at=1)
    line = said(made.store, "curve").splitlines()[-1]
    command = f"memexp plot exposures --store {made.store.location} --sweep curve"
    assert line == f"figure: {command}"
    assert main([*command.split()[1:], "--out", str(tmp_path / "own.svg")]) == 0 and (tmp_path / "own.svg").is_file()

    with monkeypatch.context() as few:
        few.setattr(ending, "MOST_FILES", 0)
        line = f"1 result files take a while to draw: memexp report --store {made.store.location} --sweep s"
        assert said(made.store) == line

    def broken() -> str:
        raise RuntimeError("no ink\nleft")

    monkeypatch.setattr(pages, "javascript", broken)
    assert said(made.store) == "no report could be drawn: no ink left"
    monkeypatch.setenv(SWITCH, "no")
    assert said(made.store) == ""


def test_the_command_says_where_the_page_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = Made(Store(tmp_path / "results"))
    made.result("recognition", made.recognition(1.0, 0), {}, model="gpt2", exposures=0)
    made.sweep("s")
    out = tmp_path / "own.html"
    assert main(["report", "--store", made.store.location, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out) and out.is_file()
    assert main(["report", "--store", made.store.location, "--out", str(tmp_path / "no" / "own.html")]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert main(["plot", "retention", "--store", made.store.location]) == 2
    assert "does not vary" in capsys.readouterr().err
