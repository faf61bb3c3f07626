"""Binary logistic regressions give scikit-learn's solution for each class, with a regularization of its own."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from densenet_cli.training import binary_regression, regularization
from densenet_cli.training.multi_label import balance_weights
from tests.training.test_logistic_regression import standardize


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Features with a standard deviation of their own each, and three classes; the third is sometimes unknown."""
    features, numbers = load_digits(return_X_y=True)
    targets = np.stack([numbers % 2 == 0, numbers == 3, numbers > 4], axis=1).astype(np.int64)
    targets[::3, 2] = -1
    return features.astype(np.float32) * np.linspace(0.1, 30, 64, dtype=np.float32), targets


@pytest.mark.parametrize("is_balanced", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_the_solution_is_that_of_scikit_learn(digits, monkeypatch, strength, is_balanced):
    features, targets = digits[0][:600], digits[1][:600]
    monkeypatch.setattr(regularization, "REGULARIZATIONS", (strength,))
    balance = balance_weights(targets) if is_balanced else None
    models = binary_regression.fit(features[:, None], targets, balance)
    assert models.regularizations == (strength,) * 3
    standardized = standardize(features)
    for column in range(3):
        is_known = targets[:, column] >= 0
        labels = targets[is_known, column]
        reference = LogisticRegression(C=1 / (strength * len(labels)), tol=1e-10, max_iter=10_000)
        reference.set_params(class_weight="balanced" if is_balanced else None)
        expected = reference.fit(standardized[is_known], labels).predict_proba(standardized)[:, 1]
        np.testing.assert_allclose(1 / (1 + np.exp(-models.logits(features)[:, column])), expected, atol=2e-3)


def test_each_class_has_the_regularization_with_the_lowest_loss(digits):
    features, targets = digits[0][:400], digits[1][:400].copy()
    targets[:, 1] = np.random.default_rng(0).integers(0, 2, 400)  # noise
    models = binary_regression.fit(features[:, None], targets)
    for column, strength in enumerate(models.regularizations):
        losses = {value: values[column] for value, values in models.losses.items()}
        assert losses[strength] == min(losses.values())
    assert models.regularizations[1] >= 1 > models.regularizations[0]
    is_correct = (models.logits(digits[0][400:])[:, 0] > 0) == (digits[1][400:, 0] == 1)
    assert is_correct.mean() > 0.85
    again = binary_regression.fit(features[:, None], targets)
    assert again.kernel.tobytes() == models.kernel.tobytes()


def test_views_count_as_parts_of_their_image(digits, monkeypatch):
    """Repeating each image changes nothing."""
    monkeypatch.setattr(regularization, "REGULARIZATIONS", (0.1,))
    features, targets = digits[0][:200, None], digits[1][:200]
    single = binary_regression.fit(features, targets)
    repeated = binary_regression.fit(np.repeat(features, 3, axis=1), targets)
    np.testing.assert_allclose(single.kernel, repeated.kernel, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("count", [2, 9, 40])
def test_classes_that_all_no_or_unknown_images_have(count):
    features = np.random.default_rng(0).normal(size=(count, 1, 3)).astype(np.float32)
    targets = np.stack([np.ones(count), np.zeros(count), -np.ones(count), np.arange(count) % 2], 1).astype(np.int64)
    models = binary_regression.fit(features, targets, balance_weights(targets))
    logits = models.logits(features[:, 0])
    assert np.isfinite(logits).all()
    assert (logits[:, 0] > 0).all() and (logits[:, 1] < 0).all() and (logits[:, 2] == 0).all()


def test_extreme_logits():
    values = binary_regression.cross_entropies(np.array([[1000.0, -1000.0, 0.0]]), np.array([[1, 1, 0]]))
    np.testing.assert_allclose(values, [[0, 1000, np.log(2)]])
