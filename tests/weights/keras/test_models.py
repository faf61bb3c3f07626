"""Models that were fine-tuned in Keras give Keras' results, and other readings of their files do not."""

from __future__ import annotations

import inspect
import io
import zipfile
from dataclasses import replace
from typing import NamedTuple

import h5py
import numpy as np
import pytest
from PIL import Image

from densenet_cli import Classifier, engines
from densenet_cli.errors import CheckpointError
from densenet_cli.images.normalization import MEAN, STD, normalize
from densenet_cli.topology import STEMS, DenseNetConfig, HeadLayer, Resize
from densenet_cli.weights import checkpoint
from densenet_cli.weights.contents import Checkpoint
from densenet_cli.weights.keras.graph import AUGMENTATIONS, DROPOUTS
from tests.conftest import SAMPLES
from tests.support import keras_models
from tests.support.checkpoints import assert_same
from tests.support.networks import onnx_outputs, probabilities_of, unscaled_arrays

TOLERANCE = 1e-5
FILES = ("model.keras", "model.h5")


class Facts(NamedTuple):
    """What the file of a setup states: size, activation, pooling, mean, std, and the kinds of the head's layers."""

    size: int
    activation: str | None
    pooling: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    head: tuple[str, ...] = ()
    classes: int = 0


MLP = ("dense", "batch_norm", "relu", "dense", "elu", "batch_norm", "leaky_relu", "dense")

FACTS = {
    "nested_preprocess_input": Facts(64, "softmax", "avg", MEAN, STD, classes=5),
    "flat_max_logits": Facts(128, "softmax", "max", None, None, classes=6),
    "sequential_mlp": Facts(64, "softmax", "avg", (0.5,) * 3, (0.5,) * 3, MLP, 4),
    "one_sigmoid": Facts(64, "sigmoid", "avg", (0.4, 25 / 51, 0.6 * 260 / 255), (1, 250 / 255, 260 / 255), classes=2),
    "fourteen_sigmoids_flatten": Facts(64, "sigmoid", "flatten", (0, 0, 0), (1, 1, 1), classes=14),
    "grayscale_adapted": Facts(64, "softmax", "max", (0.4481311,), (0.2609724,), classes=3),
    "fixed_normalization_resized": Facts(
        96, "softmax", "avg", (0.5, 0.4, 0.3), (0.2, 0.05**0.5, 0.06**0.5), ("dense", "gelu", "dense"), 3
    ),
    "raw_pixels": Facts(64, "softmax", "avg", None, None, ("batch_norm", "dense"), 7),
    "headless": Facts(64, None, "avg", None, None),
    "arithmetic": Facts(64, "softmax", "avg", (0.65, 0.7, 0.75), (-0.2, -0.25, -0.3), classes=3),
}


def photographs(size: int, channels: int) -> np.ndarray:
    """Return three photographs as uint8 of shape (3, size, size, channels)."""
    images = [Image.open(SAMPLES / f"{name}.jpg").resize((size, size)) for name in ("bison", "cat", "rocket")]
    mode = "L" if channels == 1 else "RGB"
    return np.stack([np.asarray(image.convert(mode)).reshape(size, size, channels) for image in images])


class Saved(NamedTuple):
    """A saved model: its folder, photographs for its input, and Keras' outputs for them."""

    folder: object
    images: np.ndarray
    outputs: np.ndarray


def keras_outputs(model, images: np.ndarray, has_pixel_operations: bool) -> np.ndarray:
    """Return a model's outputs as probabilities, or its feature maps."""
    import keras

    pixels = images.astype(np.float32) if has_pixel_operations else normalize(images)
    outputs = keras.ops.convert_to_numpy(model(pixels, training=False))
    loss = getattr(model, "loss", None)
    if getattr(loss, "from_logits", False):
        function = keras.activations.sigmoid if "Binary" in type(loss).__name__ else keras.activations.softmax
        outputs = keras.ops.convert_to_numpy(function(keras.ops.convert_to_tensor(outputs)))
    return np.concatenate([1 - outputs, outputs], axis=1) if outputs.shape[1:] == (1,) else outputs


