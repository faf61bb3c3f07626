"""``densenet benchmark``: what this machine does with this model."""

from __future__ import annotations

import json
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import click

from densenet_cli.cli.console import common_options, printable, say, warn
from densenet_cli.cli.options import BATCH_SIZE_OPTION, THREADS_OPTION, make_classifier, model_options_but
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.pipeline import available_cores

MOST_IMAGES = 64
"""Of those given: they are gone through again and again, so that more would only be read into memory."""

WITHOUT_WEIGHTS = (
    "The speed does not depend on the weights' numbers: densenet benchmark --random-weights measures without them."
)


class Numbers(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.3.2 only
    """Whole numbers with commas between them, each within bounds."""

    name = "numbers"

    def __init__(self, least: int, most: int) -> None:
        self._range = click.IntRange(least, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """In ascending order, each once."""
        if isinstance(value, tuple):
            return value
        parts: list[Any] = [part.strip() for part in str(value).split(",")]
        return tuple(sorted({self._range.convert(part, param, ctx) for part in parts}))


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@model_options_but(BATCH_SIZE_OPTION, THREADS_OPTION)
@click.option(
    "--batch-size",
    "batch_sizes",
    type=Numbers(1, 4096),
    default="1,4,8,16",
    show_default=True,
    metavar="N,...",
    help="Try these numbers of images computed at once.",
)
@click.option(
    "--threads",
    type=Numbers(1, 1024),
    show_default="1, a quarter, half and all of the cores",
    metavar="N,...",
    help="Try these numbers of threads that decode and compute.",
)
@click.option(
    "--images",
    multiple=True,
    metavar="SOURCE",
    help="Measure with these: an image, a folder or a glob; may be repeated.  [default: 500x375 JPEGs of noise with a "
    "photograph's statistics]",
)
@click.option("--random-weights", is_flag=True, help="Random numbers for weights: speed needs no others.")
@click.option("--compare", is_flag=True, help="Measure the TensorFlow engine beside it (takes minutes).")
@click.option(
    "--seconds",
    type=click.FloatRange(0, 86400),
    default=60,
    show_default=True,
    metavar="S",
    help="About how long; four rounds are made however long they take.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="How to print it.",
)
@common_options
def command(
    batch_sizes: tuple[int, ...],
    threads: tuple[int, ...] | None,
    images: tuple[str, ...],
    random_weights: bool,
    compare: bool,
    seconds: float,
    format_: str,
    **model: Any,
) -> int:
    """Measure what this machine does with a model.

    The start of the whole command, the time of one image, images a second by batch size and threads (decoding
    alone, the engine alone, both together), memory; and what was fastest. All of it is measured in turn, round
    after round. Nothing else should run meanwhile.

    \b
    Exit status: 0 done, 2 wrong usage, 3 no weights or unfit ones,
    130 interrupted.

    \b
    Examples:
      densenet benchmark
      densenet benchmark --variant 169 --random-weights
      densenet benchmark --weights model.safetensors --images photos/
      densenet benchmark --batch-size 8,32 --threads 4,8 --seconds 300
      densenet benchmark --compare --format json
    """
    if random_weights and model["weights"]:
        raise click.UsageError("--random-weights takes the place of --weights: give one of the two.")
    if compare and model["engine"] == "tensorflow":
        raise click.UsageError("--compare puts the TensorFlow engine beside another: leave out --engine tensorflow.")
    from densenet_cli.benchmarking import Plan, measure
    from densenet_cli.benchmarking.plan import usual_threads
    from densenet_cli.cli.progress import ShareBar

    found = _found(images)
    if not random_weights:
        _fetch(model)
    plan = Plan(
        options=model,
        arguments=_arguments(model),
        batch_sizes=batch_sizes,
        threads=threads or usual_threads(available_cores()),
        images=found,
        seconds=seconds,
        compare=compare,
        random_weights=random_weights,
    )
    say(f"Measuring for about {seconds:.0f} seconds: nothing else should run meanwhile.")
    with ShareBar() as progress:
        report = measure(plan, progress.update)
    for name, reason in report.images["unusable"].items():
        warn(f"{printable(name)} was left out: {printable(reason)}")
    if format_ == "json":
        sys.stdout.write(json.dumps(report.to_dict(), indent=2) + "\n")
    else:
        from densenet_cli.cli.benchmark_tables import show

        show(report)
    return 0


def _found(images: tuple[str, ...]) -> tuple[Path, ...]:
    """The first files among ``images``. Raises ``click.UsageError`` for what is no file."""
    from densenet_cli.images.sources import expand

    found = []
    for source in islice(expand(list(images)), MOST_IMAGES):
        if source.error:
            raise click.BadParameter(f"{printable(source.name)}: {source.error}", param_hint="'--images'")
        if source.kind != "path":
            raise click.BadParameter("files are measured, neither URLs nor standard input.", param_hint="'--images'")
        found.append(Path(source.origin))
    return tuple(found)


def _fetch(model: dict[str, Any]) -> None:
    """See that the weights are there and fit, and the graph made of them is cached, as for any later command."""
    try:
        make_classifier(**model)
    except WeightsUnavailableError as error:
        raise WeightsUnavailableError(f"{error}\n{WITHOUT_WEIGHTS}") from error


def _arguments(model: dict[str, Any]) -> tuple[str, ...]:
    """The options of a model, but for the engine, as they are typed."""
    typed: list[str] = []
    for name, value in model.items():
        option = f"--{name.replace('_', '-')}"
        if value is True:
            typed.append(option)
        elif name != "engine" and value is not None and value is not False:
            typed += [option, str(value)]
    return tuple(typed)
