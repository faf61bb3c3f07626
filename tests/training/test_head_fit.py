"""``freeze`` all: a new head on the features of a frozen backbone."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from densenet_cli.classifier import Classifier
from densenet_cli.engines import precision
from densenet_cli.errors import UnreadableImageError, UsageError
from densenet_cli.training import features, recipes, session
from densenet_cli.training.calibration import calibrate
from densenet_cli.training.image_cache import DecodedOnDemand
from densenet_cli.training.options import RunOptions
from densenet_cli.training.phases import Phase
from densenet_cli.training.run_files import RunPaths, load_state
from densenet_cli.training.settings import BACKBONE_RATE, HEAD_ONLY_RATE
from densenet_cli.weights import checkpoint, safetensors
from tests.support.checkpoints import write_small_variances
from tests.support.command import densenet
from tests.support.networks import unscaled_arrays
from tests.training.images import CONFIG, SETTINGS, write_digits


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return write_digits(tmp_path_factory.mktemp("digits"), per_class=50)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> str:
    """A backbone with random weights, whose features are good enough for digits."""
    path = tmp_path_factory.mktemp("start") / "start.safetensors"
    safetensors.write(path, unscaled_arrays(CONFIG), CONFIG)
    return str(path)


@pytest.fixture
def settings(start):
    return replace(SETTINGS, start=start, freeze="all", validation=10)


def run_paths(digits: Path, output: Path) -> RunPaths:
    return RunPaths(digits, None, output, output.parent / "images")


def test_the_command_learns_digits_in_under_a_minute(digits, tmp_path):
    started = time.process_time()
    result = densenet("train", digits, "-o", tmp_path / "run", "--from", "tiny", "--freeze", "all")
    assert result.status == 0, result.err
    assert time.process_time() - started < 60
    path = tmp_path / "run" / "model.safetensors"
    model = checkpoint.read(path)
    top1 = model.metadata.accuracy["validation"]["top1"]
    assert top1 > 0.9 and f"{top1:.1%}" in result.err and str(path) in result.err
    assert model.metadata.training["freeze"] == "all"
    assert "DenseNet-tiny, 72 px" in result.err and "the head (" in result.err
    with Classifier(weights=path) as classifier:
        assert classifier.preprocessing == Classifier("tiny").preprocessing
    backbone = checkpoint.read_backbone(Path(Classifier("tiny").weights)).arrays
    assert model.arrays["conv1_conv"]["kernel"].tobytes() == backbone["conv1_conv"]["kernel"].tobytes()
    # It is a model like any other.
    evaluated = densenet("evaluate", digits, "--weights", path)
    assert evaluated.status == 0, evaluated.err
    assert densenet("explain", digits / "3" / "000.png", "--weights", path, "-o", tmp_path / "cam").status == 0
    assert densenet("export", "-o", tmp_path / "model.onnx", "--weights", path).status == 0


def test_the_validation_accuracy_is_that_of_the_model(digits, tmp_path, settings):
    head, skipped = session.fit_head(run_paths(digits, tmp_path / "run"), settings, RunOptions())
    assert (head.metrics.images, skipped) == (100, 0)
    again = tmp_path / "again"
    shutil.copytree(digits, again)
    held_out = replace(settings, validation=0)
    paths = RunPaths(digits, again, tmp_path / "other", tmp_path / "images")
    head, _ = session.fit_head(paths, held_out, RunOptions())
    with Classifier(weights=tmp_path / "other" / "model.safetensors") as classifier:
        names = sorted(digits.glob("*/*.png"))
        predictions = list(classifier.predict_many(names, top_k=1))
    correct = [p.scores[0].label == name.parent.name for p, name in zip(predictions, names, strict=True)]
    assert head.metrics.top1 == np.mean(correct)


def test_calibration(digits, tmp_path, settings):
    """The model is calibrated with 100 validation images. Without calibration, its weights are the same."""
    messages = []
    options = RunOptions(on_message=messages.append)
    models = []
    for name, values in {"yes": {}, "no": {"calibrate": False}, "few": {"validation": 9}}.items():
        head, _ = session.fit_head(run_paths(digits, tmp_path / name), replace(settings, **values), options)
        model = checkpoint.read(tmp_path / name / "model.safetensors")
        assert (head.calibrated.calibration is not None) == (model.metadata.calibration is not None) == (name == "yes")
        models.append(model)
    notes = [message for message in messages if "not calibrated" in message]
    assert len(notes) == 1 and "100" in notes[0] and "90" in notes[0]
    assert models[0].metadata.calibration["images"] == 100
    head = [model.arrays["predictions"]["kernel"].tobytes() for model in models[:2]]
    assert head[0] == head[1]
    with Classifier(weights=tmp_path / "yes" / "model.safetensors") as classifier:
        prediction = classifier.predict(digits / "3" / "000.png", coverage=0.9, max_error=0.5)
        assert prediction.set is not None and prediction.unsure is not None
        assert classifier.predictor(coverage=0.9).warnings == ()


def test_the_command_calibrates_unless_told_otherwise(digits, tmp_path, start):
    arguments = ["train", digits, "--from", start, "--freeze", "all", "--preprocess", "squash", "-o"]
    result = densenet(*arguments, tmp_path / "yes")
    assert result.status == 0 and "calibrated on 100 images" in result.err
    result = densenet(*arguments, tmp_path / "no", "--no-calibrate")
    assert result.status == 0 and "calibrated" not in result.err
    assert checkpoint.read(tmp_path / "no" / "model.safetensors").metadata.calibration is None


@pytest.mark.parametrize(
    ("logits", "targets", "text"),
    [
        (np.full((200, 2), np.nan, np.float32), np.zeros(200, np.int64), "NaN"),
        (np.tile(np.float32([0, 1]), (200, 1)), np.zeros(200, np.int64), "chance"),
        (np.tile(np.float32([0, 1]), (99, 1)), np.ones(99, np.int64), "found 99"),
        (np.empty((0, 0), np.float32), np.empty(0, np.int64), ""),
    ],
)
def test_a_model_that_cannot_be_calibrated(settings, logits, targets, text):
    calibrated = calibrate(logits, targets, settings, "2026-01-31")
    assert calibrated.calibration is None and calibrated.images == 0
    assert bool(calibrated.note) == bool(text) and text in calibrated.note


@pytest.mark.parametrize("views", [0, 3])
def test_features_are_cached_and_continued(digits, tmp_path, settings, monkeypatch, views):
    paths, cache = run_paths(digits, tmp_path / "run"), tmp_path / "images"
    settings = replace(settings, views=views)
    expected, _ = session.fit_head(paths, settings, RunOptions(threads=1))
    (complete,) = [path for path in cache.iterdir() if path.stat().st_size == 4 * 400 * (1 + views) * 32]
    content = complete.read_bytes()
    # An interruption leaves a part, which may end within a row.
    complete.with_suffix(".features-part").write_bytes(content[: len(content) // 2 + 3])
    complete.unlink()
    decoded: list[int] = []
    original = DecodedOnDemand.__getitem__
    monkeypatch.setattr(DecodedOnDemand, "__getitem__", lambda self, n: decoded.append(n) or original(self, n))
    head, _ = session.fit_head(paths, settings, RunOptions(threads=3), overwrite=True)
    assert len(decoded) == 200
    assert complete.read_bytes() == content
    assert head.arrays["predictions"]["kernel"].tobytes() == expected.arrays["predictions"]["kernel"].tobytes()
    session.fit_head(paths, settings, RunOptions(), overwrite=True)
    assert len(decoded) == 200
    session.fit_head(paths, replace(settings, preprocess="crop"), RunOptions(), overwrite=True)
    assert len(decoded) == 700


def test_cached_features_depend_on_the_decoded_scale_and_the_interpolation(digits, tmp_path, settings):
    """Crops of a smaller area need larger images. In ``keras`` mode, only views use the interpolation."""
    cache = tmp_path / "images"
    for values, changes in (
        ({"then_unfreeze": True}, {"crop_area": 0.01}),
        ({"then_unfreeze": True}, {"sizes": (Phase(64, 1),)}),
        ({"preprocess": "keras", "views": 2}, {"interpolation": "bicubic"}),
    ):
        files = []
        for changed in (values, values | changes):
            session.fit_head(
                run_paths(digits, tmp_path / "run"), replace(settings, **changed), RunOptions(), overwrite=True
            )
            files.append(set(cache.glob("*.features")))
        assert files[1] - files[0], changes


def test_views(digits, settings):
    decoded = DecodedOnDemand([str(digits / "2" / "001.png")], 16)[0]
    mirrored = replace(settings, flip=True)
    first, second, *crops = features.make_views(decoded, 5, 4, mirrored)
    np.testing.assert_array_equal(first, features.make_views(decoded, 6, 0, settings)[0])
    np.testing.assert_array_equal(second, first[:, ::-1])
    assert len({crop.tobytes() for crop in crops}) == 3
    np.testing.assert_array_equal(crops, features.make_views(decoded, 5, 4, mirrored)[2:])
    unmirrored = features.make_views(decoded, 5, 1, settings)
    assert (unmirrored[1] != second).any()


def test_features_are_those_of_embed(digits, start, settings, tmp_path):
    names = sorted(str(path) for path in digits.glob("[01]/*.png"))[:5]
    from densenet_cli.training.batches import Subset

    subset = Subset(DecodedOnDemand(names, 16), np.arange(5), np.zeros(5, np.int64))
    with Classifier(weights=start, preprocess="squash") as classifier:
        values, errors = features.compute_features(subset, 1, classifier, settings, tmp_path, lambda done, total: None)
        expected = [classifier.embed(name).vector for name in names]
    assert not errors
    np.testing.assert_allclose(values[:, 0], expected, 1e-5, 1e-6)
    assert (values[:, 1] != values[:, 0]).any()


def test_a_backbone_with_small_variances(digits, tmp_path):
    """They are smaller than the difference between PyTorch's epsilon and Keras'."""
    config = replace(CONFIG, stem="imagenet")
    write_small_variances(tmp_path / "start.safetensors", unscaled_arrays(config), config)
    arguments = ["--from", tmp_path / "start.safetensors", "--freeze", "all", "--input-size", "32"]
    result = densenet("train", digits, "-o", tmp_path / "run", *arguments)
    assert result.status == 0, result.err
    vectors = []
    for weights in (tmp_path / "start.safetensors", tmp_path / "run"):
        with Classifier(weights=weights, input_size=32, preprocess="squash") as classifier:
            vectors.append(classifier.embed(digits / "3" / "000.png").vector)
    np.testing.assert_array_equal(*vectors)


@pytest.mark.skipif("bfloat16" not in precision.supported(), reason="this processor does not compute in bfloat16")
def test_features_in_bfloat16(digits, tmp_path, settings):
    """They are cached apart from those in float32. Validation is in float32."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    paths, messages = run_paths(digits, tmp_path / "run"), []
    options = RunOptions(on_message=messages.append)
    full, half = (
        session.fit_head(paths, replace(settings, precision=name), options, overwrite=True)[0]
        for name in ("float32", "mixed_bfloat16")
    )
    sizes = sorted(path.stat().st_size for path in (tmp_path / "images").glob("*.features"))
    assert sizes == [4 * 100 * 32, 4 * 400 * 32, 4 * 400 * 32]
    kernels = [head.arrays["predictions"]["kernel"] for head in (full, half)]
    assert (kernels[0] != kernels[1]).any()
    assert np.linalg.norm(kernels[0] - kernels[1]) < 0.1 * np.linalg.norm(kernels[0])
    assert half.metrics.loss == pytest.approx(full.metrics.loss, rel=0.1)
    assert half.metrics.top1 == pytest.approx(full.metrics.top1, abs=0.03)
    assert not any("float32" in text for text in messages)


