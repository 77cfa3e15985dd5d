"""A new user's day, from an empty environment and an empty folder: `make day`, or `python -m tests.users_day`.

Prints each command with its time and exit code, ends with a table, and exits with 1 if a command did not end as it
should. `--installed` uses the environment that it runs in; otherwise the wheel and its dependencies (a few GB) are
installed into a new one. `--bucket`: the runs are in the empty bucket of an S3 server on this machine (SeaweedFS).
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import NamedTuple

from arspm import storage
from arspm.runs import stages
from tests.s3_servers import BUCKET, SeaweedFS, connected_to, s3_env

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 1800  # for one command
CLIPS = ("--csv", "clips/avspeech.csv", "--clips", "clips/clips")
STOPPED = 130  # the exit code after Ctrl-C
_PAGE = re.compile(rb"http://127\.0\.0\.1:\d+/[\w/-]*")

API = """
from pathlib import Path
from arspm import SpeechPortrait
model = SpeechPortrait.load("exported")
first, second = sorted(Path("clips/clips").glob("*.mp4"))[:2]
for number, portrait in enumerate(model.draw_many([first, second])):
    portrait.image.save(f"portrait-{number}.png")
    print(portrait.image.size, portrait.feature.shape)
"""


Written = list[bytes]  # by a program to its terminal


class Done(NamedTuple):
    """A command that has ended: what was typed, its duration, its exit code, and whether it ended as it should."""

    command: str
    seconds: float
    code: int
    ok: bool


class Day:
    """Runs commands in a folder, as a user's shell does, and remembers how they ended.

    runs: where the runs are, a path relative to the folder or s3://.
    """

    def __init__(self, folder: Path, binaries: Path, runs: str = "runs") -> None:
        self.folder, self.runs, self.done = folder, runs, list[Done]()
        own = {name: text for name, text in os.environ.items() if not name.startswith(("PYTHON", "RAY_", "VIRTUAL_"))}
        self.environment = own | {
            "PATH": f"{binaries}{os.pathsep}{own['PATH']}",
            "ARSPM_HOME": str(folder / "home"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "TERM": "xterm-256color",
            "COLUMNS": "120",
        }

    def run(self, *words: str | Path, expected: int = 0, check: Callable[[], bool] | None = None) -> None:
        """Run a command to its end. check: called after it; its result must be true."""
        began = self.begin(*words)
        process = self.start(*words)
        self.end(words, process, began, expected, check)

    def begin(self, *words: str | Path) -> float:
        """Print a command as it would be typed, and return the time in seconds."""
        print(f"\n$ {typed(words)}", flush=True)
        return time.monotonic()

    def start(self, *words: str | Path, terminal: int | None = None) -> subprocess.Popen[bytes]:
        """Start a command in a session of its own, as in a terminal of its own. terminal: its descriptor, if any."""
        return subprocess.Popen(
            words,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )

    def end(
        self,
        words: tuple[str | Path, ...],
        process: subprocess.Popen[bytes],
        began: float,
        expected: int = 0,
        check: Callable[[], bool] | None = None,
    ) -> None:
        """Wait for a command, and note how it ended. A command that takes too long is killed."""
        try:
            code = process.wait(LIMIT_SECONDS)
        except BaseException as error:  # also when this program is stopped: the command is in a session of its own
            os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        seconds = time.monotonic() - began
        ok = code == expected and (check is None or check())
        self.done.append(Done(typed(words), seconds, code, ok))
        note = "" if ok else f", expected {expected}" if code != expected else ", but its result is missing"
        print(f"[{typed(words[:2])}: {seconds:.1f} s, exit code {code}{note}]", flush=True)

    def exists(self, *paths: str) -> Callable[[], bool]:
        """Return a check that files exist."""
        return lambda: all(storage.exists(self.uri(path)) for path in paths)

    def uri(self, path: str) -> str:
        """Return where this process finds a path of the commands."""
        return path if storage.is_remote(path) else str(self.folder / path)

    def finished(self, run: str, stage: str) -> bool:
        return stages.success(self.uri(run), stage) is not None

    @contextmanager
    def beside(self, *words: str, check: Callable[[bytes], bool]) -> Iterator[tuple[subprocess.Popen[bytes], Written]]:
        """Run a command in a pseudo-terminal, which the block starts with. Afterwards, wait for it.

        check: of all that it has written.
        """
        ours, theirs = pty.openpty()
        began = self.begin(*words)
        process = self.start(*words, terminal=theirs)
        os.close(theirs)
        written: Written = []
        reader = threading.Thread(target=read_terminal, args=(ours, written))
        reader.start()
        try:
            yield process, written
        finally:
            self.end(words, process, began, check=lambda: check(b"".join(written)))
            reader.join()
            os.close(ours)

    @contextmanager
    def watching(self, *words: str) -> Iterator[None]:
        """Run `arspm watch` beside the block, and print the screen that it showed last."""
        written: Written = []
        try:
            with self.beside(*words, check=lambda text: b"preprocess" in text) as (_, written):
                yield
        finally:
            print(last_screen(b"".join(written), words[-1]))

    def visit(self, *words: str) -> None:
        """Start a command that serves a page, open the page, and stop the command with Ctrl-C."""
        page = b""
        with self.beside(*words, check=lambda _: b"<html" in page) as (process, written):
            while not (found := _PAGE.search(b"".join(written))) and process.poll() is None:
                time.sleep(0.2)
            if found:
                with suppress(OSError), urllib.request.urlopen(found[0].decode()) as response:
                    page = response.read()
                os.killpg(process.pid, signal.SIGINT)

    def wait_for(self, path: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until a file exists, or the process has ended."""
        while not self.exists(path)() and process.poll() is None:
            time.sleep(0.5)


