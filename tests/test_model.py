"""Models: labels, and weights that are finite but produce other values."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError
from densenet_cli.weights import safetensors
from tests.support.checkpoints import write_legacy_h5
from tests.support.networks import TINY, unscaled_arrays


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
def test_nonfinite_output_is_a_checkpoint_error(tmp_path, photographs, engine):
    arrays = unscaled_arrays(TINY)
    # These values are finite, but their products are not.
    arrays["predictions"]["kernel"] = np.full_like(arrays["predictions"]["kernel"], 3e38, dtype=np.float32)
    weights = tmp_path / "wild.safetensors"
    safetensors.write(weights, arrays, TINY, None)
    classifier = Classifier(weights=weights, engine=engine)
    with pytest.raises(CheckpointError, match=r"wild\.safetensors.*NaN"):
        classifier.predict(photographs[0])


def test_imagenet_labels_of_a_checkpoint_without_labels_are_noted(tmp_path):
    """Names are assumed only for 1,000 classes."""
    for classes in (1000, 999):
        config = replace(TINY, classes=classes)
        write_legacy_h5(tmp_path / f"{classes}.h5", unscaled_arrays(config), config)
        with Classifier(weights=tmp_path / f"{classes}.h5") as classifier:
            assert (classifier.labels[0].name == "tench") == (classes == 1000)
            assert any("ImageNet" in note for note in classifier.metadata.notes) == (classes == 1000)
