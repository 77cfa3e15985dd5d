"""Every reason for which a clip is dropped, with a real file that has it."""

import pickle
import re

import numpy as np
import pytest
import soundfile

from arspm.corpus.schema import DropReason
from arspm.media.clips import decode_clip, load_speech
from arspm.media.dropped import DroppedClip
from tests.media.media_files import RATE, buzz, drop_of, pictures, write_clip


def test_missing_file(tmp_path):
    assert drop_of(tmp_path / "none.mp4").reason is DropReason.missing_file
    assert drop_of("memory://clips-test/none.mp4").reason is DropReason.missing_file


def test_undecodable(clip, tmp_path):
    data = clip.read_bytes()
    damaged = bytearray(data)
    middle = slice(len(data) // 10, len(data) // 2)
    damaged[middle] = np.random.default_rng(1).bytes(len(damaged[middle]))
    for broken in (b"", np.random.default_rng(0).bytes(5000), data[: len(data) // 2], data[:100], bytes(damaged)):
        assert drop_of(broken).reason is DropReason.undecodable
    assert drop_of(tmp_path).reason is DropReason.undecodable


def test_a_playlist_that_names_other_files_is_not_followed(clip, monkeypatch):
    monkeypatch.chdir(clip.parent)
    playlist = f"ffconcat version 1.0\nfile '{clip.name}'\n".encode()
    assert drop_of(playlist).reason is DropReason.undecodable
    playlist = f"#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nfile://{clip}\n#EXT-X-ENDLIST\n".encode()
    assert drop_of(playlist).reason is DropReason.undecodable


def test_limits(clip):
    drop = drop_of(clip, max_pixels=128 * 96 - 1)
    assert (drop.reason, drop.detail) == (DropReason.undecodable, "128x96 pixels, more than the limit of 12287")
    drop = drop_of(clip, max_seconds=2.5)
    assert drop.reason is DropReason.too_long
    assert re.fullmatch(r"3\.0 s; the limit is 2\.5 s", drop.detail)


def test_wrong_length(clip):
    """A file of three seconds is neither a clip of two seconds nor a video that lasts until 9 s."""
    drop = drop_of(clip, part=(7.0, 9.0))
    assert drop.reason is DropReason.wrong_length
    assert re.search(r"lasts 3\.0\d s: neither 2\.00 s, as the clip, nor until 9\.00 s", drop.detail)
    assert drop_of(clip, part=(7.0, 9.0), tolerance_seconds=0.9).reason is DropReason.wrong_length
    decode_clip(clip, part=(7.0, 9.0), tolerance_seconds=1.1)
    decode_clip(clip, part=(7.0, 10.0))


def test_no_video(tmp_path):
    soundfile.write(tmp_path / "s.wav", buzz(1.0), RATE)
    assert drop_of(tmp_path / "s.wav").reason is DropReason.no_video


def test_no_sound(tmp_path):
    path = write_clip(tmp_path / "c.mp4", pictures(10))
    assert drop_of(path).reason is DropReason.no_sound


@pytest.mark.parametrize("seconds", [0, 0.01, 0.3])
def test_too_short(tmp_path, seconds):
    soundfile.write(tmp_path / "s.wav", buzz(seconds), RATE)
    assert drop_of(tmp_path / "s.wav", num_frames=0).reason is DropReason.too_short


def test_sound_that_is_not_finite(tmp_path):
    sound = buzz(1.0)
    sound[5000] = np.nan
    soundfile.write(tmp_path / "s.wav", sound, 16_000, subtype="FLOAT")
    with pytest.raises(ValueError, match="not finite"):
        load_speech(tmp_path / "s.wav")


def test_dropped_clip_survives_pickling():
    drop = pickle.loads(pickle.dumps(DroppedClip(DropReason.silent, "level -70 dBFS")))
    assert (drop.reason, drop.detail, str(drop)) == (DropReason.silent, "level -70 dBFS", "silent: level -70 dBFS")
