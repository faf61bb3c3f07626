"""Reading checkpoints of every format: valid files, and files with missing or unexpected contents."""

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
from densenet_cli.images.normalization import MEAN, STD
from densenet_cli.labels import ClassLabel
from densenet_cli.layers import array_shapes
from densenet_cli.topology import BN_EPSILON, DenseNetConfig, HeadLayer
from densenet_cli.weights import checkpoint, recognition, safetensors
from densenet_cli.weights.contents import CheckpointContents, ModelMetadata
from tests.support import checkpoints as support
from tests.support.networks import onnx_outputs, unscaled_arrays

CONFIG = DenseNetConfig((2, 3), growth_rate=4, stem_width=6, classes=5)

LAYOUTS = {
    "published.h5": lambda p, a, c: support.write_legacy_h5(p, a, c),
    "current-names.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, old_names=False),
    "keras3.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, False, below="model_weights", suffix=""),
    "keras2-model.h5": lambda p, a, c: support.write_legacy_h5(p, a, c, below="model_weights"),
    "numbered.weights.h5": lambda p, a, c: support.write_numbered_h5(p, a, c),
    "unnamed.weights.h5": lambda p, a, c: support.write_numbered_h5(p, a, c, names=False),
    "keras2.13.weights.h5": lambda p, a, c: support.write_numbered_h5(
        p, a, c, names=False, container="_layer_checkpoint_dependencies"
    ),
    "archive.keras": lambda p, a, c: support.write_keras_archive(p, a, c),
    "unnamed.keras": lambda p, a, c: support.write_keras_archive(p, a, c, names=False),
    "compressed.keras": lambda p, a, c: support.write_keras_archive(p, a, c, compression=zipfile.ZIP_DEFLATED),
    "ours.safetensors": lambda p, a, c: safetensors.write(p, a, c),
}


@pytest.fixture(scope="module")
def arrays():
    return unscaled_arrays(CONFIG)


def write(tmp_path, layout, arrays, config=CONFIG):
    path = tmp_path / layout
    LAYOUTS[layout](path, arrays, config)
    return path


def error_message(path, config=None) -> str:
    """Return the message of the error that reading ``path`` raises: one line with the path."""
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(path, config)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message and message.endswith(".")
    return message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays_round_trip_in_every_format(tmp_path, arrays, layout):
    path = write(tmp_path, layout, arrays)
    for config in (CONFIG, None):
        loaded = checkpoint.read(path, config)
        support.assert_same(loaded.arrays, arrays, CONFIG)
        assert loaded.config == CONFIG
        assert loaded.variant is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_format_is_detected_from_the_content(tmp_path, arrays, layout):
    path = write(tmp_path, layout, arrays).rename(tmp_path / "model.pth")
    assert checkpoint.read(path).config == CONFIG


@pytest.mark.parametrize("layout", ["published.h5", "keras3.h5"])
def test_order_is_irrelevant_in_a_file_with_layer_names(tmp_path, arrays, layout):
    support.assert_same(checkpoint.read(write(tmp_path, layout, support.shuffled(arrays))).arrays, arrays, CONFIG)


@pytest.mark.parametrize("layout", ["published.h5", "unnamed.weights.h5", "torchvision"])
@pytest.mark.parametrize("name", ["121", "bc-100-12"])
def test_variant_is_inferred_from_the_layers(tmp_path, layout, name):
    variant = variants.get(name)
    arrays = unscaled_arrays(variant.config)
    path = tmp_path / "weights"
    LAYOUTS.get(layout, support.write_torchvision)(path, arrays, variant.config)
    loaded = checkpoint.read(path)
    assert (loaded.variant, loaded.config) == (name, variant.config)
    assert support.shapes_of(loaded.arrays) == array_shapes(variant.config)


def test_variant_with_another_number_of_classes(tmp_path):
    config = variants.get("bc-100-12").config.with_classes(7)
    path = write(tmp_path, "published.h5", unscaled_arrays(config), config)
    for requested in (None, variants.get("bc-100-12").config):
        loaded = checkpoint.read(path, requested)
        assert (loaded.variant, loaded.config) == ("bc-100-12", config)


@pytest.mark.parametrize("compression", [0.5, 1.0, 0.3, 0.55, 1 / 3])
@pytest.mark.parametrize("layout", ["published.h5", "unnamed.weights.h5"])
def test_compression_is_inferred_from_the_transitions(tmp_path, layout, compression):
    config = replace(CONFIG, blocks=(1, 2, 3), stem_width=30, compression=compression)
    loaded = checkpoint.read(write(tmp_path, layout, unscaled_arrays(config), config))
    assert array_shapes(loaded.config) == array_shapes(config)


