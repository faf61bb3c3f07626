"""Reading the configuration of a Keras model: what is refused, and configurations that are damaged."""

from __future__ import annotations

import copy
import json
import random
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from densenet_cli.errors import CheckpointError
from densenet_cli.topology import Resize
from densenet_cli.weights.keras import config as keras_config
from densenet_cli.weights.keras import serialization as keras_serialization
from densenet_cli.weights.keras.graph import LayerCall
from tests.support import keras_models

SIZE = keras_models.SIZE


def read(model, loss=None):
    """Read the configuration of a Keras model, or its JSON. An unsupported head is an error, as in ``predict``."""
    config = model if isinstance(model, dict) else json.loads(model.to_json())
    result = keras_config.read(config, loss, lambda layer, name: [0.1])
    if result.metadata.head_error:
        raise CheckpointError(result.metadata.head_error)
    return result


@pytest.fixture(scope="module")
def base(keras):
    return keras_models.backbone(keras)


@pytest.fixture(scope="module")
def make(keras, base):
    """Return a function that builds a model with layers before and after the backbone."""

    def make(before=(), after=None, shape=(SIZE, SIZE, 3), **call):
        layers = keras.layers
        inputs = x = keras.Input(shape)
        for layer in before:
            x = layer(x)
        x = base(x, **call)
        for layer in (layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")) if after is None else after:
            x = layer(x)
        return keras.Model(inputs, x)

    return make


def test_custom_and_unsafe_classes_are_refused(keras, make):
    class Scale(keras.layers.Layer):
        def call(self, x):
            return x * 2

    @keras.saving.register_keras_serializable("mine")
    class Dense(keras.layers.Dense):
        pass

    class Subclass(keras.Model):
        def call(self, x):
            return x

    pool = keras.layers.GlobalAveragePooling2D()
    for model, text in [
        (make([keras.layers.Lambda(lambda x: x / 255)]), "Lambda layer"),
        (make([Scale()]), "custom class Scale"),
        (make((), [pool, Dense(3, "softmax")]), "custom class mine>Dense"),
        (Subclass(), "class Subclass"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            read(model)


def test_graphs_that_are_no_sequence_are_refused(keras, base):
    layers = keras.layers
    inputs, other = keras.Input((SIZE, SIZE, 3)), keras.Input((4,))
    features = base(inputs)
    average, maximum = layers.GlobalAveragePooling2D()(features), layers.GlobalMaxPooling2D()(features)
    dense = layers.Dense(3)(average)
    for end, text in [
        (keras.Model([inputs, other], layers.Concatenate()([average, other])), "2 inputs"),
        (keras.Model(inputs, [dense, layers.Dense(2)(maximum)]), "2 outputs"),
        (keras.Model(inputs, layers.Dense(2)(layers.Concatenate()([average, maximum]))), "branches"),
        (keras.Model(inputs, layers.Add()([dense, dense])), "branches"),
        (keras.Model(inputs, layers.Dense(3)(layers.Multiply()([average, layers.Dense(76)(average)]))), "branches"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            read(end)


def test_layers_that_are_not_supported_are_refused(keras, make):
    layers = keras.layers
    pool = layers.GlobalAveragePooling2D()

    def dense(x):
        return layers.Dense(3, "softmax")(x)

    for model, text in [
        (make((), [layers.Conv2D(8, 1), pool, dense]), r"Conv2D\) between"),
        (make((), [layers.AveragePooling2D(2, strides=1, padding="same"), pool, dense]), "AveragePooling2D"),
        (make((), [layers.AveragePooling2D(1), layers.Flatten(), dense]), r"AveragePooling2D\) between"),
        (make((), [layers.AveragePooling2D(2), layers.Dense(3)]), "after a pooling"),
        (make((), [pool, layers.Dense(4, "exponential"), dense]), "activation exponential"),
        (make((), [pool, layers.Dense(4, "softmax"), dense]), "activation softmax inside"),
        (make((), [pool, layers.Dense(3, "tanh")]), "ends with the activation tanh"),
        (make((), [pool, layers.Dense(4), layers.PReLU(), dense]), "PReLU"),
        (make((), [pool, layers.UnitNormalization(), dense]), "UnitNormalization"),
        (make((), [pool, layers.Activation("softmax")]), "without a dense layer"),
        (make((), [pool, dense], training=True), "training=True"),
        (make((), [pool, layers.Dense(4), lambda x: layers.BatchNormalization()(x, training=True), dense]), "training"),
        (make((), [pool, lambda x: layers.Dropout(0.5)(x, training=True), dense]), "training=True"),
        (make([layers.Conv2D(3, 1)]), "ZeroPadding2D"),
        (make([layers.GaussianNoise(0.1), layers.LayerNormalization()]), "LayerNormalization"),
        (make([lambda x: x[..., ::-1]]), "GetItem"),
        (make([lambda x: x * 0.0]), "by 0"),
        (make([layers.Resizing(SIZE, SIZE, "bicubic")], shape=(96, 96, 3)), "bicubic"),
        (make([layers.Resizing(SIZE, SIZE, antialias=True)], shape=(96, 96, 3)), "antialiasing"),
        (make([layers.Resizing(SIZE, SIZE)], shape=(96, 80, 3)), "80x96"),
        (make([layers.CenterCrop(SIZE, SIZE)], shape=(SIZE + 3, SIZE + 3, 3)), "crops"),
        (make([layers.CenterCrop(SIZE, SIZE)], shape=(None, None, 3)), "crops images of any size"),
        (make([layers.Normalization(axis=1)]), "other axes"),
    ]:
        with pytest.raises(CheckpointError, match=text):
            read(model)


def test_poolings_that_are_global_in_effect(keras, make):
    layers = keras.layers
    dense = layers.Dense(3)
    for after, pooling in [
        ([layers.GlobalAveragePooling2D(), layers.Flatten(), dense], "avg"),
        ([layers.GlobalMaxPooling2D(keepdims=True), layers.Flatten(), dense], "max"),
        ([layers.AveragePooling2D(2), layers.Flatten(), dense], "avg"),
        ([layers.MaxPooling2D((2, 2)), layers.Flatten(), dense], "max"),
        ([layers.Flatten(), layers.Dense(3)], "flatten"),
    ]:
        model = read(make((), after))
        assert (model.pooling, [layer.kind for layer in model.head]) == (pooling, ["dense"])


def test_resizing_and_cropping(keras, make):
    layers = keras.layers
    fixed = read(make([layers.Resizing(SIZE, SIZE, "nearest")], shape=(96, 96, 3)))
    assert (fixed.metadata.input_size, fixed.resize) == (96, Resize(SIZE, "nearest"))
    cropped = read(make([layers.CenterCrop(SIZE, SIZE)], shape=(80, 80, 3)))
    assert (cropped.metadata.input_size, cropped.metadata.crop_ratio, cropped.resize) == (SIZE, 0.8, None)
    same = read(make([layers.Resizing(SIZE, SIZE), layers.CenterCrop(SIZE, SIZE)]))
    assert (same.metadata.input_size, same.metadata.crop_ratio, same.resize) == (SIZE, None, None)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"interpolation": "nearest"},
        {"interpolation": "bicubic"},
        {"antialias": True},
        {"crop_to_aspect_ratio": True},
        {"pad_to_aspect_ratio": True},
    ],
    ids=str,
)
def test_resizing_images_of_any_size_is_refused(keras, make, options):
    """Preprocessing rounds to 8 bits, and even nearest neighbors of TensorFlow are sometimes other pixels."""
    resizing = keras.layers.Resizing(SIZE, SIZE, **options)
    model = make([resizing], shape=(None, None, 3))
    with pytest.raises(CheckpointError, match=rf"resizing.* any size.*keras\.Input\(\({SIZE}, {SIZE}, 3\)\)"):
        read(model)
    inputs = keras.Input((SIZE, SIZE, 3))
    fixed = read(keras.Model(inputs, model(inputs)))  # what the message recommends
    assert (fixed.metadata.input_size, fixed.resize, fixed.metadata.preprocess) == (SIZE, None, None)


@pytest.mark.parametrize("options", [{"crop_to_aspect_ratio": True}, {"pad_to_aspect_ratio": True}], ids=str)
def test_aspect_ratio_does_not_matter_for_a_square_input(keras, make, options):
    resizing = keras.layers.Resizing(SIZE, SIZE, **options)
    assert read(make([resizing], shape=(96, 96, 3))).resize == Resize(SIZE, "bilinear")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 96, 96, 3)).astype(np.float32)
    np.testing.assert_array_equal(resizing(pixels), keras.layers.Resizing(SIZE, SIZE)(pixels))


