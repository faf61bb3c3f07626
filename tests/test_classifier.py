"""The Python API: ``Classifier``, its inputs and results, and the public names of the package."""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import densenet_cli
from densenet_cli import CheckpointError, Classifier, ImageError, UsageError, WeightsError, engines, errors, variants
from densenet_cli.images import decoding
from densenet_cli.images.memory import DecodeBudget
from densenet_cli.images.normalization import normalize
from densenet_cli.images.previews import DisplayImage, Thumbnail
from densenet_cli.images.sources import expand, from_object
from tests.support.decoders.pillow_heif import heic
from tests.support.images import photograph
from tests.support.networks import TINY
from tests.support.servers import FaultyServer, serving

DECODERS = Path(__file__).parent / "support" / "decoders"


@pytest.fixture(scope="module")
def classifier(weights):
    return Classifier(weights=weights, exact=True)


@pytest.fixture
def image(tmp_path):
    """A photograph in a PNG file with a non-ASCII name."""
    path = tmp_path / "é.png"
    photograph("coffee", (60, 50)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Four images, a damaged one, and a text file, in the order of their names."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    for number, name in enumerate(["a.jpg", "b.png", "below/a.jpg", "z.bmp"]):
        Image.new("RGB", (50 + number, 40), (60 * number, 255 - 60 * number, 30)).save(root / name)
    (root / "broken.jpg").write_bytes(b"this is text")
    (root / "notes.txt").write_text("not an image")
    return root


FOLDER_HAS_ERROR = [False, False, False, True, False]

INPUTS = {
    "str": str,
    "path": Path,
    "bytes": Path.read_bytes,
    "bytearray": lambda path: bytearray(path.read_bytes()),
    "memoryview": lambda path: memoryview(path.read_bytes()),
    "file": lambda path: io.BytesIO(path.read_bytes()),
    "PIL image": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
}
"""Kind of input -> function that makes it from the path of an image."""


class TestInputs:
    @pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
    def test_predict(self, classifier, image, make):
        expected = classifier.predict(image, top_k=3).scores
        assert len(expected) == 3
        assert classifier.predict(make(image), top_k=3).scores == expected
        (prediction,) = classifier.predict_many([make(image)], top_k=3)
        assert prediction.scores == expected

    @pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
    def test_embed(self, classifier, image, make):
        expected = classifier.embed(image).vector
        assert expected.dtype == np.float32 and expected.ndim == 1
        np.testing.assert_array_equal(classifier.embed(make(image)).vector, expected)
        (embedding,) = classifier.embed_many([make(image)])
        np.testing.assert_array_equal(embedding.vector, expected)

    @pytest.mark.parametrize("make", INPUTS.values(), ids=INPUTS)
    def test_explain(self, classifier, image, make):
        expected = [map_.to_dict() for map_ in classifier.explain(image, top_k=2).maps]
        assert len(expected) == 2
        assert [map_.to_dict() for map_ in classifier.explain(make(image), top_k=2).maps] == expected
        (explanation,) = classifier.explain_many([make(image)], top_k=2)
        assert [map_.to_dict() for map_ in explanation.maps] == expected

    def test_folders_and_arrays(self, classifier, folder):
        images = [folder, np.zeros((9, 9, 3), np.uint8)]
        expected = [*FOLDER_HAS_ERROR, False]
        assert [bool(result.error) for result in classifier.predict_many(images)] == expected
        assert [bool(result.error) for result in classifier.embed_many(images)] == expected
        assert [bool(result.error) for result in classifier.explain_many(images)] == expected

    @pytest.mark.parametrize(
        "single", ["cat.jpg", b"bytes", np.zeros((4, 4, 3), np.uint8)], ids=["path", "bytes", "array"]
    )
    def test_single_image_instead_of_iterable(self, classifier, single):
        for method in (classifier.predict_many, classifier.embed_many, classifier.explain_many):
            with pytest.raises(UsageError, match="images"):
                method(single)

    def test_wrong_type_is_an_error_of_one_image(self, classifier, image):
        predictions = list(classifier.predict_many([image, np.zeros((4, 4, 3)), 7, image]))
        assert [bool(prediction.error) for prediction in predictions] == [False, True, True, False]

    def test_wrong_type_of_a_single_image(self, classifier):
        for wrong in (7, None, np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8)):
            with pytest.raises(UsageError):
                classifier.predict(wrong)

    def test_path_of_bytes(self, classifier, image):
        (entry,) = [entry for entry in os.scandir(os.fsencode(image.parent)) if entry.name.endswith(b".png")]
        (prediction,) = classifier.predict_many([entry])
        assert prediction.source == str(image)


