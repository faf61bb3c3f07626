"""Class activation maps: exact values, and correct positions on the original image in every mode."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_cli import Classifier, engines
from densenet_cli.errors import SourceNotFoundError, UsageError
from densenet_cli.explain.cam import Explainer, _Projection
from densenet_cli.images import decoding
from densenet_cli.images.preprocessing import MODES, DecodedImage, Preprocessing, preprocess, visible_box
from densenet_cli.images.previews import DisplayImage
from densenet_cli.images.sources import from_object
from densenet_cli.labels import placeholders
from densenet_cli.pipeline import Result
from densenet_cli.topology import DenseNetConfig
from tests.conftest import SAMPLES
from tests.support.images import encode, photograph, rotated
from tests.support.networks import TINY

LOGIT_TOLERANCE = 1e-4


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_map_mean_plus_bias_is_the_logit(weights, engine, monkeypatch):
    """Probabilities are bit-identical to those of predict, and ranks count all classes."""
    classifier = Classifier(weights=weights, engine=engine, threads=1)  # logits in the order of the images
    logits = []
    run = classifier._model.engine.run

    def run_and_keep_logits(batch, outputs, **settings):
        logits.extend(run(batch, ("logits",), **settings)["logits"])
        return run(batch, outputs, **settings)

    monkeypatch.setattr(classifier._model.engine, "run", run_and_keep_logits)
    images = [SAMPLES / "cat.jpg", SAMPLES / "koala.jpg", photograph()]
    explained = list(classifier.explain_many(images, top_k=TINY.classes))
    predicted = list(classifier.predict_many(images, top_k=TINY.classes))
    for explanation, prediction, expected in zip(explained, predicted, logits, strict=False):
        assert [map_.score.index for map_ in explanation.maps] == [score.index for score in prediction.scores]
        assert [map_.score.rank for map_ in explanation.maps] == [score.rank for score in prediction.scores]
        probabilities = [map_.score.probability for map_ in explanation.maps]
        # TensorFlow's results depend on the batch.
        tolerance = 0 if engine == "onnx" else 1e-6
        assert probabilities == pytest.approx([score.probability for score in prediction.scores], rel=0, abs=tolerance)
        assert len({map_.values.tobytes() for map_ in explanation.maps}) == TINY.classes
        for map_ in explanation.maps:
            assert map_.values.shape == (28, 28)
            assert map_.logit == pytest.approx(expected[map_.score.index], abs=LOGIT_TOLERANCE)
            assert np.ptp(map_.values) > 10 * LOGIT_TOLERANCE  # otherwise swapped cells would pass


@pytest.mark.parametrize("input_size", [224, 448])
def test_bundled_model_is_exact(input_size):
    classifier = Classifier("tiny", input_size=input_size)
    explanation = classifier.explain(SAMPLES / "red_panda.jpg", top_k=3)
    pixels = classifier.load(SAMPLES / "red_panda.jpg")
    (logits,) = classifier.run(pixels, ("logits",))["logits"]
    for map_ in explanation.maps:
        assert map_.values.shape == (input_size // 16, input_size // 16)
        position = [label.index for label in classifier.labels].index(map_.score.index)
        assert map_.logit == pytest.approx(logits[position], abs=LOGIT_TOLERANCE)


SIDES = st.integers(40, 400)
POSITIONS = st.floats(0.02, 0.98)


@settings(max_examples=80, deadline=None)
@given(
    mode=st.sampled_from(list(MODES)),
    size=st.tuples(SIDES, SIDES),
    position=st.tuples(POSITIONS, POSITIONS),
    input_size=st.sampled_from([64, 97, 224]),
    crop_ratio=st.sampled_from([None, 0.5, 0.95, 1.0]),
    interpolation=st.sampled_from(["bilinear", "bicubic"]),
)
def test_window_matches_preprocessing(mode, size, position, input_size, crop_ratio, interpolation):
    """The window predicts which input pixels show a white square on a black image."""
    width, height = size
    side = max(3, round(0.15 * min(size)))
    x, y = int(position[0] * (width - side)), int(position[1] * (height - side))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    preprocessing = Preprocessing(
        mode,
        input_size,
        crop_ratio=crop_ratio if mode == "crop" else None,
        interpolation="" if mode == "keras" else interpolation,
    )
    pixels = preprocess(DecodedImage.at_full_scale(Image.fromarray(image)), preprocessing)[0]
    left, top, right, bottom = visible_box(size, preprocessing)
    bright = pixels.astype(int).min(axis=2) > 128  # the border of mode ``pad`` is darker
    # The center of each input pixel in the original image, from the window.
    columns = left + (np.arange(input_size) + 0.5) * (right - left) / input_size
    rows = top + (np.arange(input_size) + 0.5) * (bottom - top) / input_size
    within_rows, within_columns = (rows > y) & (rows < y + side), (columns > x) & (columns < x + side)
    expected = within_rows[:, None] & within_columns[None]
    # Rounding in resizing may move each edge of the square by one pixel.
    if not expected.any() or not bright.any():
        assert max(expected.sum(), bright.sum()) <= 2 * (expected.any(axis=0).sum() + expected.any(axis=1).sum() + 4)
        return
    for axis in (0, 1):
        actual, wanted = (np.flatnonzero(mask.any(axis=axis)) for mask in (bright, expected))
        assert abs(actual[0] - wanted[0]) <= 1
        assert abs(actual[-1] - wanted[-1]) <= 1


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(list(MODES)),
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    cells=st.integers(1, 20),
    hot=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
def test_peak_and_box_of_one_hot_cell(mode, size, cells, hot):
    projection = _Projection(size, visible_box(size, Preprocessing(mode, 224)), 1)
    values = np.full((cells, cells), -3, np.float32)
    row, column = int(hot[0] * cells), int(hot[1] * cells)
    values[row, column] = 5
    (x, y), (left, top, right, bottom) = projection.locate(values, projection.heat_map(values))
    assert 0 <= left <= x < right <= size[0]
    assert 0 <= top <= y < bottom <= size[1]
    window_left, window_top, window_right, window_bottom = visible_box(size, Preprocessing(mode, 224))
    cell_width, cell_height = (window_right - window_left) / cells, (window_bottom - window_top) / cells
    center = window_left + (column + 0.5) * cell_width, window_top + (row + 0.5) * cell_height
    if cells > 1 and all(start <= at < end for at, start, end in zip(center, (0, 0), size, strict=True)):
        # The peak is the center of the visible part of the cell; the box is about as large as the cell.
        for peak, at, cell, length in ((x, center[0], cell_width, size[0]), (y, center[1], cell_height, size[1])):
            visible = max(at - cell / 2, 0), min(at + cell / 2, length)
            assert abs(peak + 0.5 - sum(visible) / 2) <= max(1, cell / 8)
        assert right - left <= 1.5 * cell_width + 2
        assert bottom - top <= 1.5 * cell_height + 2


def explain_brightness(data: bytes, mode: str, cells: int = 16):
    """Explain an image with a network of one channel and one class, whose feature map is the image's brightness."""
    source = from_object(data)
    preprocessing = Preprocessing(mode, 224)
    loaded = decoding.load(source, preprocessing, preview=Explainer.preview)
    pixels = loaded.pixels[0].astype(np.float32).mean(axis=2)
    step = 224 // cells
    features = pixels.reshape(cells, step, cells, step).mean(axis=(1, 3))[..., None]
    one = np.ones((1, 1), np.float32)
    head = {"predictions": {"kernel": one, "bias": one[0]}}
    explainer = Explainer("test", placeholders(1), preprocessing, DenseNetConfig((1,), classes=1), lambda: head)
    outputs = {"probabilities": np.ones(1, np.float32), "features": features}
    return explainer(Result(source, outputs, preview=loaded.preview))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(301, 200), (160, 333)])
