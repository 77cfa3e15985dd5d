"""VoxCeleb: sound files and face images in two folder trees, and a metadata table of the speakers."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import NamedTuple, TextIO

from arspm.corpus.schema import DropReason
from arspm.media.clip_files import VIDEO_EXTENSIONS, extension, stem
from arspm.media.clip_rows import Row
from arspm.media.csv_tables import quoted, read_rows
from arspm.media.dropped import DroppedClip
from arspm.media.speaker_trees import Key, list_tree, pair


class Person(NamedTuple):
    """A row of VoxCeleb's metadata. `names`: possible names of the folder with this speaker's face images."""

    gender: str | None
    names: tuple[str, ...]


def voxceleb_rows(clips: str, faces: str, people: Mapping[str, Person]) -> tuple[list[Row], list[str]]:
    """Return a row for each utterance, with a face image of its video, and notes.

    Utterances are `.../<speaker>/<video>/<utterance>.<ext>` below `clips`. Face images are
    `.../<speaker's id or name>/[1.6/]<video>/<image>.jpg` below `faces`. A row's video id is the speaker, its clip id
    is `<speaker>_<video>_<utterance>`. Raises FileNotFoundError for a tree without files.
    """
    by_name = {name.rstrip("."): speaker for speaker, person in people.items() for name in person.names}
    sounds = list_tree(clips, "sounds", _utterance_key)
    return pair(sounds, list_tree(faces, "face images", lambda path: _face_key(path, by_name)))


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
    if extension(path) in VIDEO_EXTENSIONS:
        raise DroppedClip(DropReason.bad_row, "a video; expected a sound file (--format folder accepts videos)")
    return parts[-3], parts[-2], stem(path)


def _face_key(path: str, by_name: Mapping[str, str]) -> Key:
    parts = path.split("/")
    if len(parts) > 3 and re.fullmatch(r"\d\.\d+", parts[-3]):  # 1.6: the crop's side divided by the face's
        del parts[-3]
    if len(parts) < 3:
        raise DroppedClip(DropReason.bad_row, "expected <speaker>/[1.6/]<video>/<image>")
    name = parts[-3]
    # Windows removes a dot at the end of a folder's name, so compare names without it.
    return by_name.get(name.rstrip("."), name), parts[-2], stem(path)
