"""One cold start, its steps one after the other: ``phases.py WEIGHTS IMAGE`` prints [[step, milliseconds]] as JSON.

The command does some of this side by side (decoding beside the session), so the sum is a little more than its time.
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

done("import click")
from densenet_cli.cli import predict  # noqa: E402, F401

done("the command and its options")
import numpy  # noqa: E402, F401

done("import numpy")
from densenet_cli.classifier import Classifier  # noqa: E402

done("the classifier's modules")
import onnxruntime  # noqa: E402, F401

done("import onnxruntime")
weights, image = sys.argv[1:]
classifier = Classifier(weights=weights)
done("find the cached graph")
classifier._model.engine.load()
done("the session, weights mapped")
from PIL import Image, JpegImagePlugin  # noqa: E402, F401

done("import Pillow")
from densenet_cli.images import decoding, preprocessing, sources  # noqa: E402

pixels = decoding.load(sources.from_object(image), classifier.preprocessing)
done("decode and resize")
batch = preprocessing.normalize(pixels)
done("normalize")
probabilities = classifier.run(batch)["probabilities"][0]
done("the network")
prediction = classifier._prediction(sources.from_object(image), probabilities, 5, 0.0)
done("the five best")
from densenet_cli.cli.render import Tables  # noqa: E402

Tables().show(prediction)
done("Rich and its table")

import json  # noqa: E402

print(json.dumps(_steps))