def test_bright_square_is_located(mode, orientation, size):
    """Positions refer to the upright image in any EXIF orientation, also when the network sees a rotated one."""
    image = Image.new("RGB", size, (10, 10, 10))
    side = min(size) // 6
    # Off center in both directions, so that every rotation and reflection moves it.
    left, top = size[0] // 2 + side // 2, size[1] // 2 - 2 * side
    image.paste((255, 255, 255), (left, top, left + side, top + side))
    explanation = explain_brightness(rotated(image, orientation, "PNG"), mode)
    assert explanation.size == size
    assert explanation.image.size == size
    np.testing.assert_array_equal(np.asarray(explanation.image), np.asarray(image))
    (map_,) = explanation.maps
    assert left <= map_.peak[0] < left + side
    assert top <= map_.peak[1] < top + side
    # The box is the square, within one cell.
    cell = max(size) / 16 * 1.2
    expected = (left, top, left + side, top + side)
    assert np.abs(np.subtract(map_.box, expected)).max() <= cell
    assert explanation.draw().height > size[1]


def test_positions_of_large_jpeg_are_in_full_size_pixels():
    """The image is decoded at a quarter of its size and drawn at 800 pixels."""
    image = Image.new("RGB", (4000, 3000), (10, 10, 10))
    image.paste((255, 255, 255), (2400, 900, 2800, 1300))
    explanation = explain_brightness(rotated(image, 6), "crop")
    assert explanation.size == (4000, 3000)
    assert explanation.image.size == (800, 600)
    (map_,) = explanation.maps
    assert map_.heat_map.region == pytest.approx((687.5, 187.5, 3312.5, 2812.5), abs=8)
    assert 2400 <= map_.peak[0] < 2800 and 900 <= map_.peak[1] < 1300
    assert np.abs(np.subtract(map_.box, (2400, 900, 2800, 1300))).max() <= 200


