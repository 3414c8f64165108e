"""The report in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from agent.files import append_line
from agent.report import write_comparison, write_report
from tests.agent_report.runs import FINISHED, START, add_video, evaluation, finish, make_run_in

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1440, 1100, 900, 768, 390, 320)
# Everything that is meant to be seen and is not: zero-sized, or cut off by the page's right edge.
UNSEEN = """() => [...document.querySelectorAll('figure svg, section, table')].filter(e => {
  if (!e.checkVisibility()) return false;
  const box = e.getBoundingClientRect();
  return box.width < 50 || box.height < 20 || (!e.closest('.scroll') && box.right > innerWidth + 1);
}).map(e => e.outerHTML.slice(0, 80))"""
# Contrast of text with what lies behind it (WCAG 2: at least 4.5).
CONTRAST = """() => {
  const rgba = c => { const n = c.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
  const light = c => { const [r, g, b] = c.map(v => (v /= 255) <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b; };
  const behind = e => { for (; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor);
    if (c[3] > .99) return c.slice(0, 3); } return [255, 255, 255]; };
  let worst = [99, ''];
  for (const e of document.querySelectorAll('h1,h2,p,a,td,th,dt,dd,summary,figcaption,caption,span,text')) {
    if (!e.checkVisibility() || !e.textContent.trim()) continue;
    const style = getComputedStyle(e), ink = rgba(e.tagName === 'text' ? style.fill : style.color).slice(0, 3);
    const [a, b] = [light(ink), light(behind(e))].sort((x, y) => y - x), ratio = (a + .05) / (b + .05);
    if (ratio < worst[0]) worst = [ratio, e.tagName + ' ' + e.textContent.trim().slice(0, 40)];
  }
  return worst;
}"""


@dataclass
class Opened:
    """A page and everything that it complained about or asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no chromium or google-chrome on the PATH")
    with sync_api.sync_playwright() as playwright:
        # Chromium's sandbox does not start as root, and CI often is root.
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a run with everything that a report can show."""
    run = finish(make_run_in(tmp_path_factory.mktemp("browser"), *FINISHED))
    add_video(run)
    for at, kind in ((10.0, "executor"), (31.0, "env_fault"), (50.0, "resumed")):
        append_line(run.events, {"time": START + at, "kind": kind, "message": f"a {kind} of some length " * 4})
    return write_report(run.path)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of three runs."""
    folder = tmp_path_factory.mktemp("comparison")
    runs = []
    for name in "abc":
        (folder / name).mkdir()
        runs.append(make_run_in(folder / name, *FINISHED, evaluation("curve", 5000, 0.8, (0.7, 0.9)), seed=ord(name)))
    return write_comparison([run.path for run in runs], folder / "runs.html")


def open_page(browser: Any, path: Path, *, width: int = 1280, scheme: str = "light", media: str = "screen") -> Opened:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    opened = Opened(context.new_page())
    opened.page.on("console", lambda message: opened.said.append(f"{message.type}: {message.text}"))
    opened.page.on("pageerror", lambda error: opened.said.append(str(error)))
    opened.page.on("request", lambda request: opened.asked.append(request.url))
    opened.page.emulate_media(media=media, color_scheme=scheme)
    opened.page.goto(path.as_uri())
    return opened


def wait_for(page: Any, condition: str) -> None:
    """Until JavaScript's `condition` holds; Playwright's own way is one that the page's policy forbids."""
    for _ in range(200):
        if page.evaluate(condition):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"waited in vain for {condition}")


def test_it_loads_without_a_complaint_and_asks_for_nothing_but_itself(browser: Any, report: Path) -> None:
    opened = open_page(browser, report)
    assert opened.said == []
    assert [url for url in opened.asked if not url.startswith("data:")] == [report.as_uri()]
    opened.page.context.close()


