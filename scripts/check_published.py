"""Hold the published weights against ``keras.applications``: ``make check-published``, for someone with a network.

Fetches the three files, checks their MD5s, and compares both engines with ``weights="imagenet"`` on the sample
images. Prints the top-1 of each; leaves with status 1 where a number is further off than the tests allow.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

from densenet_cli import engines, labels, variants
from densenet_cli.weights import store

SAMPLES = Path(__file__).parents[1] / "sample_images"
PROBABILITY, LOGIT = 1e-5, 1e-4


def reference(name: str) -> keras.Model:
    """The network of keras.applications with the weights that Keras itself fetches (or finds where we put them)."""
    model: keras.Model = getattr(keras.applications, f"DenseNet{name}")(weights="imagenet")
    return model


def check(name: str, images: Sequence[Path]) -> bool:
    """Compare both engines on ``images``, print what was found, and say whether it is within bounds."""
    variant = variants.get(name)
    path = store.download(variant)
    assert variant.weights
    print(f"DenseNet-{name}: {path.name}, {path.stat().st_size:,} bytes, MD5 {variant.weights.md5} as published")
    loaded = [keras.utils.img_to_array(keras.utils.load_img(image, target_size=(224, 224))) for image in images]
    batch = keras.applications.densenet.preprocess_input(np.stack(loaded))
    theirs = reference(name)
    both = keras.Model(theirs.input, [theirs.get_layer("avg_pool").output, theirs.output])
    pooled, probabilities = (np.asarray(output) for output in both.predict(batch, verbose=0))
    kernel, bias = theirs.layers[-1].get_weights()
    logits = pooled @ kernel + bias
    right = True
    for engine in engines.ENGINES:
        running = engines.create(engine, path, variant.config, threads=os.cpu_count() or 1)
        outputs = running.run(batch, ("probabilities", "logits"))
        mine = outputs["probabilities"]
        probability = np.abs(mine - probabilities).max()
        logit = (np.abs(outputs["logits"] - logits) / np.ptp(logits, axis=1, keepdims=True)).max()
        same = bool((np.argsort(-mine)[:, :5] == np.argsort(-probabilities)[:, :5]).all())
        good = bool(probability <= PROBABILITY and logit <= LOGIT and same)
        right &= good
        print(
            f"  {engine:<10} probabilities {probability:.1e} off at most, logits {logit:.1e} of their range, "
            f"top-5 {'the same' if same else 'NOT THE SAME'}: {'good' if good else 'WRONG'}"
        )
    _print_best(images, probabilities)
    return right


def _print_best(images: Sequence[Path], probabilities: np.ndarray[Any, Any]) -> None:
    for image, row in zip(images, probabilities, strict=True):
        best = int(row.argmax())
        print(f"  {image.name:<16} {labels.imagenet()[best].name} ({row[best]:.1%})")


def main() -> int:
    """Check every published variant; the exit status."""
    images = sorted(SAMPLES.glob("*.jpg"))
    results = [check(name, images) for name in variants.downloadable()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
