"""Compare the published weights with ``keras.applications``: ``make check-published``. Needs internet access.

The script downloads the three files, verifies their MD5, and compares both engines with ``weights="imagenet"`` on the
sample images. It prints the top class of each image and exits with status 1 if a difference exceeds the limits.
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
MAX_PROBABILITY_DIFFERENCE = 1e-5
MAX_LOGIT_DIFFERENCE = 1e-4
"""Relative to the range of the logits of an image."""


def load_reference(name: str) -> keras.Model:
    """Return the model of keras.applications. Keras finds the file that was downloaded before."""
    model: keras.Model = getattr(keras.applications, f"DenseNet{name}")(weights="imagenet")
    return model


def check(name: str, images: Sequence[Path]) -> bool:
    """Compare both engines on the images, print the differences, and return whether they are within the limits."""
    variant = variants.get(name)
    path = store.download(variant)
    assert variant.weights
    print(f"DenseNet-{name}: {path.name}, {path.stat().st_size:,} bytes, published MD5 {variant.weights.md5}")
    pixels = [keras.utils.img_to_array(keras.utils.load_img(image, target_size=(224, 224))) for image in images]
    batch = keras.applications.densenet.preprocess_input(np.stack(pixels))
    reference = load_reference(name)
    pooled_and_output = keras.Model(reference.input, [reference.get_layer("avg_pool").output, reference.output])
    pooled, expected = (np.asarray(output) for output in pooled_and_output.predict(batch, verbose=0))
    kernel, bias = reference.layers[-1].get_weights()
    expected_logits = pooled @ kernel + bias
    all_ok = True
    for engine_name in engines.ENGINES:
        engine = engines.create(engine_name, path, variant.config, threads=os.cpu_count() or 1)
        probabilities, logits = engine.run(batch, ("probabilities", "logits")).values()
        difference = np.abs(probabilities - expected).max()
        logit_range = np.ptp(expected_logits, axis=1, keepdims=True)
        logit_difference = (np.abs(logits - expected_logits) / logit_range).max()
        same_top_5 = bool((np.argsort(-probabilities)[:, :5] == np.argsort(-expected)[:, :5]).all())
        ok = bool(difference <= MAX_PROBABILITY_DIFFERENCE and logit_difference <= MAX_LOGIT_DIFFERENCE and same_top_5)
        all_ok &= ok
        print(
            f"  {engine_name:<10} maximum difference: probabilities {difference:.1e}, logits {logit_difference:.1e} "
            f"of their range; top 5 {'identical' if same_top_5 else 'different'}: {'ok' if ok else 'FAILED'}"
        )
    _print_top_classes(images, expected)
    return all_ok


def _print_top_classes(images: Sequence[Path], probabilities: np.ndarray[Any, Any]) -> None:
    for image, row in zip(images, probabilities, strict=True):
        best = int(row.argmax())
        print(f"  {image.name:<16} {labels.imagenet()[best].name} ({row[best]:.1%})")


def main() -> int:
    """Check every published variant and return the exit status."""
    images = sorted(SAMPLES.glob("*.jpg"))
    results = [check(name, images) for name in variants.downloadable()]
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
