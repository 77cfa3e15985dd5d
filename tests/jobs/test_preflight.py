"""What `arspm submit` refuses before its first stage, because the run could not end in a report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.runs import stages
from cluster.errors import ClusterError
from jobs.chain import submit_run

NOWHERE = "http://127.0.0.1:9"  # where no cluster answers: what is not refused goes on to connect
VIDEOS = [f"v{number:02d}" for number in range(12)]


@pytest.fixture
def submit(tmp_path: Path) -> Callable[..., None]:
    """A function that submits a run of clips of these videos, whose bytes no test decodes."""
    (tmp_path / "clips").mkdir()
    for video in VIDEOS:
        (tmp_path / "clips" / f"{video}_0.0_6.0.mp4").write_bytes(b"clip")
    (tmp_path / "clips.csv").write_text("".join(f"{video},0.0,6.0,0.5,0.5\n" for video in VIDEOS))

    def submit(changes: Mapping[str, Any] | None = None, genders: Mapping[str, str] | None = None) -> None:
        settings = {"data.csv": f"{tmp_path}/clips.csv", "data.clips": f"{tmp_path}/clips", **(changes or {})}
        if genders is not None:
            text = "".join(f"{video},{gender}\n" for video, gender in genders.items())
            (tmp_path / "labels.csv").write_text(f"video_id,gender\n{text}")
            settings["data.labels"] = f"{tmp_path}/labels.csv"
        submit_run(override(preset("smoke"), settings), f"{tmp_path}/run", NOWHERE, on_event=print)

    return submit


def splits(config: Config | None = None) -> dict[str, list[str]]:
    """The videos of each split."""
    from arspm.distributed.data.shards import assign_splits

    split_of, _ = assign_splits(VIDEOS, 0.25, 0.25)
    return {name: [video for video, split in split_of.items() if split == name] for name in ("train", "val", "test")}


@pytest.mark.parametrize("kind", ["none", "neutral", "gender", "female", "male"])
def test_a_corpus_with_all_labels_is_not_refused(submit: Callable[..., None], kind: str) -> None:
    genders = {
        video: ("female", "male")[number % 2] for videos in splits().values() for number, video in enumerate(videos)
    }
    with pytest.raises(ClusterError):
        submit({"prior.kind": kind}, genders)


@pytest.mark.parametrize("kind", ["none", "neutral"])
def test_a_corpus_without_labels_is_refused_only_where_they_are_needed(submit: Callable[..., None], kind: str) -> None:
    with pytest.raises(ClusterError):
        submit({"prior.kind": kind})


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_model_of_one_sex_needs_that_sex_in_every_split(
    submit: Callable[..., None], split: str, tmp_path: Path
) -> None:
    genders = {video: "male" if name == split else "female" for name, videos in splits().items() for video in videos}
    with pytest.raises(
        ValueError, match=rf"^prior.kind=female: .*labels\.csv labels no speaker of the {split} split female;"
    ):
        submit({"prior.kind": "female"}, genders)
    assert not (tmp_path / "run").exists()


def test_a_gender_prior_needs_both_sexes_to_train_on(submit: Callable[..., None]) -> None:
    genders = dict.fromkeys(splits()["train"], "male") | dict.fromkeys(splits()["val"], "female")
    with pytest.raises(
        ValueError, match=r"^prior.kind=gender: .* labels no speaker of the train split female; add labels"
    ):
        submit({"prior.kind": "gender"}, genders)
    with pytest.raises(
        ValueError, match=r"without labels.csv, the data labels no speaker of the train split female or male"
    ):
        submit({"prior.kind": "gender"})


def test_fractions_that_leave_no_training_clip_are_refused(submit: Callable[..., None], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^12 videos leave the train split empty; try --set data\.test_fraction="):
        submit({"data.test_fraction": 0.8, "data.val_fraction": 0.19})
    assert not (tmp_path / "run").exists()


def test_vggface_needs_more_than_one_face(submit: Callable[..., None], tmp_path: Path) -> None:
    """Otherwise its stage fails after its training: all features are the same."""
    parts = splits()
    videos = [parts[split][0] for split in ("train", "val", "test")]
    table = tmp_path / "clips.csv"
    table.write_text("".join(f"{video},0.0,6.0,0.5,0.5\n" for video in videos))
    with pytest.raises(ValueError, match=r"^the train split has one clip, of which VGGFace cannot learn"):
        submit()
    (tmp_path / "weights.pth").touch()
    with pytest.raises(ClusterError):
        submit({"vggface.weights": f"{tmp_path}/weights.pth"})
    row = f"{videos[0]},6.0,12.0,0.5,0.5,{videos[0]}_0.0_6.0.mp4\n"
    table.write_text(table.read_text() + row)
    with pytest.raises(ClusterError):
        submit()


def test_a_test_table_without_a_usable_row_is_refused(submit: Callable[..., None], tmp_path: Path) -> None:
    """Otherwise a part of the training table would silently be the test split."""
    (tmp_path / "test.csv").write_text("elsewhere,0.0,6.0,0.5,0.5\n")
    with pytest.raises(
        ValueError, match=r"^data\.test_csv: .*test\.csv has no usable row, so the test split is empty$"
    ):
        submit({"data.test_csv": f"{tmp_path}/test.csv"})


def test_the_file_of_true_causes_must_have_the_speakers(submit: Callable[..., None], tmp_path: Path) -> None:
    uri, parts = f"{tmp_path}/speakers.parquet", splits()
    pq.write_table(pa.table({"video_id": [*parts["train"], *parts["test"]]}), uri)
    with pytest.raises(ClusterError):
        submit({"oracle.speakers": uri})
    pq.write_table(pa.table({"video_id": [*parts["train"][1:], *parts["test"]]}), uri)
    with pytest.raises(
        ValueError, match=rf"no row for 1 of \d+ speakers, such as {parts['train'][0]}; is it the file of"
    ):
        submit({"oracle.speakers": uri})


def test_a_corpus_that_is_made_is_not_planned_again(submit: Callable[..., None], tmp_path: Path) -> None:
    """Planning millions of rows takes half a minute; the training stages read the labels of what was kept."""
    with pytest.raises(ClusterError):
        submit()
    from arspm.runs import inventory

    config = override(preset("smoke"), {"data.csv": f"{tmp_path}/clips.csv", "data.clips": f"{tmp_path}/clips"})
    config = override(config, {"prior.kind": "female"})
    fingerprint = stages.fingerprints(config, inventory.find_inputs(config).hash)["preprocess"]
    stages.commit(
        f"{tmp_path}/run", "preprocess", fingerprint=fingerprint, config=config, files={}, seconds=1.0, figures={}
    )
    with pytest.raises(ClusterError):
        submit({"prior.kind": "female"})
