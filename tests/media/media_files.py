"""Small media files that FFmpeg writes: a speech-like buzz and frames in which order and orientation can be seen."""

from __future__ import annotations

import av
import numpy as np
import pytest

from arspm.media.clips import decode_clip
from arspm.media.dropped import DroppedClip
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak

RATE = 44_100


def buzz(seconds: float, rate: int = RATE) -> np.ndarray:
    """Return a sound with a pitch and syllables, (samples,). It is no speech; `voice` is."""
    time = np.arange(round(seconds * rate)) / rate
    return (0.4 * ((time * 130) % 1 - 0.5) * (0.6 + 0.4 * np.sin(2 * np.pi * 4 * time))).astype(np.float32)


def voice(seconds: float, rate: int = 16_000, seed: int = 7) -> np.ndarray:
    """Return a made-up speaker's speech, (samples,)."""
    return speak(sample_speakers(1, seed=seed)[0], seconds, np.random.default_rng(seed), sample_rate=rate)


def pictures(num_frames: int, width: int = 128, height: int = 96) -> list[np.ndarray]:
    """Return grey frames that get brighter, with a red upper left corner, so that order and orientation can be seen."""
    frames = [np.full((height, width, 3), 40 + 200 * i // num_frames, np.uint8) for i in range(num_frames)]
    for frame in frames:
        frame[: height // 3, : width // 3] = (255, 0, 0)
    return frames


def write_clip(path, frames=(), sound=None, *, rate=RATE, fps=25, video_codec="mpeg4", sound_codec="aac", **options):
    """Write frames (uint8 RGB) and sound ((samples,) or (channels, samples)) in the format of the file's extension."""
    with av.open(str(path), "w") as container:
        if len(frames):
            video = container.add_stream(video_codec, rate=fps)
            video.height, video.width = frames[0].shape[:2]
            video.pix_fmt = "yuv420p"
            for name, value in options.items():
                setattr(video, name, value)
        if sound is not None:
            samples = np.atleast_2d(sound)
            layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(samples)]
            audio = container.add_stream(sound_codec, rate=rate, layout=layout)
        blocks = [] if sound is None else [*range(0, samples.shape[1], 1024)]
        times = sorted([(n / fps, True, n) for n in range(len(frames))] + [(b / rate, False, b) for b in blocks])
        for _, is_video, number in times:
            if is_video:
                container.mux(video.encode(av.VideoFrame.from_ndarray(frames[number], format="rgb24")))
                continue
            block = np.ascontiguousarray(samples[:, number : number + 1024], dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, number
            container.mux(audio.encode(frame))
        for stream in container.streams:
            container.mux(stream.encode(None))
    return path


def drop_of(source, **options) -> DroppedClip:
    """Return the exception with which `decode_clip` drops a file."""
    with pytest.raises(DroppedClip) as caught:
        decode_clip(source, **options)
    return caught.value