@pytest.mark.parametrize("width", WIDTHS)
def test_everything_is_visible_and_nothing_scrolls_sideways_but_wide_tables(
    browser: Any, report: Path, width: int
) -> None:
    opened = open_page(browser, report, width=width)
    page = opened.page
    page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(UNSEEN) == []
    assert page.locator("figure svg:visible").count() >= 14
    results = page.locator("#results-table").locator("..")
    assert results.evaluate("e => e.scrollWidth <= e.clientWidth"), "the results scroll sideways"
    page.context.close()


def test_the_film_plays_when_asked_and_not_before(browser: Any, report: Path) -> None:
    page = open_page(browser, report).page
    film = page.locator("video")
    if not page.evaluate("document.createElement('video').canPlayType('video/mp4; codecs=avc1.42E01E')"):
        pytest.skip("this Chromium was built without H.264")
    wait_for(page, "document.querySelector('video').readyState >= 2")
    assert film.evaluate("e => [e.videoWidth, e.videoHeight, e.paused, e.controls]") == [320, 240, True, True]
    film.evaluate("e => e.play()")
    wait_for(page, "document.querySelector('video').currentTime > 0.2")
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_several_runs_on_a_page_look_as_well(browser: Any, comparison: Path, width: int) -> None:
    opened = open_page(browser, comparison, width=width)
    page = opened.page
    assert opened.said == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(UNSEEN) == [] and page.evaluate(CONTRAST)[0] >= 4.5
    assert page.locator("figure svg:visible").count() >= 9
    assert page.locator("#compared tbody tr").count() == 3
    page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_stands_out_from_its_ground(browser: Any, report: Path, scheme: str) -> None:
    opened = open_page(browser, report, scheme=scheme)
    ratio, where = opened.page.evaluate(CONTRAST)
    assert ratio >= 4.5, where
    ground = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in ground.removeprefix("rgb(").rstrip(")").split(","))
    assert (brightness > 600) == (scheme == "light")
    opened.page.context.close()


def test_the_keyboard_reaches_everything_and_shows_where_it_is(browser: Any, report: Path) -> None:
    page = open_page(browser, report).page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["x"] >= 0, "the skip link stays hidden"
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        where = page.evaluate(
            "(e => e === document.body ? '' : e.getAttribute('href') || e.tagName)(document.activeElement)"
        )
        if not where:
            break
        # The browser draws a film's own controls, and the focus among them.
        assert where == "VIDEO" or page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
        reached.append(where)
    links = page.evaluate("[...document.querySelectorAll('nav a')].map(e => e.getAttribute('href'))")
    assert reached[: len(links)] == links and len(links) >= 9
    assert reached.count("SUMMARY") == page.locator("summary").count()
    assert reached.count("DIV") >= 3, "tables that may scroll are not reached"
    summary = page.locator("summary", has_text="The evaluations as a table")
    summary.focus()
    page.keyboard.press("Enter")
    assert page.locator("#evaluations").is_visible()
    page.context.close()


def test_on_paper_all_is_black_on_white_unfolded_and_on_the_sheet(browser: Any, report: Path, tmp_path: Path) -> None:
    # A4 without margins at 96 dpi, asked for by a reader whose screen is dark.
    opened = open_page(browser, report, width=794, scheme="dark", media="print")
    page = opened.page
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate(CONTRAST)[0] >= 4.5
    assert page.evaluate(UNSEEN) == []
    assert page.evaluate("[...document.querySelectorAll('table')].every(e => e.getBoundingClientRect().right <= 794)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 794
    assert page.locator("#evaluations").is_visible(), "what is folded cannot be opened on paper"
    assert not page.locator("nav").is_visible() and not page.locator("video").is_visible()
    assert page.evaluate("[...document.querySelectorAll('.stills img')].filter(e => e.naturalWidth == 320).length") == 4
    sheets = page.pdf(format="A4")
    assert sheets.startswith(b"%PDF") and 3 <= sheets.count(b"/Type /Page\n") <= 12
    page.context.close()
