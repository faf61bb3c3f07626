"""``densenet evaluate --html``: metrics, figures, mistakes, and behavior in a browser."""

from __future__ import annotations

import io
import json
import sys
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier
from densenet_cli.evaluation import ImageOutcome
from densenet_cli.images.previews import Thumbnail
from densenet_cli.labels import ClassLabel
from densenet_cli.report import evaluation
from tests.report.conftest import HOSTILE, LABELS, MARKUP, Page, read
from tests.support.command import densenet
from tests.support.fake_classifier import FakeClassifier, labeled
from tests.support.images import encode, photograph

EVALUATED = (LABELS[0], MARKUP[2], MARKUP[3], LABELS[5])
"""Labels that are valid folder names."""


@pytest.fixture(scope="session")
def images(tmp_path_factory):
    """Five noisy images per class, and an empty one."""
    root = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(3)
    for label in EVALUATED:
        folder = root / label
        folder.mkdir()
        for number in range(5):
            photo = photograph(("chelsea", "coffee", "rocket", "astronaut")[rng.integers(4)], (60, 40))
            noise = rng.normal(0, rng.integers(1, 200), (40, 60, 3)) + np.asarray(photo)
            pixels = np.clip(noise, 0, 255).astype(np.uint8)
            (folder / f"{HOSTILE}{number}.png").write_bytes(encode(Image.fromarray(pixels), "PNG"))
    (root / EVALUATED[0] / "broken.png").write_bytes(b"")
    return root


@pytest.fixture(scope="session")
def evaluated(weights, images, tmp_path_factory):
    """The path of a page, and the JSON report of the same run."""
    folder = tmp_path_factory.mktemp("page")
    outputs = ("--html", folder / "page.html", "-o", folder / "report.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DENSENET_CACHE", str(folder / "cache"))
        result = densenet("evaluate", images, "--weights", weights, *outputs)
    assert result.status == 1, result.err
    return folder / "page.html", json.loads((folder / "report.json").read_text())


def test_page_shows_the_metrics_of_the_report(evaluated):
    path, report = evaluated
    page = read(path)
    for key in ("top1", "top5"):
        for part in ("value", "low", "high"):
            assert f"{report[key][part]:.2%}" in page.text
    assert f"{report['negative_log_likelihood']:.4f}" in page.text and f"{report['calibration_error']:.2%}" in page.text
    for result in report["per_class"]:
        assert result["label"] in page.text and f"{result['recall']:.1%}" in page.text
    assert "The file is empty." in page.text and "1 image could not be classified" in page.text
    wrong = report["images"] - report["top1"]["correct"]
    assert 0 < wrong == len([row for row in page.rows() if "mistake" in row["class"]]) == len(page.of("img"))
    assert len(page.of("script")) == len(page.of("style")) == 1


def test_isolated_decoding_gives_the_same_thumbnails(weights, images, evaluated, tmp_path):
    densenet("evaluate", images, "--weights", weights, "--html", tmp_path / "page.html", "--isolate")
    assert read(tmp_path / "page.html").of("img") == read(evaluated[0]).of("img") != []


def test_interrupted_run_shows_partial_results(weights, images, tmp_path, monkeypatch):
    stream = Classifier.stream

    def interrupted(*arguments, **settings):
        yield from islice(stream(*arguments, **settings), 4)
        raise KeyboardInterrupt

    monkeypatch.setattr(Classifier, "stream", interrupted)
    monkeypatch.setattr("os._exit", lambda status: sys.exit(status))
    result = densenet("evaluate", images, "--weights", weights, "--html", tmp_path / "page.html")
    assert result.status == 130
    text = read(tmp_path / "page.html").text
    assert "interrupted" in text and "4 images of 1 class" in text


def test_invalid_outputs_are_rejected_before_loading(images, tmp_path):
    existing = tmp_path / "page.html"
    existing.write_text("mine")
    for arguments, status, mentioned in (
        ((existing,), 2, "page.html"),
        (("-",), 2, "html"),
        ((tmp_path / "x.json", "-o", tmp_path / "x.json"), 2, "x.json"),
        ((tmp_path / "missing" / "page.html",), 4, "missing"),
    ):
        result = densenet("evaluate", images, "--weights", tmp_path / "missing.h5", "--html", *arguments)
        assert (result.status, result.out) == (status, "") and mentioned in result.err, (arguments, result.err)
    assert existing.read_text() == "mine"


