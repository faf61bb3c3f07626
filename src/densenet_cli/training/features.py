"""The features of images: computed once with the fastest engine, by the threads that decode, and cached.

A cache file contains a row per image. An interrupted computation continues behind the last complete row.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from densenet_cli import pipeline
from densenet_cli.engines import EMITTER_VERSION, available_cores
from densenet_cli.images.decoding import PIXELS_VERSION, Loaded
from densenet_cli.images.normalization import normalize
from densenet_cli.images.preprocessing import preprocess
from densenet_cli.layers import embedding_size
from densenet_cli.output.atomic import locked, output_errors, sync
from densenet_cli.training.batches import Subset, augment
from densenet_cli.training.settings import Settings
from densenet_cli.weights.file_identity import FileIdentity

if TYPE_CHECKING:
    from densenet_cli._types import FloatArray, UInt8Array
    from densenet_cli.classifier import Classifier
    from densenet_cli.images.preprocessing import DecodedImage

FEATURES_VERSION = 2
"""Must be increased if the same images and settings give other features. Cached ones then become stale."""


def make_views(decoded: DecodedImage, member: int, views: int, settings: Settings) -> UInt8Array:
    """Return the network's input for an image and ``views`` copies of it, uint8 (1 + views, size, size, 3).

    The first is what ``predict`` sees, up to the scale of the decoded JPEG if crops need more. The second is its
    mirror image, unless the settings exclude flips. The others are augmented as for training. They depend on the seed
    and on ``member``, the number of the image.
    """
    pixels = [preprocess(decoded, settings.preprocessing)[0]]
    for view in range(1, views + 1):
        if view == 1 and settings.flip:
            pixels.append(pixels[0][:, ::-1])
        else:
            generator = np.random.default_rng((settings.seed, view, member))
            pixels.append(augment(decoded, settings.input_size, settings, generator))
    return np.stack(pixels)


def compute_features(
    subset: Subset,
    views: int,
    classifier: Classifier,
    settings: Settings,
    folder: Path,
    on_features: Callable[[int, int], None],
) -> tuple[FloatArray, dict[int, str]]:
    """Compute the averages of the last feature maps, or read them from the cache.

    Args:
        subset: The images.
        views: Number of augmented copies of each image, see ``make_views``.
        classifier: The network.
        settings: The settings of the run.
        folder: Folder of the cache file.
        on_features: Called with the number of images so far and the number of all images.

    Returns:
        The features, float32 (images, 1 + views, features), and the error message of each image that cannot be decoded,
        by its number in the subset. The features of such an image are NaN.

    Raises:
        OutputError: The cache file cannot be written.
    """
    shape = (1 + views, embedding_size(classifier.config))
    row_size = 4 * shape[0] * shape[1]
    base = folder / _cache_key(subset, views, classifier, settings)
    part, complete = base.with_suffix(".features-part"), base.with_suffix(".features")
    errors: dict[int, str] = {}

    def load(member: int, _: int) -> Loaded:
        return Loaded(make_views(subset.images[subset.indices[member]], member, views, settings))

    def run(pixels: UInt8Array, alone: bool = True) -> dict[str, FloatArray]:
        images = normalize(pixels, settings.mean, settings.std)
        return {"features": classifier.run(images, ("features",), alone=alone)["features"].mean(axis=(1, 2))}

    def compute(members: Sequence[int]) -> Iterator[pipeline.Result[int]]:
        concurrent, threads = classifier.is_concurrent, classifier.threads
        threads += min(threads, available_cores()) if concurrent and threads > 1 else 0
        return pipeline.stream(
            members, load, run, batch_size=classifier.batch_size, threads=threads, concurrent=concurrent
        )

    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with locked(base.with_suffix(".lock"), lambda: None):
            if not complete.exists():
                with part.open("ab") as file:
                    file.truncate(file.tell() // row_size * row_size)
                    first = file.tell() // row_size
                    for result in compute(range(first, len(subset))):
                        row = result.outputs.get("features", np.full(shape, np.nan))
                        if result.error:
                            errors[result.source] = str(result.error)
                        file.write(row.astype("<f4").tobytes())
                        on_features(result.source + 1, len(subset))
                    sync(file)
                part.replace(complete)
            features = np.fromfile(complete, "<f4").reshape(len(subset), *shape)
    # Images that could not be decoded in an earlier run may have been skipped there.
    missing = [n for n in np.flatnonzero(~np.isfinite(features).all(axis=(1, 2))).tolist() if n not in errors]
    for result in compute(missing):
        if result.error:
            errors[result.source] = str(result.error)
        else:
            features[result.source] = result.outputs["features"]
    return features, errors


def _cache_key(subset: Subset, views: int, classifier: Classifier, settings: Settings) -> str:
    """Return a file name that depends on the image files, the network, and everything between them."""
    values: list[object] = [FEATURES_VERSION, EMITTER_VERSION, PIXELS_VERSION, repr(settings.preprocessing)]
    values += [FileIdentity.of(classifier.weights).key(), classifier.precision, subset.images.min_side]
    if views:
        values += [views, settings.flip, settings.augmentation, settings.crop_area, settings.unresized]
        values += [settings.randaugment, settings.erase, settings.seed, settings.interpolation]
    digest = hashlib.sha256(json.dumps(values).encode())
    for path in (subset.images.paths[index] for index in subset.indices):
        try:
            digest.update(FileIdentity.of(path).key().encode())
        except OSError:
            digest.update(os.fsencode(path))  # a broken link; decoding it will fail
    return digest.hexdigest()[:32]
