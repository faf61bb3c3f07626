"""The options that describe a model and its preprocessing, and the classifier that they create."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import engines, variants
from densenet_cli.cli.command import GLOBAL_GROUP, FloatList, FloatRange, input_option, option
from densenet_cli.cli.console import echo_info, is_verbose
from densenet_cli.cli.path_types import FilePath
from densenet_cli.engines import BATCH_SIZE
from densenet_cli.images import DECODE_MEMORY, MAX_TIMEOUT
from densenet_cli.images.preprocessing import INTERPOLATIONS, MAX_INPUT_SIZE, MIN_CROP_RATIO, MODES, PAGES, TRUNCATED
from densenet_cli.topology import OUTPUT_ACTIVATIONS

if TYPE_CHECKING:
    from densenet_cli.classifier import Classifier

F = TypeVar("F", bound=Callable[..., Any])


model_option = partial(option, group="Model")
preprocessing_option = partial(option, group="Preprocessing")
performance_option = partial(option, group="Performance")

MODEL_OPTIONS = {
    "variant": model_option(
        "--variant",
        type=click.Choice(list(variants.VARIANTS)),
        metavar="NAME",
        help=f"DenseNet variant: {', '.join(variants.VARIANTS)}.  [default: {variants.DEFAULT}, or the variant in "
        "--weights]",
    ),
    "weights": model_option(
        "--weights",
        type=click.Path(),
        metavar="PATH",
        help="Load this checkpoint instead of the published weights: a file, a folder, or hf://ORGANIZATION/NAME on "
        "the Hugging Face Hub.",
    ),
    "labels": model_option(
        "--labels",
        type=FilePath(exists=True, dir_okay=False),
        metavar="FILE",
        help="Read class names from FILE (text, JSON, YAML, or CSV) instead of using the model's.",
    ),
    "engine": model_option(
        "--engine",
        type=click.Choice(list(engines.ENGINES)),
        help="Inference engine: ONNX Runtime, OpenVINO, or Keras on TensorFlow (slow to start).  "
        f"[default: {engines.DEFAULT}, or openvino for bfloat16 and int8]",
    ),
    "precision": model_option(
        "--precision",
        type=click.Choice(engines.PRECISION_CHOICES),
        default=engines.PRECISION_CHOICES[0],
        show_default=True,
        help="Number format to compute in. bfloat16 is faster on processors with AMX and changes probabilities "
        "slightly. int8 is faster on processors with VNNI and changes more. auto chooses float32 or bfloat16.",
    ),
    "int8_images": model_option(
        "--int8-images",
        type=FilePath(exists=True, file_okay=False),
        metavar="DIR",
        help="At least 100 unlabeled images like those to be classified. --precision int8 measures the activation "
        "ranges on them and caches the ranges for later runs. (This is unrelated to densenet calibrate.)",
    ),
    "allow_low_agreement": model_option(
        "--allow-low-agreement",
        is_flag=True,
        help="Accept --precision int8 even if it agrees with float32 on less than 97% of the images.",
    ),
    "activation": model_option(
        "--activation",
        type=click.Choice(OUTPUT_ACTIVATIONS),
        help="Activation that converts logits to probabilities: softmax, or sigmoid for a multi-label model.  "
        "[default: as --weights states, or softmax]",
    ),
    "uncalibrated": model_option(
        "--uncalibrated",
        is_flag=True,
        help="Ignore the calibration in --weights, and report the network's own probabilities.",
    ),
    "preprocess": preprocessing_option(
        "--preprocess",
        type=click.Choice(MODES),
        help="How to fit images to the input: crop (resize and center-crop), squash (ignore aspect ratio), "
        "pad (letterbox), keras (match load_img).  [default: the model's mode, or crop]",
    ),
    "input_size": preprocessing_option(
        "--input-size",
        type=click.IntRange(1, MAX_INPUT_SIZE),
        metavar="PIXELS",
        help="Height and width of the model's input.  [default: the model's input size]",
    ),
    "mean": preprocessing_option(
        "--mean",
        type=FloatList(),
        metavar="R,G,B",
        help="Mean of each channel for pixels in [0, 1], or one number for all.  "
        "[default: as --weights states, or ImageNet's]",
    ),
    "std": preprocessing_option(
        "--std",
        type=FloatList(),
        metavar="R,G,B",
        help="Standard deviation of each channel, like --mean.",
    ),
    "interpolation": preprocessing_option(
        "--interpolation",
        type=click.Choice(INTERPOLATIONS),
        help="How to resize images.  [default: as --weights states, or bilinear]",
    ),
    "crop_ratio": preprocessing_option(
        "--crop-ratio",
        type=FloatRange(MIN_CROP_RATIO, 1),
        metavar="RATIO",
        help="Fraction of the resized image's shorter side that crop mode keeps.  "
        "[default: as --weights states, or 0.875]",
    ),
    "exact": preprocessing_option(
        "--exact",
        is_flag=True,
        help="Decode large JPEGs at full resolution (slower).",
    ),
    "ten_crop": preprocessing_option(
        "--ten-crop",
        is_flag=True,
        help="Average over ten crops of each image (crop mode only).",
    ),
    "bit_depth": preprocessing_option(
        "--bit-depth",
        default="auto",
        show_default=True,
        metavar="auto|full|N|LO:HI",
        help="Range of values, from black to white, of images with more than 8 bits: detected (auto), of the data type "
        "(full), of N bits, or from LO to HI.",
    ),
    "truncated": preprocessing_option(
        "--truncated",
        type=click.Choice(TRUNCATED),
        default=TRUNCATED[0],
        show_default=True,
        help="Whether to accept images whose files end early. Their records are marked.",
    ),
    "pages": input_option(
        "--pages",
        type=click.Choice(PAGES),
        default=PAGES[0],
        show_default=True,
        help="Which pages of a TIFF file, or frames of an animation, to use. The source file.tif[2] is the third page.",
    ),
    "batch_size": performance_option(
        "--batch-size",
        type=click.IntRange(1, 4096),
        default=BATCH_SIZE,
        show_default=True,
        metavar="N",
        help="Number of images per batch, only with --engine tensorflow. Other engines process one image per thread.",
    ),
    "threads": performance_option(
        "--threads",
        type=click.IntRange(1, 1024),
        show_default="number of cores",
        metavar="N",
        help="Number of threads for decoding and inference.",
    ),
    "processes": performance_option(
        "--processes",
        type=click.IntRange(1, 256),
        metavar="N",
        help="Number of processes that share the threads if there are many images.  [default: 1, or more if one cannot "
        "use all cores]",
    ),
    "decode_memory": performance_option(
        "--decode-memory",
        type=click.IntRange(min=1),
        default=DECODE_MEMORY,
        show_default=True,
        metavar="MB",
        help="Memory limit for concurrent decoding.",
    ),
    "isolate": performance_option(
        "--isolate",
        is_flag=True,
        help="Decode in worker processes so that a crash fails one image instead of the run.",
    ),
    "timeout": performance_option(
        "--timeout",
        type=FloatRange(0, MAX_TIMEOUT, min_open=True),
        metavar="SECONDS",
        help="Time limit for decoding one image. Implies --isolate.  [default: no limit]",
    ),
    "offline": option("--offline", is_flag=True, group=GLOBAL_GROUP, help="Never access the network."),
}
"""Parameter name -> decorator. A command passes their values to ``create_classifier``."""


PREPROCESSING_OPTIONS = (
    "activation",
    "preprocess",
    "input_size",
    "mean",
    "std",
    "interpolation",
    "crop_ratio",
)
"""The options that describe a model whose file does not state them."""


def model_options(only: Collection[str] = tuple(MODEL_OPTIONS), without: Collection[str] = ()) -> Callable[[F], F]:
    """Return a decorator that adds the named ``MODEL_OPTIONS`` to a command; all of them by default."""

    def add(function: F) -> F:
        for name in reversed(MODEL_OPTIONS):
            if name in only and name not in without:
                function = MODEL_OPTIONS[name](function)
        return function

    return add


def model_settings(classifier: Classifier, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that the model's outputs depend on, as JSON types, and what is to be said about them.

    ``options`` are those of the command.
    """
    from densenet_cli.weights.shards import checkpoint_md5

    return {
        "model": classifier.model,
        "weights_md5": checkpoint_md5(classifier.weights),
        # What arrays do not reveal: config.json or --variant states it.
        "stem": classifier.config.stem,
        "pooling": classifier.config.pooling,
        "engine": classifier.engine,
        "precision": classifier.precision,
        **({"int8": classifier.quantization.key} if classifier.quantization else {}),
        "calibrated": classifier.calibration is not None,
        **classifier.preprocessing.to_dict(),
        "assumptions": _assumptions(classifier, options),
        "notes": list(classifier.metadata.notes),
    }


