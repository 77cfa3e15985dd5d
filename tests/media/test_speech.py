"""Which sounds are speech, and that speech has one level."""

import numpy as np
import pytest
import soundfile
from scipy.signal import butter, sosfilt

from arspm.corpus.schema import DropReason
from arspm.media.clips import decode_clip, load_speech
from arspm.media.dropped import DroppedClip
from arspm.media.speech import LEVEL_DBFS, begin_of_most_speech, find_speech, level_dbfs, speech_probability
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak
from tests.media.media_files import buzz, voice

RATE = 16_000
TIME = np.arange(6 * RATE) / RATE
NOISE = np.random.default_rng(0).standard_normal(TIME.size)


def melody() -> np.ndarray:
    """Plucked chords in another key three times a second."""
    step = 2.0 ** (np.floor(3 * TIME) % 5 / 12)
    return sum(np.sin(2 * np.pi * hertz * step * TIME) for hertz in (220, 277, 330, 440)) * np.exp(-3 * (3 * TIME % 1))


SOUNDS = {
    "a tone": np.sin(2 * np.pi * 220 * TIME),
    "a tone with partials": (220 * TIME) % 1 - 0.5,
    "a siren": np.sin(2 * np.pi * np.cumsum(700 + 500 * np.sin(np.pi * TIME)) / RATE),
    "music": melody(),
    "white noise": NOISE,
    "rumble": sosfilt(butter(2, 100, fs=RATE, output="sos"), NOISE),
    "hiss": sosfilt(butter(2, 4000, "high", fs=RATE, output="sos"), NOISE),
    "clicks": (np.arange(TIME.size) % 4000 < 3).astype(float),
    "a buzz": buzz(6.0, RATE),
}


@pytest.mark.parametrize("name", SOUNDS)
@pytest.mark.parametrize("level", [-50, -20, -6])
def test_other_sounds_are_no_speech(name: str, level: float) -> None:
    sound = SOUNDS[name] * 10 ** ((level - level_dbfs(SOUNDS[name])) / 20)
    with pytest.raises(DroppedClip) as caught:
        find_speech(sound.astype(np.float32))
    assert caught.value.reason is DropReason.no_speech


def test_every_made_up_speaker_is_heard() -> None:
    for number, speaker in enumerate(sample_speakers(12, seed=3)):
        speech = find_speech(speak(speaker, 3.0, np.random.default_rng(number)))
        assert speech.voiced_seconds > 1.5, speaker


def test_the_level_of_speech_does_not_depend_on_the_gain_or_the_pauses() -> None:
    spoken = voice(3.0)
    expected = find_speech(spoken)
    for gain_db in (-45.0, -20.0, 15.0):
        found = find_speech(spoken * np.float32(10 ** (gain_db / 20)) + np.float32(0.01))  # and an offset
        assert found.level_dbfs == pytest.approx(expected.level_dbfs + gain_db, abs=0.01)
        assert found.gain_db == pytest.approx(LEVEL_DBFS - found.level_dbfs)
        assert found.voiced_seconds == expected.voiced_seconds
        difference = found.waveform - found.waveform.mean() - (expected.waveform - expected.waveform.mean())
        assert level_dbfs(difference) < LEVEL_DBFS - 60
    with_pause = np.concatenate([spoken, np.zeros(3 * RATE, np.float32)])
    assert find_speech(with_pause).level_dbfs == pytest.approx(expected.level_dbfs, abs=0.5)


def test_speech_is_found_where_it_is() -> None:
    sound = np.concatenate([0.001 * NOISE[: 2 * RATE], voice(2.0), 0.001 * NOISE[: 2 * RATE]]).astype(np.float32)
    found = np.flatnonzero(speech_probability(sound) > 0.5) * 512 / RATE
    assert 1.9 < found[0] < 2.3
    assert 3.5 < found[-1] < 4.2


def test_too_little_and_too_quiet() -> None:
    for sound, reason in (
        (np.zeros(0), DropReason.too_short),
        (voice(1.0)[:6400], DropReason.too_short),
        (np.zeros(RATE), DropReason.silent),
        (1e-5 * NOISE, DropReason.silent),
        (np.full(RATE, 0.3), DropReason.silent),  # an offset alone
        (np.where(TIME < 1, np.nan, 0.1), DropReason.undecodable),
    ):
        with pytest.raises(DroppedClip) as caught:
            find_speech(np.asarray(sound, np.float32))
        assert caught.value.reason is reason


def test_levels() -> None:
    assert level_dbfs(np.sin(2 * np.pi * 100 * TIME)) == pytest.approx(-3.01, abs=0.01)
    assert level_dbfs(np.zeros(100)) == -np.inf


@pytest.mark.parametrize(("begin", "seconds"), [(0.0, 4.0), (3.0, 6.0), (9.0, 5.0), (30.0, 8.0)])
def test_the_seconds_with_most_speech_are_found(tmp_path, begin: float, seconds: float) -> None:
    sound = (0.003 * np.random.default_rng(1).standard_normal(int((begin + seconds + 7) * RATE))).astype(np.float32)
    spoken = voice(seconds)
    sound[int(begin * RATE) :][: spoken.size] += spoken
    found = begin_of_most_speech(sound, 6.0)
    assert begin + min(6.0, seconds) - 6.1 <= found + 0.5
    assert found <= begin + max(0.0, seconds - 6.0) + 0.5
    soundfile.write(tmp_path / "long.flac", sound, RATE)
    heard = load_speech(tmp_path / "long.flac", most_speech=True)
    assert heard.size == 6 * RATE
    assert find_speech(heard).voiced_seconds > 0.75 * min(6.0, seconds)
    media = decode_clip(tmp_path / "long.flac", num_frames=0, most_speech=True)
    assert media.start_seconds == pytest.approx(found, abs=0.1)
    np.testing.assert_allclose(find_speech(media.waveform).waveform, heard, atol=1e-4)


def test_without_speech_the_first_seconds_are_taken() -> None:
    assert begin_of_most_speech(np.zeros(10 * RATE, np.float32), 6.0) == 0.0
    assert begin_of_most_speech(SOUNDS["white noise"].astype(np.float32), 6.0) == 0.0
    assert begin_of_most_speech(voice(2.0), 6.0) == 0.0, "shorter than six seconds"
