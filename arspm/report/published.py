"""Figures that others published, to hold beside ours. They are not pass marks: other corpora, other features.

The paper's tables are copied as printed; what is odd about them is said in `ODD`.
"""

from __future__ import annotations

from typing import NamedTuple


class PublishedRow(NamedTuple):
    """A row of the paper's Table 4; None where the paper has a dash."""

    model: str
    l1: float | None
    l2: float | None
    cos_degrees: float | None
    portrait_l1: float | None
    portrait_l2: float | None
    portrait_cos_degrees: float | None


TABLE4 = (
    PublishedRow("Face-to-Face", None, None, None, 97.158, 1.890, 14.534),
    PublishedRow("non-prior", 162.957, 3.176, 29.191, 179.594, 3.499, 30.231),
    PublishedRow("neutral+fc", 126.524, 2.470, 15.204, 144.027, 2.809, 25.842),
    PublishedRow("neutral", 143.335, 2.795, 27.748, 148.610, 2.897, 25.973),
    PublishedRow("gender+fc", 155.008, 3.023, 28.115, 171.860, 3.350, 29.308),
    PublishedRow("gender", 145.192, 2.831, 27.994, 150.900, 2.941, 26.104),
    PublishedRow("female", 128.641, 2.501, 19.438, 156.399, 3.048, 21.721),
    PublishedRow("male", 130.861, 2.542, 19.610, 152.985, 2.981, 21.409),
)

# n -> L1 from the mean of 10,000 faces: neutral, female, male
TABLE1 = {
    10: (27.861, 36.924, 43.908),
    50: (12.155, 16.318, 24.302),
    100: (10.179, 15.256, 14.937),
    500: (3.815, 5.797, 5.059),
    1000: (3.176, 4.505, 4.254),
    5000: (1.179, 1.913, 1.967),
}

# Speech2Face (Oh et al. 2019) on six seconds of speech: the angle's mean and its spread over the test pairs.
SPEECH2FACE_DEGREES = (45.75, 5.09)

ODD = (
    "The paper's 15.204 degrees is hard to square with its own L2: from neutral to neutral+fc the L2 falls by 12 %, "
    "the angle by 45 %. The paper has no rows for the prior alone or for shuffled speech."
)
