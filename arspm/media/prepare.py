"""A clip's speech tensor, face image and measures."""

from __future__ import annotations

import functools
import resource
import signal
import sys
import traceback
from multiprocessing.connection import Connection

import numpy as np

from arspm.config import Config
from arspm.corpus import schema
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow
from arspm.media.clips import Media, decode_clip
from arspm.media.copies import Copies
from arspm.media.detectors import FaceDetector, make_detector
from arspm.media.dropped import DroppedClip
from arspm.media.faces import SpeakerFace, best_face
from arspm.media.frames import read_picture
from arspm.media.jpeg import encode_jpeg
from arspm.media.measures import measures_of
from arspm.media.preparer import MAX_BYTES, MAX_CPU_SECONDS, Prepared
from arspm.media.speech import find_speech, voice_activity_detector
from arspm.media.waveforms import fit_length, to_int16

_copies = Copies()


def prepare(row: ClipRow, config: Config, following: ClipRow | None = None) -> Prepared:
    """Return the speech tensor, the speaker's face and the measures of a clip. Raises DroppedClip.

    following: the row that will be prepared next. Its remote files are downloaded meanwhile.
    """
    rows = [row] if following is None else [row, following]
    _copies.keep(path for each in rows for path in (each.path, each.image) if path is not None)
    decode = functools.partial(
        decode_clip,
        _copies(row.path),
        sound=row.sound,
        part=(row.start_seconds, row.end_seconds) if row.end_seconds else None,
        num_frames=config.face.num_frames if row.image is None else 0,
        sample_rate=schema.SAMPLE_RATE_HZ,
        max_seconds=config.data.max_seconds,
        tolerance_seconds=config.data.tolerance_seconds,
        speech_seconds=schema.SPEECH_SECONDS,
        most_speech=config.data.seconds == "speech",
    )
    media = decode(key_frames=True)
    speech = find_speech(media.waveform, min_speech_seconds=config.data.min_speech_seconds)
    try:
        face, picture = _speaker_face(row, media, config)
    except DroppedClip:
        if not media.has_only_key_frames:
            raise
        media = decode()  # the other frames may show the face better
        face, picture = _speaker_face(row, media, config)
    waveform = fit_length(speech.waveform, schema.WAVEFORM_SHAPE[0])
    tensor = to_int16(waveform) if config.data.storage == "waveform" else _spectrogram(waveform)
    jpeg = encode_jpeg(face.crop, config.face.jpeg_quality)
    return Prepared(tensor, jpeg, measures_of(row, media, speech, face, picture))


def _spectrogram(waveform: np.ndarray) -> np.ndarray:
    """Return a waveform's spectrogram as the corpus stores it, float16."""
    import torch  # here, because it takes 0.3 GB, and a corpus of waveforms needs none

    from arspm.media.audio import spectrogram

    return spectrogram(torch.from_numpy(waveform)).to(torch.float16).numpy()


def _speaker_face(row: ClipRow, media: Media, config: Config) -> tuple[SpeakerFace, str | None]:
    """Return the speaker's face, and the picture that shows it, None for a frame of the video. Raises DroppedClip.

    If a sound has several pictures, the first with a usable face is taken; if none has one, the first one's reason is
    raised.
    """
    settings = config.face
    find = functools.partial(
        best_face,
        detector=_detector(settings.detector),
        xy=None if row.x is None or row.y is None else (row.x, row.y),
        centred=row.image is not None or config.data.format == "voxceleb",
        size=schema.FACE_SIZE,
        margin=settings.margin,
        min_side=settings.min_side_pixels,
        min_score=settings.min_score,
        min_frames=settings.min_frames,
        aligned=settings.crop == "aligned",
    )
    if row.image is None:
        return find(media.frames), None
    first: DroppedClip | None = None
    for picture in (row.image, *row.other_images):
        try:
            return find([_read_picture(picture)]), picture
        except DroppedClip as drop:
            first = first or drop
    assert first is not None
    raise first


def _read_picture(picture: str) -> np.ndarray:
    try:
        path = _copies(picture)
    except DroppedClip as drop:
        raise DroppedClip(drop.reason, f"picture: {drop.detail}") from None
    return read_picture(path)


def serve(rows: Connection, config: Config) -> None:
    """Send back the prepared clip, or the exception, for each row received, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C the parent ends and closes the pipe
    if config.data.storage == "spectrogram":  # load torch before memory is limited
        import torch

        torch.set_num_threads(1)
    try:
        _detector(config.face.detector)
        voice_activity_detector()
    except (OSError, ValueError) as error:
        rows.send(error)
        return
    rows.send(None)
    if sys.platform == "linux":  # other systems do not enforce this limit
        with open("/proc/self/statm") as file:
            max_bytes = int(file.read().split()[0]) * resource.getpagesize() + MAX_BYTES
        _limit(resource.RLIMIT_AS, max_bytes)
    while True:
        try:
            row, following = rows.recv()
        except EOFError:
            _copies.close()  # this process ends without the clean-up of an interpreter
            return
        used = resource.getrusage(resource.RUSAGE_SELF)
        max_cpu_seconds = int(used.ru_utime + used.ru_stime) + MAX_CPU_SECONDS
        _limit(resource.RLIMIT_CPU, max_cpu_seconds)
        try:
            answer: Prepared | Exception = prepare(row, config, following)
        except MemoryError:
            answer = DroppedClip(DropReason.undecodable, f"decoding needs more than {MAX_BYTES >> 30} GiB")
        except (DroppedClip, OSError, ValueError) as error:
            answer = error
        except Exception:  # may be of a class that cannot be pickled
            answer = RuntimeError(traceback.format_exc())
        rows.send(answer)


def _limit(kind: int, value: int) -> None:
    """Set a limit of this process, up to the one that it may not raise."""
    _, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


@functools.lru_cache(maxsize=1)
def _detector(name: str) -> FaceDetector:
    return make_detector(name)


if __name__ == "__main__":
    pipe = Connection(int(sys.argv[1]))
    serve(pipe, pipe.recv())
