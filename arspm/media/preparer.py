"""Clips prepared in a separate process.

Decoders are large C libraries, and the clips may come from anyone. If a decoder crashes or uses too much memory or
time, the separate process limits the loss to that clip. Otherwise the shard, the stage and all its retries would fail.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from arspm.config import Config
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow
from arspm.media.dropped import DroppedClip
from arspm.media.measures import Measures

MAX_BYTES = 4 << 30  # address space that clips may add to what the process has before its first clip
MAX_CPU_SECONDS = 600  # per clip; CPU time, not wall-clock time, so that a busy machine drops no more clips
MAX_SECONDS = 1800  # per clip on the wall clock, for a decoder that waits
# Signals that mean the file crashed the decoder. After any other end of the process, the clip may be retried.
_CRASH_SIGNALS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU)


class Prepared(NamedTuple):
    """A clip as the corpus keeps it: the `speech` tensor as configured, the face as JPEG, and what was measured."""

    speech: np.ndarray
    face_jpeg: bytes
    measures: Measures


class Preparer:
    """`prepare` in a separate process, which starts with the first clip and ends with `close`, or with this process.

    A clip that crashes the process, or needs more than MAX_BYTES, MAX_CPU_SECONDS or MAX_SECONDS, raises
    DroppedClip(undecodable), and the next clip gets a new process. Exceptions of `prepare` are passed on. Raises
    ValueError if the face detector cannot be loaded, RuntimeError if the process ends for another reason.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._ours: Connection | None = None
        atexit.register(self.close)

    def __call__(self, row: ClipRow, following: ClipRow | None = None) -> Prepared:
        if self._ours is None:
            self._start()
        assert self._ours is not None
        try:
            self._ours.send((row, following))
            if not self._ours.poll(MAX_SECONDS):
                assert self._process is not None
                self._process.kill()
                self.close()
                raise DroppedClip(DropReason.undecodable, f"not decoded after {MAX_SECONDS} s")
            answer: Prepared | Exception = self._ours.recv()
        except (EOFError, OSError):
            raise self._exit_error() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, if one is running."""
        if self._ours is not None and self._process is not None:
            self._ours.close()  # the process ends when its end of the pipe is closed
            self._process.wait()
        self._ours = self._process = None

    def _start(self) -> None:
        # A program, not a child of multiprocessing, which would import its parent's main module: Ray's, in a task.
        self._ours, theirs = multiprocessing.Pipe()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "arspm.media.prepare", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONSAFEPATH": "1"},
        )
        theirs.close()
        try:
            self._ours.send(self._config)
            answer: Exception | None = self._ours.recv()
        except (EOFError, OSError):
            self.close()
            detector = self._config.face.detector
            raise ValueError(f"face.detector {detector}: the process that loads it ended") from None
        if answer is not None:
            self.close()
            raise answer

    def _exit_error(self) -> Exception:
        """Return the exception for the clip during which the process ended."""
        assert self._process is not None
        process = self._process
        self.close()
        code = process.returncode or 0
        if -code in _CRASH_SIGNALS:
            return DroppedClip(DropReason.undecodable, f"the decoder crashed ({signal.Signals(-code).name})")
        return RuntimeError(f"the process that decodes clips ended with {code}")
