"""A clip's speech tensor and face picture, made in a process of its own.

Decoders are large C libraries that anybody's files are fed to. What one of them does to its process, a crash or more
memory or time than a clip can be worth, then costs that clip and not the shard, the stage and every retry of it.
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection
from typing import TypeAlias

import numpy as np
import torch

from arspm.config import Config
from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.media import audio, faces
from arspm.media.clip_rows import ClipRow
from arspm.media.clips import DroppedClip, decode_clip

Prepared: TypeAlias = tuple[np.ndarray, bytes]  # the speech tensor as configured, and the face as JPEG

MAX_BYTES = 4 << 30  # of address space, beside what the process has before its first clip
MAX_CPU_SECONDS = 600  # a clip; not of the clock, so that a busy machine drops no more clips than an idle one
# Ends that the file is to blame for. By any other, somebody ended the process, and the clip may be tried again.
_OF_THE_FILE = (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL, signal.SIGXCPU)


def prepare(row: ClipRow, config: Config) -> Prepared:
    """Decode a clip, find its speaker's face and make the tensor of its speech. Raises DroppedClip."""
    settings = config.face
    media = decode_clip(row.path, image=row.image, num_frames=settings.num_frames, sample_rate=schema.SAMPLE_RATE_HZ)
    where = None if row.x is None or row.y is None else (row.x, row.y)
    crop, _, _ = faces.best_face(
        media.frames,
        _detector(settings.detector),
        where,
        size=schema.FACE_SIZE,
        margin=settings.margin,
        min_side=settings.min_side_pixels,
    )
    waveform = audio.fit_length(media.waveform, schema.WAVEFORM_SHAPE[0])
    if config.data.storage == "waveform":
        tensor = audio.to_int16(waveform)
    else:
        tensor = audio.spectrogram(torch.from_numpy(waveform)).to(torch.float16).numpy()
    return tensor, faces.encode_jpeg(crop, settings.jpeg_quality)


class Preparer:
    """`prepare` in a process of its own, which begins with the first clip and serves until `close`.

    A clip that ends the process, or takes more than `MAX_BYTES` or `MAX_CPU_SECONDS`, is DroppedClip(undecodable); the
    next one has a new process. What `prepare` raises is raised here; ValueError for a face detector that cannot be
    loaded. RuntimeError if somebody else ended the process.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._process: multiprocessing.process.BaseProcess | None = None
        self._ours: Connection | None = None

    def __call__(self, row: ClipRow) -> Prepared:
        if self._ours is None:
            self._begin()
        assert self._ours is not None
        try:
            self._ours.send(row)
            answer: Prepared | Exception = self._ours.recv()
        except (EOFError, OSError):
            raise self._ended() from None
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """End the process, if there is one."""
        if self._ours is not None and self._process is not None:
            self._ours.close()  # upon which it ends
            self._process.join()
        self._ours = self._process = None

    def _begin(self) -> None:
        # Not by a fork, which a process with threads may not survive.
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, self._config), daemon=True)
        self._process.start()
        theirs.close()
        try:
            answer: Exception | None = self._ours.recv()
        except EOFError:
            self.close()
            detector = self._config.face.detector
            raise ValueError(f"face.detector {detector}: the process in which it was to be loaded ended") from None
        if answer is not None:
            self.close()
            raise answer

    def _ended(self) -> Exception:
        """What to raise for a clip during which the process ended."""
        assert self._process is not None
        process = self._process
        self.close()
        code = process.exitcode or 0
        if -code in _OF_THE_FILE:
            return DroppedClip(DropReason.undecodable, f"the decoder crashed ({signal.Signals(-code).name})")
        return RuntimeError(f"the process that decodes clips ended with {code}")


def _serve(rows: Connection, config: Config) -> None:
    """Prepare the clips that are asked for until nobody asks."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever asks ends first, and then this
    torch.set_num_threads(1)
    try:
        _detector(config.face.detector)
    except (OSError, ValueError) as error:
        rows.send(error)
        return
    rows.send(None)
    if sys.platform == "linux":  # elsewhere there is no such limit
        with open("/proc/self/statm") as file:
            room = int(file.read().split()[0]) * resource.getpagesize() + MAX_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.RLIM_INFINITY))
    while True:
        try:
            row = rows.recv()
        except EOFError:
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + MAX_CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        try:
            answer: Prepared | Exception = prepare(row, config)
        except MemoryError:
            answer = DroppedClip(DropReason.undecodable, f"more than {MAX_BYTES >> 30} GiB are needed to decode it")
        except (DroppedClip, OSError, ValueError) as error:
            answer = error
        except Exception:  # of a class that may not survive the way
            answer = RuntimeError(traceback.format_exc())
        rows.send(answer)


@functools.lru_cache(maxsize=1)
def _detector(name: str) -> faces.FaceDetector:
    return faces.make_detector(name)
