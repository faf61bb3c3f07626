"""Models whose weights are finite but produce other values."""

from __future__ import annotations

import numpy as np
import pytest

from densenet_cli import Classifier
from densenet_cli.errors import CheckpointError
from densenet_cli.weights import safetensors
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
