"""The clips of a data set in any supported format, with labels and notes. Nothing is decoded here.

AVSpeech does not name speakers, so it is split by video. In the other formats the column of the video id contains the
speaker, so no speaker is in two splits (reading G).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from arspm.config import Data
from arspm.corpus.schema import DropReason
from arspm.media.clip_files import ClipFolder, most_similar
from arspm.media.clip_rows import ClipRow, Row, Rows, read_clip_rows, with_columns
from arspm.media.csv_tables import quoted
from arspm.media.labels import Labels, read_labels
from arspm.media.speaker_trees import count_names, folder_rows
from arspm.media.voxceleb import hq_voxceleb_splits, read_voxceleb_metadata, voxceleb_rows

Trees = Mapping[str, pa.Table]  # listings of trees, by their name in `data`


class Dataset(NamedTuple):
    """All that preprocessing needs before it decodes a clip.

    `labels`: by video id. `notes`: one line for each oddity that drops no clip but that the user should know.
    `test_videos`: videos that the data assign to the test split. `splits`: the split of each video, if a protocol
    decides it.
    """

    rows: Rows
    labels: dict[str, Labels]
    notes: list[str]
    test_videos: frozenset[str] = frozenset()
    splits: Mapping[str, str] | None = None


def read_dataset(data: Data, trees: Trees | None = None) -> Dataset:
    """Return the rows, labels and notes of the configured format. Each filled cell of labels.csv overrides the format.

    trees: listings by name, `clips` or `faces`, as tables of `storage.FILES`. A tree without one is listed now.
    Raises FileNotFoundError for a table or folder tree that is missing or empty, ValueError for an invalid table.
    """
    return READERS[data.format](data, read_labels(data.labels) if data.labels else {}, trees or {})


def _avspeech(data: Data, labels: dict[str, Labels], trees: Trees) -> Dataset:
    """Return the rows of AVSpeech's CSV and of its test CSV, if given. Videos of the test CSV are never trained on."""
    clips = ClipFolder(data.clips, trees.get("clips"))
    rows = read_clip_rows(data.csv, clips)
    if not data.test_csv:
        _require_matches(rows, clips)
        return Dataset(rows, labels, [])
    test_rows = read_clip_rows(data.test_csv, clips)
    test_videos = test_rows.usable().table["video_id"].unique()
    tested = pc.and_(pc.is_in(rows.table["video_id"], test_videos), pc.is_null(rows.table["reason"])).to_numpy()
    named = (rows.table[name].filter(tested).to_pylist() for name in ("line", "video_id"))
    details = [f"line {line}: video {video} is in the test CSV" for line, video in zip(*named, strict=True)]
    rows = rows.drop(tested, DropReason.duplicate_key, details)
    num_lines = rows[-1].line if rows else 0  # line numbers of the test CSV continue from here, so that they are unique
    lines = pc.add(test_rows.table["line"], num_lines)
    details = pc.binary_join_element_wise("test CSV", test_rows.table["detail"], ", ")
    numbered = with_columns(test_rows.table, {"line": lines, "detail": details})
    rows = Rows(pa.concat_tables([rows.table, numbered]))
    _require_matches(rows, clips)
    return Dataset(rows, labels, [], frozenset(test_videos.to_pylist()))


def _require_matches(rows: Rows, clips: ClipFolder) -> None:
    """Raise ValueError if the names of files do not match the rows: most rows have no file, most files no row.

    A subset of AVSpeech may lack most of the videos, but then its files belong to rows.
    """
    table = rows.table
    missing, usable = pc.equal(table["reason"], DropReason.missing_file.value), pc.is_null(table["reason"])
    num_missing, num_usable = (pc.sum(each).as_py() or 0 for each in (missing, usable))
    if num_missing <= num_usable:
        return
    used = table["path"].filter(usable).unique()
    uses = pc.is_in(clips.uris(clips.media), used)
    unused = clips.paths.take(pa.array(clips.media)).filter(pc.invert(uses))
    if len(used) and len(unused) <= len(used):
        return
    expected = "<video id>_<start>_<end>.<ext> or <video id>.<ext>, or a sixth column names the file"
    problem = f"{clips.folder}: no file for {num_missing} of {len(rows)} rows"
    names = table["clip_id"].filter(missing).slice(0, 20).to_pylist()
    similar = most_similar(names, unused[:1000].to_pylist())
    if similar is None:
        raise ValueError(f"{problem}, and no media file without a row; expected {expected}")
    raise ValueError(f"{problem}; row {similar[0]} is most like the file {quoted(similar[1])}; expected {expected}")


def _voxceleb(data: Data, labels: dict[str, Labels], trees: Trees) -> Dataset:
    people = read_voxceleb_metadata(data.csv)
    rows, notes = voxceleb_rows(data.clips, data.faces, people, trees.get("clips"), trees.get("faces"))
    unknown = [speaker for speaker in _speakers(rows) if speaker not in people]
    if unknown:
        notes.append(f"{count_names(unknown, 'speaker')} not in {data.csv}: gender unknown")
    genders = {speaker: person.gender for speaker, person in people.items()}
    dataset = _by_speaker(data, rows, notes, labels, genders)
    if data.split != "hq-voxceleb":
        return dataset
    if unknown:
        raise ValueError(
            f"{data.csv}: data.split=hq-voxceleb assigns splits by the rows of this table, which lacks "
            f"{count_names(unknown, 'speaker')}; add their rows, remove their clips, or set data.split=hash"
        )
    splits = hq_voxceleb_splits(people)
    return dataset._replace(splits={speaker: splits[speaker] for speaker in _speakers(rows)})


def _folder(data: Data, labels: dict[str, Labels], trees: Trees) -> Dataset:
    rows, notes = folder_rows(data.clips, trees.get("clips"))
    return _by_speaker(data, rows, notes, labels, {})


# The reader of each format in `config.DATA_FORMATS`. Its arguments are the settings, labels.csv and the listings.
READERS: dict[str, Callable[[Data, dict[str, Labels], Trees], Dataset]] = {
    "avspeech": _avspeech,
    "voxceleb": _voxceleb,
    "folder": _folder,
}


def _by_speaker(
    data: Data, rows: list[Row], notes: list[str], labels: dict[str, Labels], genders: Mapping[str, str | None]
) -> Dataset:
    """Return the data set of a format whose video ids are speakers, with `Labels` for each speaker.

    genders: by speaker, as the format states them; labels.csv overrides them.
    """
    speakers = _speakers(rows)
    if without_clip := [speaker for speaker in labels if speaker not in speakers]:
        notes.append(f"{data.labels}: {count_names(without_clip, 'speaker')} without a clip")
    by_speaker = {}
    for speaker in speakers:
        label = labels.get(speaker, Labels())
        by_speaker[speaker] = Labels(label.gender or genders.get(speaker), label.age, label.identity or speaker)
    return Dataset(Rows.of(rows), by_speaker, notes)


def _speakers(rows: Iterable[Row]) -> dict[str, None]:
    """Return the speakers who have a clip, in order of the rows."""
    return dict.fromkeys(row.video_id for row in rows if isinstance(row, ClipRow))
