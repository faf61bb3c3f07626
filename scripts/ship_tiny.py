"""Make the bundled weights from a run of ``densenet train``: ``python scripts/ship_tiny.py RUN TRAINING_FOLDER``.

The script evaluates preprocessing modes and input sizes on the run's own validation split and stores the best one in
the file. Kernels are stored in float16. The test images are not used. Run ``calibrate_tiny.py`` afterwards.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

BUNDLED = Path(__file__).parents[1] / "src/densenet_cli/data/densenet-tiny.safetensors"
CANDIDATES = [("squash", size) for size in (48, 52, 56, 60, 68, 72, 76)] + [("crop", size) for size in (56, 60, 64, 72)]
FULL_SCALE = 10**6
"""A minimum side that no JPEG has, so that none is decoded at a reduced scale."""


def main(run: Path, folder: Path) -> None:
    """Evaluate the candidates and write the file."""
    from densenet_cli.engines.tensorflow import import_keras

    import_keras()
    from densenet_cli.engines import available_cores, keras_ops
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.training import network, recipes, run_files
    from densenet_cli.training.batches import Subset, split_validation, validation_batches
    from densenet_cli.training.image_cache import DecodedOnDemand
    from densenet_cli.training.image_list import list_images
    from densenet_cli.training.loop import validate
    from densenet_cli.training.settings import FROM_SCRATCH
    from densenet_cli.weights import checkpoint, safetensors

    settings = recipes.resolve(recipes.read(run / run_files.SETTINGS_FILE), {})
    image_list = list_images(str(folder))
    images = DecodedOnDemand(image_list.paths, FULL_SCALE)
    subset = Subset(images, np.arange(len(image_list)), np.array(image_list.targets))
    _, validation = split_validation(subset, len(image_list.classes), settings.validation, settings.seed)
    model = checkpoint.read(run / run_files.MODEL_FILE)
    # Evaluate the kernels as they are stored.
    arrays = {layer: {name: _round(array) for name, array in named.items()} for layer, named in model.arrays.items()}
    keras_model = network.build(model.config, "float32")
    keras_ops.set_arrays(keras_model, arrays)
    results: dict[tuple[str, int], run_files.ValidationMetrics] = {}
    for mode, size in CANDIDATES:
        batches = validation_batches(validation, Preprocessing(mode, size), 100, available_cores())
        metrics, *_ = validate(keras_model, batches, run_files.ValidationMetrics)
        results[mode, size] = metrics
        print(f"| {mode} | {size} | {metrics.top1:.1%} | {metrics.top5:.1%} |", flush=True)
    (mode, size), metrics = max(results.items(), key=lambda item: (item[1].top1, item[1].top5))
    training = dict(model.metadata.training)
    if training["start"] != FROM_SCRATCH:
        training["start"] = "tiny"  # the previous bundled weights, instead of the path of a local file
    metadata = replace(
        model.metadata,
        preprocess=mode,
        input_size=size,
        training=training,
        accuracy={"validation": vars(metrics)},
    )
    safetensors.write(BUNDLED, arrays, replace(model.config, input_size=size), metadata, "float16")
    print(f"{mode} at {size}: {BUNDLED.name}, {BUNDLED.stat().st_size / 1e6:.1f} MB")


def _round(array: np.ndarray) -> np.ndarray:
    """Round a kernel to float16. Other arrays stay as they are."""
    return array.astype(np.float16).astype(np.float32) if array.ndim > 1 else array


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
