"""The clips of every format of data: an AVSpeech CSV, VoxCeleb's trees, a folder of speakers' folders.

AVSpeech knows no speakers, so its unit of splitting is the video. The other two do: there the speaker stands in the
column of the video id, so no speaker is in two splits (reading G). A tree is listed once; what its files are called
is text that anybody may have chosen.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple, TextIO

from arspm import storage
from arspm.config import Data
from arspm.corpus.schema import GENDERS, DropReason
from arspm.media.clip_rows import (
    PICTURE_EXTENSIONS,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    ClipRow,
    DroppedRow,
    Labels,
    check_id,
    plain,
    read_clip_rows,
    read_labels,
    read_table,
    refuse,
    shown,
)
from arspm.media.clips import DroppedClip

LABELS_CSV = "labels.csv"  # where a speakers' folder may keep its labels
CLIP_EXTENSIONS = (*VIDEO_EXTENSIONS, *SOUND_EXTENSIONS)  # of two files with one name the earlier is the clip

Row = ClipRow | DroppedRow
Key = tuple[str, ...]  # (speaker, stem) or (speaker, video, stem)
KeyOf = Callable[[str], Key]  # of a path inside a tree; DroppedClip(bad_row) for one that lies elsewhere


class Dataset(NamedTuple):
    """What preprocessing needs to know of its clips before any is decoded.

    `labels`: by video id. `notes`: what is kept, but a person should know of; a line each. `test_videos`: those that
    are the test split, where the data say so.
    """

    rows: list[Row]
    labels: dict[str, Labels]
    notes: list[str]
    test_videos: frozenset[str] = frozenset()


class Person(NamedTuple):
    """A row of VoxCeleb's metadata. `names`: what the folder of this speaker's face images may be called."""

    gender: str | None
    names: tuple[str, ...]


def read_dataset(data: Data) -> Dataset:
    """The rows, labels and notes of the configured format.

    labels.csv overrides what the format itself tells, cell by cell. Raises FileNotFoundError for a table or a tree
    that is missing or empty, ValueError for a table that cannot be read; both in a line.
    """
    given = read_labels(data.labels) if data.labels else {}
    if data.format == "avspeech":
        return _avspeech(data, given)
    known: dict[str, Labels] = {}
    if data.format == "voxceleb":
        people = read_voxceleb_metadata(data.csv)
        rows, notes = voxceleb_rows(data.clips, data.faces, people)
        known = {speaker: Labels(person.gender) for speaker, person in people.items()}
    else:
        rows, notes = folder_rows(data.clips)
    speakers = dict.fromkeys(row.video_id for row in rows if isinstance(row, ClipRow))
    if data.format == "voxceleb" and (strangers := [speaker for speaker in speakers if speaker not in known]):
        notes.append(f"{_some(strangers, 'speaker')} not in {data.csv}: gender unknown")
    if data.labels and (strangers := [speaker for speaker in given if speaker not in speakers]):
        notes.append(f"{data.labels}: {_some(strangers, 'speaker')} of whom there is no clip")
    labels = {}
    for speaker in speakers:
        own, other = given.get(speaker, Labels()), known.get(speaker, Labels())
        labels[speaker] = Labels(own.gender or other.gender, own.age, own.identity or speaker)
    return Dataset(rows, labels, notes)


def _avspeech(data: Data, labels: dict[str, Labels]) -> Dataset:
    """The rows of AVSpeech's CSV and, where there is one, of its test CSV; no video of that one is trained on."""
    rows = read_clip_rows(data.csv, data.clips)
    if not data.test_csv:
        return Dataset(rows, labels, [])
    held_out = read_clip_rows(data.test_csv, data.clips)
    videos = frozenset(row.video_id for row in held_out if isinstance(row, ClipRow))
    for number, row in enumerate(rows):
        if isinstance(row, ClipRow) and row.video_id in videos:
            detail = f"line {row.line}: video {row.video_id} is in the test CSV"
            rows[number] = DroppedRow(row.line, row.clip_id, row.video_id, DropReason.duplicate_key, detail)
    lines = rows[-1].line if rows else 0  # the test CSV's lines are counted on from there
    for row in held_out:
        row = replace(row, line=lines + row.line)
        rows.append(replace(row, detail=f"test CSV, {row.detail}") if isinstance(row, DroppedRow) else row)
    return Dataset(rows, labels, [], videos)


def folder_rows(clips: str) -> tuple[list[Row], list[str]]:
    """The clips of `<speaker>/<clip>.<ext>`: videos, and sounds with the speaker's pictures. Rows and notes.

    A row's video id is the speaker, its clip id `<speaker>_<clip>`. A picture of the same stem as a clip belongs to
    that clip; another sound takes one of the pictures that belong to none. Raises FileNotFoundError for a folder
    without a file.
    """
    tree = _list(clips, "speakers' folders", _folder_key)
    return _pair(tree, tree)


