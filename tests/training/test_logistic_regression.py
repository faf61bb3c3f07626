"""Logistic regression gives scikit-learn's solution, and chooses the regularization by cross-validation."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from densenet_cli.training import binary_regression, logistic_regression, regularization


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    """Features with a standard deviation of their own each, one of them constant."""
    features, targets = load_digits(return_X_y=True)
    return features.astype(np.float32) * np.linspace(0.1, 30, 64, dtype=np.float32), targets


def probabilities(logits: np.ndarray) -> np.ndarray:
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def standardize(features: np.ndarray) -> np.ndarray:
    std = features.std(axis=0, dtype=np.float64)
    smallest = 0.01 * np.sqrt((std**2).mean())
    return (features - features.mean(axis=0, dtype=np.float64)) / np.where(std > 1e-6, std.clip(smallest), np.inf)


def test_a_feature_that_hardly_varies_has_little_influence(digits):
    """One image has a value of it that is a thousand times the noise."""
    features = np.column_stack([digits[0], np.random.default_rng(0).normal(0, 1e-4, len(digits[0]))])
    features = features.astype(np.float32)[:600]
    model = logistic_regression.fit(features[:, None], digits[1][:600], 10)
    before = probabilities(model.logits(features[:1]))
    features[0, -1] = 0.1
    np.testing.assert_allclose(probabilities(model.logits(features[:1])), before, atol=0.02)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("strength", [1.0, 0.01])
def test_the_solution_is_that_of_scikit_learn(digits, monkeypatch, strength, weighted):
    features, targets = digits[0][:600], digits[1][:600]
    monkeypatch.setattr(regularization, "REGULARIZATIONS", (strength,))
    weights = np.linspace(0.5, 3, 10).astype(np.float32) if weighted else None
    model = logistic_regression.fit(features[:, None], targets, 10, weights)
    assert model.regularizations == (strength,)
    sample_weights = weights[targets] / weights[targets].mean() if weighted else None
    reference = LogisticRegression(C=1 / (strength * 600), tol=1e-10, max_iter=10_000)
    reference.fit(standardize(features), targets, sample_weights)
    expected = reference.predict_proba(standardize(features))
    np.testing.assert_allclose(probabilities(model.logits(features)), expected, atol=2e-3)


def test_the_regularization_has_the_lowest_loss(digits):
    features, targets = digits[0][:300], digits[1][:300]
    model = logistic_regression.fit(features[:, None], targets, 10)
    (strength,) = model.regularizations
    assert model.losses[strength] == min(model.losses.values())
    assert 1e-5 < strength < 10, "neither end of the range"
    assert (model.logits(digits[0][300:]).argmax(axis=1) == digits[1][300:]).mean() > 0.85
    again = logistic_regression.fit(features[:, None], targets, 10)
    assert again.kernel.tobytes() == model.kernel.tobytes()


def test_the_cross_validation_weights_images_as_the_objective_does(digits, monkeypatch):
    """If only one class counts, a model that always predicts it has no loss. Binary regressions do the same."""
    monkeypatch.setattr(regularization, "REGULARIZATIONS", (0.1,))
    features, targets = digits[0][:300, None], (digits[1][:300] == 3).astype(np.int64)
    weights = np.array([1, 1e-6], np.float32)
    multinomial = logistic_regression.fit(features, targets, 2, weights)
    binary = binary_regression.fit(features, targets[:, None], weights[:, None])
    for model in (multinomial, binary):
        assert 0 < model.losses[0.1][0] < 0.01


def test_noise_gets_the_strongest_regularization():
    generator = np.random.default_rng(0)
    features = generator.normal(size=(60, 1, 40)).astype(np.float32)
    model = logistic_regression.fit(features, generator.integers(0, 3, 60), 3)
    assert model.regularizations[0] >= 1


def test_views_count_as_parts_of_their_image(digits, monkeypatch):
    """Repeating each image changes nothing."""
    monkeypatch.setattr(regularization, "REGULARIZATIONS", (0.1,))
    features, targets = digits[0][:200, None], digits[1][:200]
    single = logistic_regression.fit(features, targets, 10)
    repeated = logistic_regression.fit(np.repeat(features, 3, axis=1), targets, 10)
    np.testing.assert_allclose(single.kernel, repeated.kernel, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("count", [2, 9, 11])
def test_few_images_and_constant_features(count):
    features = np.ones((count, 1, 3), np.float32)
    features[:, 0, 0] = np.arange(count) % 2
    model = logistic_regression.fit(features, np.arange(count) % 2, 2)
    assert np.isfinite(model.kernel).all()
    assert (model.logits(features[:, 0]).argmax(axis=1) == np.arange(count) % 2).all()


def test_minimize_stops_at_a_minimum():
    def objective(point):
        return float((point**4).sum() + ((point - 3) ** 2).sum()), 4 * point**3 + 2 * (point - 3)

    minimum = logistic_regression.minimize(objective, np.zeros((2, 2)), 1e-9)
    np.testing.assert_allclose(4 * minimum**3 + 2 * (minimum - 3), 0, atol=1e-8)
