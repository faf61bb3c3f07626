"""``densenet train``: a network of one's own, from class folders."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from densenet_cli import variants
from densenet_cli.cli.console import common_options, say, warn
from densenet_cli.images.preprocessing import MODES
from densenet_cli.topology import STEMS

F = TypeVar("F", bound=Callable[..., Any])

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)


class Blocks(click.ParamType):  # type: ignore[type-arg]  # generic since Click 8.3 only
    """``6,12,24,16`` as a list."""

    name = "N,N,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        """The numbers. Raises ``click.BadParameter``."""
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is not a list of whole numbers such as 6,12,24,16.", param, ctx)


SETTINGS = (
    click.option("--variant", type=click.Choice(list(variants.VARIANTS)), help="Train this network.  [default: 121]"),
    click.option("--blocks", type=Blocks(), help="Layers in each dense block."),
    click.option("--growth-rate", type=int, metavar="K", help="Feature maps that a layer adds."),
    click.option("--stem", type=click.Choice(list(STEMS)), help="What comes before the first block."),
    click.option("--stem-width", type=int, metavar="N", help="Feature maps out of the stem."),
    click.option("--compression", type=float, metavar="SHARE", help="Feature maps that a transition keeps."),
    click.option("--input-size", type=int, metavar="PIXELS", help="Side of the images that the model is made for."),
    click.option("--preprocess", type=click.Choice(list(MODES)), help="How those are prepared.  [default: crop]"),
    click.option("--from", "start", metavar="VARIANT|FILE", help="Start from its weights, with a new head."),
    click.option("--freeze", metavar="STAGE", help="Keep the layers up to that stage (conv1, conv2, ...) as they are."),
    click.option(
        "--unfreeze-after", type=int, metavar="EPOCHS", help="Let them learn after so many.  [default: never]"
    ),
    click.option("--epochs", type=int, help="All at the input size.  [default: 30]"),
    click.option("--sizes", metavar="SIZExEPOCHS,...", help="Images that grow: 32x5,48x4."),
    click.option("--batch-size", type=int, metavar="N", help="Images a step.  [default: 64]"),
    click.option("--learning-rate", type=float, metavar="RATE", help="Its peak.  [default: 0.1]"),
    click.option("--schedule", type=click.Choice(["cosine", "step"]), help="How it falls.  [default: cosine]"),
    click.option("--warmup", type=float, metavar="EPOCHS", help="How long it grows first.  [default: 1]"),
    click.option("--momentum", type=float, metavar="M", help="Nesterov's.  [default: 0.9]"),
    click.option("--weight-decay", type=float, metavar="L2", help="Of kernels, not of BN and biases.  [default: 1e-4]"),
    click.option("--label-smoothing", type=float, metavar="SHARE", help="[default: 0.1]"),
    click.option(
        "--augmentation",
        type=click.Choice(["crop", "pad", "none"]),
        help="Random-resized crops, padded crops (the paper's C10+), or none.  [default: crop]",
    ),
    click.option(
        "--crop-area", type=float, metavar="SHARE", help="Least area of a random-resized crop.  [default: 0.35]"
    ),
    click.option("--flip/--no-flip", default=None, help="Mirror every other image.  [default: flip]"),
    click.option(
        "--averaging", type=int, metavar="STEPS", help="Average the weights over so many; 0: don't.  [default: 500]"
    ),
    click.option("--class-weights/--no-class-weights", default=None, help="Weigh rare classes more.  [default: no]"),
    click.option("--validation", type=int, metavar="N", help="Images a class to split off.  [default: 10]"),
    click.option(
        "--patience", type=int, metavar="EPOCHS", help="Stop after so many without progress.  [default: never]"
    ),
    click.option(
        "--precision",
        type=click.Choice(["float32", "mixed_bfloat16", "mixed_float16"]),
        help="What to compute in.  [default: float32]",
    ),
    click.option("--seed", type=int, help="Repeats a run.  [default: 0]"),
)
"""What decides the result: those of ``training.settings.Settings``, or what stands for some; a recipe may hold them."""


def settings_options(function: F) -> F:
    """Add ``SETTINGS`` to a command, which gets None for what isn't given."""
    for option in reversed(SETTINGS):
        function = option(function)
    return function


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": False})
@click.argument("folder", type=FOLDER)
@click.option(
    "-o", "--output", type=click.Path(file_okay=False, path_type=Path), required=True, help="Folder of the run."
)
@click.option(
    "--val", type=FOLDER, metavar="FOLDER", help="Class folders to measure on, instead of splitting some off."
)
@click.option("--resume", is_flag=True, help="Go on with the run in the output folder.")
@click.option("--overwrite", is_flag=True, help="Begin anew in a folder that holds a run.")
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="TOML",
    help="A recipe: settings in a file; options count for more.",
)
@settings_options
@click.option("--threads", type=click.IntRange(min=1), help="Threads that prepare images.  [default: number of cores]")
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=180.0,
    metavar="SECONDS",
    help="Save the state so often, and at every epoch's end.  [default: 180]",
)
@click.option(
    "--cache",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="FOLDER",
    help="Where decoded images are kept.  [default: in the cache]",
)
@click.option(
    "--cache-limit",
    type=click.IntRange(min=0),
    default=8000,
    metavar="MB",
    help="Decode larger collections anew in each epoch.  [default: 8000]",
)
@click.option("--skip-unreadable", is_flag=True, help="Leave images out that can't be decoded.")
@click.option("--offline", is_flag=True, help="Never touch the network.")
@common_options
def command(
    folder: Path,
    output: Path,
    val: Path | None,
    resume: bool,
    overwrite: bool,
    config: Path | None,
    threads: int | None,
    save_every: float,
    cache: Path | None,
    cache_limit: int,
    skip_unreadable: bool,
    offline: bool,
    **options: Any,
) -> int:
    """Train a network on the images in FOLDER/<class>/.

    In the output folder are, at any moment: model.safetensors (the best weights so far, averaged, with labels and
    everything else that predict and evaluate need), log.csv, settings.toml (a recipe for --config) and the state
    that --resume goes on from, however the run ended. With --resume no settings need be given again.

    \b
    Examples:
      densenet train photos/ -o run --from 121 --freeze conv4 --epochs 10
      densenet train cifar/train -o run --variant bc-100-12 --augmentation pad
      densenet train tiny-imagenet/train -o run --config recipes/tiny.toml
      densenet train photos/ -o run --resume
    """
    from densenet_cli import paths
    from densenet_cli.cli.training_progress import TrainingProgress
    from densenet_cli.pipeline import available_cores
    from densenet_cli.training import recipes, run_files, session
    from densenet_cli.training.settings import RunOptions

    given = {name: value for name, value in options.items() if value is not None}
    recipe = recipes.read(config) if config else {}
    if resume:
        settings = recipes.resolve_resumed(run_files.load_state(output).settings, recipe, given)
    else:
        settings = recipes.resolve(recipe, given)
    run_paths = run_files.RunPaths(folder, val, output, cache or paths.images_dir())
    with TrainingProgress() as progress:
        run_options = RunOptions(
            threads=threads or available_cores(),
            cache_limit=cache_limit,
            save_every=save_every,
            skip_unreadable=skip_unreadable,
            on_step=progress.step,
            on_epoch=progress.epoch,
        )
        with session.open_run(
            run_paths,
            settings,
            run_options,
            resume=resume,
            overwrite=overwrite,
            offline=offline,
            on_decoded=progress.decoded,
        ) as run:
            with _stopping(run.stop):
                run.train()
            run_files.draw_curves(output / run_files.CURVES_FILE, run.state.history)
    if not run.is_finished:
        warn(f"Stopped, and saved: densenet train {folder} -o {output} --resume goes on.")
        return 130
    state = run.state
    say(
        f"{output / run_files.MODEL_FILE}: validation accuracy {state.best_accuracy:.1%} after "
        f"epoch {state.best_epoch} of {state.epoch}."
    )
    return 0


@contextmanager
def _stopping(stop: Callable[[], None]) -> Iterator[None]:
    """Ctrl-C and SIGTERM end the run behind the step at hand, its state saved; a second one doesn't wait."""

    def heard(number: int, _frame: object) -> None:
        stop()
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.signal(number, heard) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
