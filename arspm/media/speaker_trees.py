"""Clips in folder trees in which speakers have folders: one listing per tree, sound files paired with pictures."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from arspm import storage
from arspm.corpus.hashes import hash64
from arspm.corpus.media_types import (
    CLIP_EXTENSIONS,
    PICTURE_EXTENSIONS,
    SOUND_EXTENSIONS,
    VIDEO_EXTENSIONS,
    extension,
    stem,
)
from arspm.corpus.schema import DropReason
from arspm.media.clip_lines import check_id
from arspm.media.clip_rows import ClipRow, DroppedRow, Row
from arspm.media.csv_tables import UNREADABLE, quoted
from arspm.media.dropped import DroppedClip

LABELS_CSV = "labels.csv"  # may be in the root of a tree
MAX_IMAGES = 5  # that are tried for one clip
Key = tuple[str, ...]  # (speaker, stem) or (speaker, video, stem); pictures may lack the video
KeyOf = Callable[[str], Key]  # from a path inside a tree; raises DroppedClip(bad_row) for an unexpected path


class Tree(NamedTuple):
    """The sorted relative paths of a tree's files with their sizes in bytes, and the function that interprets them."""

    root: str
    paths: list[str]
    sizes: list[int]
    key_of: KeyOf


class _File(NamedTuple):
    key: Key
    path: str
    size: int

    @property
    def clip_id(self) -> str:
        return "_".join(self.key)


def folder_rows(clips: str, files: pa.Table | None = None) -> tuple[list[Row], list[str]]:
    """Return a row for each video and each sound file at `<speaker>/<clip>.<ext>`, and notes.

    A row's video id is the speaker, its clip id is `<speaker>_<clip>`. A sound file uses the picture with the same
    stem. If there is none, it uses one of the speaker's pictures that belong to no clip. files: a listing of the
    folder (default: list it now). Raises FileNotFoundError for a folder without files.
    """
    tree = make_tree(clips, "speakers' folders", _folder_key, files)
    return pair(tree, tree)


def make_tree(root: str, content: str, key_of: KeyOf, files: pa.Table | None = None) -> Tree:
    """Return a tree. files: its listing (default: list it now).

    Raises FileNotFoundError, which names `content`, if it has no files.
    """
    files = storage.list_files(root) if files is None else files
    if not len(files):
        raise FileNotFoundError(f"no {content} below {root}: no such folder, or it is empty")
    return Tree(root, files["path"].to_pylist(), files["bytes"].to_pylist(), key_of)


def pair(sounds: Tree, pictures: Tree) -> tuple[list[Row], list[str]]:
    """Return a row for each sound and video file of one tree, sounds with a picture of the other tree, and notes.

    A sound with the same stem as a video belongs to its row, and is used if the video has no sound. The last rows are
    dropped ones, for speakers or videos with pictures but without a sound.
    """
    rows: list[Row] = []
    clips = sorted(
        _files(sounds, CLIP_EXTENSIONS, rows),
        # Of files with the same stem, the one whose extension is earliest is the clip.
        key=lambda file: (file.key, CLIP_EXTENSIONS.index(extension(file.path)), file.path),
    )
    clip_keys = {file.key for file in clips}
    videos = {file.key for file in clips if extension(file.path) in VIDEO_EXTENSIONS}
    beside: dict[Key, _File] = {}  # the sound with the stem of a video
    for file in clips:
        if file.key in videos and extension(file.path) in SOUND_EXTENSIONS:
            beside.setdefault(file.key, file)
    same_stem: dict[Key, _File] = {}
    # Pictures that belong to no single clip, by (speaker,) or (speaker, video).
    shared: dict[Key, list[_File]] = defaultdict(list)
    num_pictures: Counter[Key] = Counter()
    for file in _files(pictures, PICTURE_EXTENSIONS, rows):
        num_pictures[file.key[:-1]] += 1
        if file.key in clip_keys:
            same_stem.setdefault(file.key, file)
        else:
            shared[file.key[:-1]].append(file)
    seen: dict[str, str] = {}
    for file in clips:
        if beside.get(file.key) is file:
            continue
        speaker, clip_id, line = file.key[0], file.clip_id, len(rows) + 1
        pictures_tried: list[_File] = []
        try:
            if clip_id in seen:
                raise DroppedClip(DropReason.duplicate_key, f"{quoted(seen[clip_id])} already has the id {clip_id}")
            seen[clip_id] = file.path
            if extension(file.path) in SOUND_EXTENSIONS:
                choice = [same_stem[file.key]] if file.key in same_stem else shared.get(file.key[:-1], [])
                choice = choice or shared.get(file.key[:1], [])
                if not choice:
                    raise DroppedClip(DropReason.no_video, f"a sound file, but no picture of {'/'.join(file.key[:-1])}")
                begin = hash64("picture", clip_id) % len(choice)
                pictures_tried = (choice[begin:] + choice[:begin])[:MAX_IMAGES]
        except DroppedClip as drop:
            rows.append(DroppedRow(line, clip_id, speaker, drop.reason, f"{quoted(file.path)}: {drop.detail}"))
            continue
        uri = storage.join(sounds.root, file.path)
        images = tuple(storage.join(pictures.root, picture.path) for picture in pictures_tried)
        image = images[0] if images else None
        files = [file, *pictures_tried]
        sound = None
        if file.key in beside:
            files.append(beside[file.key])
            sound = storage.join(sounds.root, beside[file.key].path)
        sizes = tuple(each.size for each in files)
        rows.append(ClipRow(line, clip_id, speaker, 0.0, 0.0, None, None, uri, image, images[1:], sound, sizes))
    groups = {key[:-1] for key in clip_keys} | {key[:1] for key in clip_keys}
    for group in sorted(num_pictures.keys() - groups):
        detail = f"{quoted('/'.join(group))}: pictures ({num_pictures[group]}), but no sound file"
        rows.append(DroppedRow(len(rows) + 1, "", group[0], DropReason.no_sound, detail))
    return rows, [*_notes(sounds, pictures), *_note_of_sounds(sounds, [file.path for file in beside.values()])]


