"""A trial's curves in TensorBoard's files, parsed record by record."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from arspm.distributed.tune.tensorboard import write_events
from arspm.runs import sweeps

METRIC = "val_cos_degrees"


def crc32c(data: bytes) -> int:
    """Return the checksum of RFC 3720, computed bit by bit."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    """Return the checksum of TensorFlow's records: a rotated and shifted CRC-32C."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def read_events(folder: Path) -> list[Event]:
    """Return the events of the only file in a folder: each is a length, its checksum, a message and its checksum."""
    [path] = folder.iterdir()
    data, parsed = path.read_bytes(), []
    while data:
        length, of_length = struct.unpack("<QI", data[:12])
        message, of_message = data[12 : 12 + length], data[12 + length : 16 + length]
        assert masked(data[:8]) == of_length
        assert masked(message) == struct.unpack("<I", of_message)[0]
        parsed.append(Event.FromString(message))
        data = data[16 + length :]
    return parsed


def scalars(folder: Path) -> dict[str, list[tuple[int, float, float]]]:
    """Return name -> (step, value, time) in order."""
    parsed: dict[str, list[tuple[int, float, float]]] = {}
    for event in read_events(folder):
        for value in event.summary.value:
            if value.WhichOneof("value") == "simple_value":
                parsed.setdefault(value.tag, []).append((event.step, value.simple_value, event.wall_time))
    return parsed


def record_of(epochs: list[dict[str, Any]], number: int = 3, **changed: Any) -> sweeps.Record:
    record = sweeps.new_record(number, {"loss.lambda1": 0.5, "seed": 1}, {}, False)
    for epoch in epochs:
        sweeps.add_epoch(record, epoch, METRIC, "min")
    return record | {"state": "finished", "started": 1000.0} | changed


def test_the_checksum_is_the_published_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_each_figure_has_its_step_and_time(tmp_path: Path) -> None:
    epochs = [
        {"epoch": 1, "step": 32, "seconds": 4.0, METRIC: 40.5, "train_loss": 7.0},
        {"epoch": 2, "step": 64, "seconds": 8.5, METRIC: float("nan"), "train_loss": 6.0},
        {"epoch": 3, "step": 96, "seconds": 13.0, METRIC: 38.25},
    ]
    write_events(str(tmp_path), record_of(epochs), METRIC)
    parsed = scalars(tmp_path / "tensorboard" / "00003")
    assert parsed == {
        METRIC: [(32, 40.5, 1004.0), (96, 38.25, 1013.0)],
        "train_loss": [(32, 7.0, 1004.0), (64, 6.0, 1008.5)],
        "seconds": [(32, 4.0, 1004.0), (64, 8.5, 1008.5), (96, 13.0, 1013.0)],
    }


def test_the_sample_is_written_as_text(tmp_path: Path) -> None:
    write_events(str(tmp_path), record_of([{"epoch": 1, "step": 1, "seconds": 1.0, METRIC: 30.5}]), METRIC)
    values = [value for event in read_events(tmp_path / "tensorboard" / "00003") for value in event.summary.value]
    [text] = [value.tensor.string_val[0].decode() for value in values if value.tag.startswith("sample")]
    assert text == f"loss.lambda1 = 0.5, seed = 1; finished; best {METRIC} 30.5"


def test_a_retried_trial_has_one_file(tmp_path: Path) -> None:
    for value in (50.0, 45.0):
        write_events(str(tmp_path), record_of([{"epoch": 1, "step": 1, "seconds": 1.0, METRIC: value}]), METRIC)
    assert [value for _, value, _ in scalars(tmp_path / "tensorboard" / "00003")[METRIC]] == [45.0]


def test_a_trial_that_never_started_has_no_curves(tmp_path: Path) -> None:
    write_events(str(tmp_path), record_of([], 123_456, state="failed", started=None), METRIC)
    assert scalars(tmp_path / "tensorboard" / "123456") == {}


@pytest.mark.parametrize("missing", ["step", "seconds"])
def test_an_epoch_without_step_or_time_is_left_out(tmp_path: Path, missing: str) -> None:
    epochs = [{"epoch": number, "step": number, "seconds": 1.0, METRIC: 30.0 + number} for number in (1, 2)]
    del epochs[0][missing]
    write_events(str(tmp_path), record_of(epochs), METRIC)
    assert [step for step, _, _ in scalars(tmp_path / "tensorboard" / "00003")[METRIC]] == [2]


def test_curves_are_written_to_s3(s3: str) -> None:
    from arspm import storage

    write_events(f"{s3}/events", record_of([{"epoch": 1, "step": 1, "seconds": 1.0, METRIC: 30.0}]), METRIC)
    [path] = storage.files_below(f"{s3}/events")
    assert path.startswith("tensorboard/00003/events.out.tfevents.")
