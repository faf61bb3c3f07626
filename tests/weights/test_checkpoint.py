"""Checkpoints of every layout are read, whole files and wrong ones."""

from __future__ import annotations

import json
import zipfile
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from densenet_cli import labels, variants
from densenet_cli.errors import CheckpointError, OutputError
from densenet_cli.labels import ClassLabel
from densenet_cli.layers import array_shapes
from densenet_cli.topology import BN_EPSILON, DenseNetConfig
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.checkpoint import ModelMetadata
from tests.support import checkpoints as support
from tests.support.networks import uncalibrated

CONFIG = DenseNetConfig((2, 3), growth_rate=4, stem_width=6, classes=5)

LAYOUTS = {
    "published.h5": lambda p, a, c: support.write_legacy_h5(p, a, c),
    "newer-names.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, old_names=False),
    "keras3.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, False, below="model_weights", suffix=""),
    "keras2-whole.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, below="model_weights"),
    "today.weights.h5": lambda p, a, c: support.write_numbered_h5(p, a, c),
    "nameless.weights.h5": lambda p, a, c: support.write_numbered_h5(p, a, c, names=False),
    "keras2.13.weights.h5": lambda p, a, c: support.write_numbered_h5(
        p, a, c, names=False, container="_layer_checkpoint_dependencies"
    ),
    "today.keras": lambda p, a, c: support.write_keras_archive(p, a, c),
    "nameless.keras": lambda p, a, c: support.write_keras_archive(p, a, c, names=False),
    "packed.keras": lambda p, a, c: support.write_keras_archive(p, a, c, compression=zipfile.ZIP_DEFLATED),
    "ours.safetensors": lambda p, a, c: safetensors.write(p, a, c),
}


@pytest.fixture(scope="module")
def arrays():
    return uncalibrated(CONFIG)


def written(tmp_path, layout, arrays, config=CONFIG):
    path = tmp_path / layout
    LAYOUTS[layout](path, arrays, config)
    return path


