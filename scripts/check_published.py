"""Compare the published weights with the libraries that publish them: ``make check-published``. Needs internet access.

The script downloads the weights of Keras and timm and verifies their checksums. It compares all engines with
``keras.applications`` on the same pixels, and with timm (if it is installed) from image files to probabilities. It
exits with status 1 if a difference exceeds the limits.

It also prints the published accuracies on ImageNet's validation set. ``--imagenet FOLDER``, with one folder per class,
measures them.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from PIL import Image
from published_accuracies import print_accuracies

from densenet_cli import engines, labels, variants
from densenet_cli.classifier import Classifier
from densenet_cli.weights import store
from densenet_cli.weights.hub import checkpoints as hub

SAMPLES = Path(__file__).parents[1] / "sample_images"
MAX_PROBABILITY_DIFFERENCE = 1e-5
MAX_LOGIT_DIFFERENCE = 1e-4
"""Relative to the range of the logits of an image."""

TIMM_MODELS = (
    "densenet121.tv_in1k",
    "densenet161.tv_in1k",
    "densenet169.tv_in1k",
    "densenet201.tv_in1k",
    "densenet121.ra_in1k",
    "densenetblur121d.ra_in1k",
)


def load_reference(name: str) -> keras.Model:
    """Return the model of keras.applications. Keras finds the file that was downloaded before."""
    model: keras.Model = getattr(keras.applications, f"DenseNet{name}")(weights="imagenet")
    return model


def check(name: str, images: Sequence[Path]) -> bool:
    """Compare all engines with Keras, print the differences, and return whether they are within the limits."""
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
        all_ok &= _compare(engine_name, probabilities, logits, expected, expected_logits)
    _print_top_classes(images, expected)
    return all_ok


def check_timm(name: str, images: Sequence[Path]) -> bool:
    """Compare all engines with timm, or without it with each other, print the differences, and return the verdict.

    Every side decodes, resizes, and crops the image files itself. Images with a color profile are left out, because
    timm ignores the profile.
    """
    images = [image for image in images if "icc_profile" not in Image.open(image).info]
    url = f"hf://timm/{name}"
    path = hub.download(hub.parse_url(url))
    print(f"{url}: {path.stat().st_size:,} bytes, commit {path.parent.name}, SHA-256 {path.resolve().name}")
    results = {}
    for engine_name in engines.ENGINES:
        with Classifier(weights=url, engine=engine_name, exact=True) as classifier:
            pixels = np.concatenate([classifier.load(image) for image in images])
            results[engine_name] = tuple(classifier.run(pixels, ("probabilities", "logits")).values())
    if find_spec("timm"):
        expected, expected_logits = run_timm(path, images)
    else:
        print("  timm is not installed: the engines are compared with each other")
        expected, expected_logits = results.pop(next(iter(engines.ENGINES)))
    verdicts = [_compare(engine_name, *outputs, expected, expected_logits) for engine_name, outputs in results.items()]
    _print_top_classes(images, expected)
    return all(verdicts)


def run_timm(path: Path, images: Sequence[Path]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return the probabilities and logits of timm for image files, with timm's own preprocessing.

    Args:
        path: The checkpoint, with its ``config.json`` beside it.
        images: The image files.
    """
    import timm
    import torch
    from timm.data import create_transform, resolve_data_config

    config = json.loads(path.with_name("config.json").read_bytes())
    model = timm.create_model(config["architecture"], pretrained=False, num_classes=config["num_classes"]).eval()
    timm.models.load_checkpoint(model, str(path))
    transform = create_transform(**resolve_data_config(pretrained_cfg=config["pretrained_cfg"]))
    batch = torch.stack([transform(Image.open(image).convert("RGB")) for image in images])
    with torch.inference_mode():
        logits = model(batch)
    return logits.softmax(dim=1).numpy(), logits.numpy()


def _compare(
    name: str,
    probabilities: np.ndarray[Any, Any],
    logits: np.ndarray[Any, Any],
    expected: np.ndarray[Any, Any],
    expected_logits: np.ndarray[Any, Any],
) -> bool:
    """Print the differences between an engine and a reference, and return whether they are within the limits."""
    difference = np.abs(probabilities - expected).max()
    logit_range = np.ptp(expected_logits, axis=1, keepdims=True)
    logit_difference = (np.abs(logits - expected_logits) / logit_range).max()
    same_top_5 = bool((np.argsort(-probabilities)[:, :5] == np.argsort(-expected)[:, :5]).all())
    ok = bool(difference <= MAX_PROBABILITY_DIFFERENCE and logit_difference <= MAX_LOGIT_DIFFERENCE and same_top_5)
    print(
        f"  {name:<10} maximum difference: probabilities {difference:.1e}, logits {logit_difference:.1e} "
        f"of their range; top 5 {'identical' if same_top_5 else 'different'}: {'ok' if ok else 'FAILED'}"
    )
    return ok


def _print_top_classes(images: Sequence[Path], probabilities: np.ndarray[Any, Any]) -> None:
    for image, row in zip(images, probabilities, strict=True):
        best = int(row.argmax())
        print(f"  {image.name:<16} {labels.imagenet()[best].name} ({row[best]:.1%})")


def main() -> int:
    """Check all published weights and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--imagenet", type=Path, metavar="FOLDER", help="ImageNet's validation set")
    folder = parser.parse_args().imagenet
    images = sorted(SAMPLES.glob("*.jpg"))
    results = [check(name, images) for name in variants.downloadable() if variants.get(name).weights]
    results += [check_timm(name, images) for name in TIMM_MODELS]
    results.append(print_accuracies(folder))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
