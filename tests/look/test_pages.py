"""Pages as a browser shows them: every chart drawn, no request, no complaint, no text over text; pictures to look at.

``make look`` runs these, with Chromium; pictures are in ``build/look`` afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from look.browser import Browser, View
from made_results import Made, fill

from memexp.figures import chapters
from memexp.figures.image_files import save
from memexp.report.page import write_page
from memexp.store import Store

PICTURES = Path(__file__).parents[2] / "build" / "look"
SIZES = [(1280, False), (1280, True), (390, False), (390, True)]

CHARTS = """
[...document.querySelectorAll('[data-figure]:not(.hidden)')].flatMap(figure =>
  [...figure.querySelectorAll('[data-panel]:not(.hidden)')].map(panel => {
    const svg = panel.querySelector('.chart svg');
    const drawnMarks = ".mark-symbol path, .mark-line path, .mark-rule line";
    const marks = svg ? svg.querySelectorAll(drawnMarks).length : 0;
    const titles = svg ? [...svg.querySelectorAll('.role-axis-title text')].map(text => text.textContent) : [];
    const box = panel.getBoundingClientRect(), drawn = svg ? svg.getBoundingClientRect() : box;
    const legends = svg ? svg.querySelectorAll('.role-legend').length : 0;
    return {figure: figure.id, marks, titles, legends, wide: drawn.width, over: drawn.right - box.right};
  }))
"""
OVERLAPS = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('.chart svg')) {
    const texts = [...svg.querySelectorAll('text')].filter(
      text => text.textContent.trim() && getComputedStyle(text).opacity !== '0');
    const boxes = texts.map(text => [text, text.getBoundingClientRect()]).filter(([, box]) => box.width > 0);
    for (let i = 0; i < boxes.length; i++) for (let j = i + 1; j < boxes.length; j++) {
      const [a, b] = [boxes[i][1], boxes[j][1]];
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const tall = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && tall > 3) found.push(boxes[i][0].textContent + ' | ' + boxes[j][0].textContent);
    }
  }
  return found;
})()
"""
CUT = """
[...document.querySelectorAll('.chart svg')].flatMap(svg => {
  const whole = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(text => {
    const box = text.getBoundingClientRect();
    return box.width > 0 && getComputedStyle(text).opacity !== '0'
      && (box.left < whole.left - 1 || box.right > whole.right + 1 || box.bottom > whole.bottom + 3);
  }).map(text => text.textContent);
})
"""
FONT = "<style>text { font-family: 'Liberation Sans', 'DejaVu Sans Condensed', sans-serif }</style>"
"""As wide as the font that images are measured with."""
BEYOND = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store(tmp_path_factory.mktemp("look") / "results")
    fill(store)
    return write_page(store)


def faults(view: View, path: Path) -> list[Any]:
    """What is wrong with a page, in words."""
    found: list[Any] = [*view.complaints]
    found += [f"asks for {url[:200]}" for url in view.requests if url != path.absolute().as_uri()]
    charts = view.ask(CHARTS)
    assert isinstance(charts, list)
    found += [f"{one['figure']} is blank" for one in charts if not one["marks"]]
    found += [f"{one['figure']} has axes without a title: {one['titles']}" for one in charts if len(one["titles"]) < 2]
    found += [f"{one['figure']} has its legend twice" for one in charts if one["legends"]]
    found += [f"{one['figure']} is too narrow or too wide: {one}" for one in charts if one["wide"] < 150]
    found += [f"text over text: {words}" for words in view.ask(OVERLAPS)]
    if view.ask(BEYOND) > 0:
        found.append("the page is wider than the window")
    return found


@pytest.mark.parametrize(("width", "dark"), SIZES)
def test_every_family_is_drawn(browser: Browser, page: Path, width: int, dark: bool) -> None:
    view = browser.open(page, width, dark=dark)
    PICTURES.mkdir(parents=True, exist_ok=True)
    view.picture(PICTURES / f"all-{width}-{'dark' if dark else 'light'}.png")
    assert faults(view, page) == []
    figures = {one["figure"].partition("-")[0] for one in view.ask(CHARTS)}
    assert figures >= {"exposures", "retention", "forgetting", "ablation", "facts", "searches", "losses", "best"}
    paper, ink = view.ask("[document.body, document.querySelector('.chart')].map(e => getComputedStyle(e))"
                          ".map((style, at) => at ? style.color : style.backgroundColor)")  # fmt: skip
    assert (brightness(paper) < brightness(ink)) == dark
    view.close()


