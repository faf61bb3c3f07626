"""The plots are drawn for any number of classes and any names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from densenet_cli.evaluation import files, plots
from densenet_cli.evaluation.matrix import matrix
from densenet_cli.labels import ClassLabel
from tests.support.fake_classifier import Fake


def drawn(report, draw):
    with Image.open(io.BytesIO(draw(report))) as image:
        return np.asarray(image.convert("RGB"))


def report(classes, images=60, names=None):
    rng = np.random.default_rng(0)
    rows = rng.dirichlet(np.full(classes, 0.3), images).astype(np.float32)
    fake = Fake(rows)
    if names:
        fake.labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(names))
    return fake.evaluate(rng.integers(0, classes, images))


@pytest.mark.parametrize("classes", [2, 10, 60, 300, 1200])
@pytest.mark.parametrize("name", list(plots.PLOTS))
def test_any_number_of_classes(classes, name):
    pixels = drawn(report(classes, images=2 * classes), plots.PLOTS[name])
    assert min(pixels.shape[:2]) > 400
    assert max(pixels.shape[:2]) < 4000
    assert len(np.unique(pixels[::7, ::7].reshape(-1, 3), axis=0)) > 20


def test_any_names():
    names = ["$x^", "a" * 300, "\\frac{", "猫", "$\\alpha$", "%", "\udcff", "<b>", "{}", "_"]
    for draw in plots.PLOTS.values():
        drawn(report(10, names=names), draw)


def test_the_matrix_is_the_reports():
    """Its diagonal is dark and the rest white where every image is right."""
    fake = Fake(np.eye(4, dtype=np.float32))
    step, counts = matrix(fake.evaluate([0, 1, 2, 3]), 1000)
    assert step == 1
    np.testing.assert_array_equal(counts, np.eye(4))
    _, others = matrix(fake.evaluate([0, 0, 1, 1]), 1000)
    np.testing.assert_array_equal(others, [[1, 1, 0], [0, 0, 2]])
    step, shared = matrix(fake.evaluate([0, 1, 2, 3]), 2)
    assert step == 2
    np.testing.assert_array_equal(shared, [[2, 0], [0, 2]])


def test_file_names():
    assert tuple(plots.PLOTS) == files.PLOTS
