"""Class activation maps: exact, and where they belong on the original, whatever the way there."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densenet_cli import Classifier, engines
from densenet_cli.errors import SourceNotFoundError, UsageError
from densenet_cli.explain.cam import Explainer, _Placing
from densenet_cli.images import decoding
from densenet_cli.images.preprocessing import MODES, DecodedImage, Preprocessing, apply, window
from densenet_cli.images.previews import DisplayImage
from densenet_cli.images.sources import from_object
from densenet_cli.labels import placeholders
from tests.conftest import SAMPLES
from tests.support.images import encode, photograph, rotated
from tests.support.networks import TINY, tiny_weights

LOGIT = 1e-4


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.mark.parametrize("engine", engines.ENGINES)
def test_a_map_s_mean_and_the_bias_are_the_logit(weights, engine, monkeypatch):
    """And the probability is predict's, to the bit, and the rank that among all classes."""
    classifier = Classifier(weights=weights, engine=engine)
    logits = []
    run = classifier._network.engine.run_all

    def run_all(batch, outputs):
        logits.extend(run(batch, ("logits",))[0])
        return run(batch, outputs)

    monkeypatch.setattr(classifier._network.engine, "run_all", run_all)
    images = [SAMPLES / "cat.jpg", SAMPLES / "koala.jpg", photograph()]
    explained = list(classifier.explain_many(images, top_k=TINY.classes))
    predicted = list(classifier.predict_many(images, top_k=TINY.classes))
    for one, other, expected in zip(explained, predicted, logits, strict=False):
        assert [map_.score.index for map_ in one.maps] == [score.index for score in other.predictions]
        assert [map_.score.rank for map_ in one.maps] == [score.rank for score in other.predictions]
        probabilities = [map_.score.probability for map_ in one.maps]
        # TensorFlow's own differ from batch to batch.
        tolerance = 0 if engine == "onnx" else 1e-6
        assert probabilities == pytest.approx([score.probability for score in other.predictions], rel=0, abs=tolerance)
        assert len({map_.values.tobytes() for map_ in one.maps}) == TINY.classes
        for map_ in one.maps:
            assert map_.values.shape == (28, 28)
            assert map_.logit == pytest.approx(expected[map_.score.index], abs=LOGIT)
            assert np.ptp(map_.values) > 10 * LOGIT  # or the test would see no mistake in the places