@pytest.mark.parametrize("width", [8, 17])
def test_images_have_no_text_over_text(browser: Browser, tmp_path: Path, width: int) -> None:
    """With names as long as they are on the hub."""
    store = Store(tmp_path / "results")
    fill(store)
    made = Made(store)
    for model in ("EleutherAI/gpt-neox-20b", "facebook/opt-13b", "HuggingFaceTB/SmolLM2-1.7B-Instruct"):
        for exposures in (0, 1, 10):
            made.result("recognition", made.recognition(exposures, 0), {}, model=model, exposures=exposures, seed=0)
    made.sweep("hub", 9)
    images = []
    for chapter in chapters(store):
        for figure in chapter.figures:
            save(figure, tmp_path / "figure.svg", width)
            images.append(f"<div class=chart>{(tmp_path / 'figure.svg').read_text()}</div>")
    path = tmp_path / "images.html"
    path.write_text(f"<meta charset=utf-8>{FONT}<body data-drawn=yes>{''.join(images)}", encoding="utf-8")
    view = browser.open(path)
    PICTURES.mkdir(parents=True, exist_ok=True)
    view.picture(PICTURES / f"images-{width}.png")
    assert view.ask("document.querySelectorAll('.chart svg').length") == len(images) > 10
    assert view.ask(OVERLAPS) == [] and view.ask(CUT) == []
    view.close()


def brightness(colour: str) -> float:
    return sum(float(part) for part in colour.strip("rgba()").split(",")[:3])


def test_what_models_write_does_nothing(browser: Browser, page: Path) -> None:
    view = browser.open(page)
    assert view.ask("window.harmed === undefined && document.querySelectorAll('main script, main img').length === 0")
    shown = view.ask("document.body.innerText")
    assert "onerror='window.harmed = 2'" in shown and "⟨U+0007⟩" in shown and "⟨U+202E⟩" in shown
    assert "more characters" in shown and "שלום" in shown
    view.close()


def test_filters_and_axes_redraw(browser: Browser, page: Path) -> None:
    view = browser.open(page)
    count = "document.querySelectorAll('#exposures-recognition-recognition .mark-symbol path').length"
    whole = view.ask(count)
    view.ask(
        "(() => { const s = document.querySelector('[data-filter=model]'); s.value = 'tiny-s';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    view.wait()
    assert 0 < view.ask(count) < whole
    view.ask(
        "(() => { const s = document.querySelector('#exposures-recognition-recognition [data-axis]');"
        " s.value = 'updates'; s.dispatchEvent(new Event('change')); })()"
    )
    view.wait("document.querySelector('#exposures-recognition-recognition').textContent.includes('optimizer steps of')")
    assert faults(view, page) == []
    view.close()


def test_the_look_catches(browser: Browser, tmp_path: Path) -> None:
    """A request, an error, a blank chart, an axis without title, text over text, and a page too wide."""
    bad = tmp_path / "bad.html"
    bad.write_text(
        "<body data-drawn='yes' style='width: 3000px'><img src='http://127.0.0.1:9/x.png'>"
        "<figure data-figure=0 id=bad><div data-panel=0><div class=chart><svg width=300 height=50>"
        "<text x=10 y=20>one text</text><text x=12 y=22>another</text></svg></div></div></figure>"
        "<script>console.error('wrong')</script></body>",
        encoding="utf-8",
    )
    view = browser.open(bad)
    words = " ".join(map(str, faults(view, bad)))
    assert all(word in words for word in ("wrong", "asks for", "blank", "without a title", "text over", "wider"))
    view.close()


def test_pictures_show_something(browser: Browser, page: Path, tmp_path: Path) -> None:
    view = browser.open(page)
    view.picture(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 50_000
    view.close()
