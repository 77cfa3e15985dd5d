"""Parts that are cut out of a video: what `decode_clip` sees and hears of them is that of the film."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from pathlib import Path

import av
import numpy as np
import pytest

from arspm.corpus.schema import DropReason
from arspm.media.clips import decode_clip
from arspm.media.dropped import DroppedClip
from arspm.media.remote_files import BLOCK_BYTES, RangeFile
from arspm.media.segments import cut
from arspm.synthetic.films import film
from arspm.synthetic.people import sample_speakers
from tests.media.media_files import write_clip

FPS, RATE = 10, 16_000
PARTS = [(0.0, 3.0), (2.3, 6.9), (3.013, 9.5), (4.0, 11.5), (8.4, 12.0)]
FORMATS = {  # name: codecs, and the rate of the sound in the file
    "film.mp4": ("libx264", "aac", 44_100),
    "film.webm": ("libvpx-vp9", "libopus", 48_000),
    "film.mkv": ("libx264", "libmp3lame", 44_100),
    "film.ts": ("libx264", "aac", 44_100),
    "mpeg2.mkv": ("mpeg2video", "mp2", 44_100),
}


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One film of two people, one after the other, in several containers and codecs."""
    folder = tmp_path_factory.mktemp("films")
    takes = [film(each, 60, np.random.default_rng(5), fps=FPS, size=128) for each in sample_speakers(2, seed=3)]
    frames = [frame for take in takes for frame in take.frames]
    voice = np.concatenate([take.voice for take in takes])
    for name, (video, sound, rate) in FORMATS.items():
        at_rate = np.interp(np.arange(12 * rate) / rate, np.arange(voice.size) / RATE, voice).astype(np.float32)
        write_clip(
            folder / name, frames, at_rate, rate=rate, fps=FPS, video_codec=video, sound_codec=sound, gop_size=25
        )
    for kind in ("video", "audio"):  # the two files of a site that sends picture and sound separately
        with av.open(str(folder / "film.mp4")) as source, av.open(str(folder / f"{kind}.mp4"), "w") as target:
            stream = getattr(source.streams, kind)[0]
            copy = target.add_stream_from_template(stream)
            for packet in source.demux(stream):
                if packet.dts is not None:
                    packet.stream = copy
                    target.mux(packet)
    return folder


def cut_files(folder: Path, names: list[str], start: float, end: float, target: Path) -> str:
    with ExitStack() as stack:
        return cut([stack.enter_context(open(folder / name, "rb")) for name in names], start, end, target)


def lag(one: np.ndarray, other: np.ndarray, most: int) -> tuple[int, float]:
    """By how many samples the second sound is later, and the correlation of the two then."""
    middle = one[most:-most]
    found = {
        shift: float(np.corrcoef(middle, other[most + shift : most + shift + middle.size])[0, 1])
        for shift in range(-most, most + 1)
        if other[most + shift : most + shift + middle.size].size == middle.size
    }
    best = max(found, key=lambda shift: found[shift])
    return best, found[best]


@pytest.mark.parametrize("names", [[name] for name in FORMATS] + [["video.mp4", "audio.mp4"]], ids=" ".join)
@pytest.mark.parametrize(("start", "end"), PARTS)
def test_a_part_sounds_and_looks_as_the_film_does_there(
    films: Path, tmp_path: Path, names: list[str], start: float, end: float
) -> None:
    """In an MP4 to the millisecond; in Matroska the sound may begin one packet early."""
    path = cut_files(films, names, start, end, tmp_path)
    assert Path(path).suffix == (".mkv" if "mpeg2.mkv" in names else ".mp4")
    original = decode_clip(films / "film.mp4" if len(names) > 1 else films / names[0], part=(start, end))
    clip = decode_clip(path, part=(start, end))
    shift, likeness = lag(original.waveform, clip.waveform, 500)
    assert abs(shift) <= (16 if path.endswith(".mp4") else 300)
    assert likeness > 0.99  # AAC's noise is another one each time it is decoded
    assert clip.waveform.size == pytest.approx(original.waveform.size, abs=800)
    assert len(clip.frames) == len(original.frames) == 8
    for ours, theirs in zip(clip.frames, original.frames, strict=True):
        assert min(np.abs(ours.astype(int) - theirs).mean() for theirs in original.frames) < 3
        assert np.abs(ours.astype(int) - theirs).mean() < 6  # at most the next frame