class TestErrors:
    def test_single_image(self, classifier, folder):
        for method in (classifier.predict, classifier.embed, classifier.explain, classifier.load):
            with pytest.raises(ImageError) as caught:
                method(folder / "broken.jpg")
            assert caught.value.type == "UnreadableImage"
            with pytest.raises(ImageError) as caught:
                method(folder / "missing.jpg")
            assert caught.value.type == "SourceNotFound"

    def test_many_images(self, classifier, folder):
        paths = [folder / "broken.jpg", folder / "missing.jpg"]
        for method in (classifier.predict_many, classifier.embed_many, classifier.explain_many):
            results = list(method(paths))
            assert [result.error.type for result in results] == ["UnreadableImage", "SourceNotFound"]
            assert [result.source for result in results] == list(map(str, paths))

    def test_arguments_are_checked_before_iteration(self, classifier):
        with pytest.raises(UsageError, match="top_k"):
            classifier.predict_many([], top_k=0)
        with pytest.raises(UsageError, match="min_prob"):
            classifier.predict_many([], min_prob=float("nan"))
        with pytest.raises(UsageError, match="top_k"):
            classifier.explain_many([], top_k=0)
        with pytest.raises(UsageError, match="goldfisch"):
            classifier.explain_many([], classes=["goldfisch"])

    @pytest.mark.parametrize(
        ("name", "values"),
        [
            ("batch_size", (0, -1)),
            ("threads", (0, -1)),
            ("decode_memory", (0, -1)),
            ("timeout", (0, -1, float("nan"), float("inf"), 86_401)),
            ("input_size", (0, -5, 3)),
        ],
    )
    def test_settings_are_checked_at_once(self, weights, name, values):
        for value in values:
            with pytest.raises(UsageError, match=name.replace("_", ".")):
                Classifier(weights=weights, **{name: value})

    def test_unknown_choices(self, weights):
        for settings in ({"engine": "torch"}, {"preprocess": "stretch"}, {"variant": "122"}):
            with pytest.raises(UsageError, match=next(iter(settings.values()))):
                Classifier(**({"weights": weights} | settings))

    def test_unavailable_weights(self, tmp_path):
        with pytest.raises(WeightsError):
            Classifier("121", offline=True)
        with pytest.raises(WeightsError, match=r"missing\.h5"):
            Classifier(weights=tmp_path / "missing.h5")

    def test_offline_does_not_download_images(self, weights):
        with pytest.raises(ImageError) as caught:
            Classifier(weights=weights, offline=True).predict("http://127.0.0.1:9/cat.jpg")
        assert caught.value.type == "DownloadFailed"


def test_registered_variant(weights, image, tmp_path):
    data = weights.read_bytes()
    file = variants.WeightsFile("tiny.h5", hashlib.md5(data).hexdigest())
    published = tmp_path / "mirror"
    published.mkdir()
    (published / "tiny.h5").write_bytes(data)
    with variants.register(variants.Variant("test", TINY, file)):
        prediction = Classifier("test", base_url=published.as_uri()).predict(image)
        # The layers of the file identify the variant, which states the input size.
        from_file = Classifier(weights=weights).predict(image)
    assert prediction.model == "densenettest"
    assert prediction.scores == from_file.scores


@pytest.mark.parametrize("ten_crop", [False, True])
def test_embedding_is_the_mean_of_features_and_crops(weights, image, ten_crop):
    classifier = Classifier(weights=weights, ten_crop=ten_crop)
    pixels = decoding.load(from_object(image), classifier.preprocessing, DecodeBudget(100)).pixels
    features = engines.create("onnx", weights, None, 1).run(normalize(pixels), ("features",))["features"]
    assert len(features) == (10 if ten_crop else 1)
    embedding = classifier.embed(image)
    assert embedding.source == str(image)
    np.testing.assert_allclose(embedding.vector, features.mean(axis=(0, 1, 2)), rtol=1e-5, atol=1e-6)