def _assumptions(classifier: Classifier, options: Mapping[str, Any]) -> list[str]:
    """Return the classifier's assumptions that the command has an option for."""
    return [assumption for assumption in classifier.assumptions if assumption.partition("=")[0] in options]


def _echo_assumptions(classifier: Classifier, assumptions: list[str]) -> None:
    """Print the assumptions if an important one is among them, and with ``--verbose`` in any case, with notes.

    The normalization is important, and so is the activation, unless the file states the mean and is of a kind that
    never states an activation: timm's published models, which state everything else, all use softmax.
    """
    metadata = classifier.metadata
    is_activation_important = metadata.mean is None or metadata.lacks_activation
    critical = ("mean=", "std=", *(["activation="] if is_activation_important else []))
    is_warning = any(assumption.startswith(critical) for assumption in assumptions)
    if assumptions and (is_warning or is_verbose()):
        flags = " ".join(f"--{name.replace('_', '-')} {value}" for name, value in (a.split("=") for a in assumptions))
        warning = "Warning: " if is_warning else ""
        echo_info(f"{warning}{classifier.weights} does not state all of its settings. Assuming {flags}.")
    if is_verbose():
        for note in classifier.metadata.notes:
            echo_info(note)


def create_classifier(*, needs_head: bool = True, **options: Any) -> Classifier:
    """Create the classifier that ``model_options`` describe. Downloads of weights show their progress.

    The classifier is closed when the command ends. If the command ``needs_head``, a network without one is an error.
    """
    from densenet_cli.classifier import Classifier
    from densenet_cli.cli.progress import ProgressBar

    with ProgressBar("download") as download, ProgressBar("steps") as calibration:

        def show_calibration(done: int, total: int) -> None:
            download.stop()
            calibration.update("Calibrating int8", done, total)

        classifier = Classifier(**options, progress=download.update_download, int8_progress=show_calibration)
    if needs_head:
        classifier.check_head()
    if options.get("precision") == "auto":
        echo_info(f"Precision: {classifier.precision}.")
    if classifier.quantization:
        echo_info(f"{classifier.quantization}.")
    _echo_assumptions(classifier, _assumptions(classifier, options))
    click.get_current_context().call_on_close(classifier.close)
    return classifier
