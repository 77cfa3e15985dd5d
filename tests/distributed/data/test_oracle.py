"""The oracle of a run: its files, that it is a mean over similar people, and which files it refuses."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from arspm.config import Config, override
from arspm.config.presets import preset
from arspm.corpus import schema
from arspm.distributed.data.oracle import ORACLE, make_oracle, oracle_features, true_causes
from arspm.media.detectors import hog_detector
from arspm.media.jpeg import decode_jpeg
from arspm.model import speech_portrait
from arspm.runs import stages
from arspm.synthetic.oracle_faces import faces_with_causes
from arspm.synthetic.people import Speaker, sample_speakers
from arspm.training import artifacts, checkpoint
from jobs.oracle import oracle

NUM_DRAWS = 5


def write_speakers(path: Path, speakers: list[Speaker]) -> str:
    pq.write_table(pa.Table.from_pylist([asdict(speaker) for speaker in speakers]), path)
    return str(path)


@pytest.fixture
def speakers() -> list[Speaker]:
    """More speakers than the test split has, in another order."""
    people = [replace(each, video_id=f"test{number:04d}") for number, each in enumerate(sample_speakers(5, seed=3))]
    return people[::-1]


@pytest.fixture
def speakers_parquet(speakers: list[Speaker], tmp_path: Path) -> str:
    return write_speakers(tmp_path / "speakers.parquet", speakers)


# The stage


@pytest.fixture
def config(speakers_parquet: str) -> Config:
    return override(preset("smoke"), {"oracle.speakers": speakers_parquet, "oracle.num_draws": NUM_DRAWS})


@pytest.fixture
def run(write_corpus: Callable[..., Any], config: Config, tmp_path: Path) -> str:
    """A run with an untrained VGGFace and four test speakers, who have seven clips in two shards."""
    write_corpus({"train": (2,), "val": (2,), "test": (4, 3)})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = speech_portrait.vggface(config, 10)
    (tmp_path / "vggface").mkdir()
    checkpoint.write_weights(tmp_path / "vggface" / artifacts.MODEL, network.state_dict())
    return str(tmp_path)


@pytest.mark.slow
@pytest.mark.ray
def test_the_oracle_is_the_mean_over_similar_people_for_any_number_of_actors(
    driver: None, run: str, config: Config, speakers: list[Speaker]
) -> None:
    files, figures = make_oracle(config, run)
    written = Path(run, "oracle", ORACLE).read_bytes()
    two = override(config, {"resources.infer.num_tasks": 1 if config.resources.infer.num_tasks > 1 else 2})
    assert make_oracle(two, run) == (files, figures)
    assert Path(run, "oracle", ORACLE).read_bytes() == written
    assert set(files) == {f"oracle/{ORACLE}"}

    found = oracle_features(run)
    assert found is not None
    assert list(found) == [f"test{number:04d}" for number in range(4)]  # once per speaker, not per clip
    network = artifacts.load_vggface(run, config)
    halves = []
    for speaker in speakers:
        if speaker.video_id not in found:
            continue
        pictures = faces_with_causes(
            speaker.video_id,
            speaker.sex,
            speaker.age,
            speaker.body_size,
            num_draws=NUM_DRAWS,
            seed=config.seed,
            detector=hog_detector(),
            num_frames=config.face.num_frames,
            margin=config.face.margin,
            min_side=config.face.min_side_pixels,
            aligned=config.face.crop == "aligned",
            jpeg_quality=config.face.jpeg_quality,
        )
        total, features = np.zeros(config.feature_dim), []
        for picture in pictures:  # one by one
            pixels = torch.from_numpy(decode_jpeg(picture, config.image_size))[None].permute(0, 3, 1, 2).float() / 255
            with torch.no_grad():
                features.append(network.features(pixels)[0].double().numpy())
            total += features[-1]
        mean = found[speaker.video_id]
        assert mean.dtype == np.float32
        np.testing.assert_allclose(mean, total / NUM_DRAWS, rtol=1e-4, atol=1e-4)
        one, other = (features[0] + features[2] + features[4]) / 3, (features[1] + features[3]) / 2
        halves.append(np.degrees(np.arccos(one @ other / np.linalg.norm(one) / np.linalg.norm(other))))
    assert figures.pop("half_degrees") == pytest.approx(np.mean(halves), rel=1e-3)
    assert figures == {"made": True, "num_speakers": 4, "num_draws": NUM_DRAWS}


@pytest.mark.slow
@pytest.mark.ray
def test_a_single_draw_has_no_half_degrees(driver: None, run: str, config: Config) -> None:
    _, figures = make_oracle(override(config, {"oracle.num_draws": 1}), run)
    assert figures["half_degrees"] is None


def test_wrong_speakers_are_reported_before_anything_is_drawn(run: str, config: Config, tmp_path: Path) -> None:
    other = write_speakers(tmp_path / "other.parquet", sample_speakers(5, seed=3))
    with pytest.raises(ValueError, match=r"other\.parquet: no row for 4 of 4 speakers, such as test0000"):
        make_oracle(override(config, {"oracle.speakers": other}), run)


def test_without_true_causes_there_is_no_oracle_and_the_stage_says_why(tmp_path: Path) -> None:
    files, figures = oracle(preset("smoke"), str(tmp_path), "f" * 64)
    assert files == {}
    assert figures["made"] is False
    assert "oracle.speakers" in figures["reason"]
    assert list(tmp_path.iterdir()) == []
    assert oracle_features(str(tmp_path)) is None


def test_a_variant_reads_the_oracle_of_its_run(tmp_path: Path) -> None:
    kind = schema.oracle_schema(3)
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array([np.array([1, 2, 3], "<f4").tobytes()])], schema=kind)
    (tmp_path / "oracle").mkdir()
    pq.write_table(table, tmp_path / "oracle" / ORACLE)
    found = oracle_features(stages.variant_run(str(tmp_path), "another"))
    assert found is not None
    np.testing.assert_array_equal(found["a"], [1, 2, 3])


# The true causes


def test_the_columns_are_fields_of_a_speaker() -> None:
    names = {field.name for field in fields(Speaker)}
    columns = {schema.VIDEO_ID, schema.SEX, schema.AGE, schema.BODY_SIZE, schema.HAIR_COLOUR, schema.GLASSES}
    assert columns <= names


def test_causes_come_in_the_order_of_the_requested_speakers(speakers: list[Speaker], speakers_parquet: str) -> None:
    wanted = [speakers[1], speakers[4], speakers[1]]
    found = true_causes(speakers_parquet, [speaker.video_id for speaker in wanted])
    assert set(found) == {"sex", "age", "body_size", "hair_colour", "glasses"}
    for name, values in found.items():
        assert values.tolist() == [getattr(speaker, name) for speaker in wanted]


def changed(speakers: list[Speaker], **columns: Any) -> pa.Table:
    """Return the speakers' table with some columns replaced; None removes one."""
    table = pa.Table.from_pylist([asdict(speaker) for speaker in speakers])
    for name, value in columns.items():
        at = table.schema.get_field_index(name)
        table = table.remove_column(at)
        if value is not None:
            table = table.add_column(at, name, value if isinstance(value, pa.Array) else pa.array(value))
    return table


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sex": None, "glasses": None}, r"no column sex, glasses"),
        ({"video_id": None}, r"no column video_id"),
        ({"age": ["thirty"] * 5}, r"not a file of speakers as `arspm synth` writes it \(Failed to parse string"),
        ({"body_size": [[0.0]] * 5}, r"not a file of speakers as `arspm synth` writes it \(Unsupported cast"),
    ],
)
def test_an_invalid_file_is_reported_in_one_line(
    columns: dict[str, Any], message: str, speakers: list[Speaker], tmp_path: Path
) -> None:
    path = tmp_path / "speakers.parquet"
    pq.write_table(changed(speakers, **columns), path)
    with pytest.raises(ValueError, match=message) as raised:
        true_causes(str(path), [f"test{number:04d}" for number in range(5)])
    assert str(raised.value).startswith(f"{path}: ")
    assert len(str(raised.value).splitlines()) == 1


