"""The quantized graph: which convolutions, how weights and activations are rounded, and the ranges.

These tests run the graphs in ONNX Runtime, which computes what ONNX defines on every processor.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from densenet_cli.engines import int8_graph, onnx_graph
from densenet_cli.images.normalization import MEAN, STD
from tests.engines.test_heads import NETWORKS, random_batch
from tests.support.networks import TINY, random_arrays, unscaled_arrays

IMAGES = np.random.default_rng(3).normal(size=(8, 32, 32, 3)).astype(np.float32)


def emit(config=TINY, arrays=None) -> onnx.ModelProto:
    arrays = arrays or random_arrays(config)
    return onnx.load_from_string(onnx_graph.emit(arrays, config, dense_as_conv=True))


def observe(model, images) -> tuple[list[str], np.ndarray]:
    observer = int8_graph.Observer(model.SerializeToString(), (MEAN, STD))
    return observer.names, observer.extremes(images)


def quantized(model, images, ranges=None) -> onnx.ModelProto:
    copy = onnx.load_from_string(model.SerializeToString())
    int8_graph.quantize(copy, ranges or int8_graph.to_ranges(*observe(model, images)))
    onnx.checker.check_model(copy)
    return copy


def run(model, images, *outputs) -> list[np.ndarray]:
    import onnxruntime

    # Without optimizations, the graph is computed node by node, as ONNX defines it.
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(outputs, {"pixels": np.ascontiguousarray(images.transpose(0, 3, 1, 2))})


def with_outputs(model, names) -> onnx.ModelProto:
    copy = onnx.load_from_string(model.SerializeToString())
    copy.graph.output.extend(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in names)
    return copy


def test_only_convolutions_are_quantized_except_the_first_and_the_head():
    model = quantized(emit(), IMAGES)
    producers = {node.output[0]: node.op_type for node in model.graph.node}
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    is_int8 = [producers.get(node.input[1]) == "DequantizeLinear" for node in convolutions]
    assert is_int8 == [False] + [True] * (2 * sum(TINY.blocks) + 1) + [False]
    for node, expected in zip(convolutions, is_int8, strict=True):
        assert (producers.get(node.input[0]) == "DequantizeLinear") == expected
    integers = [tensor for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT8]
    assert (
        sum(numpy_helper.to_array(tensor).size for tensor in integers if tensor.name.endswith("/int8"))
        == sum(
            array.size for name, arrays in unscaled_arrays(TINY).items() for array in arrays.values() if array.ndim == 4
        )
        - 7 * 7 * 3 * TINY.stem_width
    )


def test_weights_are_rounded_to_255_steps_of_each_output_channel():
    before, after = emit(), quantized(emit(), IMAGES)
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in after.graph.initializer}
    kernels = {tensor.name: numpy_helper.to_array(tensor) for tensor in before.graph.initializer}
    names = [name.removesuffix("/int8") for name in arrays if name.endswith("/int8")]
    assert names
    for name in names:
        steps, scales = arrays[f"{name}/int8"], arrays[f"{name}/scale"][:, None, None, None]
        assert np.abs(steps).max(axis=(1, 2, 3)).tolist() == [127] * len(steps)
        assert (np.abs(steps * scales - kernels[name]) <= 0.5001 * scales).all()


def test_activations_are_rounded_to_256_steps_and_clipped():
    model = emit()
    names = int8_graph.activations(model)
    ranges = {name: (0.0, 1.275) if index % 2 else (-0.2, 1.075) for index, name in enumerate(names)}
    after = quantized(model, IMAGES, ranges)
    values = run(with_outputs(after, [f"{name}/rounded" for name in names]), IMAGES, *[f"{n}/rounded" for n in names])
    for name, array in zip(names, values, strict=True):
        low, high = ranges[name]
        assert low - 1e-6 <= array.min()
        assert array.max() <= high + 1e-6
        np.testing.assert_allclose(array / 0.005, np.rint(array / 0.005), atol=1e-3)


def test_extremes_are_those_of_the_activations():
    model = emit()
    names, extremes = observe(model, IMAGES)
    arrays = run(with_outputs(model, names), IMAGES, *names)
    assert extremes.shape == (len(IMAGES), 2, len(names))
    for index, array in enumerate(arrays):
        np.testing.assert_allclose(extremes[:, 0, index], array.min(axis=(1, 2, 3)), atol=1e-5)
        np.testing.assert_allclose(extremes[:, 1, index], array.max(axis=(1, 2, 3)), atol=1e-5)


def test_pixels_of_8_bits_are_normalized():
    observer = int8_graph.Observer(emit().SerializeToString(), ((0.4,) * 3, (0.2,) * 3))
    pixels = np.random.default_rng(1).integers(0, 256, (1, 32, 32, 3), np.uint8)
    expected = observer.probabilities((pixels / np.float32(255) - np.float32(0.4)) / np.float32(0.2))
    np.testing.assert_allclose(observer.probabilities(pixels), expected, rtol=1e-4)


def test_ranges_contain_zero_and_ignore_outliers():
    extremes = np.stack([np.array([[-1.0, 0.5], [10.0, 2.0]])] * 199 + [np.array([[-50.0, 0.1], [900.0, 3.0]])])
    assert int8_graph.to_ranges(["a", "b"], extremes) == {"a": (-1.0, 10.0), "b": (0.0, 2.0)}


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_close_to_float32(name):
    config = NETWORKS[name]
    batch = random_batch(config)
    model = emit(config, random_arrays(config, image=batch[:1]))
    (expected,) = run(model, batch, "logits")
    (actual,) = run(quantized(model, batch), batch, "logits")
    assert 0 < np.abs(actual - expected).max() < 0.1 * np.ptp(expected)


def test_layers_of_zeros():
    """A range or a kernel without extent has no scale."""
    arrays = {
        layer: {name: np.zeros_like(array) if array.ndim == 4 else array for name, array in named.items()}
        for layer, named in random_arrays(TINY).items()
    }
    model = emit(TINY, arrays)
    (expected,) = run(model, IMAGES, "logits")
    (actual,) = run(quantized(model, IMAGES), IMAGES, "logits")
    assert np.isfinite(actual).all()
    np.testing.assert_allclose(actual, expected, atol=0.1 * max(1, np.abs(expected).max()))