def voxceleb_rows(clips: str, faces: str, people: Mapping[str, Person]) -> tuple[list[Row], list[str]]:
    """The utterances `.../<speaker>/<video>/<utterance>.<ext>`, each with a face image of its video. Rows and notes.

    Face images are `.../<speaker's id or name>/[1.6/]<video>/<image>.jpg`. A row's video id is the speaker, its clip
    id `<speaker>_<video>_<utterance>`. Raises FileNotFoundError for a tree without a file.
    """
    by_name = {name.rstrip("."): speaker for speaker, person in people.items() for name in person.names}
    sounds = _list(clips, "sounds", _utterance_key)
    return _pair(sounds, _list(faces, "face images", lambda path: _face_key(path, by_name)))


def read_voxceleb_metadata(file: str | os.PathLike[str] | TextIO) -> dict[str, Person]:
    """vox1_meta.csv or vox2_meta.csv by speaker id, between tabs or commas, with stray spaces or without.

    Columns are VoxCeleb1 ID or VoxCeleb2 ID, Gender (f, m or empty), and VGGFace1 ID, VGGFace2 ID or Name where it
    has them; others, Set among them, are left. Raises FileNotFoundError, or ValueError with every problem at once.
    """
    source, table, problems = read_table(file, "metadata", tabs=True)
    header = [re.sub(r"[\W_]", "", name.lower()) for name in table[0][1]] if table else []
    speaker_at = [at for at, name in enumerate(header) if re.fullmatch(r"(voxceleb[12])?id", name)]
    gender_at = [at for at, name in enumerate(header) if name == "gender"]
    names_at = [at for at, name in enumerate(header) if re.fullmatch(r"vggface[12]?(id)?|name", name)]
    if len(speaker_at) != 1 or len(gender_at) != 1:
        got = shown(",".join(table[0][1])) if table else "an empty file"
        refuse(source, [f"columns VoxCeleb1 ID (or VoxCeleb2 ID) and Gender are expected, not {got}", *problems])
    people: dict[str, Person] = {}
    for line, cells in table[1:]:
        if len(cells) != len(header):
            problems.append(f"line {line}: {len(cells)} columns, the header has {len(header)}")
            continue
        speaker, gender = cells[speaker_at[0]], cells[gender_at[0]].lower()
        found = {"f": "female", "m": "male"}.get(gender, gender)
        if not speaker or speaker in people:
            problems.append(f"line {line}: {f'{plain(speaker)} a second time' if speaker else 'no id'}")
        if found and found not in GENDERS:
            problems.append(f"line {line}: gender {shown(gender)} is not f or m")
        people[speaker] = Person(found or None, tuple(cells[at] for at in names_at if cells[at]))
    refuse(source, problems)
    return people


class _Tree(NamedTuple):
    """A tree's files, in order, and what their places mean."""

    root: str
    paths: list[str]
    key_of: KeyOf


class _File(NamedTuple):
    key: Key
    path: str

    @property
    def clip_id(self) -> str:
        return "_".join(self.key)


def _list(root: str, what: str, key_of: KeyOf) -> _Tree:
    """One listing of a whole tree. Raises FileNotFoundError where there is no file."""
    paths = sorted(storage.files_below(root))
    if not paths:
        raise FileNotFoundError(f"no {what} below {root}: no such folder, or nothing in it")
    return _Tree(root, paths, key_of)


def _pair(sounds: _Tree, pictures: _Tree) -> tuple[list[Row], list[str]]:
    """A row for every sound and video of one tree, sounds with a picture of the other; then for whom nobody hears."""
    rows: list[Row] = []
    clips = sorted(
        _files(sounds, CLIP_EXTENSIONS, rows),
        key=lambda file: (file.key, CLIP_EXTENSIONS.index(_extension(file.path)), file.path),
    )
    taken = {file.key for file in clips}
    own: dict[Key, str] = {}
    free: dict[Key, list[str]] = defaultdict(list)  # by (speaker,) or (speaker, video)
    portrayed: Counter[Key] = Counter()
    for file in _files(pictures, PICTURE_EXTENSIONS, rows):
        portrayed[file.key[:-1]] += 1
        if file.key in taken:
            own.setdefault(file.key, file.path)
        else:
            free[file.key[:-1]].append(file.path)
    seen: dict[str, str] = {}
    for file in clips:
        speaker, clip_id, line = file.key[0], file.clip_id, len(rows) + 1
        image = None
        try:
            if clip_id in seen:
                raise DroppedClip(DropReason.duplicate_key, f"{clip_id} is {shown(seen[clip_id])} already")
            seen[clip_id] = file.path
            if _extension(file.path) in SOUND_EXTENSIONS:
                choice = [own[file.key]] if file.key in own else free.get(file.key[:-1], [])
                if not choice:
                    raise DroppedClip(DropReason.no_video, f"a sound, and no picture of {'/'.join(file.key[:-1])}")
                image = storage.join(pictures.root, choice[_hash(clip_id) % len(choice)])
        except DroppedClip as drop:
            rows.append(DroppedRow(line, clip_id, speaker, drop.reason, f"{shown(file.path)}: {drop.detail}"))
            continue
        uri = storage.join(sounds.root, file.path)
        rows.append(ClipRow(line, clip_id, speaker, 0.0, 0.0, None, None, uri, image))
    for group in sorted(portrayed.keys() - {key[:-1] for key in taken}):
        detail = f"{shown('/'.join(group))}: pictures ({portrayed[group]}), and no sound"
        rows.append(DroppedRow(len(rows) + 1, "", group[0], DropReason.no_sound, detail))
    return rows, _others(sounds, pictures)


