"""Extensions of paths, one at a time and as columns."""

import pyarrow as pa
import pytest

from arspm.corpus.media_types import MEDIA_EXTENSIONS, SOUND_EXTENSIONS, extension, have_extension

NAMES = (
    "a.mp4",
    "b/a.MP4",
    "a.b.Wav",
    ".a.wav",
    "b/._x.wav",
    "b/.wav",
    "wav",
    "b.wav/a",
    "a.wav.txt",
    "a.wave",
    "a..wav",
)
NAMES += ("é ü.3GP", "a\nb.wav", "a.wav\n", "a.", "b/", "", "a.mkv ", "a.xwav", "-.w64")


@pytest.mark.parametrize("extensions", [MEDIA_EXTENSIONS, SOUND_EXTENSIONS])
def test_a_column_of_paths_has_the_extensions_of_each_path(extensions):
    found = have_extension(pa.array(NAMES), extensions).to_pylist()
    assert found == [extension(name) in extensions for name in NAMES]
    assert True in found
    assert False in found
