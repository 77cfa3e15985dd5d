"""A new user's day, from an empty environment and an empty folder: `make day`, or `python -m tests.users_day`.

Prints each command with its time and exit code, ends with a table, and exits with 1 if a command did not end as it
should. `--installed` uses the environment that it runs in; otherwise the wheel and its dependencies (a few GB) are
installed into a new one.
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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from arspm.runs import stages

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 1800  # for one command
CLIPS = ("--csv", "clips/avspeech.csv", "--clips", "clips/clips")
SUBMIT = ("arspm", "submit", *CLIPS, "--run", "runs/first", "--preset", "smoke")
WATCH = ("arspm", "watch", "runs/first")
STOPPED = 130  # the exit code after Ctrl-C

API = """
from pathlib import Path
from arspm import SpeechPortrait
model = SpeechPortrait.load("exported")
first, second = sorted(Path("clips/clips").glob("*.mp4"))[:2]
for number, portrait in enumerate(model.draw_many([first, second])):
    portrait.image.save(f"portrait-{number}.png")
    print(portrait.image.size, portrait.feature.shape)
"""


class Done(NamedTuple):
    """A command that has ended: what was typed, its duration, its exit code, and whether it ended as it should."""

    command: str
    seconds: float
    code: int
    ok: bool


class Day:
    """Runs commands in a folder, as a user's shell does, and remembers how they ended."""

    def __init__(self, folder: Path, binaries: Path) -> None:
        self.folder, self.done = folder, list[Done]()
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
        """Return a check that files are in the folder."""
        return lambda: all((self.folder / path).exists() for path in paths)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Run `arspm watch` in a pseudo-terminal during the block, which starts the run and ends with it."""
        ours, theirs = pty.openpty()
        began = self.begin(*WATCH)
        process = self.start(*WATCH, terminal=theirs)
        os.close(theirs)
        screens: list[bytes] = []
        reader = threading.Thread(target=read_terminal, args=(ours, screens))
        reader.start()
        try:
            yield
        finally:
            self.end(WATCH, process, began, check=lambda: b"preprocess" in b"".join(screens))
            reader.join()
            os.close(ours)
            print(last_screen(b"".join(screens)))

    def wait_for(self, path: str, process: subprocess.Popen[bytes]) -> None:
        """Wait until a file exists, or the process has ended."""
        while not (self.folder / path).exists() and process.poll() is None:
            time.sleep(0.2)


def read_terminal(descriptor: int, into: list[bytes]) -> None:
    """Collect what a program writes to a pseudo-terminal, until it ends."""
    try:
        while data := os.read(descriptor, 4096):
            into.append(data)
    except OSError:  # how Linux signals that the other side is closed
        pass


def last_screen(written: bytes) -> str:
    """Return what `arspm watch` showed last, without control sequences."""
    text = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "\f", written.decode(errors="replace")).replace("\r", "")
    return re.sub(r"\f+", "", text[text.rfind("runs/first") :]).rstrip()


def typed(words: tuple[str | Path, ...]) -> str:
    """Return a command as one line; code is shortened."""
    shown = [Path(word).name if Path(word).is_absolute() else str(word) for word in words]
    return " ".join("'...'" if "\n" in word else word for word in shown)


def install(day: Day, folder: Path) -> None:
    """Install the wheel, built from the files that git tracks, into a new environment."""
    from tests.test_release import build, copy_tracked

    day.run(sys.executable, "-m", "venv", folder / "venv")
    wheel = build("wheel", copy_tracked(folder / "source"), folder)
    day.run("pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel)


def live(day: Day) -> None:
    """Type the commands of the day, in an empty home directory."""
    day.environment["HOME"] = str(day.folder)  # only now: pip has used this user's settings and cache
    day.run("arspm", "doctor", "runs/first", "--preset", "smoke")
    day.run("arspm", "synth", "clips", "--num-speakers", "14", "--clips-per-speaker", "2")
    day.run("arspm", "up")
    try:
        began = day.begin(*SUBMIT)
        stopped = day.start(*SUBMIT)
        day.wait_for("runs/first/vggface/_SUCCESS.json", stopped)
        print("^C", flush=True)
        os.killpg(stopped.pid, signal.SIGINT)
        day.end(SUBMIT, stopped, began, expected=STOPPED)

        began = day.begin(*SUBMIT)
        resumed = day.start(*SUBMIT)
        day.wait_for("runs/first/features/_SUCCESS.json", resumed)  # it comes after what was stopped
        with day.watching():
            day.end(SUBMIT, resumed, began, check=lambda: all(finished(day, stage) for stage in stages.STAGES))

        day.run("arspm", "status", "runs/first")
        day.run("arspm", "report", "runs/first", check=day.exists("runs/first/report/index.html"))
        sweep = ("arspm", "sweep", "loss_weights", "--run", "runs/first")
        day.run(*sweep, "--num-trials", "2", "--export-best", "best.json", check=day.exists("best.json"))
        day.run("arspm", "submit", "--config", "best.json", "--run", "runs/best")
        files = ("exported/export.json", "exported/encoder.onnx", "exported/README.md")
        day.run("arspm", "export", "runs/best", "exported", check=day.exists(*files))
        day.run("python", "-c", API, check=day.exists("portrait-0.png", "portrait-1.png"))
        compare = ("arspm", "compare", "runs/first", "runs/best", "--out", "compared.html")
        day.run(*compare, check=day.exists("compared.html"))
        day.run("arspm", "gc", "runs", "--yes")
    finally:
        day.run("arspm", "down")


def finished(day: Day, stage: str) -> bool:
    return stages.success(str(day.folder / "runs/first"), stage) is not None


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
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, also by what we start
    with tempfile.TemporaryDirectory(prefix="day-") as temporary:
        folder = Path(temporary)
        (folder / "work").mkdir()
        binaries = Path(sys.executable).parent if arguments.installed else folder / "venv/bin"
        day = Day(folder / "work", binaries)
        if not arguments.installed:
            install(day, folder)
        live(day)
    print(f"\n{table(day.done)}")
    sys.exit(any(not each.ok for each in day.done))


if __name__ == "__main__":
    main()