def test_a_missing_speaker_is_named(speakers_parquet: str) -> None:
    with pytest.raises(ValueError, match=r"no row for 2 of 3 speakers, such as strange; is it the file of"):
        true_causes(speakers_parquet, ["test0001", "strange", "stranger"])


def test_a_missing_or_damaged_file_is_named(speakers_parquet: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.parquet: no such file"):
        true_causes(str(tmp_path / "nowhere.parquet"), ["a"])
    intact = Path(speakers_parquet).read_bytes()
    for data in (b"", b"video_id,sex\n", intact[: len(intact) // 2], intact[:100] + bytes(200) + intact[300:]):
        Path(speakers_parquet).write_bytes(data)
        with pytest.raises(ValueError, match=r"speakers\.parquet: not an intact Parquet file") as raised:
            true_causes(speakers_parquet, ["a"])
        assert len(str(raised.value).splitlines()) == 1


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_pickle_in_the_file_is_not_unpickled(speakers: list[Speaker], tmp_path: Path) -> None:
    """Ray Data's extension type for Python objects unpickles a column when it is read."""
    from ray.data._internal.object_extensions.arrow import ArrowPythonObjectArray, ArrowPythonObjectType

    sprung = tmp_path / "sprung"
    kind = ArrowPythonObjectType()
    cells = pa.array([pickle.dumps(Trap(sprung))] * 5, kind.storage_type)
    path = tmp_path / "speakers.parquet"
    column = pa.ExtensionArray.from_storage(kind, cells)
    assert isinstance(column, ArrowPythonObjectArray)
    pq.write_table(changed(speakers, hair_colour=column), path)
    assert pq.read_table(path)["hair_colour"].type == kind
    with pytest.raises(ValueError, match=r"not a file of speakers as `arspm synth` writes it"):
        true_causes(str(path), ["test0001"])
    assert not sprung.exists()
