"""ONNX export: the graph that ``densenet predict`` runs, with a fixed image size and the description as metadata.

Input ``pixels``: float32 (batch, channels, size, size), normalized; with preprocessing uint8 (batch, size, size,
channels). There are three channels, or one for grayscale images.
Outputs ``probabilities`` and ``logits``, both (batch, classes). The batch size is dynamic.

Also the safetensors export for PyTorch, which ONNX Runtime verifies: torchvision's names, epsilon, and a complete
``state_dict``. Its key ``densenet`` makes the file a checkpoint for this package too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from densenet_cli.engines.onnx_graph import INPUT, emit
from densenet_cli.export.model import ExportedModel, producer
from densenet_cli.model_preprocessing import state_preprocessing
from densenet_cli.weights import checkpoint, safetensors

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.export.exporter import Predict
    from densenet_cli.images.preprocessing import Preprocessing

OUTPUTS = ("probabilities", "logits")
"""Probabilities come first because many tools read only the first output."""


class OnnxExporter:
    """Exporter for ``.onnx``. See ``exporter.Exporter``."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the ONNX file."""
        proto = onnx.load_from_string(emit(model.checkpoint.arrays, model.checkpoint.config))
        graph = proto.graph
        outputs = {output.name: output for output in graph.output}
        del graph.output[:]
        graph.output.extend(outputs[name] for name in OUTPUTS)
        _remove_unused(graph)
        size_axes = (2, 3)
        if model.with_preprocessing:
            _prepend_normalization(graph, model.preprocessing)
            size_axes = (1, 2)
        for axis in size_axes:
            graph.input[0].type.tensor_type.shape.dim[axis].dim_value = model.size
        graph.name = model.name
        proto.producer_name, _, proto.producer_version = producer().partition(" ")
        onnx.helper.set_model_props(proto, model.properties)
        onnx.checker.check_model(proto)
        path.write_bytes(proto.SerializeToString())

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Load the file with ONNX Runtime."""
        return load_onnx(path, channels_first=not model.with_preprocessing)


def load_onnx(source: Path | bytes, channels_first: bool) -> Predict:
    """Load an ONNX file, or its contents, with ONNX Runtime's default settings."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
    )

    def predict(batch: FloatArray | UInt8Array) -> FloatArray:
        pixels = batch.transpose(0, 3, 1, 2) if channels_first else batch
        probabilities: FloatArray = session.run(["probabilities"], {INPUT: pixels})[0]
        return probabilities

    return predict


def _remove_unused(graph: onnx.GraphProto) -> None:
    """Remove nodes and initializers that no output depends on."""
    needed = {output.name for output in graph.output}
    nodes = []
    for node in reversed(graph.node):  # in topological order: a node comes after its inputs
        if needed.intersection(node.output):
            needed.update(node.input)
            nodes.append(node)
    initializers = [array for array in graph.initializer if array.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(nodes))
    graph.initializer.extend(initializers)


def _prepend_normalization(graph: onnx.GraphProto, preprocessing: Preprocessing) -> None:
    """Make the input uint8, channels last, by the same steps in the same order as ``normalization.normalize``."""
    for node in graph.node:
        node.input[:] = ["normalized" if name == INPUT else name for name in node.input]
    constants = {"levels": 255.0, "mean": preprocessing.mean, "std": preprocessing.std}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    steps = [
        helper.make_node("Cast", [INPUT], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["as_float", "levels"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["centered"]),
        helper.make_node("Div", ["centered", "std"], ["channels_last"]),
        helper.make_node("Transpose", ["channels_last"], ["normalized"], perm=[0, 3, 1, 2]),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(steps + nodes)
    graph.input[0].CopyFrom(
        helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 0, 0, preprocessing.channels])
    )


class SafetensorsExporter:
    """Exporter for ``.safetensors``. See ``exporter.Exporter``."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the safetensors file."""
        arrays, config = model.checkpoint.arrays, model.checkpoint.config
        preprocessing = model.preprocessing
        stated = state_preprocessing(model.checkpoint.metadata, preprocessing)
        metadata = replace(stated, labels=model.labels, input_size=model.size)
        properties = {"format": "pt", **model.properties}  # transformers and diffusers require "format"
        path.write_bytes(safetensors.serialize(arrays, config, metadata, for_torch=True, properties=properties))

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Read the file as a checkpoint and run it with ONNX Runtime, because PyTorch may not be installed."""
        contents = checkpoint.read(path)
        return load_onnx(emit(contents.arrays, contents.config), channels_first=True)