class TestStream:
    def test_results_keep_their_sources(self, classifier, folder):
        sources = list(expand([str(folder)]))
        results = list(classifier.stream(sources, engines.OUTPUTS))
        assert [result.source for result in results] == sources
        assert [bool(result.error) for result in results] == FOLDER_HAS_ERROR
        for result in results:
            assert result.preview is None
            if result.error:
                assert result.outputs == {}
            else:
                shapes = {name: output.shape for name, output in result.outputs.items()}
                assert shapes == {"probabilities": (10,), "logits": (10,), "features": (28, 28, shapes["features"][2])}
                assert result.outputs["probabilities"].sum() == pytest.approx(1, abs=1e-5)

    @pytest.mark.parametrize("preview", [Thumbnail, DisplayImage])
    @pytest.mark.parametrize(("limit", "expected"), [(None, [1, 1, 1, 0, 1]), (2, [1, 1, 0, 0, 0]), (0, [0] * 5)])
    def test_preview_limit(self, classifier, folder, preview, limit, expected):
        results = classifier.stream(expand([str(folder)]), preview=preview, preview_limit=limit)
        assert [isinstance(result.preview, preview) for result in results] == list(map(bool, expected))

    @pytest.mark.parametrize("concurrent", [True, False])
    @pytest.mark.parametrize("batch_size", [1, 4, None])
    def test_batch_size(self, classifier, monkeypatch, batch_size, concurrent):
        """An engine that is not concurrent gets batches, and others one image per call."""
        sizes = []
        engine = classifier._model.engine
        run = engine.run

        def count_and_run(pixels, outputs, *, alone):
            sizes.append(len(pixels))
            return run(pixels, outputs, alone=alone)

        monkeypatch.setattr(engine, "run", count_and_run)
        monkeypatch.setattr(engine, "concurrent", concurrent, raising=False)
        sources = map(from_object, [photograph("coffee", (40, 30))] * 9)
        assert len(list(classifier.stream(sources, batch_size=batch_size))) == sum(sizes) == 9
        assert max(sizes) == (1 if concurrent else batch_size or classifier.batch_size)

    def test_convert_results(self, classifier, folder):
        results = list(classifier.stream(expand([str(folder)]), ("probabilities", "features")))
        assert list(map(classifier.predictor(), results)) == list(classifier.predict_many([folder]))
        for embedding, expected in zip(
            map(classifier.embedding, results), classifier.embed_many([folder]), strict=True
        ):
            assert (embedding.source, embedding.error) == (expected.source, expected.error)
            np.testing.assert_array_equal(embedding.vector, expected.vector)

    def test_prediction_selects_classes(self, classifier, image):
        (result,) = classifier.stream([from_object(image)])
        everything = classifier.predictor(top_k=10)(result).scores
        assert [score.rank for score in everything] == list(range(1, 11))
        assert sorted(everything, key=lambda score: -score.probability) == list(everything)
        threshold = everything[2].probability
        assert classifier.predictor(top_k=10, min_prob=threshold)(result).scores == everything[:3]
        assert classifier.predictor(top_k=1)(result).scores == everything[:1]


class TestLoadAndRun:
    @pytest.mark.parametrize("ten_crop", [False, True])
    def test_load_returns_normalized_pixels(self, weights, image, ten_crop):
        classifier = Classifier(weights=weights, ten_crop=ten_crop)
        pixels = classifier.load(image)
        assert pixels.dtype == np.float32
        assert pixels.shape == (10 if ten_crop else 1, 224, 224, 3)
        expected = decoding.load(from_object(image), classifier.preprocessing).pixels
        np.testing.assert_array_equal(pixels, normalize(expected))

    def test_run_gives_the_outputs_of_stream(self, classifier, image):
        (result,) = classifier.stream([from_object(image)], engines.OUTPUTS)
        outputs = classifier.run(classifier.load(image), engines.OUTPUTS)
        assert list(outputs) == list(engines.OUTPUTS)
        for name, rows in outputs.items():
            np.testing.assert_array_equal(rows[0], result.outputs[name])

    def test_default_output(self, classifier, image):
        assert list(classifier.run(classifier.load(image))) == ["probabilities"]


