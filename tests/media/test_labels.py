"""labels.csv: empty cells, and the problems that are reported."""

import io

import pytest

from arspm.media.labels import Labels, read_labels


def test_cells_may_be_empty():
    text = "video_id,gender,age,identity\na,F,31.5,ann\nb,male,,\nc,,,\n"
    expected = {"a": Labels("female", 31.5, "ann"), "b": Labels("male"), "c": Labels()}
    assert read_labels(io.StringIO(text)) == expected
    assert read_labels(io.StringIO("gender,video_id\nm,x\n")) == {"x": Labels("male")}


def test_every_problem_has_its_line():
    text = "video_id,gender,age\na,woman,\nb,f,old\nb,f,-3\n,m,\nc,m\n"
    with pytest.raises(ValueError, match="labels") as caught:
        read_labels(io.StringIO(text))
    for line in range(2, 7):
        assert f"line {line}: " in str(caught.value)


@pytest.mark.parametrize("text", ["", "a,f,30,ann\n", "video_id,sex\na,f\n", "video_id,age,age\n"])
def test_an_invalid_header_is_an_error(text):
    with pytest.raises(ValueError, match="header"):
        read_labels(io.StringIO(text))
