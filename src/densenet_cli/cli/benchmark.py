"""``densenet benchmark``: measure the speed and memory of a model on this machine."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.command import FloatRange, command, describe_weights_error, format_option, option
from densenet_cli.cli.console import echo_error, echo_info, printable
from densenet_cli.cli.model_options import create_classifier, model_options
from densenet_cli.cli.path_types import FilePath
from densenet_cli.engines import available_cores
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.text import to_unicode

MAX_IMAGES = 64
"""Images to use of those given. They are decoded repeatedly, so more would only take memory."""


class IntList(click.ParamType):  # type: ignore[type-arg]  # generic only since Click 8.3.2
    """Comma-separated integers within bounds."""

    name = "integers"

    def __init__(self, minimum: int, maximum: int) -> None:
        self._range = click.IntRange(minimum, maximum)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Return the integers in ascending order, without duplicates."""
        if isinstance(value, tuple):
            return value
        parts: list[Any] = [part.strip() for part in str(value).split(",")]
        return tuple(sorted({self._range.convert(part, param, ctx) for part in parts}))


BATCH_SIZES = (1, 4, 8, 16)


@command(exit_statuses={1: "with --agreement: some images failed; or an unexpected error"})
@option(
    "--batch-size",
    "batch_sizes",
    type=IntList(1, 4096),
    metavar="N,...",
    help="Batch sizes to measure, only with --engine tensorflow or --compare. Other engines process one image per "
    f"thread.  [default: {','.join(map(str, BATCH_SIZES))}]",
)
@option(
    "--threads",
    type=IntList(1, 1024),
    metavar="N,...",
    help="Numbers of threads to measure.  [default: 1, a quarter, half, and all of the cores]",
)
@option(
    "--images",
    multiple=True,
    metavar="SOURCE",
    help="Image, folder, or glob to measure with. Can be repeated.  [default: synthetic 500x375 JPEGs with the "
    "statistics of photographs]",
)
@option("--random-weights", is_flag=True, help="Use random weights, which are as fast as real ones.")
@option("--compare", is_flag=True, help="Also measure the TensorFlow engine in float32 (takes several minutes).")
@option(
    "--agreement",
    type=FilePath(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Compare the predictions in --precision with those in float32 for the images in FOLDER, instead of measuring "
    "the speed. With class folders, also compare the accuracy.",
)
@option(
    "--seconds",
    type=FloatRange(0, 86400),
    default=60,
    show_default=True,
    metavar="S",
    help="Approximate duration. At least four rounds are run.",
)
@format_option
@model_options(without=["uncalibrated", "bit_depth", "truncated", "pages", "batch_size", "threads", "processes"])
def benchmark(
    batch_sizes: tuple[int, ...] | None,
    threads: tuple[int, ...] | None,
    images: tuple[str, ...],
    random_weights: bool,
    compare: bool,
    agreement: str | None,
    seconds: float,
    format_: str,
    **model: Any,
) -> int:
    """Measure the speed and memory of a model on this machine.

    The report contains the start-up time and peak memory of the command, the latency of one image, the throughput for
    each number of threads, and the fastest settings. Close other programs for accurate results.

    \b
    Examples:
      densenet benchmark
      densenet benchmark --variant 169 --random-weights
      densenet benchmark --weights model.safetensors --images photos/
      densenet benchmark --threads 4,8 --seconds 300
      densenet benchmark --compare --format json
      densenet benchmark --precision bfloat16 --agreement photos/
    """
    if random_weights and model["weights"]:
        raise click.UsageError("--random-weights and --weights cannot be used together.")
    if compare and model["engine"] == "tensorflow":
        raise click.UsageError("--compare adds the TensorFlow engine. Remove --engine tensorflow.")
    if batch_sizes and not compare and model["engine"] != "tensorflow":
        raise click.UsageError("--batch-size applies only to the TensorFlow engine. Add --engine tensorflow.")
    if agreement is not None and (images or random_weights or compare):
        raise click.UsageError("--agreement cannot be used with --images, --random-weights, or --compare.")
    from densenet_cli.benchmarking import BenchmarkPlan, run_benchmark
    from densenet_cli.benchmarking.runner import default_threads
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.engines.precision import choose

    model["engine"], model["precision"] = choose(model["precision"], model["engine"])
    if agreement is not None:
        return _measure_agreement(agreement, model, max(threads) if threads else None, format_)
    paths = _image_paths(images)
    if not random_weights:
        _prepare_weights(model)
    plan = BenchmarkPlan(
        options=model,
        arguments=_model_arguments(model),
        batch_sizes=batch_sizes or BATCH_SIZES,
        threads=threads or default_threads(available_cores()),
        images=paths,
        seconds=seconds,
        compare=compare,
        random_weights=random_weights,
    )
    echo_info(f"Measuring for about {seconds:.0f} s. Close other programs for accurate results.")
    with ProgressBar("share") as progress:
        report = run_benchmark(plan, lambda description, share: progress.update(description, share, 1.0))
    for name, reason in report.images["failed"].items():
        echo_error(f"Skipped {printable(name)}: {printable(reason)}")
    if format_ == "json":
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        from densenet_cli.cli.benchmark_tables import print_report

        print_report(report)
    return 0


def _measure_agreement(folder: str, model: dict[str, Any], threads: int | None, format_: str) -> int:
    """Compare a precision with float32, print the result, and return the exit status."""
    from densenet_cli.benchmarking.agreement import find_images, measure_agreement, with_precision
    from densenet_cli.cli.progress import ProgressBar

    if model["precision"] == "float32":
        raise click.UsageError(
            "--agreement compares another precision with float32. Add --precision bfloat16 or int8, which need a "
            "processor that supports them."
        )
    classifier = create_classifier(**model, threads=threads)
    with type(classifier)(**with_precision(model, None, "float32"), threads=threads) as reference:
        sources, reason = find_images(folder, classifier)
        if reason:
            echo_info(f"The accuracy is not measured. {reason}")
        with ProgressBar("count") as progress:
            result = measure_agreement(classifier, reference, sources, lambda: progress.advance("images"))
    for name, error in result.failed.items():
        echo_error(f"{printable(name)}: {printable(error)}")
    if format_ == "json":
        settings = {name: getattr(classifier, name) for name in ("model", "engine", "precision")}
        sys.stdout.write(json.dumps({**settings, "folder": to_unicode(folder), **result.to_dict()}, indent=2) + "\n")
    else:
        from densenet_cli.cli.benchmark_tables import print_agreement

        print_agreement(classifier.model, classifier.engine, classifier.precision, folder, result)
    return 1 if result.failed else 0


def _image_paths(images: tuple[str, ...]) -> tuple[Path, ...]:
    """Return the paths of the first ``MAX_IMAGES`` image files. Raises ``click.BadParameter`` for other sources."""
    from densenet_cli.images.sources import expand

    paths = []
    for source in islice(expand(list(images)), MAX_IMAGES):
        if source.error:
            raise click.BadParameter(f"{printable(source.name)}: {source.error}", param_hint="'--images'")
        if source.kind != "path" or source.page:
            raise click.BadParameter(
                "URLs, archives, standard input, and pages are not supported.", param_hint="'--images'"
            )
        paths.append(Path(source.origin))
    return tuple(paths)


def _prepare_weights(model: dict[str, Any]) -> None:
    """Download and check the weights, and cache their graph, so that the benchmark does not measure it."""
    try:
        create_classifier(**model)
    except WeightsUnavailableError as error:
        hint = "To measure the speed without weights, use: densenet benchmark --random-weights"
        raise WeightsUnavailableError(f"{describe_weights_error(error)}\n{hint}") from error


def _model_arguments(model: dict[str, Any]) -> tuple[str, ...]:
    """Return the model options, except the engine, the precision, and those of int8, as command-line arguments."""
    from densenet_cli.benchmarking.agreement import INT8_OPTIONS

    arguments: list[str] = []
    for name, value in model.items():
        if name in ("engine", "precision", *INT8_OPTIONS):
            continue
        flag = f"--{name.replace('_', '-')}"
        if value is True:
            arguments.append(flag)
        elif value is not None and value is not False:
            arguments += [flag, ",".join(map(str, value)) if isinstance(value, tuple) else str(value)]
    return tuple(arguments)