@pytest.mark.parametrize("rescaling", [(1e-320, 0.5), (1e-10, 0.0), (1.0, 1e300)])
def test_extreme_pixel_operations_are_refused(keras, make, rescaling):
    with pytest.raises(CheckpointError, match="extreme"):
        read(make([keras.layers.Rescaling(*rescaling)]))


def test_size_of_the_input_is_limited(keras, make):
    config = json.loads(make().to_json())
    config["config"]["layers"][0]["config"]["batch_shape"] = [None, 1 << 16, 1 << 16, 3]
    with pytest.raises(CheckpointError, match="65536"):
        read(config)


def test_pixel_operations_in_any_order(keras, make):
    layers = keras.layers

    def statistics(*before):
        metadata = read(make(before)).metadata
        return (*metadata.mean, *metadata.std)

    caffe = statistics(lambda x: x - 127.5)
    assert caffe == pytest.approx((0.5,) * 3 + (1 / 255,) * 3)
    inverted = statistics(layers.Normalization(mean=[0.5], variance=[0.25], invert=True), layers.Rescaling(1 / 255))
    assert inverted == pytest.approx((-1 / 255,) * 3 + (2,) * 3)
    negative = statistics(lambda x: -x / 255)
    assert negative == pytest.approx((0, 0, 0, -1, -1, -1))
    adapted = statistics(layers.Rescaling(1 / 255), layers.Normalization())  # 0.1 in the file
    assert adapted == pytest.approx((0.1,) * 3 + (0.1**0.5,) * 3)


