"""The Python API: ``Classifier`` turns images into predictions, embeddings, and explanations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar, Unpack

from densenet_cli.errors import UsageError
from densenet_cli.image_model import ImageModel
from densenet_cli.images.sources import Source
from densenet_cli.pipeline import Result
from densenet_cli.predictor import Decisions, Predictor
from densenet_cli.results import Embedding, Prediction

if TYPE_CHECKING:
    from densenet_cli._types import ImageInput
    from densenet_cli.explain.cam import Explainer, Explanation
    from densenet_cli.images.previews import Preview

S = TypeVar("S", bound=Source)


class Classifier(ImageModel):
    """A DenseNet with its weights and labels.

        with Classifier("121") as classifier:
            print(classifier.predict("cat.jpg").scores[0].label)

    Args:
        variant: Name of a variant, such as ``169`` or ``tiny``. Defaults to ``121``, or to the variant that ``weights``
            contains. If both are given, they must match.
        weights: Checkpoint to use instead of the variant's published weights: a file, a folder that contains one, or
            ``hf://ORGANIZATION/NAME`` on the Hugging Face Hub.
        labels: File of class names (text, JSON, YAML, or CSV), to use instead of the model's labels.
        engine: ``onnx``, ``openvino``, or ``tensorflow``. Defaults to ``onnx``, or ``openvino`` for the other
            precisions.
        precision: ``float32``, ``bfloat16`` (faster on processors with AMX), ``int8`` (faster on processors with VNNI),
            or ``auto`` for the faster one of the first two.
        int8_images: Folder of at least 100 unlabeled images like those to be classified. int8 requires it the first
            time, to measure the activation ranges, which are cached. It is unrelated to ``calibration``.
        allow_low_agreement: Accept int8 even if its top-1 label is that of float32 for less than 97% of these images.
        preprocess: How to fit images to the input: ``crop``, ``squash``, ``pad``, or ``keras``. Defaults to the model's
            mode, or else ``crop``.
        input_size: Side of the square input in pixels. Defaults to the model's input size.
        mean: Mean of each channel for pixels in [0, 1], or one number for all. Like the next four, it is for a
            checkpoint that does not state it, and must not contradict one that does. The default is ImageNet's.
        std: Standard deviation of each channel, likewise.
        interpolation: How to resize: ``bilinear``, ``bicubic``, or ``nearest``.
        crop_ratio: Fraction of the resized image's shorter side that ``crop`` keeps, at most 1.
        activation: Converts logits to probabilities: ``softmax`` or, for multi-label models, ``sigmoid``.
        uncalibrated: Ignore the calibration in the checkpoint, and report the network's own probabilities.
        exact: Decode large JPEGs at full scale.
        ten_crop: Average over ten crops of each image (``crop`` mode only).
        truncated: ``accept`` to use what there is of an image whose file ends early, and note it in its result.
        bit_depth: Range of values from black to white, for images of more than 8 bits: ``auto``, ``full``, a number of
            bits, or ``LOW:HIGH``.
        pages: Which pages of a TIFF file, or frames of an animation, the methods for many images process: ``first``,
            with a note in the result if there are more, or ``all``.
        batch_size: Number of images per batch, at least 1; 8 by default. Only ``tensorflow`` processes batches.
        threads: Number of threads for decoding and for inference. Defaults to the number of cores.
        processes: Number of processes that share the threads when there are many images, at least 1. Defaults to 1, or
            more on machines with so many cores that one process cannot use them. ``close`` ends them.
        decode_memory: Memory limit for concurrent decoding in megabytes; 700 by default.
        isolate: Decode in worker processes so that a crash fails one image only. ``close`` ends them.
        timeout: Time limit for decoding one image in seconds, above 0 and at most 86,400. Implies ``isolate``.
        offline: Never access the network, neither for weights nor for images.
        base_url: Where to download weights from, instead of the published URLs.
        progress: Called while weights are downloaded, with (file name, bytes so far, total bytes or None).
        int8_progress: Called while int8 is calibrated, with the number of images so far and of all images.

    Raises:
        UsageError: A value is invalid or contradicts the checkpoint, or labels do not fit the model's classes.
        IsolationError: No worker process can be started.
        WeightsError: The weights are unavailable or do not fit the variant.

    Attributes:
        model: Name in results, such as ``densenet121``, or the name of the checkpoint's file, folder, or repository.
        weights: Path of the checkpoint.
        config: Configuration of the network.
        metadata: What the checkpoint states besides the network.
        labels: Labels, in the order of the output.
        engine: Name of the engine.
        precision: Precision that it computes in.
        quantization: For int8, the ranges and the agreement with float32; else None.
        calibration: The calibration of the probabilities, or None.
        preprocessing: How images are fitted to the input.
        assumptions: What neither the checkpoint nor an argument states, as ``NAME=VALUE``.
        batch_size: Number of images per batch.
        threads: Number of threads.
        processes: Number of processes.
    """

    def predict(
        self, image: ImageInput, top_k: int | None = None, min_prob: float | None = None, **decisions: Unpack[Decisions]
    ) -> Prediction:
        """Classify one image.

        Args:
            image: A path, an http(s) URL, or a URL of object storage, also of a page such as ``file.tif[2]`` or a
                member of an archive such as ``photos.tar/cats/1.jpg``; the bytes of an image file, a binary file
                object, a PIL image, or a uint8 RGB array of shape (height, width, 3).
            top_k: Maximum number of classes to return, at least 1. Defaults to 5, or to all for a multi-label model.
            min_prob: Leave out classes with a lower probability, in [0, 1]. Defaults to 0, or, for a multi-label model
                without ``top_k``, to 0.5 or the thresholds of its calibration.
            **decisions: What a calibrated model must guarantee; see ``Decisions``.

        Raises:
            UsageError: A value is invalid, or the model lacks the calibration for it.
            ImageError: The image cannot be classified. The subclass says why.
        """
        return self.predictor(top_k, min_prob, **decisions)(self._process(image))

    def predict_many(
        self,
        images: Iterable[ImageInput],
        top_k: int | None = None,
        min_prob: float | None = None,
        **decisions: Unpack[Decisions],
    ) -> Iterator[Prediction]:
        """Classify any number of images lazily and in order, in constant memory.

        Args:
            images: What ``predict`` accepts; also folders, archives, and globs. Iterated in a separate thread.
            top_k: See ``predict``.
            min_prob: See ``predict``.
            **decisions: See ``Decisions``.

        Yields:
            A prediction per image, or page with ``pages="all"``, with its ``error`` if the image failed.

        Raises:
            UsageError: A value is invalid, or ``images`` is a single image.
        """
        predictor = self.predictor(top_k, min_prob, **decisions)
        results = self.stream(self._loader.expand(images, self.preprocessing.pages))
        return (predictor(result) for result in results)

    def embed(self, image: ImageInput) -> Embedding:
        """Compute the feature vector of one image, for search and near-duplicates. See ``predict`` for the arguments.

        The vector is the average of the last feature maps, what ``keras.applications`` returns with
        ``include_top=False, pooling="avg"``. If the model's head takes their maximum, so does the vector.
        """
        return self.embedding(self._process(image, ("features",)))

    def embed_many(self, images: Iterable[ImageInput]) -> Iterator[Embedding]:
        """Compute the feature vectors of any number of images, as ``predict_many`` does."""
        return map(self.embedding, self.stream(self._loader.expand(images, self.preprocessing.pages), ("features",)))

    def explain(self, image: ImageInput, top_k: int = 1, classes: Sequence[int | str] | None = None) -> Explanation:
        """Compute class activation maps: which regions of one image drove its prediction.

        Args:
            image: As for ``predict``.
            top_k: Number of most probable classes to explain, at least 1.
            classes: Explain these instead: the label, WordNet ID, or index of each.

        Raises:
            UsageError: A class is unknown, or the classifier uses ``ten_crop``.
            ImageError: The image cannot be classified.
        """
        explainer = self.explainer(top_k, classes)
        return explainer(self._process(image, explainer.outputs, explainer.preview))

    def explain_many(
        self, images: Iterable[ImageInput], top_k: int = 1, classes: Sequence[int | str] | None = None
    ) -> Iterator[Explanation]:
        """Explain any number of images, as ``predict_many`` classifies them."""
        explainer = self.explainer(top_k, classes)
        results = self.stream(
            self._loader.expand(images, self.preprocessing.pages), explainer.outputs, preview=explainer.preview
        )
        return map(explainer, results)

    def predictor(
        self, top_k: int | None = None, min_prob: float | None = None, **decisions: Unpack[Decisions]
    ) -> Predictor:
        """Return a callable that converts results with ``probabilities``. See ``predict`` for the arguments."""
        is_multi_label, calibration = self.config.is_multi_label, self.calibration
        for name in ("coverage", "max_error"):
            if decisions.get(name) is not None and calibration is None and self.metadata.calibration is not None:
                raise UsageError(f"`{name}` requires the calibrated probabilities. Omit `uncalibrated`.")
        model = (self.model, self.labels, is_multi_label, calibration, self.preprocessing, self.precision)
        return Predictor(*model, top_k, min_prob, **decisions)

    def embedding(self, result: Result[S]) -> Embedding:
        """Convert a result with ``features`` to an ``Embedding``."""
        return Embedding.of(result, self.model, self.config.pooling)

    def explainer(self, top_k: int = 1, classes: Sequence[int | str] | None = None) -> Explainer:
        """Return a callable that converts results to explanations. See ``explain`` for the arguments.

        The results must have its ``outputs`` and ``preview``: ``stream(sources, explainer.outputs,
        preview=explainer.preview)``.
        """
        from densenet_cli.explain.cam import Explainer

        self.predictor(top_k)  # raises if the number is invalid
        head = self._model.engine.head
        return Explainer(self.model, self.labels, self.preprocessing, self.config, head, top_k, classes)

    def _process(
        self, image: ImageInput, outputs: Sequence[str] = ("probabilities",), preview: type[Preview] | None = None
    ) -> Result[Source]:
        """Return the result of one image, or raise its ``ImageError``."""
        (result,) = self.stream([self.to_source(image)], outputs, preview=preview, threads=1)
        if result.error:
            raise result.error
        return result