def test_ambiguous_stem_is_taken_from_metadata_or_variant(tmp_path):
    config = replace(CONFIG, stem="small", input_size=64)
    arrays = unscaled_arrays(config)
    path = write(tmp_path, "published.h5", arrays, config)
    message = error_message(path)
    assert "small, cifar" in message and "`variant`" in message
    assert checkpoint.read(path, config).config == config
    with variants.register(variants.Variant("test", config)):
        assert checkpoint.read(path).variant == "test"
    path = write(tmp_path, "ours.safetensors", arrays, config)
    assert checkpoint.read(path).config == config
    message = error_message(path, replace(config, stem="cifar"))
    assert "'small'" in message and "'cifar'" in message


def test_stated_number_of_classes_must_be_that_of_the_weights():
    config = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
    contents = CheckpointContents({}, 0, head=(HeadLayer("dense", 4),))
    with pytest.raises(CheckpointError, match=r"4 classes.* 3"):
        recognition.infer_config(array_shapes(config), contents)


def test_deep_stem_needs_a_variant(tmp_path):
    """A blur filter is not stored, and a variant with the same layers does not tell whether there is one."""
    config = replace(variants.get("blur121d").config, classes=3)
    with pytest.raises(CheckpointError, match="deep, deep-blur"):
        recognition.infer_config(array_shapes(config))
    for stem in ("deep", "deep-blur"):
        small = replace(CONFIG, stem=stem)
        path = write(tmp_path, "published.h5", unscaled_arrays(small), small)
        assert "`variant`" in error_message(path)
        assert checkpoint.read(path, small).config == small


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("layout", ["legacy", "numbered", "torchvision"])
def test_half_precision_is_converted_to_float32(tmp_path, arrays, layout, dtype):
    half = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    path = tmp_path / "half"
    if layout == "torchvision":
        support.write_torchvision(path, arrays, CONFIG, dtype=half)
    elif layout == "legacy":
        support.write_legacy_h5(path, arrays, CONFIG, dtype=half)
    else:
        support.write_numbered_h5(path, arrays, CONFIG, dtype=half)
    loaded = checkpoint.read(path).arrays
    for layer, layer_arrays in arrays.items():
        for name, values in layer_arrays.items():
            if layout == "torchvision" and name == "moving_variance":
                continue
            np.testing.assert_array_equal(loaded[layer][name], values.astype(half).astype(np.float32))
            assert loaded[layer][name].dtype == np.float32


def test_double_precision_is_rounded_to_float32(tmp_path, arrays):
    double = {
        layer: {n: v.astype(np.float64) * (1 + 1e-12) for n, v in named.items()} for layer, named in arrays.items()
    }
    support.write_legacy_h5(tmp_path / "x.h5", double, CONFIG, dtype="float64")
    support.assert_same(checkpoint.read(tmp_path / "x.h5").arrays, arrays, CONFIG)
    support.write_torchvision(tmp_path / "x.safetensors", double, CONFIG, dtype="float64")
    kernel = checkpoint.read(tmp_path / "x.safetensors").arrays["conv1_conv"]["kernel"]
    np.testing.assert_array_equal(kernel, arrays["conv1_conv"]["kernel"])
    double["conv1_conv"]["kernel"][0, 0, 0, 0] = 1e300
    support.write_legacy_h5(tmp_path / "x.h5", double, CONFIG, dtype="float64")
    assert "conv1_conv: kernel contains NaN or infinite values" in error_message(tmp_path / "x.h5")


@pytest.mark.parametrize("dtype", ["int64", "int32"])
def test_other_element_types_are_rejected(tmp_path, arrays, dtype):
    path = tmp_path / "x.h5"
    support.write_legacy_h5(path, arrays, CONFIG, dtype=dtype)
    assert f"found {dtype}" in error_message(path)
    support.write_torchvision(path, arrays, CONFIG, dtype=dtype)
    assert f"found {dtype.replace('int32', 'I32')}" in error_message(path)


