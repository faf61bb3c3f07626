"""TensorFlow Lite (LiteRT) export with TFLite Metadata, which Android's and MediaPipe's tools read.

Input ``pixels`` (1, size, size, channels), output ``probabilities`` (1, classes). Resize the input for other
batch sizes.

TFLite Metadata is a second flatbuffer inside the model's flatbuffer. The files that it names follow the model as a zip
archive. Its schema is ``metadata_schema.fbs`` (https://www.tensorflow.org/lite/models/convert/metadata). The generated
classes for it are part of MediaPipe, which is too large a dependency for the few tables that a classifier needs, so
the tables are built here. A table is written as slot -> value, where a slot is a field's position in the schema.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from densenet_cli.engines.tensorflow import silenced
from densenet_cli.errors import OutputError
from densenet_cli.export.model import DESCRIPTION_FILE, INPUT, LABELS_FILE, ExportedModel, producer
from densenet_cli.export.tensorflow import build_keras_model

if TYPE_CHECKING:
    from flatbuffers import Builder

    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.export.exporter import Predict

METADATA_NAME = "TFLITE_METADATA"
METADATA_IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"
"""Oldest metadata reader that supports all fields used here."""

# Values of enumerations and unions in metadata_schema.fbs.
ASSOCIATED_FILE_DESCRIPTIONS, ASSOCIATED_FILE_TENSOR_AXIS_LABELS = 1, 2
COLOR_SPACE_RGB, COLOR_SPACE_GRAYSCALE = 1, 2
CONTENT_IMAGE_PROPERTIES = 2
PROCESS_UNIT_NORMALIZATION = 1

Fields = Mapping[int, Any]
"""A table: slot -> a string, (type, number) such as ("Int8", 2), a table, a list of tables, or a list of floats."""


class TFLiteExporter:
    """Exporter for ``.tflite``. See ``exporter.Exporter``."""

    def write(self, model: ExportedModel, path: Path) -> None:
        """Write the TFLite file."""
        network = build_keras_model(model, named_output=True)
        import tensorflow as tf

        try:
            # The converter reports its progress on both streams.
            with silenced(), contextlib.redirect_stdout(io.StringIO()):
                converted: bytes = tf.lite.TFLiteConverter.from_keras_model(network).convert()
        except Exception as error:  # the converter has no common exception class
            reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            raise OutputError(
                f"TensorFlow could not convert the model ({reason}). The conversion needs space for a copy of the "
                f"model in {tempfile.gettempdir()}."
            ) from error
        path.write_bytes(add_metadata(converted, model))
        model.append_files(path)

    def load(self, model: ExportedModel, path: Path) -> Predict:
        """Load the file with LiteRT."""
        with silenced():
            from ai_edge_litert.interpreter import Interpreter

            interpreter = Interpreter(model_path=str(path))
            runner = interpreter.get_signature_runner()

        def predict(batch: FloatArray | UInt8Array) -> FloatArray:
            with silenced():
                probabilities: FloatArray = runner(pixels=batch)["probabilities"]
            return probabilities

        return predict


def add_metadata(model_bytes: bytes, model: ExportedModel) -> bytes:
    """Return a TFLite model with TFLite Metadata added."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    builder = flatbuffers.Builder()
    builder.Finish(_write_table(builder, _metadata_fields(model)), METADATA_IDENTIFIER)
    unpacked = schema.ModelT.InitFromPackedBuf(model_bytes)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(builder.Output())
    unpacked.buffers.append(buffer)
    entry.name, entry.buffer = METADATA_NAME, len(unpacked.buffers) - 1
    unpacked.metadata = [*(unpacked.metadata or []), entry]
    unpacked.description = f"{model.name}, {producer()}"
    builder = flatbuffers.Builder(len(model_bytes) + (1 << 16))
    builder.Finish(unpacked.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _metadata_fields(model: ExportedModel) -> Fields:
    """Return the ``ModelMetadata`` table."""
    # Readers apply mean and std to values from 0 to 255. With preprocessing included, nothing is left to do.
    if model.with_preprocessing:
        mean, std, maximum, minimum = [0.0], [1.0], [255.0], [0.0]
    else:
        channels = list(zip(model.preprocessing.mean, model.preprocessing.std, strict=True))
        mean, std = [m * 255 for m, _ in channels], [s * 255 for _, s in channels]
        maximum = [max((1 - m) / s, -m / s) for m, s in channels]
        minimum = [min((1 - m) / s, -m / s) for m, s in channels]
    color, color_space = (
        ("RGB", COLOR_SPACE_RGB) if model.preprocessing.channels == 3 else ("Grayscale", COLOR_SPACE_GRAYSCALE)
    )
    image_size: Fields = {0: ("Uint32", model.size), 1: ("Uint32", model.size)}
    image: Fields = {
        0: INPUT,
        1: f"{color} image of {model.size} x {model.size} pixels, prepared as described in {DESCRIPTION_FILE}.",
        3: {0: ("Uint8", CONTENT_IMAGE_PROPERTIES), 1: {0: ("Int8", color_space), 1: image_size}},
        4: [{0: ("Uint8", PROCESS_UNIT_NORMALIZATION), 1: {0: mean, 1: std}}],
        5: {0: maximum, 1: minimum},
    }
    independent = "Independent probability" if model.checkpoint.config.is_multi_label else "Probability"
    probabilities: dict[int, Any] = {0: "probabilities", 1: f"{independent} of each class.", 5: {0: [1.0], 1: [0.0]}}
    if LABELS_FILE in model.files:
        labels_type = ("Int8", ASSOCIATED_FILE_TENSOR_AXIS_LABELS)
        probabilities[6] = [{0: LABELS_FILE, 1: "Class names in the order of the output.", 2: labels_type}]
    description_type = ("Int8", ASSOCIATED_FILE_DESCRIPTIONS)
    return {
        0: model.name,
        1: "Image classifier (DenseNet).",
        3: [{2: [image], 3: [probabilities]}],
        6: [{0: DESCRIPTION_FILE, 1: "The network and the preprocessing.", 2: description_type}],
        7: MIN_PARSER_VERSION,
    }


def _write_table(builder: Builder, fields: Fields) -> int:
    """Write a table, after everything that it refers to, and return its offset."""
    offsets = {slot: _write_value(builder, value) for slot, value in fields.items() if not isinstance(value, tuple)}
    builder.StartObject(max(fields) + 1)
    for slot, value in fields.items():
        if isinstance(value, tuple):
            type_name, number = value
            getattr(builder, f"Prepend{type_name}Slot")(slot, number, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return int(builder.EndObject())


def _write_value(builder: Builder, value: str | Fields | Sequence[Any]) -> int:
    """Write a string, a table, or a vector, and return its offset."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _write_table(builder, value)
    if isinstance(value[0], float):
        builder.StartVector(4, len(value), 4)
        for number in reversed(value):
            builder.PrependFloat32(number)
    else:
        offsets = [_write_value(builder, member) for member in value]
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