def refusal(path, config=None) -> str:
    """The message with which ``path`` is refused: one sentence that names the file."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path, config)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_arrays_that_were_written(tmp_path, arrays, layout):
    path = written(tmp_path, layout, arrays)
    for config in (CONFIG, None):
        found = checkpoint.read(path, config)
        support.assert_same(found.arrays, arrays, CONFIG)
        assert found.config == CONFIG
        assert found.variant is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_format_is_told_from_the_content(tmp_path, arrays, layout):
    path = written(tmp_path, layout, arrays).rename(tmp_path / "model.pth")
    assert checkpoint.read(path).config == CONFIG


@pytest.mark.parametrize("layout", ["published.h5", "keras3.h5"])
def test_the_order_in_a_file_with_names_does_not_count(tmp_path, arrays, layout):
    support.assert_same(checkpoint.read(written(tmp_path, layout, support.shuffled(arrays))).arrays, arrays, CONFIG)


@pytest.mark.parametrize("layout", ["published.h5", "nameless.weights.h5", "torchvision"])
@pytest.mark.parametrize("name", ["121", "bc-100-12"])
def test_a_variant_is_told_from_its_layers(tmp_path, layout, name):
    variant = variants.get(name)
    arrays = uncalibrated(variant.config)
    path = tmp_path / "weights"
    LAYOUTS.get(layout, support.write_torchvision)(path, arrays, variant.config)
    found = checkpoint.read(path)
    assert (found.variant, found.config) == (name, variant.config)
    assert support.shapes_of(found.arrays) == array_shapes(variant.config)


def test_a_variant_with_another_head_keeps_its_name(tmp_path):
    config = variants.get("bc-100-12").config.with_classes(7)
    path = written(tmp_path, "published.h5", uncalibrated(config), config)
    for asked in (None, variants.get("bc-100-12").config):
        found = checkpoint.read(path, asked)
        assert (found.variant, found.config) == ("bc-100-12", config)


@pytest.mark.parametrize("compression", [0.5, 1.0, 0.3, 0.55, 1 / 3])
@pytest.mark.parametrize("layout", ["published.h5", "nameless.weights.h5"])
def test_compression_is_told_from_the_transitions(tmp_path, layout, compression):
    config = replace(CONFIG, blocks=(1, 2, 3), stem_width=30, compression=compression)
    found = checkpoint.read(written(tmp_path, layout, uncalibrated(config), config))
    assert array_shapes(found.config) == array_shapes(config)


def test_stems_with_the_same_layers_need_the_file_or_the_variant_to_tell(tmp_path):
    config = replace(CONFIG, stem="small", input_size=64)
    arrays = uncalibrated(config)
    path = written(tmp_path, "published.h5", arrays, config)
    assert "stride 1 or 2 (small or cifar)" in refusal(path)
    assert checkpoint.read(path, config).config == config
    with variants.register(variants.Variant("test", config)):
        assert checkpoint.read(path).variant == "test"
    path = written(tmp_path, "ours.safetensors", arrays, config)
    assert checkpoint.read(path).config == config
    assert "stem is 'small' instead of 'cifar'" in refusal(path, replace(config, stem="cifar"))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["legacy", "numbered", "torchvision"])
def test_half_precision_becomes_float32(tmp_path, arrays, layout, dtype):
    half = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    path = tmp_path / "half"
    if layout == "torchvision":
        support.write_torchvision(path, arrays, CONFIG, dtype=half)
    elif layout == "legacy":
        support.write_legacy_h5(path, arrays, CONFIG, dtype=half)
    else:
        support.write_numbered_h5(path, arrays, CONFIG, dtype=half)
    found = checkpoint.read(path).arrays
    for layer, held in arrays.items():
        for name, values in held.items():
            if layout == "torchvision" and name == "moving_variance":
                continue
            np.testing.assert_array_equal(found[layer][name], values.astype(half).astype(np.float32))
            assert found[layer][name].dtype == np.float32


@pytest.mark.parametrize("dtype", ["float64", "int32"])
def test_other_element_types_are_refused_by_name(tmp_path, arrays, dtype):
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, arrays, CONFIG, dtype=dtype)
    assert f"of type {dtype} instead of float32 or float16" in refusal(path)
    support.write_torchvision(path, arrays, CONFIG, dtype=dtype)
    assert f"of type {dtype.replace('int32', 'I32')} instead of float32" in refusal(path)


def test_torchvisions_variances_are_brought_to_our_epsilon(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    tensors = {}
    support.write_torchvision(path, arrays, CONFIG)
    tensors = load_file(path)
    theirs = tensors["features.norm0.running_var"].astype(np.float64)
    ours = checkpoint.read(path).arrays["conv1_bn"]["moving_variance"].astype(np.float64)
    np.testing.assert_allclose(ours + BN_EPSILON, theirs + 1e-5, rtol=1e-7)
    assert theirs.min() < 1e-5, "elsewhere an epsilon can't be seen"


def test_what_is_written_is_read_back_with_all_that_was_said(tmp_path, arrays):
    metadata = ModelMetadata(
        tuple(ClassLabel(index * 100, f"n0000000{index}", f"naïve {index}") for index in range(5)),
        preprocess="squash",
        input_size=72,
        training={"epochs": 3, "rate": 0.1},
        accuracy={"top1": 0.5},
    )
    path = tmp_path / "m.safetensors"
    safetensors.write(path, arrays, CONFIG, metadata)
    first = path.read_bytes()
    found = checkpoint.read(path)
    assert found.metadata == metadata
    support.assert_same(found.arrays, arrays, CONFIG)
    safetensors.write(path, found.arrays, found.config, found.metadata)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_written_names_are_torchvisions(tmp_path):
    config = variants.get("121").config
    names = safetensors.torchvision_names(config).values()
    assert len(names) == len(array_shapes(config)) == 242
    for name in (
        "features.conv0",
        "features.norm0",
        "features.denseblock1.denselayer1.norm1",
        "features.denseblock4.denselayer16.conv2",
        "features.transition3.conv",
        "features.norm5",
        "classifier",
    ):
        assert name in names
    path = tmp_path / "m.safetensors"
    safetensors.write(path, uncalibrated(CONFIG), CONFIG)
    shapes = {name: values.shape for name, values in load_file(path).items()}
    assert shapes["features.conv0.weight"] == (6, 3, 7, 7)
    assert shapes["features.denseblock1.denselayer2.conv2.weight"] == (4, 16, 3, 3)
    assert shapes["classifier.weight"] == (5, 19)
    assert {"features.norm5.running_mean", "features.norm5.running_var", "features.norm5.bias"} <= set(shapes)


def test_half_precision_halves_kernels_alone(tmp_path, arrays):
    path = tmp_path / "m.safetensors"
    safetensors.write(path, arrays, CONFIG, dtype="float16")
    found = checkpoint.read(path).arrays
    kernel = arrays["conv1_conv"]["kernel"]
    np.testing.assert_array_equal(found["conv1_conv"]["kernel"], kernel.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(found["bn"]["moving_variance"], arrays["bn"]["moving_variance"])


def test_the_writer_refuses_what_could_not_be_read_back(tmp_path, arrays):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="not those of this configuration"):
        safetensors.write(path, support.without(arrays, "bn"), CONFIG)
    broken = {**arrays, "bn": {**arrays["bn"], "beta": np.full_like(arrays["bn"]["beta"], np.nan)}}
    with pytest.raises(ValueError, match="bn's beta holds values that are not finite"):
        safetensors.write(path, broken, CONFIG)
    with pytest.raises(OutputError, match="Cannot write"):
        safetensors.write(tmp_path / "none" / "m.safetensors", arrays, CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["published.h5", "today.weights.h5", "today.keras"])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_a_missing_layer_is_named(tmp_path, arrays, layout, config):
    path = written(tmp_path, layout, support.without(arrays, "conv3_block2_1_bn"))
    assert "layer conv3_block2_1_bn is missing" in refusal(path, config)


@pytest.mark.parametrize("layout", ["published.h5", "today.weights.h5", "nameless.weights.h5"])
def test_a_missing_head_is_named(tmp_path, arrays, layout):
    message = refusal(written(tmp_path, layout, support.without(arrays, "predictions")))
    assert "predictions is missing" in message or "0 layers of class dense where a DenseNet has 1" in message


def test_a_wrong_shape_is_named_with_both_shapes(tmp_path, arrays):
    wrong = {**arrays, "conv2_block2_2_conv": {"kernel": np.zeros((3, 3, 16, 5), np.float32)}}
    for layout in ("published.h5", "nameless.weights.h5"):
        message = refusal(written(tmp_path, layout, wrong))
        assert "layer conv2_block2_2_conv has kernel of shape (3, 3, 16, 5) instead of (3, 3, 16, 4)" in message


def test_a_further_layer_and_a_further_array_are_named(tmp_path, arrays):
    path = written(tmp_path, "published.h5", {**arrays, "extra": {"kernel": np.zeros((2, 2), np.float32)}})
    assert "it has a layer extra, which this network has not" in refusal(path)
    biased = {**arrays, "conv1_conv": {**arrays["conv1_conv"], "bias": np.zeros(6, np.float32)}}
    assert "layer conv1_conv has bias" in refusal(written(tmp_path, "published.h5", biased))
    headless = {**arrays, "predictions": {"kernel": arrays["predictions"]["kernel"]}}
    assert "layer predictions has no bias" in refusal(written(tmp_path, "published.h5", headless))


def test_another_variants_file_says_which_it_is(tmp_path):
    config = variants.get("bc-100-12").config
    path = written(tmp_path, "published.h5", uncalibrated(config), config)
    message = refusal(path, variants.get("121").config)
    assert "layer conv1_conv has kernel of shape (3, 3, 3, 24) instead of (7, 7, 3, 64)" in message
    assert "(these are the layers of variant bc-100-12)" in message


def test_nameless_layers_in_another_order_are_refused(tmp_path, arrays):
    path = tmp_path / "x.weights.h5"
    swapped = {**arrays, "conv2_block1_1_conv": arrays["conv2_block1_2_conv"]}
    support.write_numbered_h5(path, swapped, CONFIG, names=False)
    assert "its convolutions do not follow one another as a DenseNet's do" in refusal(path)


def test_more_than_nine_layers_are_counted_by_number(tmp_path):
    config = replace(CONFIG, blocks=(12,))
    arrays = uncalibrated(config)
    found = checkpoint.read(written(tmp_path, "nameless.weights.h5", arrays, config))
    support.assert_same(found.arrays, arrays, config)


def test_a_foreign_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}, path)
    assert "'layer1.0.conv1.weight', which is no array of torchvision's DenseNets" in refusal(path)


def test_metadata_of_another_network_are_not_believed(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    said = {
        "config": replace(CONFIG, blocks=(2, 10**9)).to_dict(),
        "labels": None,
        "preprocess": None,
        "input_size": None,
        "bn_epsilon": BN_EPSILON,
        "training": {},
        "accuracy": {},
    }
    save_file(load_file(path), path, {"densenet": json.dumps(said)})
    assert "metadata describe another network than its layers" in refusal(path)


def test_labels_of_a_written_model_are_those_of_its_head(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG, ModelMetadata(labels.placeholders(4)))
    assert "metadata are malformed (ValueError: 4 labels for 5 classes)" in refusal(path)
