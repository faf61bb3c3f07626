"""Make the bundled weights from a run of ``densenet train``: ``python scripts/ship_tiny.py RUN FOLDER [MODEL...]``.

FOLDER contains the training images. The weights are those of RUN, or their mean with those of the checkpoints MODEL
(Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018).

The script evaluates preprocessing modes and input sizes on the run's own validation images and stores the best one in
the file. For each of them, the statistics of the batch normalizations are measured on training images that are prepared
as for prediction: those of the run belong to augmented images, and averaged weights have none. Kernels are stored in
float16. The test images are not used. Run ``calibrate_tiny.py`` afterwards.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

BUNDLED = Path(__file__).parents[1] / "src/densenet_cli/data/densenet-tiny.safetensors"
CANDIDATES = [("squash", size) for size in (56, 60, 64, 68, 72, 76, 80)] + [("crop", size) for size in (64, 72)]
STATISTICS_IMAGES = 5_000
"""Training images for the statistics of the batch normalizations."""
FULL_SCALE = 10**6
"""A minimum side that no JPEG has, so that none is decoded at a reduced scale."""


def main(run: Path, folder: Path, others: list[Path]) -> None:
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
    training, validation = split_validation(subset, len(image_list.classes), settings.validation, settings.seed)
    chosen = np.random.default_rng(settings.seed).permutation(len(training))[:STATISTICS_IMAGES]
    examples = Subset(images, training.indices[chosen], training.targets[chosen])
    model = checkpoint.read(run / run_files.MODEL_FILE)
    weights = _mean([model.arrays, *(checkpoint.read(path).arrays for path in others)])
    keras_model = network.build(model.config, "float32")
    threads = available_cores()
    results: dict[tuple[str, int], tuple[run_files.ValidationMetrics, Any]] = {}
    for mode, size in CANDIDATES:
        preprocessing = Preprocessing(mode, size)
        keras_ops.set_arrays(keras_model, weights)
        _measure_statistics(keras_model, validation_batches(examples, preprocessing, 200, threads))
        batches = validation_batches(validation, preprocessing, 100, threads)
        metrics, *_ = validate(keras_model, batches, run_files.ValidationMetrics)
        results[mode, size] = metrics, keras_ops.get_arrays(keras_model)
        print(f"| {mode} | {size} | {metrics.top1:.1%} | {metrics.top5:.1%} | {metrics.loss:.3f} |", flush=True)
    (mode, size), (metrics, arrays) = max(results.items(), key=lambda item: (item[1][0].top1, item[1][0].top5))
    run_settings = dict(model.metadata.training)
    if run_settings["start"] != FROM_SCRATCH:
        run_settings["start"] = "tiny"  # the previous bundled weights, instead of the path of a local file
    metadata = replace(
        model.metadata,
        preprocess=mode,
        input_size=size,
        training=run_settings,
        accuracy={"validation": vars(metrics)},
    )
    safetensors.write(BUNDLED, arrays, replace(model.config, input_size=size), metadata, "float16")
    print(f"{mode} at {size}: {BUNDLED.name}, {BUNDLED.stat().st_size / 1e6:.1f} MB")


def _mean(models: list[Any]) -> dict[str, dict[str, np.ndarray]]:
    """Return the mean of the arrays of models, with kernels as they are stored."""
    return {
        layer: {name: _round(np.mean([model[layer][name] for model in models], axis=0)) for name in named}
        for layer, named in models[0].items()
    }


def _round(array: np.ndarray) -> np.ndarray:
    """Round a kernel to float16. Other arrays stay as they are."""
    return array.astype(np.float16 if array.ndim > 1 else np.float32).astype(np.float32)


def _measure_statistics(keras_model: Any, batches: Any) -> None:
    """Set the statistics of the batch normalizations to their means over batches of equal size."""
    layers = [layer for layer in keras_model.layers if hasattr(layer, "moving_mean")]
    for count, batch in enumerate(batches, start=1):
        for layer in layers:
            layer.momentum = 1 - 1 / count
        keras_model(batch.pixels, training=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), [Path(path) for path in sys.argv[3:]])
