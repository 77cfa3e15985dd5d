from __future__ import annotations

import pytest

from arspm.config import Recipe
from arspm.training.train_step import learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        # five steps an epoch; times 0.9 at the start of epochs 2, 4, 6 and 48 (counted from 0)
        (0, 1e-3),
        (4, 1e-3),
        (5, 1e-3),
        (9, 1e-3),
        (10, 0.9e-3),
        (19, 0.9e-3),
        (20, 0.81e-3),
        (29, 0.81e-3),
        (30, 0.729e-3),
        (240, 7.9766e-5),  # 0.9 ** 24
        (249, 7.9766e-5),
    ],
)
def test_the_papers_rates(step, expected):
    assert learning_rate(Recipe(), step, 5) == pytest.approx(expected, rel=1e-4)


def test_another_recipe():
    recipe = Recipe(learning_rate=0.5, decay=0.1, decay_epochs=3)
    assert [learning_rate(recipe, step, 1) for step in range(7)] == pytest.approx([0.5] * 3 + [0.05] * 3 + [0.005])
