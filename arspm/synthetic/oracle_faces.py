"""Faces of people alike: all that could stand behind a made-up voice.

Such a voice carries sex, age and body size, and nothing else of a face (see `made_up_people`). Whoever hears it can at
best know these three, and the prediction of a face's feature with the least squared error is then its mean over the
people who have them in common: other noses, other hair, with or without glasses, in any pose and light. Here these
people are drawn, and shown to the corpus's own camera, face detector and crop.
"""

from __future__ import annotations

import hashlib

import numpy as np

from arspm.corpus.schema import FACE_SIZE
from arspm.media.clips import DroppedClip, evenly_spaced
from arspm.media.faces import FaceDetector, best_face, encode_jpeg
from arspm.synthetic.films import CLIP_SECONDS, FPS, film
from arspm.synthetic.people import alike

_ORACLE_KEY = 2  # tells these random numbers from those of speakers and clips under the same seed
MAX_TRIES = 10  # of one draw; a corpus has no clip without a face either


def alike_faces(
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
    jpeg_quality: int,
) -> list[bytes]:
    """JPEG crops (FACE_SIZE square) of `num_draws` people who share these causes, each filmed anew.

    Draw i follows from (seed, video_id, i) and the causes, so fewer draws are the beginning of more. The film is as
    long as a clip of a made-up corpus; only the `num_frames` frames that the corpus looks at are drawn, and they are
    not compressed as video, which hardly turns the mean feature (`docs/choices.md`). Raises ValueError where no face is
    found `MAX_TRIES` times in a row.
    """
    speaker = int.from_bytes(hashlib.sha256(video_id.encode()).digest()[:8], "big")
    shortest, longest = (round(seconds * FPS) for seconds in CLIP_SECONDS)
    pictures = []
    for draw in range(num_draws):
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORACLE_KEY, speaker, draw)))
        for _ in range(MAX_TRIES):
            person = alike(video_id, sex, age, body_size, rng)
            length = int(rng.integers(shortest, longest + 1))
            take = film(person, length, rng, kept=evenly_spaced(length, num_frames))
            try:
                crop, _, _ = best_face(
                    take.frames, detector, (take.x, take.y), size=FACE_SIZE, margin=margin, min_side=min_side
                )
                break
            except DroppedClip as drop:
                why = drop
        else:
            raise ValueError(
                f"{video_id}: no face in {MAX_TRIES} pictures of people like this speaker ({why}); "
                "look at face.detector and face.min_side_pixels"
            )
        pictures.append(encode_jpeg(crop, jpeg_quality))
    return pictures
