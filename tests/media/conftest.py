import pytest

from tests.media.media_files import buzz, pictures, write_clip


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """The path of a clip of three seconds with 75 frames."""
    return write_clip(tmp_path_factory.mktemp("clips") / "clip.mp4", pictures(75), buzz(3.0))