def test_the_packets_are_copied(films: Path, tmp_path: Path) -> None:
    """Nothing is encoded again, and little is copied beyond what is needed."""
    path = cut_files(films, ["film.mp4"], 6.2, 8.0, tmp_path)
    with av.open(str(films / "film.mp4")) as source, av.open(path) as target:
        theirs = {bytes(packet) for packet in source.demux() if packet.size}
        packets = [(packet.stream.type, bytes(packet)) for packet in target.demux() if packet.size]
    assert {data for _, data in packets} <= theirs
    kinds = [kind for kind, _ in packets]
    assert kinds.count("audio") == pytest.approx(1.8 * 44_100 / 1024, abs=4)
    assert 18 <= kinds.count("video") <= 18 + 25 + 3  # from the key frame on


@pytest.mark.parametrize(
    ("names", "part", "reason", "says"),
    [
        (["film.mp4"], (10.0, 13.0), DropReason.wrong_length, "the sound ends at 12.0"),
        (["film.mkv"], (30.0, 33.0), DropReason.wrong_length, "and the clip at 33.00 s"),
        (["video.mp4"], (1.0, 3.0), DropReason.no_sound, "no sound in the file"),
        (["audio.mp4"], (1.0, 3.0), DropReason.no_video, "no video in the file"),
        (["page.html"], (1.0, 3.0), DropReason.undecodable, "a web page"),
        (["noise.mp4"], (1.0, 3.0), DropReason.undecodable, "cannot be decoded"),
        (["half.mp4"], (1.0, 3.0), DropReason.undecodable, "cannot be decoded"),
    ],
)
def test_what_cannot_be_cut_has_a_reason(
    films: Path, tmp_path: Path, names: list[str], part: tuple[float, float], reason: DropReason, says: str
) -> None:
    for name in ("film.mp4", "film.mkv", "video.mp4", "audio.mp4"):
        shutil.copy(films / name, tmp_path)
    (tmp_path / "page.html").write_text("<!doctype html><title>404</title>")
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(20_000))
    (tmp_path / "half.mp4").write_bytes((films / "film.mp4").read_bytes()[:20_000])  # its index is at the end
    with pytest.raises(DroppedClip) as caught:
        cut_files(tmp_path, names, *part, tmp_path)
    assert caught.value.reason is reason
    assert says in caught.value.detail


def test_a_clip_that_nearly_reaches_the_end_is_kept(films: Path, tmp_path: Path) -> None:
    path = cut_files(films, ["film.mp4"], 9.0, 12.4, tmp_path)
    assert decode_clip(path, part=(9.0, 12.4)).waveform.size == pytest.approx(3 * RATE, abs=800)


# --- files on a server


def test_a_range_file_reads_as_a_file_does() -> None:
    data = np.random.default_rng(0).bytes(5 * BLOCK_BYTES + 77)
    asked: list[tuple[int, int]] = []

    def fetch(first: int, last: int) -> bytes:
        asked.append((first, last))
        return data[first : last + 1]

    file = RangeFile(fetch, len(data), data[: BLOCK_BYTES + 5])
    assert file.read(10) == data[:10]
    assert not asked
    assert file.seek(-70, 2) == len(data) - 70
    assert file.read() == data[-70:]
    assert file.read(1) == b""
    assert asked == [(5 * BLOCK_BYTES, len(data) - 1)]
    file.seek(3)
    assert file.read() == data[3:]
    assert file.seek(BLOCK_BYTES + 1) == file.tell() == BLOCK_BYTES + 1
    num_requests = len(asked)
    assert file.read(2 * BLOCK_BYTES) == data[BLOCK_BYTES + 1 : 3 * BLOCK_BYTES + 1]
    assert len(asked) == num_requests <= 4  # the blocks are kept, and several are requested at once
    with pytest.raises(OSError, match="before the start"):
        file.seek(-1)


def test_a_failed_request_is_not_the_end_of_the_file(films: Path, tmp_path: Path) -> None:
    data = (films / "film.mp4").read_bytes()

    def fetch(first: int, last: int) -> bytes:
        raise ConnectionError("reset")

    file = RangeFile(fetch, len(data) + 10 * BLOCK_BYTES, data[:BLOCK_BYTES])
    with pytest.raises(DroppedClip):
        cut([file], 6.2, 8.0, tmp_path)  # type: ignore[list-item]
    assert isinstance(file.error, ConnectionError)
    assert file.read(10) == b""
    short = RangeFile(lambda first, last: b"too little", 10 * BLOCK_BYTES)
    assert short.read(100) == b""
    assert "less than it announced" in str(short.error)
