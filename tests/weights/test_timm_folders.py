"""Folders that timm saves give timm's outputs: recorded ones, and, with timm installed, the networks it publishes."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from densenet_cli import Classifier
from densenet_cli.errors import UsageError
from tests.data.make_timm_folders import FOLDER, IMAGES, MODELS, expected_outputs, randomize, save
from tests.support.images import photograph
from tests.support.torch_libraries import import_library

HEADS = [name for name in MODELS if name != "headless"]


def logits(classifier, image):
    return classifier.run(classifier.load(image), ("logits",))["logits"][0]


@pytest.fixture(scope="module")
def outputs():
    """Return a function that loads the recorded outputs of a model."""
    return lambda name: dict(np.load(FOLDER / name / "expected.npz"))


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
@pytest.mark.parametrize("name", HEADS)
def test_outputs_are_those_of_timm(name, engine, outputs):
    classifier = Classifier(weights=FOLDER / name, engine=engine)
    assert [label.name for label in classifier.labels] == [f"label {n}" for n in range(MODELS[name]["num_classes"])]
    assert [text.partition("=")[0] for text in classifier.assumptions] == ["activation"]
    for kind, size in IMAGES.items():
        np.testing.assert_allclose(
            logits(classifier, photograph("coffee", size)), outputs(name)[kind], rtol=1e-5, atol=1e-5
        )


@pytest.mark.parametrize("name", ["plain", "blur"])
def test_outputs_at_the_test_size(name, outputs):
    """With the larger size comes another crop ratio. The wrong one gives other outputs."""
    classifier = Classifier(weights=FOLDER / name / "model.safetensors", input_size=288)
    assert classifier.preprocessing.resize_side == 303
    for kind, image_size in IMAGES.items():
        expected = outputs(name)[f"{kind}-test-size"]
        np.testing.assert_allclose(logits(classifier, photograph("coffee", image_size)), expected, rtol=1e-5, atol=1e-5)


def test_vectors_of_a_network_without_a_head_are_those_of_timm(outputs):
    classifier = Classifier(weights=FOLDER / "headless")
    assert classifier.config.classes == 0
    for kind, size in IMAGES.items():
        vector = classifier.embed(photograph("coffee", size)).vector
        np.testing.assert_allclose(vector, outputs("headless")[kind], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("plain", {"interpolation": "bilinear"}),
        ("plain", {"crop_pct": 1.0}),
        ("plain", {"mean": [0.5, 0.5, 0.5]}),
        ("plain", {"input_size": [3, 192, 192]}),
        ("blur", {"std": [0.25, 0.25, 0.25]}),
        ("gray-max", {"mean": [0.5]}),
        ("gray-max", {"global_pool": "avg"}),
        ("blur", {"architecture": "densenet264d"}),
    ],
    ids=str,
)
def test_another_statement_gives_other_outputs(name, change, outputs, tmp_path):
    """Otherwise the recorded outputs would not show that a statement is used."""
    shutil.copy(FOLDER / name / "model.safetensors", tmp_path)
    config = json.loads((FOLDER / name / "config.json").read_text())
    for key, value in change.items():
        for part in (config, config["pretrained_cfg"], config["model_args"]):
            if key in part:
                part[key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    actual = logits(Classifier(weights=tmp_path), photograph("coffee", IMAGES["landscape"]))
    assert np.abs(actual - outputs(name)["landscape"]).max() > 1e-3


def test_the_dialect_of_transformers(tmp_path, outputs):
    """``TimmWrapperForImageClassification`` saves the same network under a prefix."""
    arrays = load_file(FOLDER / "blur" / "model.safetensors")
    save_file({f"timm_model.{name}": values for name, values in arrays.items()}, tmp_path / "model.safetensors")
    config = json.loads((FOLDER / "blur" / "config.json").read_text())
    config |= {"model_type": "timm_wrapper", "problem_type": "multi_label_classification"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    classifier = Classifier(weights=tmp_path)
    assert classifier.config.is_multi_label and classifier.assumptions == ()
    for kind, size in IMAGES.items():
        probabilities = classifier.run(classifier.load(photograph("coffee", size)))["probabilities"][0]
        expected = 1 / (1 + np.exp(-outputs("blur")[kind].astype(np.float64)))
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_without_its_config_a_file_is_read_with_defaults(tmp_path):
    shutil.copy(FOLDER / "plain" / "model.safetensors", tmp_path)
    classifier = Classifier(weights=tmp_path / "model.safetensors")
    assert classifier.preprocessing.interpolation == "bilinear"
    assert any(text.startswith("mean=") for text in classifier.assumptions)


def test_a_change_of_the_config_is_noticed(tmp_path):
    """The graph and the metadata are cached. The cache depends on both files."""
    shutil.copytree(FOLDER / "gray-max", tmp_path, dirs_exist_ok=True)
    image = photograph("coffee")
    before = logits(Classifier(weights=tmp_path), image)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace('"max"', '"avg"').replace("0.449", "0.5"))
    changed = Classifier(weights=tmp_path)
    assert changed.preprocessing.mean == (0.5,)
    assert np.abs(logits(changed, image) - before).max() > 1e-3


def test_a_grayscale_network_without_its_config_needs_a_mean(tmp_path):
    shutil.copy(FOLDER / "gray-max" / "model.safetensors", tmp_path)
    with pytest.raises(UsageError, match="grayscale"):
        Classifier(weights=tmp_path / "model.safetensors")
    Classifier(weights=tmp_path / "model.safetensors", mean=0.449, std=0.226)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["densenet121.ra_in1k", "densenetblur121d.ra_in1k", "densenet161.tv_in1k"])
def test_published_networks_with_timm_itself(name, photographs, tmp_path):
    timm = import_library("timm")
    import torch
    from PIL import Image
    from timm.models._hub import save_for_hf

    model = timm.create_model(name).eval()
    randomize(model, seed=1)
    with torch.no_grad():
        model.classifier.weight *= 0.2
    save_for_hf(model, tmp_path, safe_serialization=True)
    classifier = Classifier(weights=tmp_path, exact=True)
    for path in photographs[:4]:
        with Image.open(path) as image:
            expected = torch.tensor(expected_outputs(model, tmp_path, image.convert("RGB"))).softmax(0).numpy()
        actual = classifier.run(classifier.load(path))["probabilities"][0]
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.slow
def test_recorded_folders_are_those_of_this_timm(tmp_path):
    import_library("timm")
    for name in MODELS:
        model = save(name, tmp_path / name)
        stored = json.loads((FOLDER / name / "config.json").read_text())
        assert json.loads((tmp_path / name / "config.json").read_text()) == stored
        expected = np.load(FOLDER / name / "expected.npz")["landscape"]
        actual = expected_outputs(model, tmp_path / name, photograph("coffee", IMAGES["landscape"]))
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
