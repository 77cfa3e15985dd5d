"""The clips of a data set in any supported format, with labels and notes. Nothing is decoded here.

AVSpeech does not name speakers, so it is split by video. In the other formats the column of the video id contains the
speaker, so no speaker is in two splits (reading G).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple

from arspm.config import Data
from arspm.corpus.schema import DropReason
from arspm.media.clip_rows import ClipRow, DroppedRow, read_clip_rows
from arspm.media.labels import Labels, read_labels
from arspm.media.speaker_trees import Row, count_names, folder_rows
from arspm.media.voxceleb import read_voxceleb_metadata, voxceleb_rows


class Dataset(NamedTuple):
    """All that preprocessing needs before it decodes a clip.

    `labels`: by video id. `notes`: one line for each oddity that drops no clip but that the user should know.
    `test_videos`: videos that the data assign to the test split.
    """

    rows: list[Row]
    labels: dict[str, Labels]
    notes: list[str]
    test_videos: frozenset[str] = frozenset()


def read_dataset(data: Data) -> Dataset:
    """Return the rows, labels and notes of the configured format. Each filled cell of labels.csv overrides the format.

    Raises FileNotFoundError for a table or folder tree that is missing or empty, ValueError for an invalid table.
    """
    return READERS[data.format](data, read_labels(data.labels) if data.labels else {})


def _avspeech(data: Data, labels: dict[str, Labels]) -> Dataset:
    """Return the rows of AVSpeech's CSV and of its test CSV, if given. Videos of the test CSV are never trained on."""
    rows = read_clip_rows(data.csv, data.clips)
    if not data.test_csv:
        return Dataset(rows, labels, [])
    test_rows = read_clip_rows(data.test_csv, data.clips)
    test_videos = frozenset(row.video_id for row in test_rows if isinstance(row, ClipRow))
    for index, row in enumerate(rows):
        if isinstance(row, ClipRow) and row.video_id in test_videos:
            detail = f"line {row.line}: video {row.video_id} is in the test CSV"
            rows[index] = DroppedRow(row.line, row.clip_id, row.video_id, DropReason.duplicate_key, detail)
    num_lines = rows[-1].line if rows else 0  # line numbers of the test CSV continue from here, so that they are unique
    for row in test_rows:
        row = replace(row, line=num_lines + row.line)
        rows.append(replace(row, detail=f"test CSV, {row.detail}") if isinstance(row, DroppedRow) else row)
    return Dataset(rows, labels, [], test_videos)


def _voxceleb(data: Data, labels: dict[str, Labels]) -> Dataset:
    people = read_voxceleb_metadata(data.csv)
    rows, notes = voxceleb_rows(data.clips, data.faces, people)
    if unknown := [speaker for speaker in _speakers(rows) if speaker not in people]:
        notes.append(f"{count_names(unknown, 'speaker')} not in {data.csv}: gender unknown")
    genders = {speaker: person.gender for speaker, person in people.items()}
    return _by_speaker(data, rows, notes, labels, genders)


def _folder(data: Data, labels: dict[str, Labels]) -> Dataset:
    rows, notes = folder_rows(data.clips)
    return _by_speaker(data, rows, notes, labels, {})


# The reader of each format in `config.DATA_FORMATS`. Its arguments are the settings and the rows of labels.csv.
READERS: dict[str, Callable[[Data, dict[str, Labels]], Dataset]] = {
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
    return Dataset(rows, by_speaker, notes)


def _speakers(rows: Iterable[Row]) -> dict[str, None]:
    """Return the speakers who have a clip, in order of the rows."""
    return dict.fromkeys(row.video_id for row in rows if isinstance(row, ClipRow))
