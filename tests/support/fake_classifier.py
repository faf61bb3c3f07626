"""A classifier without a network, for tests of evaluation."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from densenet_cli import labels
from densenet_cli.datasets import LabeledSource, MultiLabelSource
from densenet_cli.errors import ImageError
from densenet_cli.evaluation import EvaluationReport, MultiLabelReport, evaluate, evaluate_multi_label
from densenet_cli.images.preprocessing import Preprocessing
from densenet_cli.pipeline import Result
from densenet_cli.topology import DenseNetConfig


def labeled(targets) -> list[LabeledSource]:
    """Return sources named by their position, with these classes."""
    return [LabeledSource(str(n), str(n), "path", target=int(target)) for n, target in enumerate(targets)]


class FakeClassifier:
    """Replaces ``Classifier``: image n has the result ``outputs[n]``, which is probabilities or an error."""

    model = "fake"
    config = DenseNetConfig((1,))
    preprocessing = Preprocessing()
    calibration = None

    def __init__(self, outputs) -> None:
        self.outputs = outputs
        rows = [output for output in outputs if isinstance(output, np.ndarray)]
        self.labels = labels.placeholders(len(rows[0]) if rows else 1000)

    def stream(self, sources, outputs=("probabilities",)):
        for source, output in zip(sources, self.outputs, strict=False):
            if isinstance(output, ImageError):
                yield Result(source, {}, output)
            else:
                yield Result(source, {"probabilities": output})

    def evaluate(self, targets, **arguments) -> EvaluationReport:
        return evaluate(self, labeled(targets), **arguments)


def multi_labeled(targets) -> list[MultiLabelSource]:
    """Return sources named by their position. ``targets`` has a row per image: 1, 0, or -1 (unknown) per class."""
    return [
        MultiLabelSource(
            str(n),
            str(n),
            "path",
            positives=frozenset(np.flatnonzero(np.equal(row, 1)).tolist()),
            unknown=frozenset(np.flatnonzero(np.equal(row, -1)).tolist()),
        )
        for n, row in enumerate(targets)
    ]


class FakeMultiLabelClassifier(FakeClassifier):
    """The same for a multi-label model."""

    config = DenseNetConfig((1,), activation="sigmoid")

    def evaluate(self, targets, **arguments) -> MultiLabelReport:
        return evaluate_multi_label(self, multi_labeled(targets), **arguments)


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


@st.composite
def multi_labels_and_probabilities(draw):
    """Return targets and float32 probabilities, both (n, classes). Some probabilities are equal, 0, 1, or 0.5."""
    classes, count = draw(st.integers(2, 6)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    shares = rng.choice([0, 0.1, 0.5, 1], classes, p=[0.1, 0.4, 0.4, 0.1])
    targets = (rng.random((count, classes)) < shares).astype(int)
    probabilities = rng.random((count, classes)) * 0.8 + draw(st.sampled_from([0, 0.2])) * targets
    steps = draw(st.sampled_from([None, 2, 10]))
    if steps:
        probabilities = np.round(probabilities * steps) / steps
    return targets, probabilities.astype(np.float32)
