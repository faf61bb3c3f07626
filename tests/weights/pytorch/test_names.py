"""Names in state dicts: prefixes, heads, and arrays that are ignored or rejected."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import ACTIVATIONS, DenseNetConfig, HeadLayer, Resize
from densenet_cli.weights import checkpoint, safetensors
from densenet_cli.weights.contents import ModelMetadata
from densenet_cli.weights.pytorch.names import torchvision_names
from tests.support import checkpoints as support
from tests.support.networks import unscaled_arrays

CONFIG = DenseNetConfig((1, 2), growth_rate=2, stem_width=4, classes=3)
ARRAYS = unscaled_arrays(CONFIG)
TENSORS = support.torch_tensors(ARRAYS, CONFIG)


def renamed(tensors: dict, rename) -> dict:
    return {rename(name): values for name, values in tensors.items()}


def read(tmp_path, tensors: dict, config: DenseNetConfig | None = None):
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, tmp_path / "x.safetensors")
    return checkpoint.read(tmp_path / "x.safetensors", config)


def error_message(tmp_path, tensors: dict) -> str:
    with pytest.raises(CheckpointError) as caught:
        read(tmp_path, tensors)
    message = str(caught.value)
    assert "\n" not in message and message.endswith(".")
    return message


def assert_close(actual, expected=ARRAYS):
    assert support.shapes_of(actual) == support.shapes_of(expected)
    for layer, arrays in expected.items():
        for name, values in arrays.items():
            np.testing.assert_allclose(actual[layer][name], values, rtol=1e-5, atol=1e-8)


PREFIXES = [
    "module.",
    "model.",
    "densenet121.",
    "_orig_mod.",
    "backbone.",
    "timm_model.",
    "module.densenet121.",
    "a.b.c.",
]


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_are_removed(tmp_path, prefix):
    assert_close(read(tmp_path, renamed(TENSORS, lambda name: prefix + name)).arrays)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize(
    "head", ["fc", "head", "classifier.0", "classifier.1", "class_layers.out", "head.fc", "last_linear"]
)
def test_names_of_heads(tmp_path, prefix, head):
    tensors = renamed(TENSORS, lambda name: prefix + name.replace("classifier", head))
    assert_close(read(tmp_path, tensors).arrays)


@pytest.mark.parametrize(
    ("features", "head"),
    [
        ("backbone.features.", "fc."),
        ("features.", "head."),
        ("encoder.", "head."),
        ("net.encoder.", "net.fc."),
        ("", "fc."),
    ],
)
def test_wrappers_of_the_features(tmp_path, features, head):
    tensors = renamed(TENSORS, lambda name: name.replace("features.", features).replace("classifier.", head))
    assert_close(read(tmp_path, tensors).arrays)


def test_old_names_and_names_of_monai(tmp_path):
    for part in ("norm1", "norm2", "conv1", "conv2"):
        old = renamed(TENSORS, lambda name, part=part: name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}."))
        assert_close(read(tmp_path, old).arrays)
        monai = renamed(TENSORS, lambda name, part=part: name.replace(f".{part}.", f".layers.{part}."))
        assert_close(read(tmp_path, monai).arrays)
    both = {**TENSORS, "features.denseblock1.denselayer1.norm.1.weight": np.zeros(4, np.float32)}
    assert "occurs twice" in error_message(tmp_path, both)


def test_head_without_bias(tmp_path):
    tensors = {name: values for name, values in TENSORS.items() if name != "classifier.bias"}
    arrays = read(tmp_path, tensors).arrays["predictions"]
    np.testing.assert_array_equal(arrays["bias"], np.zeros(3, np.float32))


def test_headless_files(tmp_path):
    tensors = {name: values for name, values in TENSORS.items() if "classifier" not in name}
    loaded = read(tmp_path, tensors)
    assert loaded.config.classes == 0 and "predictions" not in loaded.arrays


def test_deep_stem(tmp_path):
    config = replace(CONFIG, stem="deep")
    arrays = unscaled_arrays(config)
    tensors = support.torch_tensors(arrays, config)
    assert {"features.conv0.weight", "features.conv1.weight", "features.norm2.running_var"} <= tensors.keys()
    assert_close(read(tmp_path, tensors, config).arrays, arrays)


VECTOR, MATRIX, KERNEL = np.ones(3, np.float32), np.ones((3, 5), np.float32), np.ones((3, 3, 1, 1), np.float32)


@pytest.mark.parametrize(
    "others",
    [
        {"criterion.weight": VECTOR},
        {"distillation_loss.temperature": VECTOR[:1]},
        {"metrics.mean": VECTOR, "metrics.confmat": MATRIX.astype(np.int64)},
        {"loss.vgg.conv.weight": KERNEL, "loss.vgg.fc.weight": MATRIX, "loss.vgg.fc.bias": VECTOR},
    ],
)
def test_arrays_outside_the_model_are_ignored_and_noted(tmp_path, others):
    loaded = read(tmp_path, {**renamed(TENSORS, lambda name: f"model.{name}"), **others})
    assert_close(loaded.arrays)
    for name in others:
        assert name in loaded.metadata.notes[0]


@pytest.mark.parametrize(
    "others",
    [
        {"classifier.3.weight": MATRIX, "classifier.3.bias": VECTOR},
        {"attention.weight": KERNEL},
        {"bn.weight": VECTOR, "bn.bias": VECTOR, "bn.running_mean": VECTOR, "bn.running_var": VECTOR},
        {"norm.weight": VECTOR, "norm.bias": VECTOR},
        {"mean": np.ones((1, 3, 1, 1), np.float32)},
        {"features.attention.scale": VECTOR},
        {"features.conv9.weight": KERNEL},
        {"features.conv0.bias": VECTOR},
        {"features.denseblock1.denselayer1.norm3.weight": VECTOR},
    ],
    ids=lambda others: next(iter(others)),
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_arrays_of_the_model_that_are_not_understood_are_rejected(tmp_path, prefix, others):
    tensors = renamed({**TENSORS, **others}, lambda name: prefix + name)
    layer = next(iter(others)).rpartition(".")[0].replace("features.conv0", "conv1_conv") or "mean"
    assert layer in error_message(tmp_path, tensors)


def test_layers_between_a_backbone_and_its_head_are_rejected(tmp_path):
    tensors = renamed(TENSORS, lambda name: name.replace("features.", "backbone.features."))
    tensors["attention.weight"] = KERNEL
    assert "attention.weight" in error_message(tmp_path, tensors)


@pytest.mark.parametrize(
    ("name", "prefix"),
    [("temperature", "model."), ("temperature", ""), ("scaler.temperature", "model."), ("model.logit_scale", "model.")],
)
def test_a_temperature_is_rejected(tmp_path, name, prefix):
    tensors = {**renamed(TENSORS, lambda name: prefix + name), name: np.array([1.5], np.float32)}
    assert repr(name) in error_message(tmp_path, tensors)


IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


@pytest.mark.parametrize("prefix", ["", "1.", "model."])
@pytest.mark.parametrize(
    ("module", "shape", "scale", "dtype"),
    [
        ("0.", (3,), 1, np.float32),
        ("", (1, 3, 1, 1), 1, np.float64),
        ("normalize.pixel_", (3, 1, 1), 255, np.float32),
    ],
)
def test_a_normalization_in_the_model_is_read(tmp_path, prefix, module, shape, scale, dtype):
    tensors = renamed(TENSORS, lambda name: prefix + name)
    for name, values in IMAGENET.items():
        tensors[module + name] = np.array(values, dtype).reshape(shape) * dtype(scale)
    loaded = read(tmp_path, tensors)
    assert_close(loaded.arrays)
    assert loaded.metadata.mean == pytest.approx(IMAGENET["mean"], abs=1e-7)
    assert loaded.metadata.std == pytest.approx(IMAGENET["std"], abs=1e-7)
    if scale == 1:
        assert (loaded.metadata.mean, loaded.metadata.std) == (IMAGENET["mean"], IMAGENET["std"])
    assert "0.485" in loaded.metadata.notes[0] or scale == 255


def test_a_normalization_without_effect_is_ignored(tmp_path):
    tensors = {**TENSORS, "0.mean": np.zeros(3, np.float32), "0.std": np.ones(3, np.float32)}
    metadata = read(tmp_path, tensors).metadata
    assert (metadata.mean, metadata.std) == (None, None)
    assert "0.mean" in metadata.notes[0]


@pytest.mark.parametrize(
    "others",
    [
        {"0.mean": [0.5] * 3},
        {"0.std": [0.5] * 3},
        {"0.mean": [0.5] * 3, "1.std": [0.5] * 3},
        {"0.mean": [0.5] * 3, "0.pixel_mean": [0.4] * 3, "0.std": [0.5] * 3},
        {"0.mean": [0.5] * 3, "0.std": [0.5, 0, 0.5]},
        {"0.mean": [0.5] * 3, "0.std": [0.5, float("nan"), 0.5]},
        {"0.mean": [-0.5] * 3, "0.std": [0.5] * 3},
        {"0.mean": [0.5] * 3, "0.std": [58.0] * 3},
        {"0.mean": [103.53, 116.28, 123.675], "0.std": [57.375, 57.12, 58.395]},
    ],
    ids=str,
)
def test_ambiguous_normalizations_are_rejected(tmp_path, others):
    tensors = {**TENSORS, **{name: np.array(values, np.float32) for name, values in others.items()}}
    assert next(iter(others)) in error_message(tmp_path, tensors)


def test_a_normalization_that_contradicts_config_json(tmp_path):
    config = {"architecture": "densenet121", "model_args": {"block_config": [1, 2]}, "num_classes": 3}
    (tmp_path / "config.json").write_text(json.dumps(config))
    pair = {f"0.{name}": np.array(values, np.float32) for name, values in IMAGENET.items()}
    assert read(tmp_path, {**TENSORS, **pair}).metadata.mean == IMAGENET["mean"]
    pair["0.mean"] += 0.1
    assert "config.json" in error_message(tmp_path, {**TENSORS, **pair})


@pytest.mark.parametrize(
    "others",
    [
        {"classifier.0": MATRIX, "classifier.3": MATRIX},
        {"fc1": MATRIX, "fc2": MATRIX},
        {"classifier.0": MATRIX, "classifier.1": None, "classifier.3": MATRIX},
    ],
    ids=lambda others: ",".join(others),
)
@pytest.mark.parametrize("prefix", ["", "model."])
def test_the_backbone_of_a_file_with_several_dense_layers_can_be_used(tmp_path, prefix, others):
    tensors = {name: values for name, values in TENSORS.items() if not name.startswith("classifier")}
    for name, kernel in others.items():
        if kernel is None:
            tensors |= {f"{name}.{array}": VECTOR for array in ("weight", "bias", "running_mean", "running_var")}
        else:
            tensors |= {f"{name}.weight": kernel, f"{name}.bias": VECTOR}
    tensors = renamed(tensors, lambda name: prefix + name)
    message = error_message(tmp_path, tensors)
    assert all(repr(prefix + name) in message for name, kernel in others.items() if kernel is not None)
    backbone = checkpoint.read_backbone(tmp_path / "x.safetensors")
    assert backbone.config == replace(CONFIG, classes=0)
    assert_close(backbone.arrays, support.without(ARRAYS, "predictions"))


FEATURES, CLASSES = TENSORS["classifier.weight"].shape[1], TENSORS["classifier.weight"].shape[0]


@pytest.mark.parametrize("inner", ["classifier", "classifier.1"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("fc", (2, CLASSES)),
        ("head.0", (2, FEATURES)),
        ("head.0", (2, FEATURES * 49)),
        ("head", (2, FEATURES + 5)),
        ("attention", (1, FEATURES, 1, 1)),
        ("semantic", (2, CLASSES)),
    ],
)
def test_a_second_head_outside_the_network_is_rejected(tmp_path, name, shape, inner):
    """The file does not state whether the layer follows the head of the network, replaces it, or is not used."""
    tensors = renamed(TENSORS, lambda key: f"model.backbone.{key.replace('classifier', inner)}")
    tensors |= {f"model.{name}.weight": np.ones(shape, np.float32), f"model.{name}.bias": np.ones(shape[0], np.float32)}
    message = error_message(tmp_path, tensors)
    assert repr(f"model.{name}") in message and repr(f"model.backbone.{inner}") in message
    backbone = checkpoint.read(tmp_path / "x.safetensors", allow_unsupported_head=True)
    assert backbone.config == replace(CONFIG, classes=0)
    assert_close(backbone.arrays, support.without(ARRAYS, "predictions"))


def test_the_backbone_of_a_file_with_two_larger_heads_can_be_used(tmp_path):
    tensors = renamed(TENSORS, lambda key: f"backbone.{key.replace('classifier', 'classifier.0')}")
    for head, inputs in (("backbone.classifier", 3), ("head", 2)):
        tensors |= {f"{head}.1.{array}": VECTOR for array in ("weight", "bias", "running_mean", "running_var")}
        tensors |= {f"{head}.3.weight": np.ones((2, inputs), np.float32), f"{head}.3.bias": VECTOR[:2]}
    assert "'head.3'" in error_message(tmp_path, tensors)
    backbone = checkpoint.read(tmp_path / "x.safetensors", allow_unsupported_head=True)
    assert_close(backbone.arrays, support.without(ARRAYS, "predictions"))


@pytest.mark.parametrize(
    "others",
    [
        {"aux_classifier.weight": (2, FEATURES)},
        {"model.AuxLogits.fc.weight": (CLASSES, FEATURES)},
        {"ema.fc.weight": (CLASSES, FEATURES)},
        {"model_ema.classifierweight": (CLASSES, FEATURES)},
        {"center_loss.weight": (CLASSES, FEATURES)},
        {"criterion.weight": (CLASSES, CLASSES)},
        {"teacher.fc.weight": (CLASSES, 2 * FEATURES)},
        {"perceptual.conv1.weight": (4, 3, 3, 3), "perceptual.fc.weight": (10, 8 * FEATURES)},
        {"embedding.weight": (7, CLASSES + 1)},
    ],
    ids=lambda others: next(iter(others)),
)
def test_other_layers_outside_the_network_are_ignored(tmp_path, others):
    """Averages, loss functions, auxiliary heads, and other networks that training checkpoints contain."""
    tensors = renamed(TENSORS, lambda name: f"model.net.{name}")
    loaded = read(tmp_path, {**tensors, **{name: np.ones(shape, np.float32) for name, shape in others.items()}})
    assert_close(loaded.arrays)
    assert all(name in loaded.metadata.notes[0] for name in others)


@pytest.mark.parametrize("prefix", ["", "model."])
@pytest.mark.parametrize("kernel", [np.ones((3, 3, 1, 1), np.float32), np.ones((2, 2), np.float32)])
def test_other_layers_of_a_sequence_are_rejected(tmp_path, prefix, kernel):
    """In ``nn.Sequential(nn.Conv2d(3, 3, 1), network)``, the first layer changes the input."""
    tensors = {f"{prefix}0.weight": kernel, **renamed(TENSORS, lambda name: f"{prefix}1.{name}")}
    assert f"{prefix}0.weight" in error_message(tmp_path, tensors)


def test_two_networks_in_one_file_are_rejected(tmp_path):
    tensors = {**renamed(TENSORS, lambda name: f"student.{name}"), **renamed(TENSORS, lambda name: f"teacher.{name}")}
    message = error_message(tmp_path, tensors)
    assert "'student.features.'" in message and "'teacher.features.'" in message


def test_control_characters_in_names_are_escaped(tmp_path):
    message = error_message(tmp_path, {**TENSORS, "features.\x1b[31mred\n.weight": VECTOR})
    assert "\x1b" not in message
    notes = read(tmp_path, {**TENSORS, "\x1b[31mred\n": VECTOR}).metadata.notes
    assert "\x1b" not in notes[0] and "\n" not in notes[0]


HEADS = [
    (HeadLayer("dense", 3),),
    (HeadLayer("batch_norm"), HeadLayer("dense", 4), HeadLayer("relu"), HeadLayer("dense", 3)),
    (HeadLayer("dense", 4), HeadLayer("leaky_relu", alpha=0.3), HeadLayer("batch_norm"), HeadLayer("dense", 3)),
    (HeadLayer("dense", 3), HeadLayer("batch_norm")),
    (HeadLayer("dense", 2), *(HeadLayer(kind, alpha=1.0) for kind in ACTIVATIONS), HeadLayer("dense", 3)),
]


@pytest.mark.parametrize("head", HEADS, ids=lambda head: "-".join(layer.kind for layer in head)[:40])
@pytest.mark.parametrize(
    "change",
    [
        {"activation": "sigmoid"},
        {"pooling": "max", "channels": 1, "resize": Resize(64, "nearest")},
        {"pooling": "flatten", "input_size": 64},
        {"stem": "deep"},
        {"stem": "deep-blur"},
    ],
    ids=str,
)
def test_our_files_state_the_whole_configuration(tmp_path, head, change):
    config = replace(CONFIG, head=head, **change)
    arrays = unscaled_arrays(config)
    metadata = ModelMetadata(
        input_size=config.input_size,
        activation=config.activation,
        mean=(0.5,) * config.channels,
        std=(0.25,) * config.channels,
        interpolation="bicubic",
        crop_ratio=0.9,
        test_input_size=288,
        test_crop_ratio=0.95,
    )
    path = tmp_path / "x.safetensors"
    safetensors.write(path, arrays, config, metadata)
    loaded = checkpoint.read(path)
    support.assert_same(loaded.arrays, arrays, config)
    expected = replace(config, head=()) if len(head) == 1 else config
    assert replace(loaded.config, head=() if len(head) == 1 else loaded.config.head) == expected
    assert loaded.metadata == metadata


def test_headless_network_round_trips(tmp_path):
    config = CONFIG.with_classes(0)
    arrays = unscaled_arrays(config)
    safetensors.write(tmp_path / "x.safetensors", arrays, config)
    loaded = checkpoint.read(tmp_path / "x.safetensors")
    assert loaded.config == config
    support.assert_same(loaded.arrays, arrays, config)


def test_names_of_a_head_with_several_layers(tmp_path):
    config = replace(CONFIG, head=HEADS[1])
    names = torchvision_names(config)
    assert [names[name] for name in ("head_1", "head_2", "predictions")] == ["head.1", "head.2", "classifier"]
    safetensors.write(tmp_path / "x.safetensors", unscaled_arrays(config), config)
    assert "head.1.running_mean" in load_file(tmp_path / "x.safetensors")
