"""Clips prepared in a separate process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from arspm.config import override
from arspm.config.presets import preset
from arspm.media import preparer as preparing
from arspm.media.clip_rows import ClipRow
from arspm.media.dropped import DroppedClip
from arspm.media.prepare import prepare
from arspm.media.preparer import Preparer
from arspm.synthetic.face import draw_face
from arspm.synthetic.films import write_clip
from arspm.synthetic.people import sample_speakers
from arspm.synthetic.voice import speak

CONFIG = override(preset("smoke"), {"data.storage": "waveform"})
FPS = 5


@pytest.fixture(scope="module")
def row(tmp_path_factory: pytest.TempPathFactory) -> ClipRow:
    path: Path = tmp_path_factory.mktemp("clips") / "a.mp4"
    [person] = sample_speakers(1, seed=3)
    write_clip(path, [draw_face(person)] * 3 * FPS, speak(person, 3.0, np.random.default_rng(0)), FPS)
    return ClipRow(1, "a_1_2", "a", 0.0, 0.0, None, None, str(path))


def test_a_decoder_that_waits_for_ever_is_ended(row: ClipRow, monkeypatch: pytest.MonkeyPatch) -> None:
    preparer = Preparer(CONFIG)
    expected = preparer(row)
    assert preparer._process is not None
    os.kill(preparer._process.pid or 0, signal.SIGSTOP)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "MAX_SECONDS", 0.5)
        with pytest.raises(DroppedClip, match=r"undecodable: not decoded after 0\.5 s"):
            preparer(row)
    again = preparer(row)
    assert again[1:] == expected[1:], "the next clip gets a new process"
    assert (again.speech == expected.speech).all()
    preparer.close()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("storage", ["waveform", "spectrogram"])
def test_the_process_loads_torch_for_spectrograms_only(row: ClipRow, storage: str) -> None:
    preparer = Preparer(override(CONFIG, {"data.storage": storage}))
    preparer(row)
    assert preparer._process is not None
    maps = Path(f"/proc/{preparer._process.pid}/maps").read_text()
    preparer.close()
    assert "dlib" in maps
    assert ("libtorch" in maps) == (storage == "spectrogram")


# Of the libraries that decode clips, torch alone takes 0.3 GB and 3 s of a core.
ONE_CLIP = """
import sys
from arspm.config import override
from arspm.config.presets import preset
from arspm.media.clip_rows import ClipRow
from arspm.media.preparer import Preparer

preparer = Preparer(override(preset("smoke"), {"data.storage": "waveform"}))
found = preparer(ClipRow(1, "a_1_2", "a", 0.0, 0.0, None, None, sys.argv[1]))
preparer.close()
loaded = {"torch", "av", "dlib", "onnxruntime"} & sys.modules.keys()
sys.exit(f"loaded: {sorted(loaded)}" if loaded else print(found.measures.num_faces, found.speech.shape[0]))
"""


def test_the_process_that_asks_does_not_load_the_decoders(row: ClipRow) -> None:
    result = subprocess.run([sys.executable, "-c", ONE_CLIP, row.path], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    expected = prepare(row, CONFIG)
    assert result.stdout.split() == [str(expected.measures.num_faces), str(expected.speech.shape[0])]
