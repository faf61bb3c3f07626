"""Calibration of int8 on images: what it is stored under, the agreement, and what is refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier, int8
from densenet_cli.engines import cached_graphs, graph_cache, onnx_graph, precision
from densenet_cli.errors import UsageError
from densenet_cli.weights import safetensors
from tests.support.command import densenet
from tests.support.networks import probabilities_of

pytest.importorskip("openvino", reason="OpenVINO is not installed")
needs_int8 = pytest.mark.skipif("int8" not in precision.supported(), reason="this processor has no VNNI")


@pytest.fixture(scope="module")
def images(photographs, tmp_path_factory) -> Path:
    """A folder of 120 crops of photographs."""
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(2)
    for number in range(120):
        with Image.open(photographs[number % len(photographs)]) as photograph:
            left, top = (int(rng.integers(side - 120)) for side in photograph.size)
            photograph.crop((left, top, left + 120, top + 120)).save(folder / f"{number:03}.jpg")
    return folder


@pytest.fixture
def other_images(images, tmp_path) -> Path:
    return Path(shutil.copytree(images, tmp_path / "other"))


def create(images=None, **settings) -> Classifier:
    return Classifier("tiny", precision="int8", int8_images=images, allow_low_agreement=True, **settings)


def predict(classifier, images) -> np.ndarray:
    return np.array(probabilities_of(classifier, map(str, sorted(images.iterdir())[:10])))


@pytest.fixture
def calibrations(monkeypatch) -> list[int]:
    """The number of images of each calibration."""
    counts = []
    original = int8._calibrate

    def calibrate(engine, preprocessing, loader, sources, *arguments):
        counts.append(len(sources.calibration) + len(sources.held_out))
        return original(engine, preprocessing, loader, sources, *arguments)

    monkeypatch.setattr(int8, "_calibrate", calibrate)
    return counts


@needs_int8
def test_later_runs_need_no_images(images, calibrations, monkeypatch):
    steps: list[tuple[int, int]] = []
    first = create(images, int8_progress=lambda done, total: steps.append((done, total)))
    assert steps == [(done, 120) for done in range(1, 121)]
    assert first.quantization.images == 80
    assert 0.8 < first.quantization.agreement <= 1
    expected = predict(first, images)
    monkeypatch.setattr(onnx_graph, "emit", None)
    for folder in (None, images):
        later = create(folder, threads=3)
        assert later.quantization == first.quantization
        np.testing.assert_array_equal(predict(later, images), expected)
    assert calibrations == [120]
    assert [entry.state for entry in cached_graphs.list_entries(verify=True)] == ["current"] * 3


@needs_int8
def test_agreement_is_measured_on_images_that_do_not_determine_the_ranges(images):
    quantization = create(images).quantization
    held_out = [source.origin for source in int8.select_images(images).held_out]
    labels = {}
    for name, classifier in (("float32", Classifier("tiny")), ("int8", create())):
        labels[name] = [values.argmax() for values in probabilities_of(classifier, held_out)]
    identical = sum(map(np.equal, labels["float32"], labels["int8"]))
    assert (quantization.identical, quantization.images) == (identical, len(held_out))


@needs_int8
def test_images_are_part_of_the_key_and_the_last_ones_are_used(images, other_images, calibrations):
    for path in other_images.iterdir():
        with Image.open(path) as image:
            image.point(lambda value: value // 2).save(path)
    first, second = create(images).quantization, create(other_images).quantization
    assert first.ranges != second.ranges
    assert create().quantization == second
    assert create(images).quantization == first
    assert create().quantization == first
    assert len(calibrations) == 2
    path = next(other_images.iterdir())
    path.write_bytes(path.read_bytes())
    create(other_images)
    assert len(calibrations) == 3


@needs_int8
def test_calibration_is_reproducible(images, other_images):
    assert create(images, threads=1).quantization == create(other_images, threads=4, isolate=True).quantization


@needs_int8
@pytest.mark.parametrize("settings", [{"input_size": 64}, {"preprocess": "crop"}])
def test_other_preprocessing_requires_another_calibration(images, settings):
    create(images)
    with pytest.raises(UsageError, match="int8_images"):
        create(**settings)


@needs_int8
def test_other_weights_require_another_calibration(images, tmp_path):
    create(images)
    checkpoint = Classifier("tiny").read_checkpoint()
    path = tmp_path / "model.safetensors"
    safetensors.write(path, checkpoint.arrays, checkpoint.config, checkpoint.metadata)
    with pytest.raises(UsageError, match="int8_images"):
        Classifier(weights=path, precision="int8")


@needs_int8
def test_low_agreement_is_refused(images, monkeypatch):
    monkeypatch.setattr(int8, "MIN_AGREEMENT", 1.01)
    for folder in (images, None):  # also if it was calibrated before
        with pytest.raises(UsageError, match="allow_low_agreement"):
            Classifier("tiny", precision="int8", int8_images=folder)
    assert create().quantization.agreement < 1.01


@needs_int8
def test_damaged_calibration_is_repeated(images, calibrations):
    expected = create(images).quantization
    (path,) = graph_cache.graphs_dir().rglob("quantization.json")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UsageError, match="int8_images"):
        create()
    assert create(images).quantization == expected
    assert len(calibrations) == 2


@needs_int8
def test_cache_that_cannot_be_written(images, monkeypatch, tmp_path):
    expected = predict(create(images), images)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("DENSENET_CACHE", str(tmp_path / "file"))
    np.testing.assert_array_equal(predict(create(images), images), expected)


@needs_int8
def test_unusable_images_are_left_out(images, other_images):
    for number, path in enumerate(sorted(other_images.iterdir())):
        if number % 10 == 0:
            path.write_bytes(b"no image")
    assert 60 < create(other_images).quantization.images < 80
    for path in sorted(other_images.iterdir())[1::4]:
        path.write_bytes(b"no image")
    with pytest.raises(UsageError, match="100"):
        create(other_images)


@needs_int8
def test_too_few_images(images, tmp_path):
    for path in sorted(images.iterdir())[:99]:
        os.link(path, tmp_path / path.name)
    for folder, message in ((tmp_path, "99"), (tmp_path / "absent", "not a folder")):
        with pytest.raises(UsageError, match=message):
            create(folder)


@needs_int8
def test_network_without_head(tmp_path):
    checkpoint = Classifier("tiny").read_checkpoint()
    from dataclasses import replace

    arrays = {name: values for name, values in checkpoint.arrays.items() if name != "predictions"}
    safetensors.write(tmp_path / "model.safetensors", arrays, replace(checkpoint.config, classes=0))
    with pytest.raises(UsageError, match="head"):
        Classifier(weights=tmp_path / "model.safetensors", precision="int8")


@pytest.mark.parametrize("settings", [{"int8_images": "."}, {"allow_low_agreement": True}])
@pytest.mark.parametrize("name", ["float32", "auto"])
def test_settings_of_int8_require_it(settings, name):
    with pytest.raises(UsageError, match=next(iter(settings))):
        Classifier("tiny", precision=name, **settings)


def test_support_depends_on_vnni(monkeypatch):
    for flags, expected in (({"avx2", "avx512f"}, False), ({"avx2", "avx_vnni"}, True), ({"avx512_vnni"}, True)):
        monkeypatch.setattr(precision, "cpu_flags", lambda flags=flags: frozenset(flags))
        precision.supported.cache_clear()
        assert ("int8" in precision.supported()) == expected
    precision.supported.cache_clear()
    monkeypatch.setattr(precision, "cpu_flags", lambda: frozenset({"avx2"}))
    with pytest.raises(UsageError, match=r"Supported precisions: float32\."):
        precision.choose("int8", None)
    monkeypatch.undo()
    precision.supported.cache_clear()


@needs_int8
def test_command_prints_the_agreement_and_resumes_with_the_same_calibration(images, other_images, tmp_path):
    output = tmp_path / "out.jsonl"
    arguments = ["predict", "--variant", "tiny", "--precision", "int8", "--allow-low-agreement", "-o", output]
    sources = sorted(map(str, images.iterdir()))[:3]
    result = densenet(*arguments, *sources[:2], "--int8-images", images)
    assert result.status == 0
    assert "of 80 images" in result.err
    assert densenet(*arguments, *sources, "--resume").status == 0
    assert len(output.read_text().splitlines()) == 3
    for path in other_images.iterdir():
        with Image.open(path) as image:
            image.point(lambda value: value // 2).save(path)
    result = densenet(*arguments, *sources, "--resume", "--int8-images", other_images)
    assert result.status == 2
    assert "int8" in result.err


@needs_int8
def test_all_commands(images, tmp_path):
    model = ["--variant", "tiny", "--precision", "int8", "--allow-low-agreement"]
    image = str(sorted(images.iterdir())[0])
    folder = tmp_path / "data" / "goldfish"
    folder.mkdir(parents=True)
    shutil.copy(image, folder)
    assert densenet("embed", *model, image, "-o", tmp_path / "vectors.npy", "--int8-images", images).status == 0
    assert densenet("explain", *model, image, "-o", tmp_path / "maps").status == 0
    assert densenet("evaluate", *model, tmp_path / "data").status == 0
