"""A network with its weights, whatever these hold."""

from __future__ import annotations

import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError
from densenet_cli.weights import safetensors
from tests.support.networks import TINY, uncalibrated


@pytest.mark.parametrize("engine", ["onnx", "tensorflow"])
def test_an_answer_that_is_no_number_is_an_error_of_the_checkpoint(tmp_path, photographs, engine):
    arrays = uncalibrated(TINY)
    # Finite numbers, every one; but their products are not.
    arrays["predictions"]["kernel"] = np.full_like(arrays["predictions"]["kernel"], 3e38, dtype=np.float32)
    weights = tmp_path / "wild.safetensors"
    safetensors.write(weights, arrays, TINY, None)
    classifier = Classifier(weights=weights, engine=engine)
    with pytest.raises(CheckpointError, match=r"wild\.safetensors .* no number"):
        classifier.predict(photographs[0])