def test_one_channel_that_becomes_three_is_refused(keras, make):
    """Keras repeats the channel, and the network has three. Its input would be read as a color image."""
    layers = keras.layers
    with pytest.raises(CheckpointError, match="1 channels"):
        read(make([layers.Rescaling([0.1, 0.2, 0.3])], shape=(SIZE, SIZE, 1)))


def test_pixel_operations_for_values_from_0_to_1(keras, make):
    """A network whose operations enlarge the range cannot take values up to 255."""
    metadata = read(make([keras.layers.Normalization(mean=[0.485] * 3, variance=[0.05] * 3)])).metadata
    assert metadata.mean == pytest.approx((0.485,) * 3)
    assert metadata.std == pytest.approx((0.05**0.5,) * 3)
    assert any("from 0 to 1" in note for note in metadata.notes)


def test_subtraction_of_at_most_1_is_for_values_from_0_to_1(keras, make):
    """Subtracting 0.5 from values up to 255 would have no effect. The file does not state the range, so a note does."""
    layers = keras.layers
    for operation, mean, std, has_note in [
        (lambda x: x - 0.5, 0.5, 1, True),
        (layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[1.0] * 3), 0.485, 1, True),
        (lambda x: 1.0 - x, 1, -1, True),
        (lambda x: 255.0 - x, 1, -1 / 255, False),
        (lambda x: x - 103.9, 103.9 / 255, 1 / 255, False),
        (lambda x: x + 0.5, -0.5 / 255, 1 / 255, False),
        (layers.Rescaling(1 / 255, offset=-0.5), 0.5, 1, False),
        (layers.Rescaling(1 / 127.5, offset=-1), 0.5, 0.5, False),
    ]:
        metadata = read(make([operation])).metadata
        assert (metadata.mean[0], metadata.std[0]) == pytest.approx((mean, std), rel=1e-6)
        assert any("from 0 to 1" in note for note in metadata.notes) == has_note


CHANGES = [
    ("Conv2D", "conv1_conv", "strides", [1, 1]),
    ("Conv2D", "conv1_conv", "padding", "same"),
    ("Conv2D", "conv2_block1_2_conv", "dilation_rate", [2, 2]),
    ("Conv2D", "conv2_block1_2_conv", "padding", "valid"),
    ("Conv2D", "conv2_block1_1_conv", "use_bias", True),
    ("Conv2D", "conv2_block1_1_conv", "activation", "relu"),
    ("Conv2D", "conv3_block2_1_conv", "name", "stage3_conv"),
    ("Conv2D", "conv3_block2_1_conv", "data_format", "channels_first"),
    ("BatchNormalization", "bn", "epsilon", float("nan")),
    ("BatchNormalization", "bn", "epsilon", 1e300),
    ("BatchNormalization", "pool2_bn", "scale", False),
    ("BatchNormalization", "pool2_bn", "axis", [1]),
    ("Activation", "relu", "activation", "relu6"),
    ("Activation", "conv3_block1_0_relu", "activation", "elu"),
    ("AveragePooling2D", "pool3_pool", "strides", [1, 1]),
    ("AveragePooling2D", "pool3_pool", "pool_size", [3, 3]),
    ("MaxPooling2D", "pool1", "padding", "same"),
    ("Concatenate", "conv2_block1_concat", "axis", 1),
]


