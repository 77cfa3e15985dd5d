"""A run's live page in a real browser: before anything is done, in the middle of a training, and until the report."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arspm.report import server, site_files
from arspm.report.live_page import PAGE
from cluster import events
from jobs import live as driving
from tests.report.conftest import CONTRAST, HOSTILE, Opened
from tests.report.live_run import LiveRun, until
from tests.report.sweep_browser import COME_BACK, DRAW_ALL


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("UPDATE_SECONDS", "FIRST_SECONDS"):
        monkeypatch.setattr(driving, name, 0.05)
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[LiveRun]:
    run = LiveRun(tmp_path)
    yield run
    run.page.close()


class Served(Opened):
    """A page of `arspm dashboard`."""

    def __init__(self, browser: Any, url: str) -> None:
        super().__init__(browser, Url(url), 1280, "light")  # type: ignore[arg-type]

    def come_back(self, expression: str) -> None:
        """Make the page fetch now instead of in five seconds, until the expression is true."""

        def seen() -> bool:
            self.page.evaluate(COME_BACK)
            self.page.wait_for_timeout(50)
            return bool(self.page.evaluate(expression))

        until(seen, 20)


class Url(str):
    def as_uri(self) -> str:
        return str(self)


@pytest.fixture
def open_served(browser: Any) -> Iterator[Callable[..., Served]]:
    """A function that serves a run and opens its page."""
    servers: list[server.Server] = []
    opened: list[Served] = []

    def open_it(run: LiveRun) -> Served:
        servers.append(server.start(run.uri, port=0))
        threading.Thread(target=servers[-1].serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        opened.append(Served(browser, f"{servers[-1].url}{PAGE}"))
        return opened[-1]

    yield open_it
    for each in opened:
        each.page.close()
    for started in servers:
        started.shutdown()
        started.server_close()


def text_of(opened: Opened, selector: str) -> str:
    return str(opened.page.locator(selector).inner_text())


def require_legible(page: Any) -> None:
    """Fail if the page scrolls sideways or has text without contrast, on a phone or a desk, by day or night."""
    for width, scheme in ((390, "dark"), (1280, "light")):
        page.set_viewport_size({"width": width, "height": 900})
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        worst = page.evaluate(CONTRAST)
        assert worst["ratio"] >= 4.5, worst


def in_the_middle(run: LiveRun) -> None:
    """Five stages are done, the gender stage failed, and the decoder is in its fourth epoch."""
    run.begin("preprocess")
    run.finish("preprocess", "vggface", "features", "prior", "oracle")
    run.begin("gender", "decoder")
    run.page.on_event(
        events.Failed(stage="gender", error=f"error: gender: {HOSTILE[0]}", seconds=4.0, submission_id="gender-1")
    )
    run.train("decoder", 3)


def test_the_page_goes_from_the_first_minute_to_the_report(run: LiveRun, open_served: Callable[..., Served]) -> None:
    run.page.start()
    until(Path(run.uri, PAGE).exists, 20)
    opened = open_served(run)
    page = opened.page
    assert text_of(opened, "#summary-line") == "0 of 10 stages are done."
    assert page.locator("#stages tbody tr").count() == 10
    assert "No training has begun yet" in text_of(opened, "#training")
    assert "not done yet" in text_of(opened, "#corpus")
    require_legible(page)

    in_the_middle(run)
    opened.come_back("document.getElementById('summary-line').textContent.includes('gender failed')")
    opened.come_back("document.querySelectorAll('#chart-decoder, #portraits-decoder, .meter').length === 3")
    page.evaluate(DRAW_ALL)
    opened.wait_for("document.querySelectorAll('#chart-decoder .main-svg').length > 0")
    assert text_of(opened, "#summary-line") == "5 of 10 stages are done; decoder is running; gender failed."
    assert HOSTILE[0] in text_of(opened, "#stages"), "as text"
    decoder = text_of(opened, "#stages tbody tr:nth-child(6)")
    assert "35 of 80 steps, epoch 4 of 8, loss 0.43, about 1 min 35 s left" in decoder
    caption = page.locator("figure", has=page.locator("#chart-decoder")).locator("figcaption").inner_text()
    assert caption == "decoder epoch 4 of 8, step 5 of 10; after epoch 3: loss 0.400"
    assert "kept epoch 2 of" in page.locator("#trainings").inner_text(), "of VGGFace, which is done"
    assert "Of 1,276 rows, 1,271 became clips of the corpus and 5 were dropped." in text_of(opened, "#corpus")
    assert "no_face" in text_of(opened, "#dropped")
    assert "identifies no one" in text_of(opened, "#portraits")
    shown = "document.querySelector('#portraits-decoder figure[data-epoch] img')"
    opened.wait_for(f"{shown}.getAttribute('src') === '../decoder/epochs/00003.jpg'")
    page.locator("#portraits").scroll_into_view_if_needed()
    opened.wait_for(f"{shown}.naturalWidth > 0")
    assert "The page updates itself." in text_of(opened, "#last-update")
    page.locator("#portraits-decoder summary").click()
    assert page.locator("#portraits-decoder details img").count() == 3
    require_legible(page)

    slider = page.locator("#portraits-decoder input")
    slider.fill("0")
    assert page.evaluate(f"{shown}.alt") == "Portraits by the decoder after epoch 1"
    run.train("decoder", 4)
    opened.come_back("document.querySelector('#portraits-decoder input').max === '3'")
    assert slider.input_value() == "0", "where the user has left it"

    run.finish("decoder", "gender", "encoder", "evaluate")
    assert opened.messages == []
    run.report()
    run.page.how = "finished"
    run.page.close()
    with page.expect_navigation():
        page.evaluate(COME_BACK)
    assert text_of(opened, ".overline").lower() == "ar-spm report"
    assert "AR-SPM report" in Path(run.uri, PAGE).read_text(), "the driver leaves the report alone"
    assert run.state()["state"] == "finished"
    assert opened.messages == []
    assert {
        url for url in opened.requests if not url.startswith((page.url.rpartition("/report/")[0], "data:"))
    } == set()


def test_opened_as_a_file_it_says_how_to_see_it_live_and_is_accessible(run: LiveRun, browser: Any) -> None:
    in_the_middle(run)
    run.page.start()
    run.page.close()
    opened = Opened(browser, Path(run.uri, PAGE), 1280, "light")
    assert text_of(opened, "#summary-line") == "5 of 10 stages are done; decoder is running; gender failed."
    assert "follow the run with `arspm dashboard`" in text_of(opened, "#last-update")
    assert opened.messages == []
    opened.page.locator("#portraits").scroll_into_view_if_needed()
    opened.wait_for("document.querySelector('#portraits-decoder figure[data-epoch] img').naturalWidth > 0")
    assert {url.rpartition("/epochs/")[2] for url in opened.network()} == {"real.jpg", "00003.jpg"}
    page = opened.page
    levels = page.eval_on_selector_all("h1, h2, h3", "all => all.map(e => +e.tagName[1])")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for selector, problem in (("img", "!e.alt"), ("table", "!e.caption?.innerText.trim()"), (".chart", "!e.ariaLabel")):
        assert page.eval_on_selector_all(selector, f"all => all.filter(e => {problem} && e.offsetParent).length") == 0
    assert page.locator("#bar").get_attribute("aria-valuetext") == "5 of 10 stages are done"
    assert page.locator("#portraits-decoder input").get_attribute("aria-valuetext") == "epoch 3"
    page.close()
