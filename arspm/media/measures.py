"""What was measured of a clip while it was prepared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from arspm.corpus.schema import SAMPLE_RATE_HZ
from arspm.media.clip_rows import ClipRow

if TYPE_CHECKING:  # a process that receives measures needs no decoder
    from arspm.media.clips import Media
    from arspm.media.faces import SpeakerFace
    from arspm.media.speech import Speech


class Measures(NamedTuple):
    """A row of the corpus's `measures` family without its keys; `docs/data.md` says what each column means.

    None is for what does not apply to the clip, or what the face detector does not find.
    """

    face_x0: float
    face_y0: float
    face_x1: float
    face_y1: float
    frame_width: int
    frame_height: int
    face_score: float
    face_frontalness: float | None
    face_sharpness: float
    face_landmarks: list[float] | None
    frame_seconds: float | None
    num_faces: int
    num_face_frames: int
    num_frames: int
    level_dbfs: float
    gain_db: float
    voiced_seconds: float
    speech_seconds: float
    speech_start_seconds: float
    source: str
    source_bytes: int
    source_seconds: float
    video_codec: str | None
    audio_codec: str
    picture: str | None
    sound: str | None


def measures_of(row: ClipRow, media: Media, speech: Speech, face: SpeakerFace, picture: str | None) -> Measures:
    """Return the measures of a clip. picture: path of the image with the face; None if it is a frame of the video."""
    box = face.box
    return Measures(
        face_x0=box.x0,
        face_y0=box.y0,
        face_x1=box.x1,
        face_y1=box.y1,
        frame_width=face.frame_size[0],
        frame_height=face.frame_size[1],
        face_score=box.score,
        face_frontalness=None if box.landmarks is None else box.frontalness,
        face_sharpness=face.sharpness,
        face_landmarks=None if box.landmarks is None else list(box.landmarks),
        frame_seconds=media.frame_seconds[face.frame_index] if picture is None else None,
        num_faces=face.num_faces,
        num_face_frames=face.num_face_frames,
        num_frames=face.num_frames,
        level_dbfs=speech.level_dbfs,
        gain_db=speech.gain_db,
        voiced_seconds=speech.voiced_seconds,
        speech_seconds=media.waveform.size / SAMPLE_RATE_HZ,
        speech_start_seconds=media.start_seconds,
        source=row.path,
        source_bytes=media.source_bytes,
        source_seconds=media.source_seconds,
        video_codec=media.video_codec,
        audio_codec=media.audio_codec,
        picture=picture,
        sound=None if media.has_own_sound else row.sound,
    )