@pytest.mark.parametrize(("class_name", "name", "field", "value"), CHANGES)
def test_backbone_that_differs_is_refused(base, class_name, name, field, value):
    config = json.loads(base.to_json())
    read(config)
    [layer] = [layer for layer in config["config"]["layers"] if layer["config"]["name"] == name]
    assert layer["class_name"] == class_name and layer["config"][field] != value
    layer["config"][field] = layer[field] = value
    with pytest.raises(CheckpointError, match="stem" if field == "strides" and name == "conv1_conv" else name):
        read(config)


def test_order_of_concatenation_is_checked(base):
    config = json.loads(base.to_json())
    [layer] = [layer for layer in config["config"]["layers"] if layer["name"] == "conv2_block1_concat"]
    layer["inbound_nodes"][0]["args"][0].reverse()
    with pytest.raises(CheckpointError, match="conv2_block1_concat"):
        read(config)


def test_epsilon_of_every_layer_is_read(base):
    config = json.loads(base.to_json())
    layers = {layer["name"]: layer["config"] for layer in config["config"]["layers"]}
    layers["conv3_block1_1_bn"]["epsilon"], layers["bn"]["epsilon"] = 1e-5, 1e-3
    assert read(config).bn_epsilons == {"conv3_block1_1_bn": 1e-5, "bn": 1e-3}


def test_keras_hub_is_refused_with_a_hint():
    for registered in ("keras_hub>DenseNetImageClassifier", "keras_hub>DenseNetBackbone"):
        config = {"class_name": registered[10:], "registered_name": registered, "module": "keras_hub", "config": {}}
        with pytest.raises(CheckpointError, match=r"KerasHub.*timm/densenet121"):
            read(config)


@pytest.fixture(scope="module")
def full_config(keras, make):
    """A configuration with all kinds of layers."""
    layers = keras.layers
    inner = keras.Sequential([layers.Rescaling(1 / 255), layers.Normalization(mean=[0.1] * 3, variance=[1.0] * 3)])
    before = [inner, keras.applications.densenet.preprocess_input, layers.RandomFlip(), layers.Resizing(SIZE, SIZE)]
    after = [
        *(layers.GlobalAveragePooling2D(), layers.Dense(4), layers.BatchNormalization(), layers.LeakyReLU(0.1)),
        *(layers.Dropout(0.1), layers.Dense(3), layers.Softmax()),
    ]
    return json.loads(make(before, after, shape=(96, 96, 3)).to_json())


