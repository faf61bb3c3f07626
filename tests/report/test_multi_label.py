"""``densenet evaluate --html`` for multi-label models: curves, mistakes, and behavior in a browser."""

from __future__ import annotations

import re

import numpy as np
import pytest

from densenet_cli.evaluation import MultiLabelAccumulator
from densenet_cli.labels import ClassLabel
from densenet_cli.report import evaluation, multi_label
from densenet_cli.report.evaluation import Mistakes
from tests.report.conftest import HOSTILE, MARKUP, read
from tests.support.fake_classifier import FakeMultiLabelClassifier, multi_labeled


def evaluated(classes: int, count: int = 60, names=None):
    """Return the report and the mistakes of random outputs. No image has the last class."""
    rng = np.random.default_rng(classes)
    targets = (rng.random((count, classes)) < 0.3).astype(int)
    targets[:, -1] = 0
    probabilities = (rng.random((count, classes)) * 0.7 + 0.3 * targets).astype(np.float32)
    fake = FakeMultiLabelClassifier(probabilities)
    if names:
        fake.labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(names))
    metrics, mistakes = MultiLabelAccumulator(fake), Mistakes()
    for result in fake.stream(multi_labeled(targets)):
        mistakes.add(metrics.add(result), None)
    return metrics.report(), mistakes.most_confident()


def points(path: str) -> np.ndarray:
    """Return the points of SVG path data, scaled to [0, 1]."""
    x, y = np.array(re.findall(r"[\d.]+", path), float).reshape(-1, 2).T
    scaled = (x - evaluation.PLOT_LEFT) / evaluation.PLOT_WIDTH, 1 - (y - evaluation.PLOT_TOP) / evaluation.PLOT_HEIGHT
    return np.array(scaled)


def test_areas_under_the_curves_are_the_metrics():
    report, _ = evaluated(6)
    for curve, metrics in zip(multi_label.roc_curves(report), report.averaged_classes, strict=True):
        x, y = points(curve.path)
        assert (x[0], y[0], x[-1], y[-1]) == pytest.approx((0, 0, 1, 1), abs=1e-3)
        assert curve.name == metrics.label.name
        assert np.trapezoid(y, x) == pytest.approx(metrics.roc_auc, abs=3e-3) == pytest.approx(curve.area, abs=3e-3)
    for curve, metrics in zip(multi_label.precision_recall_curves(report), report.averaged_classes, strict=True):
        x, y = points(curve.path)
        assert (x[0], x[-1]) == pytest.approx((0, 1), abs=1e-3)
        assert np.trapezoid(y, x) == pytest.approx(metrics.average_precision, abs=3e-3)
        assert curve.area == metrics.average_precision


def test_curves_of_many_classes():
    report, mistakes = evaluated(60)
    curves = multi_label.roc_curves(report)
    positives = sorted((metrics.positives for metrics in report.averaged_classes), reverse=True)
    shown = {metrics.label.name: metrics.positives for metrics in report.classes}
    assert [shown[curve.name] for curve in curves].count(0) == 0
    assert sorted((shown[curve.name] for curve in curves), reverse=True) == positives[: multi_label.MAX_CURVES]
    assert [curve.is_dashed for curve in curves] == [False] * 10 + [True] * 10
    assert len({(curve.color, curve.is_dashed) for curve in curves}) == multi_label.MAX_CURVES
    assert all(len(outcome.mistakes) > multi_label.MAX_LABELS for outcome, _ in mistakes)


def test_page(tmp_path):
    report, mistakes = evaluated(6)
    multi_label.write_page(tmp_path / "page.html", report, mistakes)
    page = read(tmp_path / "page.html")
    for text in (
        f"{report.mean_average_precision:.1%} mean average precision",
        f"{report.mean_roc_auc:.3f}",
        f"{report.micro.f1:.2%}",
        "mean over 5 labels",
        "not part of the means",
        "Missed:",
        "False positive:",
    ):
        assert text in page.text
    assert len(page.rows()) == len(mistakes)
    assert len([path for path in page.of("path") if path.get("class") == "curve"]) == 10


def test_page_without_means(tmp_path):
    """All images have the first class and no image has the second."""
    fake = FakeMultiLabelClassifier(np.array([[0.9, 0.1], [0.8, 0.2]], np.float32))
    multi_label.write_page(tmp_path / "page.html", fake.evaluate([[1, 0], [1, 0]]), [])
    page = read(tmp_path / "page.html")
    assert "\u2013 mean average precision" in page.text and not page.of("path")


def test_markup_in_labels_stays_text(tmp_path):
    names = (HOSTILE, "</style>", *MARKUP)
    report, mistakes = evaluated(len(names), names=names)
    multi_label.write_page(tmp_path / "page.html", report, mistakes)
    page = read(tmp_path / "page.html")
    assert all(name in page.text for name in names)
    assert len(page.of("script")) == len(page.of("style")) == 1 and not page.of("img")


def test_sorting_and_searching(browser, tmp_path):
    report, mistakes = evaluated(12)
    multi_label.write_page(tmp_path / "page.html", report, mistakes)
    browser.open(tmp_path / "page.html")
    areas = {metrics.label.name: metrics.roc_auc for metrics in report.classes}
    browser.run("document.querySelector('#classes th:nth-child(6) button').click()")
    names = browser.visible_texts("#classes tbody th")
    assert names[-1] == "class 11", "the class without a value is last"
    shown = [round(areas[name], 3) for name in names[:-1]]
    assert shown == sorted(shown)
    browser.run(
        """const field = document.querySelector("#class-search input");
        field.value = "class 1"; field.dispatchEvent(new Event("input", {bubbles: true}))"""
    )
    assert sorted(browser.visible_texts("#classes tbody th")) == ["class 1", "class 10", "class 11"]


def test_page_fits_a_phone(browser, tmp_path):
    report, mistakes = evaluated(14)
    multi_label.write_page(tmp_path / "page.html", report, mistakes)
    browser.open(tmp_path / "page.html", 390, 844, dark=True)
    assert browser.run("return document.documentElement.scrollWidth") == 390
