"""A folder of speakers and VoxCeleb become a corpus: the rows, the labels, the splits and the dropped clips."""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from arspm import storage
from arspm.config import override
from arspm.config.presets import preset
from arspm.distributed.data.preprocess import log, preprocess
from arspm.synthetic.face import draw_face
from arspm.synthetic.films import write_clip
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from tests.distributed.conftest import FINGERPRINT, FPS

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def write_m4a(path: Path, sound: np.ndarray) -> None:
    """Write AAC without video, as in VoxCeleb2."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux([*stream.encode(frame), *stream.encode(None)])


def write_media(root: Path, people: Mapping[str, int]) -> None:
    """Write media files of synthetic people. `people`: path -> number of the person who is seen or heard."""
    drawn = sample_speakers(6, seed=11)
    for number, (name, person) in enumerate(people.items()):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        sound = speak(drawn[person], 1.2, np.random.default_rng(number))
        face = draw_face(drawn[person], rng=np.random.default_rng(number), noise=2.0)
        if path.suffix == ".jpg":
            cv2.imwrite(str(path), face[..., ::-1])
        elif path.suffix == ".mp4":
            write_clip(path, [face] * FPS, sound, FPS)
        elif path.suffix == ".m4a":
            write_m4a(path, sound)
        else:
            soundfile.write(path, sound, 16_000)


def corpus_rows(run: Path) -> dict[str, tuple[str, str, str | None, float | None, str | None]]:
    """Return clip id -> split, video id, gender, age and identity, read with pyarrow only."""
    found = {}
    for path in sorted((run / "corpus").glob("*/faces/*.parquet")):
        for row in pq.read_table(path).to_pylist():
            labels = (row["gender"], row["age"], row["identity"])
            found[row["clip_id"]] = (path.parts[-3], row["video_id"], *labels)
    return found


def check_counts(run: Path, rows: int, dropped: dict[str | None, str]) -> dict[str, Any]:
    """Check the manifest's counts against dropped.parquet (clip id -> reason). Returns the manifest."""
    manifest: dict[str, Any] = json.loads((run / "corpus" / "manifest.json").read_text())
    table = pq.read_table(run / "corpus" / "dropped.parquet").to_pylist()
    assert {row["clip_id"]: row["reason"] for row in table} == dropped
    assert manifest["num_rows"] == rows
    assert manifest["num_clips"] == rows - len(table) == len(corpus_rows(run))
    assert manifest["dropped"] == dict(Counter(row["reason"] for row in table))
    return manifest


