"""Updates of a sweep's page over HTTP, in a real browser."""

import copy
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arspm import storage
from arspm.report import server, site_files
from arspm.report.sweep_page import PAGE, RESULTS
from tests.report import swept
from tests.report.sweep_browser import COME_BACK, NUMBERS, header


class _Handler(http.server.SimpleHTTPRequestHandler):
    statuses: list[tuple[str, int]] = []  # noqa: RUF012

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        self.statuses.append((self.path, int(code)))

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """URL of a web server on loopback that serves a directory."""
    _Handler.statuses.clear()
    handler = functools.partial(_Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{PAGE}"
        server.shutdown()
        thread.join()


def test_updates_keep_sorting_filter_selection_focus_and_scroll_position(
    browser: Any, served: str, tmp_path: Path
) -> None:
    results = swept.loss_weights(30, running=True)
    later = copy.deepcopy(results)
    later["trials"].append(copy.deepcopy(later["trials"][2]) | {"number": 30, "best": 12.34, "best_epoch": 3})
    later["trials"][29]["state"] = "failed"
    later["trials"][29]["reason"] = "killed while the page was open"
    later["counts"] |= {"running": 0, "failed": 2}
    later |= {"best": 30, "updated": results["updated"] + 20, "state": "finished"}
    swept.write(str(tmp_path), results)
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text))
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.goto(served)
    header(page, "sample loss.lambda1").click()
    page.locator("#filter").fill("0.")
    page.get_by_label("Compare trial 2", exact=True).check()
    page.get_by_label("Compare trial 4", exact=True).focus()
    before = page.evaluate(NUMBERS)
    page.wait_for_timeout(800)  # scrolling is animated
    scrolled = page.evaluate("scrollY")
    assert scrolled > 300
    page.evaluate(COME_BACK)
    page.wait_for_timeout(300)
    assert page.evaluate(NUMBERS) == before
    assert (f"/{RESULTS}", 304) in _Handler.statuses or (f"/{RESULTS}", 200) in _Handler.statuses
    page.evaluate(COME_BACK)
    page.wait_for_timeout(300)
    assert (f"/{RESULTS}", 304) in _Handler.statuses  # unchanged, so no body was sent
    (tmp_path / RESULTS).unlink()
    page.evaluate(COME_BACK)
    _wait(page, "document.getElementById('last-update').innerText.includes('keeps trying')")
    assert [text for text in messages if "404" not in text] == []
    swept.write(str(tmp_path), later)
    _touch(tmp_path / RESULTS)
    page.evaluate(COME_BACK)
    _wait(page, "document.getElementById('best-summary').innerText.startsWith('Trial 30 is the best: ')")
    assert "updates itself" in page.locator("#last-update").inner_text()
    assert "killed while the page was open" in page.locator("#trial-table").text_content()
    numbers = page.evaluate(NUMBERS)
    assert 30 in numbers
    assert [number for number in numbers if number != 30] == before
    values = [later["trials"][number]["sample"]["loss.lambda1"] for number in numbers]
    assert values == sorted(values)
    assert page.locator("#filter").input_value() == "0."
    assert page.get_by_label("Compare trial 2", exact=True).is_checked()
    assert page.locator("#comparison-table thead th").count() == 2
    assert page.evaluate("document.activeElement.ariaLabel") == "Compare trial 4"
    assert abs(page.evaluate("scrollY") - scrolled) < 150
    assert [text for text in messages if "404" not in text] == []
    page.close()


