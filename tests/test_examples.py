"""The documented examples of the Python API are executed, in a folder with the files that they name."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile

from tests.media.media_files import voice
from tests.untrained_run import write_untrained_run

ROOT = Path(__file__).parents[1]
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("examples")
    write_untrained_run(path / "runs" / "one")
    (path / "recordings").mkdir()
    for number, name in enumerate(("voice.wav", "recordings/ann.wav", "recordings/bob.wav")):
        soundfile.write(path / name, voice(3.0, seed=number), 16_000)
    soundfile.write(path / "silence.wav", np.zeros(32_000, np.float32), 16_000)
    return path


def test_the_examples_of_the_api_page_give_what_they_show(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder)
    page = ROOT / "docs" / "api.md"
    text = re.sub(r"^```.*", "", page.read_text(), flags=re.MULTILINE)  # a fence would be taken for output
    examples = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
    results = doctest.DocTestRunner(optionflags=OPTIONS).run(examples)
    assert results.attempted >= 30
    assert results.failed == 0


@pytest.mark.parametrize("text", ["arspm/portrait.py", "arspm/report/model_card.md.j2"])
def test_the_examples_without_output_run(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    """The indented code of the module's docstring, and the fenced code of the model card."""
    source = (ROOT / text).read_text()
    [code] = re.findall(r"^```python\n(.*?)^```", source, re.DOTALL | re.MULTILINE) or [
        "".join(f"{line[4:]}\n" for line in source.split('"""')[1].splitlines() if line.startswith("    "))
    ]
    assert "SpeechPortrait.load" in code
    monkeypatch.chdir(folder)
    exec(code.replace("path/or/s3-uri/of/this/folder", "runs/one"), {})