@pytest.mark.parametrize("input_size", [224, 448])
def test_exact_on_the_model_that_ships(input_size):
    classifier = Classifier("tiny", input_size=input_size)
    explanation = classifier.explain(SAMPLES / "red_panda.jpg", top_k=3)
    pixels = classifier._load(from_object(SAMPLES / "red_panda.jpg"))
    (logits,) = classifier._network.engine.run(pixels, "logits")
    for map_ in explanation.maps:
        assert map_.values.shape == (input_size // 16, input_size // 16)
        position = [label.index for label in classifier.labels].index(map_.score.index)
        assert map_.logit == pytest.approx(logits[position], abs=LOGIT)


SIDES = st.integers(40, 400)
PLACES = st.floats(0.02, 0.98)


@settings(max_examples=80, deadline=None)
@given(
    mode=st.sampled_from(list(MODES)),
    size=st.tuples(SIDES, SIDES),
    place=st.tuples(PLACES, PLACES),
    input_size=st.sampled_from([64, 97, 224]),
)
def test_what_the_network_saw_is_found_in_the_original(mode, size, place, input_size):
    """A white square on black: where the network's pixels have it, the window says that it lies."""
    width, height = size
    side = max(3, round(0.15 * min(size)))
    x, y = int(place[0] * (width - side)), int(place[1] * (height - side))
    image = np.zeros((height, width, 3), np.uint8)
    image[y : y + side, x : x + side] = 255
    preprocessing = Preprocessing(mode, input_size)
    seen = apply(DecodedImage.whole(Image.fromarray(image)), preprocessing)[0]
    left, top, right, bottom = window(size, preprocessing)
    bright = seen.astype(int).min(axis=2) > 128  # the border of ``pad`` is darker
    # The same from the window: each of the network's pixels, by its middle in the original.
    columns = left + (np.arange(input_size) + 0.5) * (right - left) / input_size
    rows = top + (np.arange(input_size) + 0.5) * (bottom - top) / input_size
    within_rows, within_columns = (rows > y) & (rows < y + side), (columns > x) & (columns < x + side)
    expected = within_rows[:, None] & within_columns[None]
    # No more than the square's edge differs: a pixel each side, which resizing rounds.
    if not expected.any() or not bright.any():
        assert max(expected.sum(), bright.sum()) <= 2 * (expected.any(axis=0).sum() + expected.any(axis=1).sum() + 4)
        return
    for axis in (0, 1):
        found, wanted = (np.flatnonzero(mask.any(axis=axis)) for mask in (bright, expected))
        assert abs(found[0] - wanted[0]) <= 1
        assert abs(found[-1] - wanted[-1]) <= 1


@settings(max_examples=60, deadline=None)
@given(
    mode=st.sampled_from(list(MODES)),
    size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
    cells=st.integers(1, 20),
    hot=st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
def test_a_hot_cell_is_peak_and_box(mode, size, cells, hot):
    placing = _Placing(size, window(size, Preprocessing(mode, 224)), 1)
    values = np.full((cells, cells), -3, np.float32)
    row, column = int(hot[0] * cells), int(hot[1] * cells)
    values[row, column] = 5
    (x, y), (left, top, right, bottom) = placing.find(values, placing.levels(values))
    assert 0 <= left <= x < right <= size[0]
    assert 0 <= top <= y < bottom <= size[1]
    window_left, window_top, window_right, window_bottom = window(size, Preprocessing(mode, 224))
    wide, high = (window_right - window_left) / cells, (window_bottom - window_top) / cells
    middle = window_left + (column + 0.5) * wide, window_top + (row + 0.5) * high
    if cells > 1 and all(start <= at < end for at, start, end in zip(middle, (0, 0), size, strict=True)):
        # The middle of the part of the cell that lies in the image, and the box about as large as the cell.
        for found, at, cell, whole in ((x, middle[0], wide, size[0]), (y, middle[1], high, size[1])):
            visible = max(at - cell / 2, 0), min(at + cell / 2, whole)
            assert abs(found + 0.5 - sum(visible) / 2) <= max(1, cell / 8)
        assert right - left <= 1.5 * wide + 2
        assert bottom - top <= 1.5 * high + 2


class _Corner:
    """An engine's head that sees one channel, whose features are the image's brightness."""

    @staticmethod
    def explain(data: bytes, mode: str, cells: int = 16):
        source = next(Explainer.remember([from_object(data)]))
        preprocessing = Preprocessing(mode, 224)
        pixels = decoding.load(source, preprocessing)[0].astype(np.float32).mean(axis=2)
        step = 224 // cells
        features = pixels.reshape(cells, step, cells, step).mean(axis=(1, 3))[..., None]
        one = np.ones((1, 1), np.float32)
        explainer = Explainer("test", placeholders(1), preprocessing, lambda: (one, one[0]))
        return explainer.explain(source, (np.ones(1, np.float32), features), lambda order: order)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(301, 200), (160, 333)])
def test_a_bright_square_is_found_where_a_viewer_sees_it(mode, orientation, size):
    """Whatever the file's EXIF orientation: for ``keras`` the network sees the image turned, and the map is not."""
    image = Image.new("RGB", size, (10, 10, 10))
    side = min(size) // 6
    # Right of the middle and above it: no way of turning leaves it there.
    left, top = size[0] // 2 + side // 2, size[1] // 2 - 2 * side
    image.paste((255, 255, 255), (left, top, left + side, top + side))
    explanation = _Corner.explain(rotated(image, orientation, "PNG"), mode)
    assert explanation.size == size
    assert explanation.image.size == size
    np.testing.assert_array_equal(np.asarray(explanation.image), np.asarray(image))
    (map_,) = explanation.maps
    assert left <= map_.peak[0] < left + side
    assert top <= map_.peak[1] < top + side
    # The square, give or take a cell.
    cell = max(size) / 16 * 1.2
    expected = (left, top, left + side, top + side)
    assert np.abs(np.subtract(map_.box, expected)).max() <= cell
    overlay = np.asarray(explanation.draw().convert("L"), int)
    assert overlay.shape[0] > size[1]


def test_a_large_jpeg_keeps_its_own_coordinates():
    """Decoded at a quarter, drawn at 800 pixels, told in the original's."""
    image = Image.new("RGB", (4000, 3000), (10, 10, 10))
    image.paste((255, 255, 255), (2400, 900, 2800, 1300))
    explanation = _Corner.explain(rotated(image, 6), "crop")
    assert explanation.size == (4000, 3000)
    assert explanation.image.size == (800, 600)
    assert explanation.seen == pytest.approx((687.5, 187.5, 3312.5, 2812.5), abs=8)
    (map_,) = explanation.maps
    assert 2400 <= map_.peak[0] < 2800 and 900 <= map_.peak[1] < 1300
    assert np.abs(np.subtract(map_.box, (2400, 900, 2800, 1300))).max() <= 200


