"""The page in a real Chromium with a fake microphone: record, drop, bad input, and nothing leaves the machine."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import soundfile
from PIL import Image

from arspm import SpeechPortrait
from arspm.demo_page.faces import LIMITS, load_means
from arspm.portrait import to_pixels
from tests.media.media_files import voice
from tests.report.conftest import CONTRAST, launched
from tests.untrained_run import write_untrained_run

pytestmark = pytest.mark.slow

# The command, which also writes down every address that it connects to or listens on, and every name it looks up.
AUDITED = """
import sys
log = open(sys.argv.pop(1), "a", buffering=1)
def note(event, arguments):
    if event in ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"):
        log.write(f"{event} {arguments[1] if event[7:] in ('connect', 'bind', 'sendto') else arguments[0]}\\n")
sys.addaudithook(note)
from jobs.cli import main
main()
"""


class Served(NamedTuple):
    url: str
    run: str
    temporary: Path
    addresses: Path
    process: subprocess.Popen[str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """`arspm demo-page` of a run, with a folder for temporary files of its own."""
    folder = tmp_path_factory.mktemp("served")
    run = write_untrained_run(folder / "run", {"prior.kind": "neutral"})
    (folder / "tmp").mkdir()
    addresses = folder / "addresses.txt"
    command = [sys.executable, "-c", AUDITED, str(addresses), "demo-page", run, "--port", "0"]
    environment = {**os.environ, "TMPDIR": str(folder / "tmp"), "GRADIO_TEMP_DIR": str(folder / "elsewhere")}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert line.startswith("serving http://127.0.0.1:"), line
        yield Served(line.split()[1], run, folder / "tmp", addresses, process)
        process.terminate()


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recordings")
    soundfile.write(folder / "speech.wav", np.tile(voice(6.0, 48_000), 5), 48_000)
    soundfile.write(folder / "silent.wav", np.zeros(32_000), 16_000)
    soundfile.write(folder / "short.wav", voice(1.0)[:1_600], 16_000)
    (folder / "text.wav").write_text("no sound")
    return folder


@pytest.fixture(scope="module")
def chromium(recordings: Path) -> Iterator[Any]:
    microphone = f"use-file-for-fake-audio-capture={recordings / 'speech.wav'}"
    with launched("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream", microphone) as browser:
        yield browser


class Opened(NamedTuple):
    page: Any
    requests: list[str]
    errors: list[str]

    def draw(self, shown: str) -> None:
        self.page.get_by_role("button", name="Draw").click()
        self.page.wait_for_selector(shown)

    def drop(self, file: Path) -> None:
        self.page.get_by_label("Upload file").click()
        self.page.set_input_files("input[type=file]", file)
        self.page.wait_for_selector("#recording .waveform-container, #recording audio", state="attached")
        self.page.wait_for_timeout(500)

    def images(self) -> list[np.ndarray]:
        sources = self.page.eval_on_selector_all("#result img", "all => all.map((each) => each.src)")
        return [np.asarray(Image.open(io.BytesIO(base64.b64decode(each.split(",")[1])))) for each in sources]


@pytest.fixture
def opened(chromium: Any, served: Served) -> Iterator[Opened]:
    page = chromium.new_page(viewport={"width": 1280, "height": 900})
    found = Opened(page, [], [])
    # gradio's page always asks for /manifest.json, without the token: the one refusal, which only the console mentions.
    refused = "Failed to load resource: the server responded with a status of 403 (Forbidden)"
    page.on("request", lambda request: found.requests.append(request.url))
    page.on("console", lambda each: found.errors.append(each.text) if each.type == "error" else None)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("response", lambda each: found.errors.append(f"{each.status} {each.url}") if each.status >= 400 else None)
    page.goto(served.url)
    page.wait_for_selector("button.record-button:visible")
    yield found
    page.close()
    outside = [url for url in found.requests if not url.startswith((served.url, "data:", f"blob:{served.url[:20]}"))]
    assert outside == []
    assert {*found.errors} <= {refused, "Waveform load error: MediaError"}  # the second of the player, for text
    assert len(found.requests) > 5


def left(served: Served) -> list[Path]:
    return [path for path in served.temporary.rglob("*") if path.is_file()]


def test_a_voice_is_recorded_and_drawn_beside_the_baselines(opened: Opened, served: Served):
    page = opened.page
    assert LIMITS in page.inner_text("#result")
    assert "are not kept" in page.inner_text("body")
    page.click("button.record-button")
    page.wait_for_timeout(3_000)
    page.click("button.stop-button:visible")
    page.wait_for_selector("#recording .waveform-container")
    page.wait_for_timeout(500)
    opened.draw("#result figure")

    portrait, *others = opened.images()
    model, means = SpeechPortrait.load(served.run), load_means(served.run)
    for shown, name in zip(others, ("neutral", "female", "male"), strict=True):
        pixels = to_pixels(model.portraits(means[name][None]))[0]
        assert np.abs(shown.astype(int) - pixels).max() <= 1
        assert not np.array_equal(shown, portrait)
    text = page.inner_text("#result")
    assert LIMITS in text
    assert text.index("Portrait") < text.index("Prior") < text.index("Baseline")
    page.wait_for_selector("button.record-button:visible")  # cleared, for the next recording
    assert left(served) == []


def test_a_dropped_file_gives_the_portrait_of_the_api(opened: Opened, served: Served, recordings: Path):
    opened.drop(recordings / "speech.wav")
    opened.draw("#result figure")
    expected = np.asarray(SpeechPortrait.load(served.run).draw(recordings / "speech.wav").image)
    assert np.abs(opened.images()[0].astype(int) - expected).max() <= 1
    assert left(served) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("silent.wav", "the recording: silent: level -inf dBFS"),
        ("short.wav", "the recording: 0.10 s of sound; at least 0.5 s needed"),
        ("text.wav", "the recording: cannot be decoded"),
        (None, "there is no recording yet"),
    ],
)
def test_what_cannot_be_drawn_is_one_line_on_the_page(
    opened: Opened, served: Served, recordings: Path, name: str | None, says: str
):
    if name:
        opened.drop(recordings / name)
    opened.draw("#result .problem")
    text = opened.page.inner_text("#result").strip()
    assert text.startswith(says)
    assert "\n" not in text
    assert left(served) == []


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (390, "dark")])
def test_the_page_is_readable_on_a_phone_and_in_the_dark(
    chromium: Any, served: Served, recordings: Path, width: int, scheme: str
):
    page = chromium.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page.goto(served.url)
    page.wait_for_selector("button.record-button:visible")
    opened = Opened(page, [], [])
    opened.drop(recordings / "speech.wav")
    opened.draw("#result figure")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    sizes = page.eval_on_selector_all("#result img", "all => all.map((each) => [each.clientWidth, each.clientHeight])")
    assert all(140 <= wide <= 208 and wide == high for wide, high in sizes)
    worst = page.evaluate(CONTRAST.replace("document.body", "document.getElementById('result')"))  # not gradio's own
    if folder := os.environ.get("ARSPM_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/demo-page-{width}-{scheme}.png", full_page=True)
    page.close()
    assert worst["ratio"] >= 4.5, worst


def test_others_are_refused(served: Served):
    port = served.url.split("/")[2]
    for url, host in (
        (f"http://{port}/", port),
        (f"http://{port}/gradio_api/info", port),
        (served.url, "evil.example"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}))
        with refused.value:
            assert refused.value.code == 403
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{served.url}gradio_api/file=/etc/hostname")
    with refused.value:
        assert refused.value.code == 403


@pytest.mark.parametrize("named", ["file", "url"])
def test_a_request_cannot_name_other_files_or_urls(served: Served, recordings: Path, named: str):
    path = str(recordings / "speech.wav") if named == "file" else "http://198.51.100.1/speech.wav"
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}]
    body = json.dumps({"data": data, "fn_index": 0, "session_hash": named}).encode()
    headers = {"Content-Type": "application/json"}
    asked = urllib.request.Request(f"{served.url}gradio_api/queue/join", data=body, headers=headers)
    with urllib.request.urlopen(asked) as answer:
        assert answer.status == 200
    with urllib.request.urlopen(f"{served.url}gradio_api/queue/data?session_hash={named}", timeout=60) as events:
        [done] = [line for line in events.read().decode().splitlines() if "process_completed" in line]
    assert json.loads(done.removeprefix("data: "))["success"] is False
    assert "data:image" not in done
    assert left(served) == []
    assert (recordings / "speech.wav").exists()


def test_at_the_end_nothing_is_left_and_nobody_was_called(served: Served):
    """The last one: it ends the server."""
    os.kill(served.process.pid, signal.SIGTERM)
    assert served.process.wait(30) == 0
    assert list(served.temporary.glob("arspm-demo-page-*")) == []
    lines = served.addresses.read_text().splitlines()
    assert any(line.startswith("socket.bind ('127.0.0.1', ") for line in lines)
    assert [line for line in lines if "127.0.0.1" not in line and "localhost" not in line] == []