def test_bfloat16_on_another_processor(digits, tmp_path, settings, monkeypatch):
    monkeypatch.setattr(precision, "supported", lambda: ("float32",))
    messages = []
    options = RunOptions(on_message=messages.append)
    session.fit_head(run_paths(digits, tmp_path / "run"), replace(settings, precision="mixed_bfloat16"), options)
    (note,) = [text for text in messages if "float32" in text]
    assert "features" in note and "bfloat16" in note


def test_unreadable_images(digits, tmp_path, settings):
    folder = tmp_path / "digits"
    shutil.copytree(digits, folder)
    bad = [folder / "3" / f"{number:03}.png" for number in range(3)]
    for path in bad:
        path.write_bytes(b"no image")
    paths = run_paths(folder, tmp_path / "run")
    for _ in range(2):  # computed, and from the cache
        with pytest.raises(UnreadableImageError, match=r"3 of 500 images.*3/00\d\.png"):
            session.fit_head(paths, settings, RunOptions())
    assert not (tmp_path / "run" / "model.safetensors").exists()
    _, skipped = session.fit_head(paths, settings, RunOptions(skip_unreadable=True))
    assert skipped == 3
    listed = (tmp_path / "run" / "skipped.csv").read_text()
    assert all(f"digits/3/{path.name}" in listed for path in bad)
    assert checkpoint.read(tmp_path / "run" / "model.safetensors").metadata.training["skipped"] == 3
    for path in (folder / "3").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(UnreadableImageError, match="'3'"):
        session.fit_head(paths, settings, RunOptions(skip_unreadable=True), overwrite=True)