def test_an_isolated_decoder_gives_the_same(weights):
    data = rotated(photograph(size=(300, 200)), 6)
    usual = Classifier(weights=weights, preprocess="keras").explain(data)
    classifier = Classifier(weights=weights, preprocess="keras", isolate=True)
    apart = classifier.explain(data)
    classifier.close()
    assert apart.to_dict() == usual.to_dict()
    assert apart.image.tobytes() == usual.image.tobytes()


def test_the_box_is_of_what_hangs_together_with_the_peak():
    placing = _Placing((900, 900), (0, 0, 900, 900), 1)
    values = np.zeros((9, 9), np.float32)
    values[1, 1:3] = 10, 9
    values[7, 7] = 8
    peak, box = placing.find(values, placing.levels(values))
    assert 100 <= peak[0] < 200 and 100 <= peak[1] < 200
    assert box[0] >= 50 and box[2] <= 350 and box[3] <= 250


def test_a_map_that_says_the_same_everywhere_is_all_box():
    placing = _Placing((30, 20), (0, 0, 30, 20), 1)
    values = np.zeros((3, 3), np.float32)
    assert placing.find(values, placing.levels(values)) == ((15, 10), (0, 0, 30, 20))


def test_classes_by_label_id_and_index():
    classifier = Classifier("tiny")
    wanted = ["goldfish", "n01443537", 1, "German shepherd"]
    explanation = classifier.explain(SAMPLES / "koala.jpg", classes=wanted)
    assert [map_.score.label for map_ in explanation.maps] == ["goldfish", "German shepherd"]
    ranks = [map_.score.rank for map_ in explanation.maps]
    everything = classifier.predict(SAMPLES / "koala.jpg", top_k=200).predictions
    assert [everything[rank - 1].label for rank in ranks] == ["goldfish", "German shepherd"]
    with pytest.raises(UsageError, match=r"'goldfisch'.*'goldfish'"):
        classifier.explain(SAMPLES / "koala.jpg", classes=["goldfisch"])


def test_errors_are_raised_for_one_and_set_among_many(weights, tmp_path):
    classifier = Classifier(weights=weights)
    with pytest.raises(SourceNotFoundError):
        classifier.explain(tmp_path / "nothing.jpg")
    first, second = classifier.explain_many([tmp_path / "nothing.jpg", photograph()])
    assert first.error.type == "SourceNotFound" and not first.maps
    assert second.error is None
    with pytest.raises(ValueError, match="has no maps"):
        first.draw()


@pytest.mark.parametrize("size", [0, -5, 3])
def test_input_sizes_that_leave_nothing(weights, size):
    with pytest.raises(UsageError, match="input size"):
        Classifier("tiny", input_size=size)


@pytest.mark.parametrize("mode", MODES)
def test_the_network_sees_of_a_large_jpeg_what_predict_shows_it(mode, tmp_path):
    """The drawing wants more pixels than an input of 64 does; the answer must not depend on that."""
    path = tmp_path / "large.jpg"
    photograph("rocket", (1500, 1100)).save(path)
    classifier = Classifier("tiny", preprocess=mode)
    explanation = classifier.explain(path, top_k=200)
    assert tuple(map_.score for map_ in explanation.maps) == classifier.predict(path, top_k=200).predictions
    assert explanation.image.size == ((800, 587) if mode == "keras" else (750, 550))  # that decodes at full scale
    close = np.asarray(photograph("rocket", (1500, 1100)).resize(explanation.image.size), int)
    assert np.abs(np.asarray(explanation.image, int) - close).mean() < 2


def test_ten_crops_have_no_map(weights):
    with pytest.raises(UsageError, match="ten"):
        Classifier(weights=weights, ten_crop=True).explain(photograph())


def test_the_original_is_upright_and_bounded():
    source = from_object(encode(photograph(size=(1600, 400)), "PNG"))
    original = DisplayImage()
    original.take(decoding.decode(source))
    assert original.size == (1600, 400)
    assert original.image.size == (800, 200)
    assert len(original.data) <= original.most_bytes
