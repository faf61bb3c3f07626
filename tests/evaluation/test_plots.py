"""Plots can be drawn for any number of classes and any names."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from densenet_cli.evaluation import plots
from densenet_cli.labels import ClassLabel
from tests.support.fake_classifier import FakeClassifier, FakeMultiLabelClassifier


def random_report(classes, images=60, names=None):
    rng = np.random.default_rng(0)
    fake = FakeClassifier(rng.dirichlet(np.full(classes, 0.3), images).astype(np.float32))
    if names:
        fake.labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(names))
    return fake.evaluate(rng.integers(0, classes, images))


def random_multi_label_report(classes, images=60, names=None):
    rng = np.random.default_rng(0)
    fake = FakeMultiLabelClassifier(rng.random((images, classes), np.float32))
    if names:
        fake.labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(names))
    return fake.evaluate(rng.integers(0, 2, (images, classes)))


def pixels_of(png):
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


@pytest.mark.parametrize("classes", [2, 10, 60, 300, 1200])
@pytest.mark.parametrize("draw", [plots.draw_confusion_matrix, plots.draw_reliability_diagram])
def test_any_number_of_classes(classes, draw):
    pixels = pixels_of(draw(random_report(classes, images=2 * classes)))
    assert min(pixels.shape[:2]) > 400
    assert max(pixels.shape[:2]) < 4000
    assert len(np.unique(pixels[::7, ::7].reshape(-1, 3), axis=0)) > 20


@pytest.mark.parametrize("images", [1, 60, 3000])
def test_risk_coverage_curve(images):
    pixels = pixels_of(plots.draw_risk_coverage_curve(random_report(5, images)))
    assert pixels.shape[:2] == (675, 900)
    assert len(np.unique(pixels[::7, ::7].reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize("classes", [1, 2, 14, 21, 300])
@pytest.mark.parametrize("draw", [plots.draw_roc_curves, plots.draw_precision_recall_curves])
def test_curves_of_any_number_of_classes(classes, draw):
    pixels = pixels_of(draw(random_multi_label_report(classes)))
    assert pixels.shape[:2] == (900, 1275)
    assert len(np.unique(pixels[::7, ::7].reshape(-1, 3), axis=0)) > 5


@pytest.mark.parametrize("classes", [2, 30])
@pytest.mark.parametrize("draw", [plots.draw_roc_curves, plots.draw_precision_recall_curves])
def test_curves_at_0_and_1_are_not_cut_in_half(classes, draw, monkeypatch):
    monkeypatch.setattr(plots, "_to_png", lambda figure: figure)
    (axes,) = draw(random_multi_label_report(classes)).axes
    assert not any(line.get_clip_on() for line in axes.lines[:classes])


def test_curves_without_a_class():
    """Without images of a class and others, there is no curve."""
    report = FakeMultiLabelClassifier(np.array([[0.3, 0.7]], np.float32)).evaluate([[0, 1]])
    for draw in (plots.draw_roc_curves, plots.draw_precision_recall_curves):
        assert pixels_of(draw(report)).shape[:2] == (900, 1275)


def test_any_names():
    names = ["$x^", "a" * 300, "\\frac{", "猫", "$\\alpha$", "%", "\udcff", "<b>", "{}", "_"]
    for draw in (plots.draw_confusion_matrix, plots.draw_reliability_diagram):
        pixels_of(draw(random_report(10, names=names)))
    for draw in (plots.draw_roc_curves, plots.draw_precision_recall_curves):
        pixels_of(draw(random_multi_label_report(10, names=names)))
