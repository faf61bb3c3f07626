"""A classifier without a network, for tests of evaluation."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from densenet_cli import labels
from densenet_cli.datasets import LabeledSource
from densenet_cli.errors import ImageError
from densenet_cli.evaluation import EvaluationReport, evaluate
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.pipeline import Result


def labeled(targets) -> list[LabeledSource]:
    """Return sources named by their position, with these classes."""
    return [LabeledSource(str(n), str(n), "path", target=int(target)) for n, target in enumerate(targets)]


class FakeClassifier:
    """Replaces ``Classifier``: image n has the result ``outputs[n]``, which is probabilities or an error."""

    model = "fake"
    preprocessing = Preprocessing()

    def __init__(self, outputs) -> None:
        self.outputs = outputs
        rows = [output for output in outputs if isinstance(output, np.ndarray)]
        self.labels = labels.placeholders(len(rows[0]) if rows else 1000)

    def stream(self, sources):
        for source, output in zip(sources, self.outputs, strict=False):
            if isinstance(output, ImageError):
                yield Result(source, {}, output)
            else:
                yield Result(source, {"probabilities": output})

    def evaluate(self, targets, **arguments) -> EvaluationReport:
        return evaluate(self, labeled(targets), **arguments)


@st.composite
def targets_and_probabilities(draw):
    """Return targets (n,) and float32 probabilities (n, classes), without equal values in a row."""
    classes, count = draw(st.integers(2, 12)), draw(st.integers(1, 60))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    targets = rng.integers(0, draw(st.integers(1, classes)), count)
    logits = rng.normal(0, draw(st.sampled_from([0.1, 1.0, 4.0])), (count, classes))
    logits[np.arange(count), targets] += draw(st.sampled_from([0.0, 2.0]))
    rows = np.exp(logits - logits.max(axis=1, keepdims=True))
    return targets, (rows / rows.sum(axis=1, keepdims=True)).astype(np.float32)
