"""Turns the outputs of the network into predictions: which classes to report, and with which guarantee."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict, Unpack

from densenet_cli.errors import UsageError
from densenet_cli.results import Failure, Prediction, Score, Selection

if TYPE_CHECKING:
    from densenet_cli.calibration.decisions import ErrorLimit, LabelSets
    from densenet_cli.calibration.record import Calibration
    from densenet_cli.images.preprocessing import Preprocessing
    from densenet_cli.labels import Labels
    from densenet_cli.pipeline import Result

SET_METHODS = ("lac", "raps")
GUARANTEED_SETTINGS = (
    "preprocess",
    "input_size",
    "ten_crop",
    "interpolation",
    "crop_ratio",
    "mean",
    "std",
    "exact",
    "bit_depth",
)
"""The parts of the preprocessing that must be those of the calibration images."""


class DecisionOptions(NamedTuple):
    """The values of ``Decisions`` with defaults."""

    coverage: float | None = None
    max_error: float | None = None
    set_method: str | None = None
    by_class: bool = False

    def check(self) -> None:
        """Raise ``UsageError`` if a value is not allowed."""
        if self.coverage is None and self.max_error is None:
            if self.by_class:
                raise UsageError("`by_class` requires `coverage` or `max_error`.")
            if self.set_method is not None:
                raise UsageError("`set_method` requires `coverage`.")
            return
        from densenet_cli.calibration.decisions import check_level

        check_level("coverage", self.coverage)
        check_level("max_error", self.max_error)
        if self.set_method is not None:
            if self.coverage is None:
                raise UsageError("`set_method` requires `coverage`.")
            if self.set_method not in SET_METHODS:
                raise UsageError(f"`set_method` must be {' or '.join(SET_METHODS)}, not {self.set_method!r}.")


class Decisions(TypedDict, total=False):
    """What predictions must guarantee. It requires a calibrated model (see the guide "Calibrate a model").

    Attributes:
        coverage: Probability in (0, 1) with which the ``set`` of labels of a prediction contains the true one.
        max_error: Share of the labels, in (0, 1), that may be wrong. Images that are not labeled are ``unsure``.
        set_method: How sets are formed: ``lac``, the default, or ``raps``.
        by_class: Whether this holds for each class, not only for all images together.
    """

    coverage: float | None
    max_error: float | None
    set_method: str | None
    by_class: bool


class Predictor:
    """Converts results to predictions.

    Args:
        model: Name of the model.
        labels: Labels of the model.
        is_multi_label: Whether it is a multi-label model.
        calibration: Its calibration, or None if the probabilities are uncalibrated.
        preprocessing: How the images are prepared.
        precision: What the engine computes in.
        top_k: See ``Classifier.predict``.
        min_prob: Likewise.
        decisions: Likewise.

    Raises:
        UsageError: A value is invalid, the model is not calibrated, or has too few calibration images.

    Attributes:
        selection: Which classes a prediction contains.
        warnings: What to tell the user about the guarantees, one sentence each.
    """

    def __init__(
        self,
        model: str,
        labels: Labels,
        is_multi_label: bool,
        calibration: Calibration | None,
        preprocessing: Preprocessing,
        precision: str,
        top_k: int | None = None,
        min_prob: float | None = None,
        **decisions: Unpack[Decisions],
    ) -> None:
        options = DecisionOptions(**decisions)
        options.check()
        self.selection = Selection.resolve(len(labels), is_multi_label, top_k, min_prob)
        self._model, self._labels, self._options = model, labels, options
        self._sets: LabelSets | None = None
        self._limit: ErrorLimit | None = None
        self._minima: Any = None
        if is_multi_label and calibration and min_prob is None and top_k is None:
            self._minima = calibration.thresholds
        self.warnings: tuple[str, ...] = ()
        if options.coverage is None and options.max_error is None:
            return
        from densenet_cli.calibration.decisions import ErrorLimit, LabelSets

        if calibration is None:
            name = "max_error" if options.coverage is None else "coverage"
            raise UsageError(
                f"`{name}` requires calibrated probabilities, and those of {model} are not. Calibrate the model on "
                "labeled images with densenet calibrate."
            )
        self.warnings = _compare(calibration, preprocessing, precision)
        if options.coverage is not None:
            names = [label.name for label in labels]
            self._sets = LabelSets(calibration, names, options.coverage, options.set_method or "lac", options.by_class)
        if options.max_error is not None:
            self._limit = ErrorLimit(calibration, options.max_error, options.by_class)
            self.warnings += self._limit.warnings
            if is_multi_label and min_prob is None and top_k is None:
                self._minima = self._limit.thresholds

    @property
    def min_prob(self) -> float | None:
        """The probability that reported classes have, or None if each class has its own threshold."""
        return self.selection.min_prob if self._minima is None else None

    @property
    def lowest_min_prob(self) -> float:
        """The lowest probability that a reported class can have; 1 if none is ever reported."""
        return self.selection.min_prob if self._minima is None else min(1.0, *map(float, self._minima))

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that predictions depend on, as JSON types."""
        return {**self.selection._asdict(), **self._options._asdict()}

    def __call__(self, result: Result[Any]) -> Prediction:
        """Convert a result with ``probabilities``, or with an error."""
        if result.error:
            return Prediction(result.source.name, self._model, error=Failure.of(result.error))
        probabilities, labels = result.outputs["probabilities"], self._labels
        scores = self.selection.scores(probabilities, labels, self._minima)
        if self._sets is None and self._limit is None:
            return Prediction(result.source.name, self._model, scores, notes=result.notes)
        label_set: tuple[Score, ...] | None = None
        if self._sets:
            is_in_set = self._sets(probabilities)
            order = (-probabilities).argsort(kind="stable")
            label_set = tuple(
                Score.of(labels[position], rank, probabilities[position])
                for rank, position in enumerate(order, start=1)
                if is_in_set[position]
            )
        unsure = None if self._limit is None else not self._limit(probabilities).any()
        return Prediction(result.source.name, self._model, scores, None, result.notes, label_set, unsure)


def _compare(calibration: Calibration, preprocessing: Preprocessing, precision: str) -> tuple[str, ...]:
    """Return a warning if images are not prepared as for the calibration, or the network computes differently."""
    settings = preprocessing.to_dict()
    differing = [
        f"{name} {calibration.preprocessing[name]}"
        for name in GUARANTEED_SETTINGS
        if name in calibration.preprocessing and calibration.preprocessing[name] != settings[name]
    ]
    if not differing:
        if precision == calibration.precision:
            return ()
        return (
            f"Warning: The guarantees are only approximate in {precision}, because the model was calibrated in "
            f"{calibration.precision}.",
        )
    return (f"Warning: Nothing is guaranteed, because the model was calibrated with other settings: {differing[0]}.",)