def test_the_page_updates_through_the_dashboards_tokenised_url(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The printed URL links to a page that updates itself; without the token every URL is a 403."""
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    results = swept.loss_weights(4, running=True)
    for name in ("one", "two"):
        folder = storage.join(str(tmp_path), "sweeps", name)
        storage.write_json(storage.join(folder, "sweep.json"), {"name": name})
        swept.write(folder, results)
    with server.start(str(tmp_path), port=0) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        page = browser.new_page()
        try:
            answers: list[tuple[str, int]] = []
            page.on("response", lambda response: answers.append((response.url, response.status)))
            page.goto(started.url)
            page.get_by_role("link", name="two").click()
            page.wait_for_url(f"{started.url}sweeps/two/")
            later = results | {"updated": results["updated"] + 20, "state": "finished"}
            later["trials"][2] |= {"state": "finished", "best": 12.34, "best_epoch": 3}
            swept.write(folder, later | {"best": 2})
            page.evaluate(COME_BACK)
            _wait(page, "document.getElementById('best-summary').innerText.startsWith('Trial 2 is the best: ')")
            assert (f"{started.url}sweeps/two/{RESULTS}", 200) in answers
            assert [url for url, _ in answers if not url.startswith(started.url)] == []
            assert page.evaluate("document.referrer") == ""
            stranger = f"http://127.0.0.1:{started.port}/"
            for address in (stranger, f"{stranger}sweeps/two/", f"{stranger}guessed/sweeps/two/"):
                assert page.goto(address).status == 403
                text = page.locator("body").inner_text()
                assert "Open the complete URL that `arspm dashboard` printed" in text
                assert started.root not in page.content()
        finally:
            page.close()
            started.shutdown()
            thread.join()


def test_the_dashboard_shows_logs_and_other_sweeps(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_files, "FILE_SECONDS", 0.0)
    results = {"one": swept.loss_weights(4, running=True), "b & c": swept.loss_weights(6, seed=5)}
    for name, each in results.items():
        folder = storage.join(str(tmp_path), "sweeps", name)
        storage.write_json(storage.join(folder, "sweep.json"), {"name": name})
        swept.write(folder, each)
    log = tmp_path / "sweeps" / "one" / "trials" / "00002.log"
    log.write_text("2026-01-01 00:00:00 UTC INFO <b>epoch 1</b>\n")
    with server.start(str(tmp_path), port=0) as started:
        thread = threading.Thread(target=started.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda message: messages.append(message.text))
        page.on("pageerror", lambda error: messages.append(str(error)))
        try:
            page.goto(f"{started.url}sweeps/one/#trial=2")
            _wait(page, "document.getElementById('trial-log').innerText.includes('<b>epoch 1</b>')")
            log.write_text("2026-01-01 00:00:00 UTC INFO epoch 2\n")
            page.evaluate(COME_BACK)
            _wait(page, "document.getElementById('trial-log').innerText.includes('epoch 2')")
            page.locator("#sweeps").scroll_into_view_if_needed()
            page.get_by_label("b & c").check()
            _wait(page, "document.querySelectorAll('#sweeps-table thead th').length === 3")
            best = min(results["b & c"]["trials"], key=lambda trial: trial["best"])
            assert f"{best['best']:.2f}° (trial {best['number']})" in page.locator("#sweeps-table").inner_text()
            link = page.url
            page.goto("about:blank")
            page.goto(link)  # the URL names the other sweep
            _wait(page, "document.querySelectorAll('#sweeps-table thead th').length === 3")
            assert page.locator("#sweep-choices label").all_inner_texts() == ["b & c"]
            page.locator("#learning").scroll_into_view_if_needed()
            _wait(page, "!!document.querySelector('#chart-learning .main-svg')")  # curves and portraits were fetched
            assert page.locator("#faces-of-trials img").first.evaluate("e => e.getAttribute('src')") == "clips.jpg"
            assert messages == []
        finally:
            page.close()
            started.shutdown()
            thread.join()


def _wait(page: Any, expression: str) -> None:
    for _ in range(200):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(25)
    raise AssertionError(f"never true: {expression}")


def _touch(path: Path) -> None:
    """Set the modification time two seconds later: the server's Last-Modified has a resolution of one second."""
    stat = path.stat()
    os.utime(path, (stat.st_atime + 2, stat.st_mtime + 2))
