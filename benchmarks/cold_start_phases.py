"""The steps of a cold start in sequence: ``cold_start_phases.py WEIGHTS IMAGE`` prints [[step, milliseconds]] as JSON.

The command runs some of them concurrently, so it takes slightly less than the sum.
"""

import time

_last = time.perf_counter()
_steps: list[tuple[str, float]] = []


def done(step: str) -> None:
    global _last
    now = time.perf_counter()
    _steps.append((step, (now - _last) * 1e3))
    _last = time.perf_counter()


import sys  # noqa: E402

import click  # noqa: E402, F401

done("Import click")
from densenet_cli.classifier import Classifier  # noqa: E402
from densenet_cli.cli import predict  # noqa: E402, F401

done("Import the command and the classifier")
import numpy  # noqa: E402, F401

done("Import numpy")
import onnxruntime  # noqa: E402, F401

done("Import onnxruntime")
weights, image = sys.argv[1:]
classifier = Classifier(weights=weights)
done("Find the cached graph")
classifier._model.engine.load()
done("Create the session, map the weights")
from PIL import Image, JpegImagePlugin  # noqa: E402, F401

done("Import Pillow")
from densenet_cli.images import decoding, sources  # noqa: E402
from densenet_cli.images.normalization import normalize  # noqa: E402
from densenet_cli.pipeline import Result  # noqa: E402

source = sources.from_object(image)
pixels = decoding.load(source, classifier.preprocessing).pixels
done("Decode and resize")
batch = normalize(pixels)
done("Normalize")
outputs = classifier.run(batch)
done("Run the network")
prediction = classifier.predictor()(Result(source, {"probabilities": outputs["probabilities"][0]}))
done("Select the top 5 classes")
from densenet_cli.cli.console import stdout_console  # noqa: E402
from densenet_cli.cli.render import print_prediction  # noqa: E402

print_prediction(stdout_console(), prediction, min_prob=0.0)
done("Import Rich, print the table")

import json  # noqa: E402

print(json.dumps(_steps))
