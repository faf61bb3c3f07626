"""TFLite Metadata: a second flatbuffer inside the model's, and the files that it names as a zip archive behind it.

Its schema is ``metadata_schema.fbs`` (https://www.tensorflow.org/lite/models/convert/metadata). Classes generated from
it come with MediaPipe, which is too much to install for the few tables that a classifier needs; they are
built here. A field is a slot, counted as in the schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from densenet_cli.export.model import DESCRIPTION_FILE, INPUT, LABELS_FILE, ExportedModel, producer
from densenet_cli.images.preprocessing import MEAN, STD

if TYPE_CHECKING:
    from flatbuffers import Builder

NAME = "TFLITE_METADATA"
IDENTIFIER = b"M001"
PARSER_VERSION = "1.0.0"
"""The oldest reader that knows all fields used here."""

# Numbers of the schema's enumerations and unions.
DESCRIPTIONS, TENSOR_AXIS_LABELS = 1, 2
RGB = 1
IMAGE_PROPERTIES = 2
NORMALIZATION_OPTIONS = 1

Fields = Mapping[int, Any]
"""A table: slot -> a string, (kind, number) such as ("Int8", 2), another table, or a list of tables or of floats."""


def added(model_bytes: bytes, model: ExportedModel) -> bytes:
    """A TFLite model with its metadata in it."""
    import flatbuffers
    from tensorflow.lite.python import schema_py_generated as schema

    builder = flatbuffers.Builder()
    builder.Finish(_table(builder, _describe(model)), IDENTIFIER)
    packed = schema.ModelT.InitFromPackedBuf(model_bytes)
    buffer, entry = schema.BufferT(), schema.MetadataT()
    buffer.data = list(builder.Output())
    packed.buffers.append(buffer)
    entry.name, entry.buffer = NAME, len(packed.buffers) - 1
    packed.metadata = [*(packed.metadata or []), entry]
    packed.description = f"{model.name}, {producer()}"
    builder = flatbuffers.Builder(len(model_bytes) + (1 << 16))
    builder.Finish(packed.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def append_files(path: Path, files: Mapping[str, bytes]) -> None:
    """Put the files behind the model, where ``unzip`` finds them too."""
    with ZipFile(path, "a") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _describe(model: ExportedModel) -> Fields:
    # As the tools apply it: to levels from 0 to 255. Where the file normalizes by itself, nothing is left to do.
    mean, std = ([0.0], [1.0]) if model.with_preprocessing else ([m * 255 for m in MEAN], [s * 255 for s in STD])
    side: Fields = {0: ("Uint32", model.size), 1: ("Uint32", model.size)}
    image: Fields = {
        0: INPUT,
        1: f"An image of {model.size} x {model.size} pixels, RGB, prepared as {DESCRIPTION_FILE} says.",
        3: {0: ("Uint8", IMAGE_PROPERTIES), 1: {0: ("Int8", RGB), 1: side}},
        4: [{0: ("Uint8", NORMALIZATION_OPTIONS), 1: {0: mean, 1: std}}],
        5: {0: [255.0], 1: [0.0]} if model.with_preprocessing else _range_of_normalized(),
    }
    probabilities: dict[int, Any] = {0: "probabilities", 1: "The probability of each class.", 5: {0: [1.0], 1: [0.0]}}
    if LABELS_FILE in model.files:
        probabilities[6] = [{0: LABELS_FILE, 1: "The classes in their order.", 2: ("Int8", TENSOR_AXIS_LABELS)}]
    return {
        0: model.name,
        1: "An image classifier (DenseNet).",
        3: [{2: [image], 3: [probabilities]}],
        6: [{0: DESCRIPTION_FILE, 1: "The network and how its images are prepared.", 2: ("Int8", DESCRIPTIONS)}],
        7: PARSER_VERSION,
    }


def _range_of_normalized() -> Fields:
    pairs = list(zip(MEAN, STD, strict=True))
    return {0: [(1 - mean) / std for mean, std in pairs], 1: [-mean / std for mean, std in pairs]}


def _table(builder: Builder, fields: Fields) -> int:
    """Write a table, and before it all that it refers to; its offset."""
    offsets = {slot: _reference(builder, value) for slot, value in fields.items() if not isinstance(value, tuple)}
    builder.StartObject(max(fields) + 1)
    for slot, value in fields.items():
        if isinstance(value, tuple):
            kind, number = value
            getattr(builder, f"Prepend{kind}Slot")(slot, number, 0)
        else:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return int(builder.EndObject())


def _reference(builder: Builder, value: str | Fields | Sequence[Any]) -> int:
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Mapping):
        return _table(builder, value)
    if isinstance(value[0], float):
        builder.StartVector(4, len(value), 4)
        for number in reversed(value):
            builder.PrependFloat32(number)
    else:
        below = [_reference(builder, member) for member in value]
        builder.StartVector(4, len(below), 4)
        for offset in reversed(below):
            builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())
