"""Layers of all variants, compared with published figures and with Keras."""

from __future__ import annotations

import pytest

from densenet_cli import variants
from densenet_cli.errors import UsageError
from densenet_cli.layers import array_shapes, list_layers
from densenet_cli.topology import DenseNetConfig

# Parameters including moving statistics, trainable parameters, multiply-adds at the input size. The figures of 121,
# 169, 201, and 161 are torchvision's. The parameters of blur121d and 264d are timm's. The trainable parameters of the
# BC networks follow from the paper.
TABLE = {
    "121": (8_062_504, 7_978_856, 2.834e9),
    "169": (14_307_880, 14_149_480, 3.360e9),
    "201": (20_242_984, 20_013_928, 4.291e9),
    "161": (28_900_936, 28_681_000, 7.728e9),
    "264": (33_736_232, 33_337_704, 5.752e9),
    "blur121d": (8_081_864, 7_998_088, None),
    "264d": (73_334_200, 72_736_216, None),
    "bc-100-12": (None, 769_162, None),
    "bc-250-24": (None, 15_324_406, None),
    "bc-190-40": (None, 25_624_430, None),
    "tiny": (2_297_288, 2_281_208, None),
}


@pytest.mark.parametrize("name", TABLE)
def test_parameters_and_multiply_adds(name):
    parameters, trainable, multiply_adds = TABLE[name]
    layers = list_layers(variants.get(name).config)
    assert sum(layer.trainable_parameters for layer in layers) == trainable
    if parameters:
        assert sum(layer.parameters for layer in layers) == parameters
    if multiply_adds:
        assert round(sum(layer.multiply_adds for layer in layers) / 1e9, 3) == multiply_adds / 1e9


def test_every_variant_is_in_the_table():
    assert set(TABLE) == set(variants.VARIANTS)


def keras_shape(tensor):
    return tuple(tensor.shape)[1:]


@pytest.mark.parametrize(
    ("config", "size"),
    [(variants.get(name).config, None) for name in ("121", "169", "201", "161", "bc-100-12")]
    + [(DenseNetConfig((2, 3), 6, "small", 10, 0.7, 7, 50), None), (variants.get("121").config, 225)],
    ids=lambda value: str(value)[:60],
)
def test_every_layer_equals_that_of_keras(keras, config, size):
    from densenet_cli.engines import keras_ops

    network = keras_ops.build_model(config)
    side = size or config.input_size
    shapes = {}
    # The model accepts any size. Its layers get shapes when they are applied to a symbolic image of one size.
    symbolic = keras.Input((side, side, 3))
    clone = keras.models.clone_model(network, input_tensors=symbolic)
    for layer in clone.layers:
        shapes[layer.name] = layer
    for expected in list_layers(config, size):
        layer = shapes[expected.name]
        assert type(layer).__name__ == expected.class_name, expected.name
        assert keras_shape(layer.output) == expected.output_shape, expected.name
        assert layer.count_params() == expected.parameters, expected.name
        assert sum(weight.shape.num_elements() for weight in layer.trainable_weights) == expected.trainable_parameters
        assert {weight.name: tuple(weight.shape) for weight in layer.weights} == expected.arrays
    names = {layer.name for layer in clone.layers if type(layer).__name__ != "InputLayer"}
    assert names == {layer.name for layer in list_layers(config, size)}


@pytest.mark.parametrize("name", ["121", "169", "201"])
def test_same_layers_as_keras_applications(keras, name):
    keras_model = getattr(keras.applications, f"DenseNet{name}")(weights=None)
    shapes = {
        layer.name: {weight.name: tuple(weight.shape) for weight in layer.weights}
        for layer in keras_model.layers
        if layer.weights
    }
    assert shapes == array_shapes(variants.get(name).config)
    assert keras_model.count_params() == TABLE[name][0]


@pytest.mark.parametrize(
    "settings",
    [
        {"blocks": ()},
        {"blocks": (0,)},
        {"stem": "none"},
        {"compression": 0},
        {"compression": 1.5},
        {"classes": -1},
        {"pooling": "min"},
        {"channels": 2},
    ],
)
def test_invalid_configuration(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DenseNetConfig(**{"blocks": (1,), **settings})


def test_too_small_image():
    with pytest.raises(UsageError, match="too small"):
        list_layers(variants.get("121").config, 16)


def test_configuration_round_trips_through_json():
    import json

    config = variants.get("bc-100-12").config
    assert DenseNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
