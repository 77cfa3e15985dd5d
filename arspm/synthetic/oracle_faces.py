"""Faces of synthetic speakers who have the same causes, for the oracle.

A synthetic voice carries sex, age and body size, and nothing else about a face (see `people`). A listener can at best
know these three. The prediction of the face feature with the least squared error is then the mean over all speakers who
have the three in common, with other noses, other hair, with or without glasses, in any pose and light. This module
draws such speakers. Their frames pass through the same camera, face detector and crop as those of the corpus.
"""

from __future__ import annotations

import hashlib

import numpy as np

from arspm.corpus.schema import FACE_SIZE
from arspm.media.detectors import FaceDetector
from arspm.media.dropped import DroppedClip
from arspm.media.faces import best_face
from arspm.media.frames import evenly_spaced
from arspm.media.jpeg import encode_jpeg
from arspm.synthetic.films import CLIP_SECONDS, FPS, film
from arspm.synthetic.people import sample_with_causes

_ORACLE_KEY = 2  # spawn key: keeps this random stream independent of those of speakers and clips
MAX_TRIES = 10  # per draw; repeated because the corpus has no clip without a face either


def faces_with_causes(
    video_id: str,
    sex: str,
    age: float,
    body_size: float,
    *,
    num_draws: int,
    seed: int,
    detector: FaceDetector,
    num_frames: int,
    margin: float,
    min_side: float,
    aligned: bool,
    jpeg_quality: int,
) -> list[bytes]:
    """Return `num_draws` JPEG face crops, FACE_SIZE pixels square, each of another speaker with these causes.

    Draw i depends on (seed, video_id, i) and the causes only, so fewer draws are a prefix of more. Each clip is as long
    as a clip of a synthetic corpus. Only the `num_frames` frames that the corpus would use are drawn. They are not
    compressed as video, because that hardly changes the mean feature (`docs/choices.md`). Raises `ValueError` if no
    face is found in `MAX_TRIES` clips in a row.
    """
    speaker_key = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big")
    shortest, longest = (round(seconds * FPS) for seconds in CLIP_SECONDS)
    pictures = []
    for draw in range(num_draws):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORACLE_KEY, speaker_key, draw)))
        for _ in range(MAX_TRIES):
            speaker = sample_with_causes(video_id, sex, age, body_size, rng)
            length = int(rng.integers(shortest, longest + 1))
            take = film(speaker, length, rng, frame_numbers=evenly_spaced(length, num_frames))
            try:
                crop = best_face(
                    take.frames,
                    detector,
                    (take.x, take.y),
                    size=FACE_SIZE,
                    margin=margin,
                    min_side=min_side,
                    aligned=aligned,
                ).crop
                break
            except DroppedClip as drop:
                reason = drop
        else:
            raise ValueError(
                f"{video_id}: no face in {MAX_TRIES} pictures of speakers with the same causes ({reason}); "
                "change face.detector or lower face.min_side_pixels"
            )
        pictures.append(encode_jpeg(crop, jpeg_quality))
    return pictures
