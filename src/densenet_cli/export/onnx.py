"""``.onnx``: the graph that ``predict`` runs, with a fixed image size and its description.

Input ``pixels``: float32 (batch, 3, size, size), normalized; with preprocessing uint8 (batch, size, size, 3). Outputs
``probabilities`` and ``logits``, (batch, classes). Any batch size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines.onnx_graph import INPUT, emit
from densenet_cli.export.model import ExportedModel, producer
from densenet_cli.images.preprocessing import MEAN, STD

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from densenet_cli.export.formats import FloatArray, Run

OUTPUTS = ("probabilities", "logits")
"""In this order: who asks for the first output gets the probabilities."""


def write(model: ExportedModel, path: Path) -> None:
    """See ``formats.Writer``."""
    import onnx

    proto = onnx.load_from_string(emit(model.arrays, model.config))
    graph = proto.graph
    outputs = {output.name: output for output in graph.output}
    del graph.output[:]
    graph.output.extend(outputs[name] for name in OUTPUTS)
    _drop_unused(graph)
    sides = (1, 2) if model.with_preprocessing else (2, 3)
    if model.with_preprocessing:
        _prepend_normalization(graph)
    for axis in sides:
        graph.input[0].type.tensor_type.shape.dim[axis].dim_value = model.size
    graph.name = model.name
    proto.producer_name, _, proto.producer_version = producer().partition(" ")
    onnx.helper.set_model_props(proto, model.properties)
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString())


def _drop_unused(graph: onnx.GraphProto) -> None:
    """Take out what none of the outputs needs: the emitted graph has more of them than is exported."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):  # sorted so that a node stands behind what it reads
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    arrays = [array for array in graph.initializer if array.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(arrays)


def _prepend_normalization(graph: onnx.GraphProto) -> None:
    """Make the input uint8, channels last; the same steps in the same order as ``images.preprocessing.normalize``."""
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    for node in graph.node:
        node.input[:] = ["normalized" if name == INPUT else name for name in node.input]
    constants = {"levels": 255.0, "mean": MEAN, "std": STD}
    graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    steps = [
        helper.make_node("Cast", [INPUT], ["as_float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["as_float", "levels"], ["unit"]),
        helper.make_node("Sub", ["unit", "mean"], ["centerd"]),
        helper.make_node("Div", ["centerd", "std"], ["channels_last"]),
        helper.make_node("Transpose", ["channels_last"], ["normalized"], perm=[0, 3, 1, 2]),
    ]
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend(steps + nodes)
    graph.input[0].CopyFrom(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", 0, 0, 3]))


def load(model: ExportedModel, path: Path) -> Run:
    """See ``formats.Writer``."""
    return session(path, channels_first=not model.with_preprocessing)


def session(source: Path | bytes, channels_first: bool) -> Run:
    """An ONNX file, or its bytes, in plain ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    runtime: Any = onnxruntime.InferenceSession(
        source if isinstance(source, bytes) else str(source), options, providers=["CPUExecutionProvider"]
    )

    def run(batch: np.ndarray[Any, Any]) -> FloatArray:
        pixels = batch.transpose(0, 3, 1, 2) if channels_first else batch
        probabilities: FloatArray = runtime.run(["probabilities"], {INPUT: pixels})[0]
        return probabilities

    return run