@pytest.fixture(scope="module")
def saved(keras, tmp_path_factory):
    """Return a function that builds, saves, and runs the model of a setup once."""
    cache: dict[str, Saved] = {}
    setups = keras_models.setups(keras)

    def get(name: str) -> Saved:
        if name not in cache:
            keras.utils.set_random_seed(0)
            model = keras_models.randomize(setups[name]())
            folder = tmp_path_factory.mktemp(name)
            for file in FILES:
                model.save(folder / file)
            model.save_weights(folder / "model.weights.h5")
            images = photographs(FACTS[name].size, model.input_shape[-1])
            cache[name] = Saved(folder, images, keras_outputs(model, images, FACTS[name].mean is not None))
        return cache[name]

    return get


def outputs_of(path, images: np.ndarray, engine: str = "onnx") -> np.ndarray:
    """Return the probabilities that ``Classifier`` gives images of a model's input size."""
    # An image of the input size is not changed by squash.
    with Classifier(weights=path, engine=engine, preprocess="squash", threads=1) as classifier:
        assert classifier.preprocessing.input_size == images.shape[1]
        return np.stack(probabilities_of(classifier, [Image.fromarray(image.squeeze()) for image in images]))


def features_of(path, images: np.ndarray, engine: str = "onnx") -> np.ndarray:
    """Return the feature maps of a network without a head."""
    return engines.create(engine, path, None, 1).run(normalize(images), ("features",))["features"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("name", FACTS)
def test_facts_in_the_file(saved, name, file):
    loaded, facts = checkpoint.read(saved(name).folder / file), FACTS[name]
    metadata, config = loaded.metadata, loaded.config
    assert (metadata.input_size, metadata.activation) == (facts.size, facts.activation)
    assert (config.pooling, config.classes) == (facts.pooling, facts.classes)
    assert tuple(layer.kind for layer in config.head) == facts.head
    for actual, expected in ((metadata.mean, facts.mean), (metadata.std, facts.std)):
        assert actual == (expected and pytest.approx(expected, abs=1e-6))
    assert any("no pixel operations" in note for note in metadata.notes) == (facts.mean is None)


@pytest.mark.parametrize(
    ("file", "engine"), [("model.keras", "onnx"), ("model.h5", "onnx"), ("model.keras", "tensorflow")]
)
@pytest.mark.parametrize("name", FACTS)
def test_results_equal_those_of_keras(saved, name, file, engine):
    model = saved(name)
    assert np.ptp(model.outputs, axis=0).max() > 0.01
    run_file = outputs_of if FACTS[name].classes else features_of
    actual = run_file(model.folder / file, model.images, engine)
    np.testing.assert_allclose(actual, model.outputs, rtol=0, atol=TOLERANCE)


def run(loaded: Checkpoint, images: np.ndarray) -> np.ndarray:
    """Return the probabilities of a checkpoint that was changed after reading it."""
    batch = normalize(images, loaded.metadata.mean or MEAN, loaded.metadata.std or STD)
    return onnx_outputs(loaded.arrays, loaded.config, batch, "probabilities")


def with_config(**changes):
    return lambda loaded, images: run(loaded._replace(config=replace(loaded.config, **changes)), images)


def with_metadata(**changes):
    return lambda loaded, images: run(loaded._replace(metadata=replace(loaded.metadata, **changes)), images)


def with_epsilon(name: str, difference: float):
    def read(loaded: Checkpoint, images: np.ndarray) -> np.ndarray:
        variance = loaded.arrays[name]["moving_variance"] + np.float32(difference)
        arrays = {**loaded.arrays, name: {**loaded.arrays[name], "moving_variance": variance}}
        return run(loaded._replace(arrays=arrays), images)

    return read


def at_size(size: int):
    return lambda loaded, images: run(loaded, photographs(size, images.shape[-1]))


def without_head_layer(index: int):
    def read(loaded: Checkpoint, images: np.ndarray) -> np.ndarray:
        head = list(loaded.config.head)
        head[index] = HeadLayer("relu6") if head[index].kind != "relu" else HeadLayer("tanh")
        return run(loaded._replace(config=replace(loaded.config, head=tuple(head))), images)

    return read


@pytest.mark.parametrize(
    ("name", "misread"),
    [
        ("nested_preprocess_input", with_metadata(mean=(0.5,) * 3, std=(0.5,) * 3)),
        ("nested_preprocess_input", with_config(activation="sigmoid")),
        ("nested_preprocess_input", at_size(224)),
        ("flat_max_logits", with_config(pooling="avg")),
        ("flat_max_logits", at_size(224)),
        ("sequential_mlp", with_epsilon("head_2", 1.001e-5 - 1e-3)),
        ("sequential_mlp", with_epsilon("head_6", 1.001e-5 - 1e-4)),
        ("sequential_mlp", without_head_layer(2)),
        ("sequential_mlp", without_head_layer(4)),
        ("sequential_mlp", without_head_layer(6)),
        ("sequential_mlp", with_metadata(mean=MEAN, std=STD)),
        ("fourteen_sigmoids_flatten", with_config(activation="softmax")),
        ("grayscale_adapted", with_metadata(mean=(0.0,), std=(1.0,))),
        ("grayscale_adapted", with_config(pooling="avg")),
        ("fixed_normalization_resized", with_config(resize=None)),
        ("fixed_normalization_resized", with_config(resize=Resize(64, "nearest"))),
        ("arithmetic", with_metadata(std=(0.2, 0.25, 0.3))),
    ],
)
def test_other_readings_differ(saved, name, misread):
    model = saved(name)
    loaded = checkpoint.read(model.folder / "model.keras")
    np.testing.assert_allclose(run(loaded, model.images), model.outputs, rtol=0, atol=TOLERANCE)
    assert np.abs(misread(loaded, model.images) - model.outputs).max() > 1e-3


@pytest.mark.parametrize(
    "name", ["nested_preprocess_input", "flat_max_logits", "fourteen_sigmoids_flatten", "raw_pixels"]
)
def test_weights_alone_reveal_pooling_and_a_head_of_one_dense_layer(saved, name):
    """What ``.weights.h5`` does not contain, such as the activation, is taken from elsewhere."""
    model, facts = saved(name), FACTS[name]
    loaded = checkpoint.read(model.folder / "model.weights.h5", activation=facts.activation)
    assert (loaded.metadata.activation, loaded.metadata.mean) == (None, None)
    assert (loaded.config.pooling, tuple(layer.kind for layer in loaded.config.head)) == (facts.pooling, facts.head)
    loaded = loaded._replace(metadata=replace(loaded.metadata, mean=facts.mean, std=facts.std))
    np.testing.assert_allclose(run(loaded, model.images), model.outputs, rtol=0, atol=TOLERANCE)


def test_weights_alone_reveal_a_softmax_layer_but_not_pixel_operations(saved):
    loaded = checkpoint.read(saved("grayscale_adapted").folder / "model.weights.h5")
    assert (loaded.metadata.activation, loaded.config.pooling, loaded.config.channels) == ("softmax", "max", 1)
    assert any("normalization" in note for note in loaded.metadata.notes)


@pytest.mark.parametrize("name", ["sequential_mlp", "fixed_normalization_resized"])
def test_weights_alone_do_not_determine_a_larger_head(saved, name):
    path = saved(name).folder / "model.weights.h5"
    with pytest.raises(CheckpointError, match=r"dense.*\.keras or \.h5"):
        checkpoint.read(path)
    backbone = checkpoint.read(path, allow_unsupported_head=True)
    complete = checkpoint.read(saved(name).folder / "model.keras")
    assert backbone.config == replace(complete.config.with_classes(0), input_size=224, resize=None)
    assert_same(backbone.arrays, {name: complete.arrays[name] for name in backbone.arrays}, backbone.config)


def test_folder_with_the_files_of_an_archive(saved, tmp_path):
    """The Hugging Face Hub stores ``.keras`` files unpacked."""
    model = saved("sequential_mlp")
    with zipfile.ZipFile(model.folder / "model.keras") as archive:
        archive.extractall(tmp_path)
    actual = outputs_of(tmp_path / "model.weights.h5", model.images)
    np.testing.assert_allclose(actual, model.outputs, rtol=0, atol=TOLERANCE)
    (tmp_path / "config.json").write_text('{"architecture": "densenet121"}')  # of another library
    with pytest.raises(CheckpointError, match="several layers"):
        checkpoint.read(tmp_path / "model.weights.h5")


def test_file_without_layer_names(saved, tmp_path):
    """Keras 3.0 to 3.3 did not store the names of layers, so groups are found by class and number."""
    model = saved("sequential_mlp")
    path = tmp_path / "x.keras"
    with zipfile.ZipFile(model.folder / "model.keras") as archive, zipfile.ZipFile(path, "w") as changed:
        weights = io.BytesIO(archive.read("model.weights.h5"))
        with h5py.File(weights, "a") as file:
            file.visititems(lambda _, item: item.attrs.pop("name", None) and None)
        changed.writestr("config.json", archive.read("config.json"))
        changed.writestr("model.weights.h5", weights.getvalue())
    np.testing.assert_allclose(outputs_of(path, model.images), model.outputs, rtol=0, atol=TOLERANCE)


def test_mixed_precision(keras, tmp_path):
    """Layers have a dtype policy, and the last activation one of its own."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        base = keras_models.backbone(keras, pooling="avg")
        x = keras.layers.Activation("softmax", dtype="float32")(keras.layers.Dense(4)(base.output))
        model = keras_models.randomize(keras.Model(base.input, x))
    finally:
        keras.config.set_dtype_policy(before)
    images = photographs(64, 3)
    expected = keras_outputs(model, images, has_pixel_operations=False)
    for file in FILES:
        model.save(tmp_path / file)
        np.testing.assert_allclose(outputs_of(tmp_path / file, images), expected, rtol=0, atol=0.02)


def test_augmentation_layers_change_nothing_at_inference(keras):
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 16, 16, 3)).astype(np.float32)
    arguments = {"RandomTranslation": (0.2, 0.2), "RandomPosterization": (4,)}
    checked = 0
    for name in (*DROPOUTS, *AUGMENTATIONS):
        if hasattr(keras.layers, name):
            layer_class = getattr(keras.layers, name)
            required = [p for p in inspect.signature(layer_class).parameters.values() if p.default is p.empty]
            has_factor = any(p.kind is p.POSITIONAL_OR_KEYWORD for p in required)
            layer = layer_class(*arguments.get(name, (0.2,) if has_factor else ()))
            outputs = keras.ops.convert_to_numpy(layer(pixels, training=False))
            np.testing.assert_array_equal(outputs, pixels, err_msg=name)
            checked += 1
    assert checked >= 25


@pytest.mark.parametrize("stem", STEMS)
def test_models_of_this_package(keras, tmp_path, stem):
    """What ``export`` writes is read as the same network, with every stem."""
    from densenet_cli.engines import keras_ops

    head = (HeadLayer("dense", 4), HeadLayer("batch_norm"), HeadLayer("elu", alpha=0.5), HeadLayer("dense", 3))
    config = DenseNetConfig((1, 2), 4, stem, 8, classes=3, input_size=64, pooling="max", head=head, resize=Resize(48))
    arrays = unscaled_arrays(config)
    model = keras_ops.build_model(config)
    keras_ops.set_arrays(model, arrays)
    for file in FILES:
        model.save(tmp_path / file)
        loaded = checkpoint.read(tmp_path / file)
        assert loaded.config == config
        assert_same(loaded.arrays, arrays, config)
