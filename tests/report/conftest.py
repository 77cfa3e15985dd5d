"""A small finished run, written with the product's own writers, and a real browser that opens its page."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from arspm.config.presets import PRESETS
from arspm.report import server, sweep_page
from arspm.report.run_page import PAGE, write_report
from tests.report import swept
from tests.report.finished_run import Run, make_drop, write_run
from tests.report.measured import row
from tests.report.serving import Client, Serve

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
HOSTILE = (
    "<script>window.pwned = 1; alert(1)</script>",
    "\"><img src=x onerror='window.pwned = 1'>",
    "</script><script>window.pwned = 1</script>",
    "{{ 7 * 7 }} & <b>bold</b> 'quoted'",
)


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    return lambda **options: write_run(tmp_path / "runs" / "trial", **options)


@pytest.fixture
def drop() -> Callable[..., dict[str, Any]]:
    return make_drop


@pytest.fixture
def make_row() -> Callable[..., dict[str, Any]]:
    return row


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Chromium through Playwright; fails with installation instructions, or skips if ARSPM_NO_BROWSER=1."""
    with launched() as browser:
        yield browser


@contextmanager
def launched(*more: str) -> Iterator[Any]:
    """Chromium with more flags than usual. Fails and skips as `browser`."""
    from playwright.sync_api import sync_playwright

    flags = "no-sandbox disable-gpu no-first-run disable-background-networking disable-component-update disable-sync"
    with sync_playwright() as playwright:
        # tests/install-system installs Playwright's own where it may not install packages of the system.
        path = next(filter(None, map(shutil.which, (*BROWSERS, playwright.chromium.executable_path))), None)
        if path is None:
            how = "install chromium or google-chrome so that it is on the PATH, for example: apt-get install chromium"
            if os.environ.get("ARSPM_NO_BROWSER") == "1":
                pytest.skip(f"THE PAGE WAS NOT TESTED: no browser, and ARSPM_NO_BROWSER=1. To test it, {how}")
            pytest.fail(f"no browser to open the page in: {how}; or set ARSPM_NO_BROWSER=1 to skip the page tests")
        options = [f"--{flag}" for flag in (*flags.split(), *more)]
        browser = playwright.chromium.launch(executable_path=path, headless=True, args=options)
        yield browser
        browser.close()


class Opened:
    """An open page, with its console messages and requests."""

    def __init__(self, browser: Any, path: Path, width: int, scheme: str):
        self.page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.messages.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())
        self.wait_for("[...document.querySelectorAll('.chart')].every(e => e.querySelector('.main-svg'))")

    def wait_for(self, expression: str, seconds: float = 20) -> None:
        """Wait until the expression is true. Playwright's own waiting needs eval, which the page's policy forbids."""
        end = time.monotonic() + seconds
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression} (console: {self.messages})"
            self.page.wait_for_timeout(50)

    def network(self) -> list[str]:
        """Return the URLs that the page requested, except its own file and data URIs."""
        own = self.page.url.partition("#")[0]
        return [url for url in self.requests if url.partition("#")[0] != own and not url.startswith("data:")]


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., Opened]]:
    opened = []

    def open_it(run: Any, width: int = 1280, scheme: str = "light", path: Path | None = None) -> Opened:
        if path is None:
            write_report(run.config, run.uri, PRESETS[run.config.preset])
        opened.append(Opened(browser, path or Path(run.uri, PAGE), width, scheme))
        return opened[-1]

    yield open_it
    for each in opened:
        each.page.close()


class OpenRun(NamedTuple):
    opened: Opened
    run: Run


@pytest.fixture(scope="session")
def open_run(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenRun]:
    """The page of a complete run, open for tests that do not modify it."""
    run = write_run(tmp_path_factory.mktemp("runs") / "trial")
    write_report(run.config, run.uri, PRESETS[run.config.preset])
    opened = Opened(browser, Path(run.uri, PAGE), 1280, "light")
    yield OpenRun(opened, run)
    opened.page.close()


@pytest.fixture
def open_sweep(browser: Any, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Write a sweep's results and page, and open it."""
    opened = []

    def open_it(results: dict[str, Any], width: int = 1280, scheme: str = "light") -> Opened:
        swept.write(str(tmp_path), results)
        opened.append(Opened(browser, tmp_path / sweep_page.PAGE, width, scheme))
        return opened[-1]

    yield open_it
    for each in opened:
        each.page.close()


@pytest.fixture(scope="module")
def weights(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open page of a random search and its results: trials in all states, one still running."""
    results = swept.loss_weights(30, running=True)
    results["trials"][7] |= {"state": "failed", "best": None, "best_epoch": None, "epochs": []}
    results["trials"][7]["reason"] = '=cmd("x"), and\nmore'
    results["trials"][8]["reason"] = "-1+1"
    yield from _opened(browser, tmp_path_factory.mktemp("sweep"), results)


@pytest.fixture(scope="module")
def grid(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, dict[str, Any]]]:
    """The open page of a grid of prior x ordering with three seeds, and its results."""
    results = swept.variants(3)
    results["trials"][4] |= {"state": "stopped", "best": 99.0}  # excluded from means, but has a dot
    yield from _opened(browser, tmp_path_factory.mktemp("sweep"), results)


def _opened(browser: Any, folder: Path, results: dict[str, Any]) -> Iterator[tuple[Any, dict[str, Any]]]:
    swept.write(str(folder), results)
    opened = Opened(browser, folder / sweep_page.PAGE, 1280, "light")
    yield opened.page, results
    messages = [text for text in opened.messages if "Content Security Policy" not in text]  # a test provokes these
    opened.page.close()
    assert messages == []


# The lowest contrast of any text with its background (WCAG 2 requires 4.5), without charts.
CONTRAST = """() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (colour) => {
    const [r, g, b] = colour.slice(0, 3).map((v) => linear(v / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  let worst = { ratio: 99, text: "" };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || e.closest("script, style, noscript, .chart")) continue;
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    if (ratio < worst.ratio) worst = { ratio, text: text.slice(0, 60) };
  }
  return worst;
}"""


@pytest.fixture
def serve() -> Iterator[Serve]:
    """A function that serves a URI on a free port and returns a client."""
    servers = []

    def begin(uri: str) -> Client:
        started = server.start(uri, port=0)
        servers.append(started)
        threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return Client(started.port, started.root.removesuffix("/"))

    yield begin
    for started in servers:
        started.shutdown()
        started.server_close()