class TestIsolation:
    @pytest.fixture(autouse=True)
    def decoders(self, monkeypatch):
        """Replace the HEIC decoder by one that misbehaves, here and in worker processes."""
        monkeypatch.syspath_prepend(DECODERS)
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(DECODERS), os.environ.get("PYTHONPATH", "")]))

    @pytest.fixture(autouse=True)
    def no_process_is_left(self, children):
        yield
        assert children() == []

    def test_with_closes_workers(self, weights, children):
        with Classifier(weights=weights, isolate=True) as classifier:
            classifier.predict(heic("decode"))
            assert len(children()) == 1
        assert children() == []
        with pytest.raises(errors.IsolationError, match="closed"):
            classifier.predict(heic("decode"))

    def test_with_closes_workers_after_an_error(self, weights, children):
        with pytest.raises(ZeroDivisionError), Classifier(weights=weights, isolate=True) as classifier:
            classifier.predict(heic("decode"))
            raise ZeroDivisionError
        assert children() == []

    def test_close_twice(self, weights, children):
        classifier = Classifier(weights=weights, timeout=60)
        classifier.predict(heic("decode"))
        classifier.close()
        classifier.close()
        assert children() == []

    def test_close_without_isolation(self, weights, image):
        with Classifier(weights=weights) as classifier:
            classifier.predict(image)
        classifier.close()

    def test_workers_are_reused_and_end_with_the_classifier(self, weights, children):
        classifier = Classifier(weights=weights, isolate=True)
        for _ in range(3):
            classifier.predict(heic("decode"))
        (worker,) = children()
        (prediction,) = classifier.predict_many([heic("abort")])
        assert prediction.error.type == "DecoderCrashed"
        assert not worker.is_running()
        classifier.predict(heic("decode"))
        del classifier
        deadline = time.monotonic() + 60
        while children() and time.monotonic() < deadline:
            time.sleep(0.02)

    def test_close_during_a_run(self, weights, tmp_path):
        for number in range(55):
            (tmp_path / f"{number:02}.heic").write_bytes(heic("decode" if number < 5 else "hang"))
        with Classifier(weights=weights, isolate=True, batch_size=1) as classifier:
            results = classifier.predict_many([tmp_path])
            next(results)
            results.close()

    def test_invalid_weights_leave_no_process(self, tmp_path):
        (tmp_path / "x.h5").write_bytes(b"nothing")
        with pytest.raises(CheckpointError, match=r"x\.h5"):
            Classifier(weights=tmp_path / "x.h5", isolate=True)

    def test_decoded_images_need_no_worker(self, classifier, weights):
        isolated = Classifier(weights=weights, isolate=True, exact=True)
        isolated.close()
        image = photograph("coffee", (90, 60))
        for decoded in (image, np.asarray(image)):
            assert isolated.predict(decoded).scores == classifier.predict(decoded).scores

    def test_urls_are_downloaded_by_this_process(self, weights):
        with (
            FaultyServer(serving(heic("abort")), serving(heic("decode"))) as server,
            Classifier(weights=weights, timeout=60) as classifier,
        ):
            predictions = classifier.predict_many([f"{server.url}{name}" for name in ("a", "b")])
            assert sorted(bool(prediction.error) for prediction in predictions) == [False, True]

    def test_unsupported_system(self, weights, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(os, "name", "nt")
            with pytest.raises(UsageError, match="Linux"):
                Classifier(weights=weights, isolate=True)


class TestPackage:
    def test_version(self):
        assert densenet_cli.__version__ == importlib.metadata.version("densenet-cli")

    def test_public_names(self):
        names = {}
        exec("from densenet_cli import *", names)
        assert set(densenet_cli.__all__) <= set(names)
        assert names["Classifier"] is Classifier
        with pytest.raises(AttributeError):
            densenet_cli.classify  # noqa: B018

    def test_import_is_fast(self):
        code = "import sys, densenet_cli; print(*sys.modules)"
        modules = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        assert not {"numpy", "PIL", "onnxruntime", "click", "importlib.metadata"} & set(modules.split())

    def test_exceptions(self):
        assert issubclass(UsageError, ValueError)
        for name in ("CheckpointError", "ImageError", "OutputError", "UsageError", "WeightsError"):
            assert issubclass(getattr(densenet_cli, name), densenet_cli.DensenetError)
        assert errors.UnreadableImageError("The file is empty.").type == "UnreadableImage"
        assert str(errors.UnreadableImageError("The file is empty.")) == "The file is empty."
