"""``densenet train``: a network of one's own, from class folders."""

from __future__ import annotations

import os
from pathlib import Path

import click

from densenet_cli.cli.console import common_options, say


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--config", "config_file", type=click.Path(path_type=Path), required=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), required=True)
@click.option("--cache", type=click.Path(path_type=Path), required=True)
@click.option("--resume", is_flag=True)
@common_options
def command(folder: Path, config_file: Path, output: Path, cache: Path, resume: bool) -> None:
    """Train a network on the class folders in FOLDER."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from densenet_cli.training import folders, store
    from densenet_cli.training.loop import Part, Run, Step
    from densenet_cli.training.settings import Settings, read_toml, write_toml

    settings = Settings.from_dict(read_toml(config_file))
    training, validation = folders.split(folders.scan(folder), settings.validation, settings.seed)
    output.mkdir(parents=True, exist_ok=True)
    parts = [Part(store.mapped(part, cache), part.targets) for part in (training, validation)]

    def on_step(step: Step) -> None:
        if step.batch % 50 == 0:
            say(
                f"epoch {step.epoch + 1} size {step.size} {step.batch}/{step.batches} loss {step.loss:.4f} "
                f"accuracy {step.accuracy:.4f} {step.seconds:.0f} s"
            )

    run = Run(settings, training.classes, *parts, output, on_step=on_step, on_epoch=lambda row: say(str(row)))
    write_toml(output / "settings.toml", settings)
    if resume:
        run.restore()
    run.train()