def _files(tree: _Tree, extensions: tuple[str, ...], rows: list[Row]) -> Iterator[_File]:
    """The tree's files of some extensions; a row is added for each that cannot be told whose it is."""
    for path in tree.paths:
        if _extension(path) not in extensions:
            continue
        try:
            # To fsspec's reading of addresses the one begins an address in another; S3's clients differ on the other.
            if "::" in path or "//" in path:
                raise DroppedClip(DropReason.bad_row, "'::' and '//' cannot stand in a path")
            file = _File(tree.key_of(path), path)
            check_id(file.key[0], "a speaker")
            check_id(file.clip_id, "a clip id")
        except DroppedClip as drop:
            rows.append(DroppedRow(len(rows) + 1, "", "", drop.reason, f"{shown(path)}: {drop.detail}"))
            continue
        yield file


def _others(sounds: _Tree, pictures: _Tree) -> list[str]:
    """A note on the files that are nothing of what their tree is for."""
    both = (*CLIP_EXTENSIONS, *PICTURE_EXTENSIONS)
    trees = [(sounds, both)] if sounds is pictures else [(sounds, CLIP_EXTENSIONS), (pictures, PICTURE_EXTENSIONS)]
    notes = []
    for tree, wanted in trees:
        left = [path for path in tree.paths if _extension(path) not in wanted and path != LABELS_CSV]
        if left:
            notes.append(f"{tree.root}: {_some(left, 'file')} of another kind, not looked at")
    return notes


def _folder_key(path: str) -> Key:
    parts = path.split("/")
    if len(parts) != 2:
        raise DroppedClip(DropReason.bad_row, "<speaker>/<file> is expected")
    return parts[0], _stem(path)


def _utterance_key(path: str) -> Key:
    parts = path.split("/")
    if len(parts) < 3:
        raise DroppedClip(DropReason.bad_row, "<speaker>/<video>/<utterance> is expected")
    if _extension(path) in VIDEO_EXTENSIONS:
        raise DroppedClip(DropReason.bad_row, "a video, where sounds are expected (--format folder takes videos)")
    return parts[-3], parts[-2], _stem(path)


def _face_key(path: str, by_name: Mapping[str, str]) -> Key:
    parts = path.split("/")
    if len(parts) > 3 and re.fullmatch(r"\d\.\d+", parts[-3]):  # 1.6: the crop's side over the face's
        del parts[-3]
    if len(parts) < 3:
        raise DroppedClip(DropReason.bad_row, "<speaker>/[1.6/]<video>/<image> is expected")
    name = parts[-3]
    # Names that end in a dot lost it where they were unpacked on Windows.
    return by_name.get(name.rstrip("."), name), parts[-2], _stem(path)


def _extension(path: str) -> str:
    """In lower case; empty for hidden files, such as the `._x.wav` that macOS leaves beside x.wav."""
    name = posixpath.basename(path)
    return "" if name.startswith(".") else posixpath.splitext(name)[1][1:].lower()


def _stem(path: str) -> str:
    return posixpath.splitext(posixpath.basename(path))[0]


def _hash(clip_id: str) -> int:
    """Chooses a clip's picture: the same on every machine, another for each clip."""
    return int.from_bytes(hashlib.sha256(f"picture:{clip_id}".encode()).digest()[:8], "big")


def _some(names: Iterable[str], what: str) -> str:
    """`3 speakers ('a', 'b', ...)`."""
    every = list(names)
    more = ", ..." if len(every) > 3 else ""
    plural = "" if len(every) == 1 else "s"
    return f"{len(every)} {what}{plural} ({', '.join(shown(name) for name in every[:3])}{more})"
