"""Tries spoilt inputs on one way into the system, in a process of its own, and says what went wrong.

A door is a function of a file's path. It may return, once it has checked what it was given against the contract; drop
the clip (DroppedClip); or refuse the file by a ValueError or an OSError that names it. All else is a defect: another
exception, an end of the process, ten seconds of processor time, a minute without an answer, a GiB more of memory, an
unpickled name, a program started, a connection, or anything read or changed outside the door's own folder.
"""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
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

SECONDS = 10  # of processor time, of which a busy machine needs no more than an idle one
WAIT_SECONDS, PRELOAD_SECONDS = 60, 120  # of the clock
BYTES = 1 << 30
LONGEST_LINE = 2500
# What a child has before it looks at an input, brought in once for all of them.
PRELOAD = (
    *(
        "arspm.corpus.tables",
        "arspm.runs.stages",
        "arspm.runs.sweeps",
        "arspm.training.artifacts",
        "arspm.evaluation.judges",
    ),
    *(
        "arspm.media.datasets",
        "arspm.media.prepare",
        "arspm.model.vggface_weights",
        "arspm.config.presets",
        "cluster.cost",
    ),
    *("arspm.distributed.data.oracle", "cluster.head", "jobs.sweep_plan", "s3fs"),
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
    outside = Path(tempfile.mkdtemp(prefix="arspm-fuzz-")).resolve()
    folder = outside / "around" / "case"
    folder.mkdir(parents=True)
    for bait in (outside / "x", outside / "around" / "x"):  # where `../x` and `../../x` lead
        bait.write_bytes(b"not to be touched")
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
            while not why and ours.poll(WAIT_SECONDS + (PRELOAD_SECONDS if index == begin else 0)):
                index, verdict, why = ours.recv()
                tally[verdict] += 1
                if index + 1 == len(inputs):
                    break
                index += not why
            else:
                why = why or f"no answer after {WAIT_SECONDS} s"
        except EOFError:
            child.join(WAIT_SECONDS)
            log = (folder / "stderr").read_text(errors="replace")[-2000:]
            why = f"the process ended with {child.exitcode}: {log}"
            if child.exitcode == -signal.SIGXCPU:
                why = f"more than {SECONDS} s of processor time"
        child.kill()
        child.join()
        ours.close()
        if why:
            kept = Path(tempfile.gettempdir(), f"arspm-fuzz-{door.__name__}-{index}-{name}")
            kept.write_bytes(inputs[index])
            defects.append(f"{door.__name__}, input {index}, saved as {kept}: {why}")
        begin = index + 1
    shutil.rmtree(outside, ignore_errors=True)
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
    log = os.open(path.parent / "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    faulthandler.enable()
    os.chdir(path.parent)
    scratch = path.parent / "tmp"
    scratch.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(scratch)
    sys.dont_write_bytecode = True  # of a module that is only now imported
    watch = _watch(path.parent, told)
    around = _around(path.parent)
    usual = _peak_bytes()
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES + BYTES // 2
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    for index in range(begin, len(inputs)):
        path.write_bytes(inputs[index])
        watch.clear()
        begun = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(begun) + SECONDS + 1, most))
        verdict, why = _verdict(door, path, told, says)
        watch += sorted(f"changed {name}" for name, _ in around ^ _around(path.parent))
        if watch:
            why = f"{verdict}, but it did what no input may lead to: {watch[:3]}"
        elif time.process_time() - begun > SECONDS:
            why = f"{verdict} after {time.process_time() - begun:.0f} s"
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


# Python's audit events (PEP 578) that no input may lead to.
_NEVER = frozenset(
    (
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
        *("subprocess.Popen", "os.kill", "os.killpg", "pickle.find_class"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"),
        *("socket.getaddrinfo", "socket.gethostbyname"),
    )
)
# Those of a change: which arguments are paths, each with the one that says what folder it starts from.
_CHANGES: dict[str, tuple[tuple[int, int], ...]] = {
    "os.remove": ((0, 1),),
    "os.rmdir": ((0, 1),),
    "os.mkdir": ((0, 2),),
    "os.rename": ((0, 2), (1, 3)),
    "os.link": ((0, 2), (1, 3)),
    "os.symlink": ((1, 2),),
    "shutil.rmtree": ((0, 1),),
    "shutil.move": ((0, 9), (1, 9)),
    "os.chmod": ((0, 2),),
    "os.chown": ((0, 3),),
    "os.utime": ((0, 3),),
    "os.truncate": ((0, 9),),
    "os.setxattr": ((0, 9),),
    "os.removexattr": ((0, 9),),
    "sqlite3.connect": ((0, 9),),
}
_THROUGH_LINKS = ("os.chmod", "os.chown", "os.utime", "os.truncate", "os.setxattr", "os.removexattr", "sqlite3.connect")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# What Python and its libraries read and write whatever the input.
_WRITABLE = ("/dev/null",)
_READABLE = ("/dev/null", "/dev/urandom", sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), *sys.path)


def _watch(folder: Path, told: dict[str, Any]) -> list[str]:
    """A list that tells, from now on, what this process does that no input may lead to.

    A door may read, beside its folder and Python's own, what it is told of. What a library does without Python is not
    seen here.
    """
    seen: list[str] = []
    writable = [os.path.realpath(each) for each in (folder, *_WRITABLE)]
    given = [each for each in told.values() if isinstance(each, str | Path) and os.path.isabs(each)]
    readable = [*writable, *(os.path.realpath(each) for each in (*_READABLE, *given) if each)]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _NEVER:
            seen.append(f"{event} {args[:2]!r}")
        elif event in _CHANGES:
            for at, start in _CHANGES[event]:
                base = args[start] if len(args) > start else None
                if not _within(_place(args[at], base, event in _THROUGH_LINKS), writable):
                    seen.append(f"{event} {args[:2]!r}")
        elif event == "open" and not isinstance(args[0], int):
            writes = isinstance(args[2], int) and args[2] & _WRITES
            if not _within(_place(args[0], None, True), writable if writes else readable):
                seen.append(f"open {args[0]!r} to {'write' if writes else 'read'}")

    sys.addaudithook(hook)
    return seen


def _place(path: Any, start: int | None, through_links: bool) -> str:
    """Where a path leads that a function of `os` was given, from the open folder `start` if there is one."""
    if isinstance(path, int):
        path = f"/proc/self/fd/{path}"
    elif start is not None and start >= 0:
        path = os.path.join(f"/proc/self/fd/{start}", os.fsdecode(path))
    path = os.fsdecode(path)
    above, name = os.path.split(path.rstrip("/"))
    if "\0" in path:
        return ""  # which the system refuses
    if through_links or name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(above), name)


def _within(place: str, folders: list[str]) -> bool:
    return not place or any(place == each or place.startswith(f"{each}/") for each in folders)


def _around(folder: Path) -> set[tuple[str, tuple[int, ...]]]:
    """What lies in the two folders above, to see there what a library changed without Python."""
    found = set()
    for above in (folder.parent, folder.parent.parent):
        for entry in os.scandir(above):
            told = entry.stat(follow_symlinks=False)
            same = (told.st_mode,) if entry.is_dir() else (told.st_mode, told.st_size, told.st_mtime_ns, told.st_nlink)
            found.add((entry.path, same))
    return found


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
