"""Calibration of int8 on the user's images: the ranges of the activations, and the agreement with float32.

Images are sampled from a folder. A third of them determines the ranges; on the others, the top-1 labels in int8 and
float32 are compared. The result is stored in the graph cache, under a key of the checkpoint, the preprocessing, and the
identities of the images, so that later runs need no images.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from densenet_cli.errors import CheckpointError, UsageError
from densenet_cli.images import sources
from densenet_cli.pipeline import stream
from densenet_cli.weights.file_identity import FileIdentity, digest

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, PathLike
    from densenet_cli.engines import Engine, Pixels
    from densenet_cli.engines.int8_graph import Quantization
    from densenet_cli.engines.openvino import OpenVinoEngine
    from densenet_cli.images.loading import ImageLoader
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.images.sources import Source

MIN_AGREEMENT = 0.97
"""Share of identical top-1 labels below which int8 is refused."""

MIN_IMAGES, MAX_IMAGES = 100, 768
"""Images to calibrate with. More change neither the ranges nor the measured agreement by much."""

PREPROCESSING_SETTINGS = ("preprocess", "input_size", "interpolation", "crop_ratio", "mean", "std")
"""The settings of the preprocessing that the values in the network depend on."""


class CalibrationImages(NamedTuple):
    """Image files from a folder.

    Attributes:
        calibration: Those that determine the ranges.
        held_out: Those that the agreement is measured on.
    """

    calibration: list[Source]
    held_out: list[Source]


def prepare(
    engine: Engine,
    preprocessing: Preprocessing,
    loader: ImageLoader,
    folder: PathLike | Quantization | None,
    threads: int,
    *,
    allow_low_agreement: bool = False,
    progress: Callable[[int, int], object] | None = None,
) -> Quantization:
    """Let an engine compute in int8, and return how it was calibrated.

    Args:
        engine: An OpenVINO engine with the precision int8.
        preprocessing: How images are prepared.
        loader: Loads the images.
        folder: The folder of images, a quantization of the same model, or None for the last calibration of the model.
        threads: The number of threads.
        allow_low_agreement: Accept an agreement below ``MIN_AGREEMENT``.
        progress: Called after each image with the number of images so far and of all images.

    Raises:
        UsageError: The model is not calibrated and there is no folder, the folder contains too few images, the
            agreement is too low, or the network has no head to measure it with.
    """
    openvino_engine = cast("OpenVinoEngine", engine)
    if not engine.config.classes:
        raise UsageError(
            "int8 requires a network with a head, because its agreement with float32 is measured on labels. "
            "Use another precision."
        )
    if isinstance(folder, tuple):
        openvino_engine.quantization = folder
        return folder
    settings = preprocessing.to_dict()
    key = digest(json.dumps([settings[name] for name in PREPROCESSING_SETTINGS]).encode())
    if folder is None:
        quantization = openvino_engine.find_quantization(key)
        if quantization is None:
            raise UsageError(
                "This model is not calibrated for int8 with these settings. Specify `int8_images`, a folder of at "
                f"least {MIN_IMAGES} images like those to be classified."
            )
    else:
        images = select_images(folder)
        key = f"{key} {_digest_of([*images.calibration, *images.held_out])}"
        quantization = openvino_engine.find_quantization(key)
        if quantization is None:
            quantization = _calibrate(openvino_engine, preprocessing, loader, images, threads, progress)
            openvino_engine.store_quantization(key, quantization)
    if quantization.agreement < MIN_AGREEMENT and not allow_low_agreement:
        raise UsageError(
            f"{quantization}, and {MIN_AGREEMENT:.0%} are required. Use another precision, other images, or "
            "`allow_low_agreement`."
        )
    openvino_engine.quantization = quantization
    return quantization


def select_images(folder: PathLike) -> CalibrationImages:
    """Select image files in a folder at random, depending on their names only.

    Raises:
        UsageError: There are too few.
    """
    if not Path(folder).is_dir():
        raise UsageError(f"{folder} is not a folder of images.")
    files = [source for source in sources.expand_objects([folder]) if not source.error]
    _check_number(len(files))
    files = random.Random(0).sample(files, min(len(files), MAX_IMAGES))
    third = len(files) // 3
    return CalibrationImages(files[:third], files[third:])


def _check_number(count: int) -> None:
    if count < MIN_IMAGES:
        raise UsageError(
            f"Calibrating int8 requires at least {MIN_IMAGES} images that can be decoded, and `int8_images` contains "
            f"{count}."
        )


def _digest_of(images: Sequence[Source]) -> str:
    """Return a hash of the identities of images."""
    try:
        return digest("".join(FileIdentity.of(image.origin).key() for image in images).encode())
    except OSError as error:
        raise UsageError(f"Cannot read {error.filename}: {error.strerror}.") from error


def _calibrate(
    engine: OpenVinoEngine,
    preprocessing: Preprocessing,
    loader: ImageLoader,
    images: CalibrationImages,
    threads: int,
    progress: Callable[[int, int], object] | None,
) -> Quantization:
    import logging

    import numpy as np

    from densenet_cli.engines.int8_graph import Observer, Quantization, to_ranges

    count = len(images.calibration) + len(images.held_out)
    done = itertools.count(1)
    logging.getLogger(__name__).info("Calibrating int8 on %d images.", count)
    observer = Observer(engine.get_model(), engine.normalization)

    def run_all(images: Sequence[Source], run: Callable[..., dict[str, FloatArray]]) -> list[dict[str, FloatArray]]:
        """Return the outputs of the images that can be decoded."""
        results = stream(
            images,
            lambda source, _: loader.load(source, preprocessing),
            run,
            batch_size=1,
            threads=threads,
            concurrent=True,
        )
        outputs = []
        for result in results:
            if not result.error:
                outputs.append(result.outputs)
            if progress:
                progress(next(done), count)
        return outputs

    def compare(pixels: Pixels, alone: bool) -> dict[str, FloatArray]:
        return {"float32": observer.probabilities(pixels), "int8": engine.run(pixels, alone=alone)["probabilities"]}

    extremes = run_all(images.calibration, lambda pixels, alone: {"extremes": observer.extremes(pixels)})
    if not extremes:
        _check_number(0)
    values = np.concatenate([outputs["extremes"] for outputs in extremes])
    if not np.isfinite(values).all():
        raise CheckpointError("The model produced NaN or infinite values.")
    ranges = to_ranges(observer.names, values)
    engine.quantization = Quantization(ranges)
    compared = run_all(images.held_out, compare)
    _check_number(len(extremes) + len(compared))
    labels = np.array([[outputs[name].mean(axis=0).argmax() for name in ("float32", "int8")] for outputs in compared])
    return Quantization(ranges, int((labels[:, 0] == labels[:, 1]).sum()), len(labels))