def test_mistakes_are_limited_and_sorted(monkeypatch):
    monkeypatch.setattr(evaluation, "MAX_MISTAKES", 3)
    confidences = (0.6, 0.9, 0.7, 0.95, 0.9, 0.8)
    fake = FakeClassifier([np.array([1 - p, p], np.float32) for p in confidences])
    mistakes = evaluation.Mistakes()
    targets = (0, 0, 0, 1, 0, 0)  # the fourth is correct
    for result in fake.stream(labeled(targets)):
        mistakes.add(ImageOutcome.from_result(result), Thumbnail(result.source.name.encode()))
    shown = [(outcome.source, jpeg) for outcome, jpeg in mistakes.most_confident()]
    assert shown == [("1", b"1"), ("4", b"4"), ("5", b"5")]


def outputs(classes: int, count: int, accuracy: float = 0.5):
    """Targets, and outputs of which about the share ``accuracy`` is correct."""
    rng = np.random.default_rng(classes)
    targets = np.concatenate([np.arange(classes), rng.integers(0, classes, count - classes)])
    answers = np.where(
        rng.random(count) < accuracy, targets, (targets + rng.integers(1, min(classes, 4), count)) % classes
    )
    rows = np.full((count, classes), 0.4 / classes, np.float32)
    rows[np.arange(count), answers] += rng.uniform(0.1, 0.6, count).astype(np.float32)
    return targets, list(rows / rows.sum(axis=1, keepdims=True))


def report_of(classes: int, count: int):
    targets, rows = outputs(classes, count)
    return FakeClassifier(rows).evaluate(targets)


def test_confusion_figure_has_all_counts():
    report = report_of(12, 300)
    figure = evaluation.confusion_figure(report)
    assert len(figure.names) == len(figure.columns) == 12
    counts = {}
    for cell in figure.cells:
        row = round((cell.y - figure.margin) / evaluation.CELL_SIZE)
        column = round((cell.x - figure.margin) / evaluation.CELL_SIZE)
        counts[row, column] = cell.count
        assert cell.is_correct == (row == column) and 0 < cell.opacity <= 0.5
    assert counts == dict(report.confusion)
    assert evaluation.confusion_heat_map(report) is None


