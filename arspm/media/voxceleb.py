"""VoxCeleb: utterances and face images in folder trees, and a metadata table of the speakers."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple, TextIO

import pyarrow as pa

from arspm.corpus.media_types import stem
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import Row
from arspm.media.csv_tables import quoted, read_rows
from arspm.media.dropped import DroppedClip
from arspm.media.speaker_trees import Key, make_tree, pair


class Person(NamedTuple):
    """A row of VoxCeleb's metadata. `names`: possible names of the folder with this speaker's face images."""

    gender: str | None
    names: tuple[str, ...]


def voxceleb_rows(
    clips: str,
    faces: str,
    people: Mapping[str, Person],
    clip_files: pa.Table | None = None,
    face_files: pa.Table | None = None,
) -> tuple[list[Row], list[str]]:
    """Return a row for each utterance, with face images of its video or speaker unless it is a video, and notes.

    Utterances are `.../<speaker>/<video>/<utterance>.<ext>` below `clips`: sounds, or face tracks with their sound.
    Face images are `.../<speaker>/[1.6/]<video>/<image>.<ext>` or, as in HQ-VoxCeleb, `.../<speaker>/<image>.<ext>`
    below `faces`, which may be empty if all utterances are videos. There `<speaker>` is an id or a name of `people`. A
    row's video id is the speaker, its clip id is `<speaker>_<video>_<utterance>`. clip_files, face_files: listings of
    the two trees (default: list them now). Raises FileNotFoundError for a tree without files.
    """
    by_name = {name.rstrip("."): speaker for speaker, person in people.items() for name in (speaker, *person.names)}
    sounds = make_tree(clips, "sounds", _utterance_key, clip_files)
    images = make_tree(faces, "face images", lambda path: _face_key(path, by_name), face_files) if faces else sounds
    return pair(sounds, images)


def read_voxceleb_metadata(file: str | os.PathLike[str] | TextIO) -> dict[str, Person]:
    """Return vox1_meta.csv or vox2_meta.csv by speaker id.

    The columns are VoxCeleb1 ID or VoxCeleb2 ID, Gender (f, m or empty), and optionally VGGFace1 ID, VGGFace2 ID or
    Name. Other columns, also Set, are ignored. Raises FileNotFoundError and ValueError as `csv_tables.read_rows`.
    """
    return {
        row.cells["id"]: Person(
            row.gender, tuple(cell for column, cell in row.cells.items() if column.startswith("name ") and cell)
        )
        for row in read_rows(file, "metadata", _columns, ["id"])
    }


def hq_voxceleb_splits(people: Mapping[str, Person]) -> dict[str, str]:
    """Return each speaker's split on HQ-VoxCeleb, as the published program of SF2F (Bai et al. 2022) assigns it.

    Of every ten rows of a metadata table, the ninth is test, the tenth is val and the others are train. people: in the
    order of the rows. The rows of VoxCeleb1 (ids from id10001) and of VoxCeleb2 are counted separately.
    """
    counted: Counter[bool] = Counter()
    splits = {}
    for speaker in people:
        is_first_set = speaker >= "id10001"
        splits[speaker] = {8: "test", 9: "val"}.get(counted[is_first_set] % 10, "train")
        counted[is_first_set] += 1
    return splits


def _columns(header: list[str]) -> list[str]:
    """Return `id`, `gender`, `name N` for the columns that are used, and unique names for all others."""
    names = []
    for number, cell in enumerate(header):
        name = re.sub(r"[\W_]", "", cell.lower())
        if re.fullmatch(r"(voxceleb[12])?id", name):
            name = "id"
        elif re.fullmatch(r"vggface[12]?(id)?|name", name):
            name = f"name {number}"
        elif name != "gender":
            name = f"other {number}"
        names.append(name)
    if names.count("id") != 1 or names.count("gender") != 1:
        got = quoted(",".join(header)) if header else "an empty file"
        raise ValueError(f"expected the columns VoxCeleb1 ID (or VoxCeleb2 ID) and Gender, not {got}")
    return names


def _utterance_key(path: str) -> Key:
    parts = path.split("/")
    if len(parts) < 3:
        raise DroppedClip(DropReason.bad_row, "expected <speaker>/<video>/<utterance>")
    return parts[-3], parts[-2], stem(path)


def _face_key(path: str, by_name: Mapping[str, str]) -> Key:
    """Return (speaker, video, image), or (speaker, image) for an image directly in a known speaker's folder."""
    parts = path.split("/")
    # Windows removes a dot at the end of a folder's name, so compare names without it.
    if len(parts) > 1 and (speaker := by_name.get(parts[-2].rstrip("."))):
        return speaker, stem(path)
    if len(parts) > 3 and re.fullmatch(r"\d\.\d+", parts[-3]):  # 1.6: the crop's side divided by the face's
        del parts[-3]
    if len(parts) < 3:
        raise DroppedClip(DropReason.bad_row, "expected <speaker>/[1.6/]<video>/<image> or <known speaker>/<image>")
    return by_name.get(parts[-3].rstrip("."), parts[-3]), parts[-2], stem(path)