def places(value, path=()):
    """Yield the path of every value in a configuration."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


JUNK = [None, True, 0, -1, 1 << 70, 1e300, "", "x", "\n", [], [[]], [1, 2, 3, 4], {}, {"class_name": "x", "config": {}}]


def test_damaged_configuration_gives_one_error(full_config):
    """Every value is replaced by others; whole subtrees are removed, duplicated, or moved."""
    read(full_config)
    rng = random.Random(0)
    text = json.dumps(full_config)
    paths = [path for path in places(full_config) if path]
    refused = 0
    for _ in range(1000):
        config = json.loads(text)
        for _ in range(rng.choice((1, 1, 2, 5))):
            *path, key = rng.choice(paths)
            try:
                parent = config
                for step in path:
                    parent = parent[step]
                other = config
                for step in rng.choice(paths):
                    other = other[step]
                replacement = copy.deepcopy(other) if rng.random() < 0.3 else rng.choice(JUNK)
                if rng.random() < 0.2 and isinstance(parent, dict):
                    del parent[key]
                else:
                    parent[key] = replacement
            except (LookupError, TypeError):
                continue
        try:
            read(config, rng.choice(JUNK))
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error) and len(str(error)) < 600
    assert refused > 200


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["Dense", "config"]),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["class_name", "config", "layers", "name", "inbound_nodes", "input_layers", "output_layers"]
            ),
            children,
            max_size=6,
        )
    ),
    max_leaves=20,
)


@given(JSON, JSON)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_json_gives_one_error(config, loss):
    with pytest.raises(CheckpointError):
        keras_config.read(config, loss, lambda layer, name: [0.1])


@pytest.mark.parametrize(
    "text", [b"{", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b"1" * 5000 + b"}", b" " * ((4 << 20) + 1), b"nul"]
)
def test_text_that_is_not_json_gives_one_error(text):
    with pytest.raises(CheckpointError):
        keras_serialization.parse_json(text)


def test_models_nested_in_each_other_are_limited(full_config):
    config = {"class_name": "Sequential", "config": {"name": "model", "layers": []}}
    for _ in range(20):
        config = {"class_name": "Sequential", "config": {"name": "model", "layers": [config]}}
    with pytest.raises(CheckpointError, match="nested"):
        read(config)


def test_models_called_many_times_are_limited():
    """Each level calls the next one ten times, so that inlining would need a billion layers."""
    model = {"class_name": "Sequential", "config": {"name": "m", "layers": [{"class_name": "Flatten", "config": {}}]}}
    for _ in range(8):
        layers = [{"class_name": "InputLayer", "config": {}, "name": "i", "inbound_nodes": []}]
        layers.append({**model, "name": "m", "inbound_nodes": [[["i", 0, 0, {}]]] * 10})
        ends = {"input_layers": [["i", 0, 0]], "output_layers": [["m", 9, 0]]}
        model = {"class_name": "Functional", "config": {"name": "m", "layers": layers, **ends}}
    with pytest.raises(CheckpointError):
        read(model)


def test_output_that_does_not_depend_on_the_input(base):
    """A layer that is its own input. The message contains no representation of a layer with all its inputs."""
    config = json.loads(base.to_json())
    layers = {layer["name"]: layer for layer in config["config"]["layers"]}
    [argument] = layers["conv1_conv"]["inbound_nodes"][0]["args"]
    argument["config"]["keras_history"][0] = "conv1_conv"
    with pytest.raises(CheckpointError, match="does not depend on its input"):
        read(config)


def test_layer_is_shown_without_its_inputs():
    """Each layer of a DenseNet is reached in many ways, so a representation with inputs would have exponential size."""
    x = LayerCall("InputLayer", "input", {})
    for number in range(60):
        x = LayerCall("Concatenate", f"concat{number}", {}, [x, x])
    assert repr(x) == "concat59 (Concatenate)"


def functional(layers, inputs=(("i", 0, 0),), outputs=(("x", 0, 0),)):
    layers = [{"class_name": "InputLayer", "config": {}, "name": "i", "inbound_nodes": []}, *layers]
    return {
        "class_name": "Functional",
        "config": {"name": "m", "layers": layers, "input_layers": inputs, "output_layers": outputs},
    }


def nested(depth, value):
    return nested(depth - 1, [value]) if depth else value


KERAS_TENSOR = {"class_name": "__keras_tensor__", "config": {"keras_history": ["i", 0, 0]}}
ONE_LAYER = {"class_name": "Flatten", "config": {}, "name": "x"}
MANY_EMPTY_LISTS = [[]] * 500_000
HUGE_CONFIGURATIONS = {
    "calls": functional([{**ONE_LAYER, "inbound_nodes": [[["i", 0, 0, {}]]] * 150_000}]),
    "nested arguments": functional(
        [{**ONE_LAYER, "inbound_nodes": [{"args": nested(300, [*MANY_EMPTY_LISTS, KERAS_TENSOR]), "kwargs": {}}]}]
    ),
    "ends": functional(
        [{**functional([], [*MANY_EMPTY_LISTS, ["i", 0, 0]]), "name": "x", "inbound_nodes": [[["i", 0, 0, {}]]] * 5000}]
    ),
    "nested models": functional(
        [
            {
                **functional([{**ONE_LAYER, "inbound_nodes": [{"args": [[0] * 500_000], "kwargs": {}}]}]),
                "name": "x",
                "inbound_nodes": [[["i", 0, 0, {}]]] * 2000,
            }
        ]
    ),
    "numbers": functional([{**ONE_LAYER, "inbound_nodes": [{"args": [0] * 1_000_000, "kwargs": {}}]}]),
    "cycle": functional(
        [{**ONE_LAYER, "name": f"{n}", "inbound_nodes": [[[f"{(n + 1) % 4000}", 0, 0, {}]]]} for n in range(4000)],
        outputs=(("0", 0, 0),),
    ),
    "chain": functional(
        [
            {**ONE_LAYER, "class_name": "Dropout", "name": f"{n}", "inbound_nodes": [[[f"{n - 1}", 0, 0, {}]]]}
            for n in range(1, 4900)
        ]
        + [{**ONE_LAYER, "class_name": "Dropout", "name": "0", "inbound_nodes": [[["i", 0, 0, {}]]]}],
        outputs=(("4899", 0, 0),),
    ),
}


@pytest.mark.parametrize("name", HUGE_CONFIGURATIONS)
def test_huge_configuration_is_refused_quickly(name):
    text = json.dumps(HUGE_CONFIGURATIONS[name], separators=(",", ":"))
    assert len(text) < keras_serialization.MAX_CONFIG_SIZE
    start = time.process_time()
    with pytest.raises(CheckpointError) as caught:
        read(keras_serialization.parse_json(text))
    assert time.process_time() - start < 5
    assert len(str(caught.value)) < 600
