"""Tries spoilt inputs on one way into the system, in a process of its own, and says what went wrong.

A door is a function of a file's path. It may return, once it has checked what it was given against the contract; drop
the clip (DroppedClip); or refuse the file by a ValueError or an OSError that names it. All else is a defect: another
exception, an end of the process, ten seconds without an answer, a GiB more of memory, an unpickled name, a program
started, a connection, or a file opened outside the door's own folders.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from arspm.media.clips import DroppedClip
from tests.fuzz.mutations import Mutation

SECONDS = 10
BYTES = 1 << 30
LONGEST_LINE = 2500
# What a child has before it looks at an input, brought in once for all of them.
PRELOAD = (
    *("arspm.corpus", "arspm.stages", "arspm.sweeps", "arspm.learning.artifacts", "arspm.learning.judges"),
    *("arspm.media.datasets", "arspm.media.prepare", "arspm.model.vggface_weights", "arspm.presets", "cluster.cost"),
    *("cluster.head", "s3fs"),
    *("torch._dynamo", "torch.optim.adam", "h5py", "onnx", "pytest", "soundfile"),
)
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(list(PRELOAD))


class Spoilt(NamedTuple):
    """Inputs made of good files: the i-th follows from (seed, i) alone."""

    seeds: tuple[bytes, ...]
    mutations: tuple[Mutation, ...]
    count: int
    seed: int = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> bytes:
        rng = Random(f"{self.seed}:{index}")
        data = rng.choice(self.seeds)
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            with contextlib.suppress(
                ValueError, IndexError, AttributeError, RecursionError, struct.error
            ):  # spoilt beyond another
                data = rng.choice(self.mutations)(rng, data, rng.choice(self.seeds))
        return data


def number(usual: int) -> int:
    """How many inputs to try: ARSPM_FUZZ=N tries N at every door, where `usual` is the number for every day."""
    return int(os.environ.get("ARSPM_FUZZ") or usual)


def try_inputs(
    door: Callable[..., object], inputs: Spoilt | Sequence[bytes], *, name: str = "input", says: str = "", **told: Any
) -> Counter[str]:
    """Let `door(path, **told)` look at each of the inputs; how many it accepted, dropped and refused.

    name: what the file is called; a refusal names it, or `says`. Raises AssertionError that tells each defect, with the
    path of the input saved.
    """
    folder = Path(tempfile.mkdtemp(prefix="arspm-fuzz-"))
    tally: Counter[str] = Counter()
    defects: list[str] = []
    begin = 0
    while begin < len(inputs) and len(defects) < 10:
        ours, theirs = _PROCESSES.Pipe(duplex=False)
        child = _PROCESSES.Process(
            target=_child, args=(theirs, door, told, inputs, begin, folder / name, says or name), daemon=True
        )
        child.start()
        theirs.close()
        index, why = begin, ""
        try:
            while not why and ours.poll(SECONDS + (20 if index == begin else 0)):  # the first may wait for the preload
                index, verdict, why = ours.recv()
                tally[verdict] += 1
                if index + 1 == len(inputs):
                    break
                index += not why
            else:
                why = why or f"no answer after {SECONDS} s"
        except EOFError:
            child.join(SECONDS)
            log = (folder / "stderr").read_text(errors="replace")[-2000:]
            why = f"the process ended with {child.exitcode}: {log}"
        child.kill()
        child.join()
        ours.close()
        if why:
            kept = Path(tempfile.gettempdir(), f"arspm-fuzz-{door.__name__}-{index}-{name}")
            kept.write_bytes(inputs[index])
            defects.append(f"{door.__name__}, input {index}, saved as {kept}: {why}")
        begin = index + 1
    shutil.rmtree(folder, ignore_errors=True)
    assert not defects, "\n\n".join(defects)
    return tally


def _child(
    answers: Connection,
    door: Callable[..., object],
    told: dict[str, Any],
    inputs: Spoilt | Sequence[bytes],
    begin: int,
    path: Path,
    says: str,
) -> None:
    """Answer (index, verdict, defect or nothing) for each input from `begin` on."""
    import cv2
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    path.parent.mkdir(exist_ok=True)
    log = os.open(path.parent / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    os.chdir(path.parent)
    watch = _watch(path.parent)
    usual = _peak_bytes()
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES + BYTES // 2
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    for index in range(begin, len(inputs)):
        path.write_bytes(inputs[index])
        watch.clear()
        begun = time.monotonic()
        verdict, why = _verdict(door, path, told, says)
        if watch:
            why = f"{verdict}, but it did what no input may lead to: {watch[:3]}"
        elif time.monotonic() - begun > SECONDS:
            why = f"{verdict} after {time.monotonic() - begun:.0f} s"
        elif _peak_bytes() - usual > BYTES:
            why = f"{verdict}, with {(_peak_bytes() - usual) >> 20} MiB more of memory"
        answers.send((index, verdict, why))
        if why:
            return
    answers.close()


def _verdict(door: Callable[..., object], path: Path, told: dict[str, Any], says: str) -> tuple[str, str]:
    try:
        door(path, **told)
    except DroppedClip as drop:
        return "dropped", _faulty_message(str(drop), "")
    except (ValueError, OSError) as error:
        return "refused", _faulty_message(str(error), says)
    except BaseException:  # SystemExit too: nothing may leave a door so
        return "broke", traceback.format_exc()[-1500:]
    return "accepted", ""


def _faulty_message(message: str, name: str) -> str:
    """What is wrong with a message for people, or nothing."""
    if name not in message:
        return f"the message does not name the file: {message[:500]!r}"
    if not message.isprintable() and not message.replace("\n", "").isprintable():
        return f"the message has control characters: {message[:500]!r}"
    if max(map(len, message.splitlines())) > LONGEST_LINE or message.count("\n") > 50:
        return f"a message of {len(message)} characters: {message[:300]!r} ..."
    if any(word in message for word in ("bad_alloc", "DefaultCPUAllocator", "Insufficient memory")):
        return f"it ran out of memory: {message[:500]!r}"
    return ""


def _watch(folder: Path) -> list[str]:
    """A list that tells, from now on, what this process does that no input may lead to."""
    seen: list[str] = []
    alarming = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "pickle.find_class")
    written = (str(folder), tempfile.gettempdir(), "/dev/null", "/dev/shm")
    secret = ("/etc/passwd", "/etc/shadow")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in alarming:
            seen.append(f"{event} {args[:2]!r}")
        elif event == "open" and isinstance(args[0], str | bytes):
            path, flags = os.fsdecode(args[0]), args[2] if isinstance(args[2], int) else 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if os.path.abspath(path).startswith(secret) or (
                writes and not os.path.abspath(path).startswith(written) and "__pycache__" not in path
            ):
                seen.append(f"open {path!r}")

    sys.addaudithook(hook)
    return seen


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
