"""int8 compared with float32: ``int8.py FOLDER [--images N]``.

FOLDER contains class folders of images for ``tiny``, such as the validation images of Tiny ImageNet. A DenseNet-121
with random weights, whose probabilities are neither near 1 nor uniform, is measured on photographs. For each, prints
JSON: the agreement, on images that do not determine the ranges, and the CPU time per image on one thread (medians,
measured in turn). To let OpenVINO use fewer instructions than the processor has, set the environment variable
``ONEDNN_MAX_CPU_ISA``, for example to AVX512_CORE_VNNI (no AMX) or AVX2_VNNI. It does not affect ONNX Runtime.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from pathlib import Path

from inputs import temporary_inputs

from densenet_cli import Classifier, int8
from densenet_cli.benchmarking.agreement import find_images, measure_agreement

TIMED_IMAGES, WARM_UP = 100, 5


def measure(folder: Path, count: int, **model: object) -> dict[str, object]:
    """Compare int8 with float32 for up to ``count`` of the images in a folder."""
    reference = Classifier(**model, threads=1)
    classifiers = {
        "float32, onnx": reference,
        "float32, openvino": Classifier(**model, threads=1, engine="openvino"),
        "int8, openvino": Classifier(
            **model, threads=1, precision="int8", int8_images=folder, allow_low_agreement=True
        ),
    }
    sources, _ = find_images(str(folder), reference)
    calibration = {source.origin for source in int8.select_images(folder).calibration}
    held_out = [source for source in sources if source.origin not in calibration]
    held_out = random.Random(1).sample(held_out, min(count, len(held_out)))
    times: dict[str, list[float]] = {name: [] for name in classifiers}
    for source in held_out[: TIMED_IMAGES + WARM_UP]:
        pixels = reference.load(source)
        for name, classifier in classifiers.items():
            start = time.process_time()
            classifier.run(pixels)
            times[name].append(time.process_time() - start)
    agreement = measure_agreement(classifiers["int8, openvino"], reference, held_out)
    medians = {name: round(1000 * statistics.median(values[WARM_UP:]), 2) for name, values in times.items()}
    return {"model": reference.model, **agreement.to_dict(), "cpu_milliseconds": medians}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=5000, help="maximum number of images to compare")
    args = parser.parse_args()
    print(json.dumps(measure(args.folder, args.images, variant="tiny"), indent=2), flush=True)
    with temporary_inputs() as inputs:
        result = measure(inputs.photographs(1000), args.images, weights=inputs.varied_weights())
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