def test_a_folder_of_speakers_becomes_a_corpus(driver: None, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root, run = tmp_path / "people", tmp_path / "run"
    media = {"Ann Lee/1.mp4": 0, "Ann Lee/2.mp4": 0, "bob/a.wav": 1, "bob/a.jpg": 1, "bob/b.wav": 1, "bob/face.jpg": 1}
    media |= {"Chloé/x.mp4": 2, "Chloé/y.wav": 2, "dee/1.mp4": 3, "eve/1.wav": 4, "gil/face.jpg": 5}
    write_media(root, media)
    (root / "dee" / "2.mp4").write_bytes(b"not a clip")
    (root / "bob" / "c.wav").write_bytes(b"not a sound")
    (root / "labels.csv").write_text("video_id,gender,age\nAnn Lee,f,31\nbob,m,\nsid,m,20\n")
    config = override(
        preset("smoke"),
        {"data.format": "folder", "data.clips": str(root), "data.labels": str(root / "labels.csv")}
        | {"data.rows_per_shard": 3, "data.test_fraction": 0.2, "data.val_fraction": 0.1},
    )
    files, _ = preprocess(config, str(run), FINGERPRINT)
    assert corpus_rows(run) == {
        "Ann Lee_1": ("test", "Ann Lee", "female", 31.0, "Ann Lee"),
        "Ann Lee_2": ("test", "Ann Lee", "female", 31.0, "Ann Lee"),
        "dee_1": ("test", "dee", None, None, "dee"),
        "Chloé_x": ("val", "Chloé", None, None, "Chloé"),
        "bob_a": ("train", "bob", "male", None, "bob"),
        "bob_b": ("train", "bob", "male", None, "bob"),
    }
    dropped: dict[str | None, str] = {"Chloé_y": "no_video", "dee_2": "undecodable", "bob_c": "undecodable"}
    manifest = check_counts(run, 11, dropped | {"eve_1": "no_video", None: "no_sound"})
    assert manifest["notes"] == [f"{root}/labels.csv: 1 speaker ('sid') without a clip"]
    assert manifest["notes"] == [record.message for record in caplog.records if record.name == log.name]
    assert files == {name: storage.describe(f"{run}/{name}") for name in files}


def test_voxceleb_becomes_a_corpus_split_by_speaker(driver: None, tmp_path: Path) -> None:
    sounds = {"id10001": 0, "id10002": 1, "id10003": 2, "id10004": 3}  # the hashes of these ids decide the splits
    faces = {"Drawn_One": 0, "Drawn_Two_Jr": 1, "id10003": 2, "Drawn_Four": 3}
    for speaker, person in sounds.items():
        write_media(tmp_path, {f"wav/{speaker}/video_{n}/0000{n}.m4a": person for n in (1, 2)})
    for name, person in faces.items():
        write_media(tmp_path, {f"faces/{name}/1.6/video_{n}/000002{n}.jpg": person for n in (1, 1, 2, 3)})
    (tmp_path / "faces/Drawn_One/1.6/video_2/0000022.jpg").unlink()
    cv2.imwrite(str(tmp_path / "faces/id10003/1.6/video_2/0000022.jpg"), np.full((200, 200, 3), 90, np.uint8))
    names = "id10001\tDrawn_One\tm\tUK\tdev\nid10002\tDrawn_Two_Jr.\tf\tUK\ttest\nid10004\tDrawn_Four\tf\tUK\tdev\n"
    (tmp_path / "vox1_meta.csv").write_text("VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n" + names)
    config = override(
        preset("smoke"),
        {"data.format": "voxceleb", "data.csv": f"{tmp_path}/vox1_meta.csv", "data.clips": f"{tmp_path}/wav"}
        | {"data.faces": f"{tmp_path}/faces", "data.test_fraction": 0.4, "data.val_fraction": 0.1},
    )
    run = tmp_path / "run"
    preprocess(config, str(run), FINGERPRINT)
    assert corpus_rows(run) == {
        "id10004_video_1_00001": ("test", "id10004", "female", None, "id10004"),
        "id10004_video_2_00002": ("test", "id10004", "female", None, "id10004"),
        "id10001_video_1_00001": ("val", "id10001", "male", None, "id10001"),
        "id10002_video_1_00001": ("train", "id10002", "female", None, "id10002"),
        "id10002_video_2_00002": ("train", "id10002", "female", None, "id10002"),
        "id10003_video_1_00001": ("train", "id10003", None, None, "id10003"),
    }
    dropped: dict[str | None, str] = {"id10001_video_2_00002": "no_video", "id10003_video_2_00002": "no_face"}
    manifest = check_counts(run, 12, dropped | {None: "no_sound"})  # video_3 has pictures only
    assert manifest["dropped"] == {"no_video": 1, "no_face": 1, "no_sound": 4}
    assert manifest["notes"] == [f"1 speaker ('id10003') not in {tmp_path}/vox1_meta.csv: gender unknown"]
    shutil.rmtree(tmp_path / "wav" / "id10003")
    with pytest.raises(ValueError, match=r"^3 speakers leave the train split empty; try --set data.test_fraction="):
        preprocess(override(config, {"data.test_fraction": 0.5, "data.val_fraction": 0.3}), str(run), FINGERPRINT)
