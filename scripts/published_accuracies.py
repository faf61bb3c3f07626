"""Published accuracies on ImageNet's validation set, and their measurement with ``densenet evaluate``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from densenet_cli.weights import locations

MAX_DIFFERENCE = 0.1
"""Percentage points. JPEG decoders differ by a few images."""


class PublishedAccuracy(NamedTuple):
    """A published result.

    Attributes:
        publisher: Who published it.
        name: The model.
        top1: The top-1 accuracy in percent.
        top5: The top-5 accuracy in percent.
        weights: The value of ``--weights``, or a variant of Keras.
        options: Other options of ``densenet evaluate`` that reproduce the publisher's preprocessing.
        is_exact: Whether the publisher states the preprocessing, so that the measured accuracy must be the same.
    """

    publisher: str
    name: str
    top1: float
    top5: float
    weights: str
    options: tuple[str, ...] = ()
    is_exact: bool = True

    @property
    def preprocessing(self) -> str:
        """The preprocessing as text for the table."""
        return " ".join(self.options).replace("--", "") or ("as config.json states" if self.is_exact else "not stated")


def _torchvision(name: str, top1: float, top5: float) -> PublishedAccuracy:
    """Return an accuracy of torchvision's weights, which timm publishes as tv_in1k."""
    options = ("--interpolation", "bilinear", "--crop-ratio", "0.875")
    return PublishedAccuracy("torchvision", name, top1, top5, f"hf://timm/densenet{name}.tv_in1k", options)


def _timm(name: str, top1: float, top5: float, size: int = 224) -> PublishedAccuracy:
    options = () if size == 224 else ("--input-size", str(size))
    return PublishedAccuracy("timm", name, top1, top5, f"hf://timm/{name}", options)


PUBLISHED = (
    PublishedAccuracy("Keras", "121", 75.0, 92.3, "121", is_exact=False),
    PublishedAccuracy("Keras", "169", 76.2, 93.2, "169", is_exact=False),
    PublishedAccuracy("Keras", "201", 77.3, 93.6, "201", is_exact=False),
    _torchvision("121", 74.434, 91.972),
    _torchvision("161", 77.138, 93.560),
    _torchvision("169", 75.600, 92.806),
    _torchvision("201", 76.896, 93.370),
    _timm("densenet121.tv_in1k", 74.750, 92.158),
    _timm("densenet161.tv_in1k", 77.384, 93.656),
    _timm("densenet169.tv_in1k", 75.922, 92.976),
    _timm("densenet201.tv_in1k", 77.284, 93.480),
    _timm("densenet121.ra_in1k", 75.574, 92.648),
    _timm("densenet121.ra_in1k", 76.486, 93.378, 288),
    _timm("densenetblur121d.ra_in1k", 76.574, 93.188),
    _timm("densenetblur121d.ra_in1k", 77.320, 93.796, 288),
)


def measure(accuracy: PublishedAccuracy, folder: Path) -> tuple[float, float]:
    """Return the top-1 and top-5 accuracy in percent on the images in class folders."""
    model = ["--variant", accuracy.weights]
    if accuracy.publisher != "Keras":
        path = locations.find_checkpoint(accuracy.weights)
        # The blob itself has no config.json beside it, which would contradict the options of torchvision.
        model = ["--weights", str(path.resolve()) if accuracy.publisher == "torchvision" else accuracy.weights]
    command = [sys.executable, "-m", "densenet_cli", "evaluate", str(folder), *model, *accuracy.options]
    run = subprocess.run([*command, "--format", "json"], stdout=subprocess.PIPE, check=True)
    report = json.loads(run.stdout)
    return 100 * report["top1"]["value"], 100 * report["top5"]["value"]


def print_accuracies(folder: Path | None) -> bool:
    """Print the published accuracies and, if a folder is given, the measured ones. Return whether they agree."""
    print(
        f"{'publisher':<12} {'model':<25} {'preprocessing':<42} {'published':>15}" + "  measured" * (folder is not None)
    )
    all_ok = True
    for accuracy in PUBLISHED:
        row = f"{accuracy.publisher:<12} {accuracy.name:<25} {accuracy.preprocessing:<42} "
        row += f"{accuracy.top1:7.3f} {accuracy.top5:7.3f}"
        if folder is not None:
            top1, top5 = measure(accuracy, folder)
            ok = max(abs(top1 - accuracy.top1), abs(top5 - accuracy.top5)) <= MAX_DIFFERENCE or not accuracy.is_exact
            all_ok &= ok
            row += f"  {top1:.3f} {top5:.3f} {'' if ok else 'FAILED'}"
        print(row.rstrip(), flush=True)
    return all_ok
