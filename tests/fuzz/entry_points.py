"""Run mutated inputs through an entry point, in a separate process, and report defects.

An entry point is a function that reads an untrusted file, given its path. It may return (after checking the result),
drop the clip (DroppedClip), or refuse the file with a ValueError or OSError that names it. Anything else is a defect:
another exception, an end of the process, ten seconds of CPU time, a minute without a result, a GiB more of memory, an
unpickled name, a program started, a connection, or a file read or changed outside the entry point's folder.
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

from arspm.media.dropped import DroppedClip
from tests.fuzz.mutations import Mutation

SECONDS = 10  # of CPU time, which does not depend on other load of the machine
WAIT_SECONDS, PRELOAD_SECONDS = 60, 120  # of wall-clock time
BYTES = 1 << 30
LONGEST_LINE = 2500
# Modules that the fork server imports once, for all children.
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


class Mutated(NamedTuple):
    """Inputs made by mutating good files. The i-th input depends only on (seed, i)."""

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
            ):  # too damaged for this mutation
                data = rng.choice(self.mutations)(rng, data, rng.choice(self.seeds))
        return data


def num_inputs(default: int) -> int:
    """Return the number of inputs to try: the environment variable ARSPM_FUZZ, or the default."""
    return int(os.environ.get("ARSPM_FUZZ") or default)


def try_inputs(
    entry_point: Callable[..., object],
    inputs: Mutated | Sequence[bytes],
    *,
    name: str = "input",
    mentions: str = "",
    **arguments: Any,
) -> Counter[str]:
    """Call `entry_point(path, **arguments)` for each input. Return how many it accepted, dropped and refused.

    `name`: the input file's name. The message of a refusal must contain `mentions` (default: the name). Raises
    AssertionError that lists each defect, with the path at which the input was saved.
    """
    outside = Path(tempfile.mkdtemp(prefix="arspm-fuzz-")).resolve()
    folder = outside / "around" / "case"
    folder.mkdir(parents=True)
    for bait in (outside / "x", outside / "around" / "x"):  # the targets of `../x` and `../../x`
        bait.write_bytes(b"not to be touched")
    tally: Counter[str] = Counter()
    defects: list[str] = []
    begin = 0
    while begin < len(inputs) and len(defects) < 10:
        results, child_end = _PROCESSES.Pipe(duplex=False)
        child = _PROCESSES.Process(
            target=_child,
            args=(child_end, entry_point, arguments, inputs, begin, folder / name, mentions or name),
            daemon=True,
        )
        child.start()
        child_end.close()
        index, defect = begin, ""
        try:
            while not defect and results.poll(WAIT_SECONDS + (PRELOAD_SECONDS if index == begin else 0)):
                index, verdict, defect = results.recv()
                tally[verdict] += 1
                if index + 1 == len(inputs):
                    break
                index += not defect
            else:
                defect = defect or f"no result after {WAIT_SECONDS} s"
        except EOFError:
            child.join(WAIT_SECONDS)
            log = (folder / "stderr").read_text(errors="replace")[-2000:]
            defect = f"the process ended with {child.exitcode}: {log}"
            if child.exitcode == -signal.SIGXCPU:
                defect = f"more than {SECONDS} s of CPU time"
        child.kill()
        child.join()
        results.close()
        if defect:
            saved = Path(tempfile.gettempdir(), f"arspm-fuzz-{entry_point.__name__}-{index}-{name}")
            saved.write_bytes(inputs[index])
            defects.append(f"{entry_point.__name__}, input {index}, saved as {saved}: {defect}")
        begin = index + 1
    shutil.rmtree(outside, ignore_errors=True)
    assert not defects, "\n\n".join(defects)
    return tally


def _child(
    results: Connection,
    entry_point: Callable[..., object],
    arguments: dict[str, Any],
    inputs: Mutated | Sequence[bytes],
    begin: int,
    path: Path,
    mentions: str,
) -> None:
    """Send (index, verdict, defect or "") for each input from `begin` on. Stop at the first defect."""
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
    sys.dont_write_bytecode = True  # of modules that are imported later
    violations = _watch(path.parent, arguments)
    outside = _outside(path.parent)
    initial_bytes = _peak_bytes()
    room = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + BYTES + BYTES // 2
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    _, most = resource.getrlimit(resource.RLIMIT_CPU)
    for index in range(begin, len(inputs)):
        path.write_bytes(inputs[index])
        violations.clear()
        started = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(started) + SECONDS + 1, most))
        verdict, defect = _verdict(entry_point, path, arguments, mentions)
        violations += sorted(f"changed {name}" for name, _ in outside ^ _outside(path.parent))
        if violations:
            defect = f"{verdict}, with forbidden actions: {violations[:3]}"
        elif time.process_time() - started > SECONDS:
            defect = f"{verdict} after {time.process_time() - started:.0f} s"
        elif _peak_bytes() - initial_bytes > BYTES:
            defect = f"{verdict}, with {(_peak_bytes() - initial_bytes) >> 20} MiB more of memory"
        results.send((index, verdict, defect))
        if defect:
            return
    results.close()


def _verdict(
    entry_point: Callable[..., object], path: Path, arguments: dict[str, Any], mentions: str
) -> tuple[str, str]:
    try:
        entry_point(path, **arguments)
    except DroppedClip as drop:
        return "dropped", _message_defect(str(drop), "")
    except (ValueError, OSError) as error:
        return "refused", _message_defect(str(error), mentions)
    except BaseException:  # SystemExit too, which no entry point may raise
        return "broke", traceback.format_exc()[-1500:]
    return "accepted", ""


def _message_defect(message: str, mentions: str) -> str:
    """Return what is wrong with an error message, or ""."""
    if mentions not in message:
        return f"the message does not name the file: {message[:500]!r}"
    if not message.isprintable() and not message.replace("\n", "").isprintable():
        return f"the message has control characters: {message[:500]!r}"
    if max(map(len, message.splitlines())) > LONGEST_LINE or message.count("\n") > 50:
        return f"a message of {len(message)} characters: {message[:300]!r} ..."
    if any(word in message for word in ("bad_alloc", "DefaultCPUAllocator", "Insufficient memory")):
        return f"it ran out of memory: {message[:500]!r}"
    return ""


# Python's audit events (PEP 578) that are always forbidden.
_FORBIDDEN = frozenset(
    (
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
        *("subprocess.Popen", "os.kill", "os.killpg", "pickle.find_class"),
        *("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg"),
        *("socket.getaddrinfo", "socket.gethostbyname"),
    )
)
# Audit events of changes to files: the positions of path arguments, each with that of its folder descriptor.
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
# Files that Python and its libraries read and write for any input.
_WRITABLE = ("/dev/null",)
_READABLE = ("/dev/null", "/dev/urandom", sys.prefix, sys.base_prefix, str(Path(__file__).parents[2]), *sys.path)


def _watch(folder: Path, arguments: dict[str, Any]) -> list[str]:
    """Return a list to which an audit hook adds this process's forbidden actions from now on.

    An entry point may read its folder, Python's folders and the absolute paths among its arguments. Actions of
    libraries that bypass Python are not noticed here.
    """
    violations: list[str] = []
    writable = [os.path.realpath(each) for each in (folder, *_WRITABLE)]
    argument_paths = [each for each in arguments.values() if isinstance(each, str | Path) and os.path.isabs(each)]
    readable = [*writable, *(os.path.realpath(each) for each in (*_READABLE, *argument_paths) if each)]

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            violations.append(f"{event} {args[:2]!r}")
        elif event in _CHANGES:
            for at, start in _CHANGES[event]:
                base = args[start] if len(args) > start else None
                if not _within(_resolved(args[at], base, event in _THROUGH_LINKS), writable):
                    violations.append(f"{event} {args[:2]!r}")
        elif event == "open" and not isinstance(args[0], int):
            writes = isinstance(args[2], int) and args[2] & _WRITES
            if not _within(_resolved(args[0], None, True), writable if writes else readable):
                violations.append(f"open {args[0]!r} to {'write' if writes else 'read'}")

    sys.addaudithook(hook)
    return violations


def _resolved(path: Any, start: int | None, through_links: bool) -> str:
    """Return the real path of an argument of an `os` function, relative to the folder descriptor `start` if given."""
    if isinstance(path, int):
        path = f"/proc/self/fd/{path}"
    elif start is not None and start >= 0:
        path = os.path.join(f"/proc/self/fd/{start}", os.fsdecode(path))
    path = os.fsdecode(path)
    above, name = os.path.split(path.rstrip("/"))
    if "\0" in path:
        return ""  # the system rejects it
    if through_links or name in ("", ".", ".."):
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(above), name)


def _within(path: str, folders: list[str]) -> bool:
    return not path or any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _outside(folder: Path) -> set[tuple[str, tuple[int, ...]]]:
    """Return the state of the two folders above, to notice changes by libraries that bypass Python."""
    entries = set()
    for above in (folder.parent, folder.parent.parent):
        for entry in os.scandir(above):
            stat = entry.stat(follow_symlinks=False)
            state = (stat.st_mode,) if entry.is_dir() else (stat.st_mode, stat.st_size, stat.st_mtime_ns, stat.st_nlink)
            entries.add((entry.path, state))
    return entries


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
