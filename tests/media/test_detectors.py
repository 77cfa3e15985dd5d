"""Face detectors follow one convention for boxes."""

import cv2
import numpy as np
import pytest

from arspm.media.detectors import _before_rot90, make_detector, yunet_detector
from arspm.synthetic.face import draw_face
from arspm.synthetic.people import sample_speakers


def test_hog_finds_the_face_at_any_frame_size():
    portrait = draw_face(sample_speakers(2, seed=0)[0], size=240)
    detector = make_detector("hog")
    (box,) = detector(portrait)
    assert 60 < box.side < 160
    assert 0 < box.score <= 1
    assert np.hypot(box.centre[0] - 120, box.centre[1] - 120) < 40
    for scale in (0.35, 2.5):  # smaller than its window; found only in the second, larger pass
        frame = cv2.resize(portrait, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        (scaled,) = detector(frame)
        np.testing.assert_allclose(np.array(scaled.centre) / scale, box.centre, atol=12)
        assert scaled.side / scale == pytest.approx(box.side, rel=0.25)
    assert detector(np.full((240, 320, 3), 127, np.uint8)) == []


def test_an_invalid_detector_is_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="expected 'hog'"):
        make_detector("haar")
    with pytest.raises(FileNotFoundError, match=r"no face detector at .*none\.onnx"):
        make_detector(str(tmp_path / "none.onnx"))
    (tmp_path / "bad.onnx").write_bytes(b"abc" * 100)
    with pytest.raises(ValueError, match="not a YuNet model"):
        yunet_detector(tmp_path / "bad.onnx")


class FakeYuNet:
    """Stub of OpenCV's FaceDetectorYN: finds one face in a frame with a blue corner."""

    size = (320, 320)

    def setInputSize(self, size):
        self.size = size

    def detect(self, bgr):
        assert bgr.shape[1::-1] == self.size
        if bgr[0, 0, 0] != 255:  # the blue corner: OpenCV's channel order is BGR
            return 1, None
        landmarks = (30, 40, 50, 40, 35, 50, 32, 60, 48, 60)  # the nose a quarter of the way between the eyes
        return 1, np.array([(20, 20, 40, 52, *landmarks, 0.9)], np.float32)


def test_yunet_boxes_follow_the_convention(tmp_path, monkeypatch):
    (tmp_path / "yunet.onnx").write_bytes(b"")
    monkeypatch.setattr(cv2.FaceDetectorYN, "create", lambda *args: FakeYuNet())
    detector = yunet_detector(tmp_path / "yunet.onnx", max_side=100)
    frame = np.zeros((200, 160, 3), np.uint8)  # scaled to half before detection
    assert detector(frame) == []
    frame[:, :, 2] = 255
    (box,) = detector(frame)
    assert (box.x0, box.x1) == pytest.approx((80 - 40, 80 + 40))
    assert (box.y0, box.y1) == pytest.approx((92 + 8 - 40, 92 + 8 + 40))
    assert box.score == pytest.approx((0.9 - 0.6) / 0.4)
    assert box.frontalness == pytest.approx(0.5)


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_point_of_a_turned_frame_is_found_again(quarters):
    image = np.zeros((30, 50))
    image[4, 7] = 1
    [(y, x)] = np.argwhere(np.rot90(image, quarters))
    assert _before_rot90((x + 0.5, y + 0.5), quarters, image.shape) == (7.5, 4.5)