def test_then_unfreeze_starts_from_the_fitted_head(digits, tmp_path, settings, keras):
    """With a learning rate of almost 0, nothing changes: batch normalization keeps its statistics."""
    settings = replace(settings, then_unfreeze=True, sizes=(Phase(16, 1),), learning_rate=1e-9, label_smoothing=0.0)
    with session.open_run(run_paths(digits, tmp_path / "run"), settings, RunOptions()) as run:
        head = checkpoint.read(tmp_path / "run" / "model.safetensors").metadata.accuracy["validation"]
        run.train()
    (row,) = run.state.history
    assert row["val_loss"] == pytest.approx(head["loss"], rel=1e-3)
    assert row["val_accuracy"] == head["top1"]


@pytest.mark.parametrize("rate", [HEAD_ONLY_RATE, 50.0])
def test_then_unfreeze_is_not_worse_and_can_be_resumed(digits, tmp_path, settings, keras, rate):
    """Also if training destroys the model."""
    head, _ = session.fit_head(run_paths(digits, tmp_path / "head"), settings, RunOptions())
    settings = replace(
        settings, then_unfreeze=True, sizes=(Phase(16, 2),), learning_rate=rate, backbone_rate=BACKBONE_RATE, warmup=0
    )
    states = []
    for name in ("complete", "stopped"):
        paths = run_paths(digits, tmp_path / name)
        is_stopped = name == "stopped"
        try:
            with session.open_run(paths, settings, RunOptions()) as run:
                if is_stopped:
                    stop = run.stop
                    run.options = replace(run.options, on_step=lambda info, stop=stop: info.batch == 5 and stop())
                run.train()
            if is_stopped:
                with session.open_run(paths, settings, RunOptions(), resume=True) as run:
                    run.train()
        except UsageError:  # the loss is infinite
            assert rate > 1
        states.append(load_state(paths.output))
        accuracy = checkpoint.read(paths.output / "model.safetensors").metadata.accuracy["validation"]["top1"]
        assert accuracy == states[-1].best_score >= head.metrics.top1
    for name, array in states[0].arrays.items():
        assert array.tobytes() == states[1].arrays[name].tobytes(), name


def test_the_defaults_of_the_recipe(start):
    settings = recipes.resolve({}, {"freeze": "all", "start": start})
    assert settings.is_head_only and not settings.is_frozen_at(0)
    assert settings.learning_rate == HEAD_ONLY_RATE < SETTINGS.learning_rate
    assert recipes.resolve({"learning_rate": 0.5}, {"freeze": "all", "start": start}).learning_rate == 0.5
    assert recipes.resolve({}, {"freeze": "all"}).start == "121"
    assert recipes.resolve({}, {"freeze": "all", "variant": "tiny"}).start == "tiny"


@pytest.mark.parametrize(
    "values", [{"views": 1}, {"then_unfreeze": True}, {"freeze": "all", "unfreeze_after": 1}, {"unfreeze_after": 2}]
)
def test_invalid_combinations(start, values):
    with pytest.raises(UsageError, match=f"`{list(values)[-1]}`"):
        replace(SETTINGS, start=start, **values)