@pytest.mark.parametrize("classes", [200, 1000])
def test_figures_of_many_classes(classes):
    report = report_of(classes, 4 * classes)
    figure = evaluation.confusion_figure(report)
    assert 2 <= len(figure.names) <= evaluation.MAX_SELECTED_CLASSES and figure.columns[-1] == "other classes"
    shown = {result.label.name: result.images for result in report.classes}
    assert sum(cell.count for cell in figure.cells) == sum(shown[name] for name in figure.names)
    worst = report.most_confused(1)[0]
    assert {worst.target.name, worst.predicted.name} <= set(figure.names)
    image = Image.open(io.BytesIO(evaluation.confusion_heat_map(report)))
    assert image.width in (classes, -(-classes // 2)) and image.width <= evaluation.MAX_HEAT_MAP_SIDE
    assert image.height == image.width
    pixels = np.asarray(image.convert("RGBA")).astype(int)
    red, blue, alpha = pixels[..., 0], pixels[..., 2], pixels[..., 3]
    diagonal = np.eye(len(pixels), dtype=bool)
    if classes == 200:
        np.testing.assert_array_equal(alpha > 0, [[(t, p) in report.confusion for p in range(200)] for t in range(200)])
    assert (blue > red)[diagonal & (alpha > 0)].all() and (red > blue)[~diagonal & (alpha > 0)].all()


def test_reliability_bars_match_the_bins():
    report = report_of(12, 300)
    bars = evaluation.reliability_bars(report)
    filled = [bin for bin in report.bins if bin.images]
    assert len(bars) == len(filled) > 3
    top, height = evaluation.PLOT_TOP, evaluation.PLOT_HEIGHT
    for bar, bin in zip(bars, filled, strict=True):
        assert (bar.x - evaluation.PLOT_LEFT) / evaluation.PLOT_WIDTH == pytest.approx(bin.low, abs=1e-3)
        assert 1 - (bar.accuracy - top) / height == pytest.approx(bin.accuracy, abs=1e-3)
        assert 1 - (bar.confidence - top) / height == pytest.approx(bin.confidence, abs=1e-3)
        assert bar.high <= bar.accuracy <= bar.low
    assert min(bar.share for bar in bars) == evaluation.HISTOGRAM_TOP


def test_page_of_a_thousand_classes_is_small(tmp_path):
    report = report_of(1000, 4000)
    mistake = ImageOutcome("x", 0, 1, 0.9, 0.1, 2)
    evaluation.write_page(tmp_path / "page.html", report, [(mistake, b"x" * 7000)] * evaluation.MAX_MISTAKES)
    assert (tmp_path / "page.html").stat().st_size < 1.5e6


def test_page_without_mistakes(tmp_path):
    for classes in (3, 40):
        report = FakeClassifier(list(np.eye(classes, dtype=np.float32) * 0.9 + 0.1 / classes)).evaluate(range(classes))
        evaluation.write_page(tmp_path / f"{classes}.html", report, [])
        page = read(tmp_path / f"{classes}.html")
        assert "100.0% top-1 accuracy" in page.text
        assert not [section for section in page.of("section") if section.get("id") == "mistakes"]
        assert ("were confused" in page.text) == (classes == 40)


def test_markup_in_labels_stays_text(tmp_path):
    names = [HOSTILE, "</style>", "{{ 7 * 7 }}", "</title><b>"]
    fake = FakeClassifier([np.roll(np.array([0.7, 0.1, 0.1, 0.1], np.float32), n + 1) for n in range(4)])
    fake.labels = tuple(ClassLabel(index, f'"{name}"', name) for index, name in enumerate(names))
    fake.model = "</title><script>"
    evaluation.write_page(tmp_path / "page.html", fake.evaluate(range(4)), [])
    page = Page((tmp_path / "page.html").read_text())
    assert all(name in page.text for name in names) and len(page.of("script")) == 1 and not page.of("img")


def numbers(browser, column):
    return browser.visible_texts(f"#classes tbody tr > :nth-child({column})")


def test_sorting_by_column(browser, evaluated):
    path, report = evaluated
    browser.open(path)
    assert set(numbers(browser, 1)) == set(EVALUATED)
    names = [result["label"] for result in report["per_class"]]
    assert numbers(browser, 1) == names
    recalls = {result["label"]: result["recall"] for result in report["per_class"]}
    for clicks in (1, 2):
        browser.run("document.querySelector('#classes th:nth-child(6) button').click()")
        shown = [recalls[name] for name in numbers(browser, 1)]
        assert shown == sorted(shown, reverse=clicks == 2)
        sorts = browser.run("return [...document.querySelectorAll('#classes thead th')].map(th => th.ariaSort)")
        assert sorts == [None] * 5 + [("ascending", "descending")[clicks - 1], None]
    assert browser.run("return document.querySelectorAll('img[src=x], main b b, main script').length") == 0
    assert all(HOSTILE in name for name in browser.visible_texts("#mistakes h3"))


def test_searching_for_classes(browser, tmp_path):
    evaluation.write_page(tmp_path / "page.html", report_of(200, 800), [])
    browser.open(tmp_path / "page.html")
    browser.run(
        """const field = document.querySelector("#class-search input");
        field.value = "class 17"; field.dispatchEvent(new Event("input", {bubbles: true}))"""
    )
    assert numbers(browser, 1) == ["class 17", "class 117", *(f"class {number}" for number in range(170, 180))]


def test_page_fits_a_phone(browser, evaluated):
    browser.open(evaluated[0], 390, 844, dark=True)
    assert browser.run("return document.documentElement.scrollWidth") == 390