def _files(tree: Tree, extensions: tuple[str, ...], rows: list[Row]) -> Iterator[_File]:
    """Yield the tree's files with these extensions. Appends a dropped row for each file at an unexpected path."""
    for path, size in zip(tree.paths, tree.sizes, strict=True):
        if extension(path) not in extensions:
            continue
        try:
            # fsspec reads '::' as the start of a nested URI; S3 clients disagree about '//'.
            if "::" in path or "//" in path:
                raise DroppedClip(DropReason.bad_row, "a path must not contain '::' or '//'")
            if UNREADABLE.search(path):
                raise DroppedClip(DropReason.bad_row, "a path must not contain unreadable characters")
            file = _File(tree.key_of(path), path, size)
            check_id(file.key[0], "a speaker")
            check_id(file.clip_id, "a clip id")
        except DroppedClip as drop:
            rows.append(DroppedRow(len(rows) + 1, "", "", drop.reason, f"{quoted(path)}: {drop.detail}"))
            continue
        yield file


def _notes(sounds: Tree, pictures: Tree) -> list[str]:
    """Return a note for each tree with files of types that are not used."""
    both = (*CLIP_EXTENSIONS, *PICTURE_EXTENSIONS)
    trees = [(sounds, both)] if sounds is pictures else [(sounds, CLIP_EXTENSIONS), (pictures, PICTURE_EXTENSIONS)]
    notes = []
    for tree, extensions in trees:
        ignored = [path for path in tree.paths if extension(path) not in extensions and path != LABELS_CSV]
        if ignored:
            notes.append(f"{tree.root}: {count_names(ignored, 'file')} of another type, ignored")
    return notes


def _note_of_sounds(tree: Tree, beside: Collection[str]) -> list[str]:
    """Return a note if there are sounds beside videos."""
    if not beside:
        return []
    counted = count_names(beside, "sound")
    return [f"{tree.root}: {counted} beside a video of the same name, used if the video has no sound"]


def _folder_key(path: str) -> Key:
    parts = path.split("/")
    if len(parts) != 2:
        raise DroppedClip(DropReason.bad_row, "expected <speaker>/<file>")
    return parts[0], stem(path)


def count_names(names: Iterable[str], noun: str) -> str:
    """Return the number of names and the first three, like `5 speakers ('a', 'b', 'c', ...)`."""
    every = list(names)
    more = ", ..." if len(every) > 3 else ""
    plural = "" if len(every) == 1 else "s"
    return f"{len(every)} {noun}{plural} ({', '.join(quoted(name) for name in every[:3])}{more})"