def test_isolated_decoding_gives_the_same_result(weights):
    data = rotated(photograph(size=(300, 200)), 6)
    usual = Classifier(weights=weights, preprocess="keras").explain(data)
    classifier = Classifier(weights=weights, preprocess="keras", isolate=True)
    apart = classifier.explain(data)
    classifier.close()
    assert apart.to_dict() == usual.to_dict()
    assert apart.image.tobytes() == usual.image.tobytes()


def test_box_contains_only_the_region_connected_to_the_peak():
    projection = _Projection((900, 900), (0, 0, 900, 900), 1)
    values = np.zeros((9, 9), np.float32)
    values[1, 1:3] = 10, 9
    values[7, 7] = 8
    peak, box = projection.locate(values, projection.heat_map(values))
    assert 100 <= peak[0] < 200 and 100 <= peak[1] < 200
    assert box[0] >= 50 and box[2] <= 350 and box[3] <= 250


def test_box_of_constant_map_is_the_whole_image():
    projection = _Projection((30, 20), (0, 0, 30, 20), 1)
    for value, level in ((0, 0), (2, 1), (-2, 1)):
        values = np.full((3, 3), value, np.float32)
        heat_map = projection.heat_map(values)
        assert (heat_map.values == level).all()
        assert projection.locate(values, heat_map) == ((15, 10), (0, 0, 30, 20))


def test_classes_by_label_id_or_index():
    classifier = Classifier("tiny")
    wanted = ["goldfish", "n01443537", 1, "German shepherd"]
    explanation = classifier.explain(SAMPLES / "koala.jpg", classes=wanted)
    assert [map_.score.label for map_ in explanation.maps] == ["goldfish", "German shepherd"]
    ranks = [map_.score.rank for map_ in explanation.maps]
    everything = classifier.predict(SAMPLES / "koala.jpg", top_k=200).scores
    assert [everything[rank - 1].label for rank in ranks] == ["goldfish", "German shepherd"]
    with pytest.raises(UsageError, match=r"'goldfisch'.*'goldfish'"):
        classifier.explain(SAMPLES / "koala.jpg", classes=["goldfisch"])


def test_explain_raises_and_explain_many_yields_errors(weights, tmp_path):
    classifier = Classifier(weights=weights)
    with pytest.raises(SourceNotFoundError):
        classifier.explain(tmp_path / "nothing.jpg")
    first, second = classifier.explain_many([tmp_path / "nothing.jpg", photograph()])
    assert first.error.type == "SourceNotFound" and not first.maps
    assert second.error is None
    with pytest.raises(ValueError, match=r"nothing\.jpg"):
        first.draw()


@pytest.mark.parametrize("size", [0, -5, 3])
def test_input_size_too_small(weights, size):
    with pytest.raises(UsageError, match=r"input.size"):
        Classifier("tiny", input_size=size)


@pytest.mark.parametrize("mode", MODES)
def test_explain_and_predict_decode_the_same_pixels(mode, tmp_path):
    """The display image needs more pixels than an input of 64; the result must not depend on that."""
    path = tmp_path / "large.jpg"
    photograph("rocket", (1500, 1100)).save(path)
    classifier = Classifier("tiny", preprocess=mode)
    explanation = classifier.explain(path, top_k=200)
    assert tuple(map_.score for map_ in explanation.maps) == classifier.predict(path, top_k=200).scores
    assert explanation.image.size == ((800, 587) if mode == "keras" else (750, 550))  # keras decodes at full scale
    close = np.asarray(photograph("rocket", (1500, 1100)).resize(explanation.image.size), int)
    assert np.abs(np.asarray(explanation.image, int) - close).mean() < 2


def test_ten_crop_is_refused(weights):
    with pytest.raises(UsageError, match="ten"):
        Classifier(weights=weights, ten_crop=True).explain(photograph())


def test_display_image_is_limited_in_size():
    source = from_object(encode(photograph(size=(1600, 400)), "PNG"))
    original = DisplayImage.make(decoding.decode(source))
    assert original.size == (1600, 400)
    assert original.image.size == (800, 200)
    assert len(original.to_bytes()) <= original.max_bytes