def read_terminal(descriptor: int, into: Written) -> None:
    """Collect what a program writes to a pseudo-terminal, until it ends."""
    try:
        while data := os.read(descriptor, 4096):
            into.append(data)
    except OSError:  # how Linux signals that the other side is closed
        pass


def last_screen(written: bytes, run: str) -> str:
    """Return what `arspm watch` showed last of a run, without control sequences."""
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\f", written.decode(errors="replace")).replace("\r", "")
    return re.sub(r"\f+", "", text[max(0, text.rfind(run)) :]).rstrip()


def typed(words: tuple[str | Path, ...]) -> str:
    """Return a command as one line; code is shortened."""
    shown = [Path(word).name if Path(word).is_absolute() else str(word) for word in words]
    return " ".join("'...'" if "\n" in word else word for word in shown)


def install(day: Day, folder: Path) -> None:
    """Install the wheel, built from the files that git tracks, into a new environment."""
    from tests.test_release import build, copy_tracked

    day.run(sys.executable, "-m", "venv", folder / "venv")
    wheel = build("wheel", copy_tracked(folder / "source"), folder)
    day.run("pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[page]")


def live(day: Day) -> None:
    """Type the commands of the day, in an empty home directory."""
    day.environment["HOME"] = str(day.folder)  # only now: pip has used this user's settings and cache
    first, best = f"{day.runs}/first", f"{day.runs}/best"
    submit = ("arspm", "submit", *CLIPS, "--run", first, "--preset", "smoke")
    day.run("arspm", "doctor", first, "--preset", "smoke")
    day.run("arspm", "synth", "clips", "--num-speakers", "14", "--clips-per-speaker", "2")
    day.run("arspm", "up")
    try:
        began = day.begin(*submit)
        stopped = day.start(*submit)
        day.wait_for(f"{first}/vggface/_SUCCESS.json", stopped)
        print("^C", flush=True)
        os.killpg(stopped.pid, signal.SIGINT)
        day.end(submit, stopped, began, expected=STOPPED)

        began = day.begin(*submit)
        resumed = day.start(*submit)
        day.wait_for(f"{first}/features/_SUCCESS.json", resumed)  # it comes after what was stopped
        with day.watching("arspm", "watch", first):
            day.end(submit, resumed, began, check=lambda: all(day.finished(first, stage) for stage in stages.STAGES))

        day.run("arspm", "status", first)
        day.run("arspm", "report", first, check=day.exists(f"{first}/report/index.html"))
        sweep = ("arspm", "sweep", "loss_weights", "--run", first)
        day.run(*sweep, "--num-trials", "2", "--export-best", "best.json", check=day.exists("best.json"))
        day.visit("arspm", "dashboard", first, "--port", "0")
        day.run("arspm", "submit", "--config", "best.json", "--run", best)
        files = ("exported/export.json", "exported/encoder.onnx", "exported/README.md")
        day.run("arspm", "export", best, "exported", check=day.exists(*files))
        day.run("python", "-c", API, check=day.exists("portrait-0.png", "portrait-1.png"))
        day.visit("arspm", "demo-page", "exported", "--port", "0")
        compare = ("arspm", "compare", first, best, "--out", "compared.html")
        day.run(*compare, check=day.exists("compared.html"))
        day.run("arspm", "gc", day.runs, "--yes")
    finally:
        day.run("arspm", "down")


@contextmanager
def bucket(day: Day, folder: Path) -> Iterator[None]:
    """Serve an empty bucket, and let the commands and this process use it."""
    env = s3_env("127.0.0.1", 8333)
    server = SeaweedFS(folder, env)
    day.environment |= env
    try:
        server.start()
        with connected_to(env):
            yield
    finally:
        server.kill()


def table(done: list[Done]) -> str:
    """Return the commands as a Markdown table."""
    rows = [
        f"| `{command}` | {seconds:.1f} | {code}{'' if ok else ' (wrong)'} |" for command, seconds, code, ok in done
    ]
    total = sum(each.seconds for each in done)
    return "\n".join(["| command | seconds | exit code |", "|---|---|---|", *rows, f"| sum | {total:.1f} | |"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Live a new user's day; exit with 1 if a command failed.")
    parser.add_argument("--installed", action="store_true", help="use this environment (default: install the wheel)")
    parser.add_argument("--bucket", action="store_true", help="keep the runs in a bucket (default: a folder)")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, also by what we start
    with tempfile.TemporaryDirectory(prefix="day-") as temporary:
        folder = Path(temporary)
        for name in ("work", "bucket"):
            (folder / name).mkdir()
        binaries = Path(sys.executable).parent if arguments.installed else folder / "venv/bin"
        day = Day(folder / "work", binaries, f"s3://{BUCKET}/runs" if arguments.bucket else "runs")
        if not arguments.installed:
            install(day, folder)
        with bucket(day, folder / "bucket") if arguments.bucket else nullcontext():
            live(day)
    print(f"\n{table(day.done)}")
    sys.exit(any(not each.ok for each in day.done))


if __name__ == "__main__":
    main()
