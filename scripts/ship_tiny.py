"""Make the weights that ship out of a run of ``densenet train``: ``python scripts/ship_tiny.py RUN TRAINING_FOLDER``.

Ways and sizes of preparing an image are measured on the run's own validation part; the best one goes into the file,
whose kernels are stored in float16. The test images are not looked at.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

SHIPPED = Path(__file__).parents[1] / "src/densenet_cli/data/densenet-tiny.safetensors"
TRIED = [("squash", size) for size in (48, 52, 56, 60, 68, 72, 76)] + [("crop", size) for size in (56, 60, 64, 72)]


def main(run: Path, folder: Path) -> None:
    """Measure, choose, and write the file."""
    from densenet_cli.engines.tensorflow import import_keras

    import_keras()
    from densenet_cli.engines import keras_ops
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.pipeline import available_cores
    from densenet_cli.training import folders, network, recipe, result
    from densenet_cli.training import settings as settings_module
    from densenet_cli.training.batches import Part, measuring_batches, split
    from densenet_cli.training.image_cache import Streamed
    from densenet_cli.training.measuring import Measured, measure
    from densenet_cli.weights import checkpoint, safetensors

    settings = recipe.settings(recipe.read(run / "settings.toml"), {})
    found = folders.scan(folder)
    everything = Part(Streamed(found.paths, 10**6), np.arange(len(found)), found.targets)
    _, validation = split(everything, found.classes, settings.validation, settings.seed)
    model = checkpoint.read(run / result.FILE)
    # What ships is what is measured: kernels that went through float16.
    arrays = {layer: {name: _narrowed(array) for name, array in own.items()} for layer, own in model.arrays.items()}
    net = network.build(model.config, "float32")
    keras_ops.set_arrays(net, arrays)
    scores: dict[tuple[str, int], Measured] = {}
    for mode, size in TRIED:
        scores[mode, size] = measure(
            net, measuring_batches(validation, Preprocessing(mode, size), 100, available_cores())
        )
        print(f"| {mode} | {size} | {scores[mode, size].top1:.1%} | {scores[mode, size].top5:.1%} |", flush=True)
    (mode, size), measured = max(scores.items(), key=lambda item: (item[1].top1, item[1].top5))
    training = dict(model.metadata.training)
    if training["start"] != settings_module.SCRATCH:
        training["start"] = "tiny"  # not the path of a file that nobody else has: what shipped before
    metadata = replace(
        model.metadata,
        preprocess=mode,
        input_size=size,
        training=training,
        accuracy={"validation": measured.to_dict()},
    )
    config = replace(model.config, input_size=size)
    safetensors.write(SHIPPED, arrays, config, metadata, "float16")
    print(f"{mode} at {size}: {SHIPPED.name}, {SHIPPED.stat().st_size / 1e6:.1f} MB")


def _narrowed(array: np.ndarray) -> np.ndarray:
    """A kernel as float16 keeps it; whatever else as it is."""
    return array.astype(np.float16).astype(np.float32) if array.ndim > 1 else array


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