def test_variances_are_adapted_to_our_epsilon(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    tensors = {}
    support.write_torchvision(path, arrays, CONFIG)
    tensors = load_file(path)
    torch_variance = tensors["features.norm0.running_var"].astype(np.float64)
    our_variance = checkpoint.read(path).arrays["conv1_bn"]["moving_variance"].astype(np.float64)
    np.testing.assert_allclose(our_variance + BN_EPSILON, torch_variance + 1e-5, rtol=1e-7)
    assert torch_variance.min() < 1e-5, "otherwise the epsilon would not matter"


@pytest.mark.parametrize("epsilon", [1e-5, 1e-7, 0.0])
def test_small_variances_keep_their_scale(arrays, epsilon):
    variance = np.array([1e-12, 1e-10, 9e-9, 2e-8, 1e-6, 1], np.float32)
    gamma = arrays["conv1_bn"]["gamma"]
    adapted = {"gamma": gamma, "moving_variance": variance}
    checkpoint._adapt_batch_norm("conv1_bn", adapted, epsilon)
    assert adapted["moving_variance"].min() == 0 and all(values.dtype == np.float32 for values in adapted.values())
    actual = adapted["gamma"] / np.sqrt(adapted["moving_variance"].astype(np.float64) + BN_EPSILON)
    np.testing.assert_allclose(actual, gamma / np.sqrt(variance.astype(np.float64) + epsilon), rtol=1e-6)
    assert adapted["gamma"][-1] == gamma[-1]


def test_variance_and_epsilon_of_0():
    values = np.zeros(1, np.float32)
    with pytest.raises(CheckpointError, match="bn"):
        checkpoint._adapt_batch_norm("bn", {"gamma": values, "moving_variance": values}, 0.0)


@pytest.mark.parametrize("layout", ["published.h5", "archive.keras", "ours.safetensors", "torch.safetensors"])
def test_small_variances_are_written_and_read_with_the_same_outputs(tmp_path, arrays, layout):
    support.write_small_variances(tmp_path / "start", arrays, CONFIG)
    read = checkpoint.read(tmp_path / "start").arrays
    start = {layer: {name: read[layer][name] for name in shapes} for layer, shapes in array_shapes(CONFIG).items()}
    if layout == "torch.safetensors":
        path = tmp_path / layout
        path.write_bytes(safetensors.serialize(start, CONFIG, for_torch=True))
        assert min(values.min() for name, values in load_file(path).items() if name.endswith("running_var")) >= 0
    else:
        path = write(tmp_path, layout, start)
    images = np.random.default_rng(0).normal(0, 1, (2, 32, 32, 3)).astype(np.float32)
    config = replace(CONFIG, input_size=32)
    expected = onnx_outputs(start, config, images)
    np.testing.assert_array_equal(onnx_outputs(checkpoint.read(path).arrays, config, images), expected)


def test_metadata_round_trips(tmp_path, arrays):
    metadata = ModelMetadata(
        tuple(ClassLabel(index * 100, f"n0000000{index}", f"naïve {index}") for index in range(5)),
        preprocess="squash",
        input_size=72,
        training={"epochs": 3, "rate": 0.1},
        accuracy={"top1": 0.5},
        activation="softmax",
        mean=(0.5, 0.25, 0.1),
        std=(0.1, 0.2, -0.3),
        interpolation="bicubic",
        crop_ratio=0.95,
    )
    path = tmp_path / "m.safetensors"
    safetensors.write(path, arrays, CONFIG, metadata)
    first = path.read_bytes()
    loaded = checkpoint.read(path)
    assert loaded.metadata == metadata
    support.assert_same(loaded.arrays, arrays, CONFIG)
    safetensors.write(path, loaded.arrays, loaded.config, loaded.metadata)
    assert path.read_bytes() == first
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.safetensors"]


def test_files_of_older_versions_imply_their_preprocessing(tmp_path, arrays):
    """They had no other mean, interpolation, or activation."""
    safetensors.write(tmp_path / "m.safetensors", arrays, CONFIG, ModelMetadata(preprocess="keras"))
    metadata = checkpoint.read(tmp_path / "m.safetensors").metadata
    assert (metadata.mean, metadata.std, metadata.interpolation) == (MEAN, STD, "nearest")
    assert (metadata.activation, metadata.input_size) == ("softmax", CONFIG.input_size)


@pytest.mark.parametrize(
    "values", [{"mean": (0.5,)}, {"mean": ("a", "b", "c")}, {"std": (0.0, 1.0, 1.0)}, {"crop_ratio": 2.0}]
)
def test_invalid_preprocessing_in_the_metadata(tmp_path, arrays, values):
    safetensors.write(tmp_path / "m.safetensors", arrays, CONFIG, ModelMetadata(**values))
    with pytest.raises(CheckpointError):
        checkpoint.read(tmp_path / "m.safetensors")


def test_written_names_are_those_of_torchvision(tmp_path):
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
    safetensors.write(path, unscaled_arrays(CONFIG), CONFIG)
    shapes = {name: values.shape for name, values in load_file(path).items()}
    assert shapes["features.conv0.weight"] == (6, 3, 7, 7)
    assert shapes["features.denseblock1.denselayer2.conv2.weight"] == (4, 16, 3, 3)
    assert shapes["classifier.weight"] == (5, 19)
    assert {"features.norm5.running_mean", "features.norm5.running_var", "features.norm5.bias"} <= set(shapes)


def test_float16_applies_only_to_kernels(tmp_path, arrays):
    path = tmp_path / "m.safetensors"
    safetensors.write(path, arrays, CONFIG, dtype="float16")
    loaded = checkpoint.read(path).arrays
    kernel = arrays["conv1_conv"]["kernel"]
    np.testing.assert_array_equal(loaded["conv1_conv"]["kernel"], kernel.astype(np.float16).astype(np.float32))
    np.testing.assert_array_equal(loaded["bn"]["moving_variance"], arrays["bn"]["moving_variance"])


def test_write_rejects_invalid_arrays(tmp_path, arrays):
    path = tmp_path / "m.safetensors"
    with pytest.raises(ValueError, match="do not match the configuration"):
        safetensors.write(path, support.without(arrays, "bn"), CONFIG)
    broken = {**arrays, "bn": {**arrays["bn"], "beta": np.full_like(arrays["bn"]["beta"], np.nan)}}
    with pytest.raises(ValueError, match="beta of layer bn"):
        safetensors.write(path, broken, CONFIG)
    with pytest.raises(OutputError, match="Cannot write"):
        safetensors.write(tmp_path / "none" / "m.safetensors", arrays, CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("layout", ["published.h5", "numbered.weights.h5", "archive.keras"])
@pytest.mark.parametrize("config", [CONFIG, None])
def test_missing_layer(tmp_path, arrays, layout, config):
    path = write(tmp_path, layout, support.without(arrays, "conv3_block2_1_bn"))
    assert "Layer conv3_block2_1_bn is missing" in error_message(path, config)


@pytest.mark.parametrize("layout", ["published.h5", "numbered.weights.h5"])
def test_missing_head(tmp_path, arrays, layout):
    contents = checkpoint.read(write(tmp_path, layout, support.without(arrays, "predictions")))
    assert contents.config == replace(CONFIG, classes=0, input_size=224)
    assert contents.arrays.keys() == arrays.keys() - {"predictions"}


def test_wrong_shape(tmp_path, arrays):
    wrong = {**arrays, "conv2_block2_2_conv": {"kernel": np.zeros((3, 3, 16, 5), np.float32)}}
    for layout in ("published.h5", "unnamed.weights.h5"):
        message = error_message(write(tmp_path, layout, wrong))
        for text in ("conv2_block2_2_conv", "expected kernel shape (3, 3, 16, 4)", "found (3, 3, 16, 5)"):
            assert text in message


def test_unexpected_layer_and_unexpected_or_missing_array(tmp_path, arrays):
    path = write(tmp_path, "published.h5", {**arrays, "extra": {"kernel": np.zeros((2, 2), np.float32)}})
    assert "Unexpected layer extra" in error_message(path)
    biased = {**arrays, "conv1_conv": {**arrays["conv1_conv"], "bias": np.zeros(6, np.float32)}}
    assert "conv1_conv: unexpected bias" in error_message(write(tmp_path, "published.h5", biased))
    headless = {**arrays, "predictions": {"kernel": arrays["predictions"]["kernel"]}}
    assert "predictions: bias is missing" in error_message(write(tmp_path, "published.h5", headless))


def test_error_names_the_variant_in_the_file(tmp_path):
    config = variants.get("bc-100-12").config
    path = write(tmp_path, "published.h5", unscaled_arrays(config), config)
    message = error_message(path, variants.get("121").config)
    assert "conv1_conv" in message and "variant bc-100-12" in message


def test_unnamed_layers_in_another_order_are_rejected(tmp_path, arrays):
    path = tmp_path / "x.weights.h5"
    for kernel in (arrays["conv2_block1_2_conv"]["kernel"], np.float32(0)):
        changed = {**arrays, "conv2_block1_1_conv": {"kernel": kernel}}
        support.write_numbered_h5(path, changed, CONFIG, names=False)
        assert "order of a DenseNet" in error_message(path)


def test_numbered_groups_are_sorted_by_number(tmp_path):
    config = replace(CONFIG, blocks=(12,))
    arrays = unscaled_arrays(config)
    loaded = checkpoint.read(write(tmp_path, "unnamed.weights.h5", arrays, config))
    support.assert_same(loaded.arrays, arrays, config)


def test_safetensors_file_of_another_network_is_rejected(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"layer1.0.conv1.weight": np.zeros((2, 2), np.float32)}, path)
    assert "layer1.0.conv1.weight" in error_message(path)


def test_metadata_that_contradicts_the_layers_is_rejected(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG)
    metadata = {
        "config": replace(CONFIG, blocks=(2, 10**9)).to_dict(),
        "labels": None,
        "preprocess": None,
        "input_size": None,
        "bn_epsilon": BN_EPSILON,
        "training": {},
        "accuracy": {},
    }
    save_file(load_file(path), path, {"densenet": json.dumps(metadata)})
    assert "metadata describes another network" in error_message(path)


def test_metadata_with_a_wrong_number_of_labels_is_rejected(tmp_path, arrays):
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, CONFIG, ModelMetadata(labels.placeholders(4)))
    assert "4 labels for 5 classes" in error_message(path)
