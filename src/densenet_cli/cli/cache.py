"""``densenet cache``: what this machine keeps for the next run, and looking after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli import variants
from densenet_cli.cli.console import common_options, printable, say, stdout_console, warn
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.paths import images_dir, models_dir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from densenet_cli.engines.graph_cache import Entry
    from densenet_cli.variants import Variant
    from densenet_cli.weights.store import Status

DAMAGED = 3


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--prune",
    is_flag=True,
    help="Remove graphs that are stale or damaged, and training's decoded images.",
)
@click.option("--verify", is_flag=True, help="Read and hash every file, instead of comparing size and times.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
@common_options
def command(prune: bool, verify: bool, format_: str) -> int:
    """Show what is stored on this machine: published weights, graphs made from checkpoints, decoded images.

    Graphs and images may be deleted at any time; they are made anew when they are needed. Published weights are
    deleted by nobody but you. Exit status 3 where --verify finds a damaged file.

    \b
    Examples:
      densenet cache
      densenet cache --prune
      densenet cache --verify
    """
    from densenet_cli.engines import graph_cache
    from densenet_cli.weights import file_identity, store

    look = store.verify if verify else store.status
    files = list(_look(look))
    graphs = list(graph_cache.entries(verify))
    if prune:
        graphs = _prune(graphs)
        _prune_images()
        file_identity.prune_checksums()
    if format_ == "json":
        click.echo(json.dumps(_as_json(files, graphs), indent=2))
    else:
        _print(files, graphs)
        _print_images()
    damaged = [str(file.path) for file in files if file.state == "wrong"]
    damaged += [str(graph.folder) for graph in graphs if graph.state == "damaged"]
    for path in damaged:
        warn(f"{printable(path)} is not what it should be.")
    return DAMAGED if damaged and verify else 0


def _look(look: Callable[[Variant], Status]) -> Iterator[Status]:
    """The published weights; one that can't be read is said and left out."""
    for name in variants.downloadable():
        try:
            yield look(variants.get(name))
        except WeightsUnavailableError as error:
            warn(str(error))


def _prune(graphs: list[Entry]) -> list[Entry]:
    """Remove all but the current graphs; those that are left, or can't be removed."""
    from densenet_cli.engines import graph_cache

    left, freed = [], 0
    for graph in graphs:
        if graph.state == "current":
            left.append(graph)
            continue
        try:
            graph_cache.remove(graph)
            freed += graph.size
        except OSError as error:
            warn(f"{printable(str(graph.folder))} can't be removed: {error.strerror or error}.")
            left.append(graph)
    say(f"Removed {_graphs(len(graphs) - len(left))}, {megabytes(freed)}.")
    return left


def _graphs(number: int) -> str:
    return f"{number} graph{'' if number == 1 else 's'}"


def _images() -> list[Path]:
    folder = images_dir()
    return [path for path in folder.iterdir() if path.is_file()] if folder.is_dir() else []


def _prune_images() -> None:
    """A training that has them open keeps them; the next one decodes anew."""
    for path in _images():
        try:
            path.unlink()
        except OSError as error:
            warn(f"{printable(str(path))} can't be removed: {error.strerror or error}.")


def _print_images() -> None:
    if size := sum(path.stat().st_size for path in _images()):
        stdout_console().print(f"Decoded images in {printable(str(images_dir()))}: {megabytes(size)}", soft_wrap=True)


def megabytes(size: int) -> str:
    """A number of bytes for people."""
    return f"{size / 1e6:,.1f} MB"


def _as_json(files: list[Status], graphs: list[Entry]) -> dict[str, Any]:
    from densenet_cli.engines.graph_cache import graphs_dir

    return {
        "images_folder": str(images_dir()),
        "images_size": sum(path.stat().st_size for path in _images()),
        "weights_folder": str(models_dir()),
        "weights": [
            {"variant": file.variant.name, "path": str(file.path), "size": file.size, "state": file.state}
            for file in files
        ],
        "graphs_folder": str(graphs_dir()),
        "graphs": [
            {"path": str(graph.folder), "weights": graph.weights, "size": graph.size, "state": graph.state}
            for graph in graphs
        ],
    }


def _print(files: list[Status], graphs: list[Entry]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from densenet_cli.engines.graph_cache import graphs_dir

    console = stdout_console()
    console.print(f"Weights in {printable(str(models_dir()))}", soft_wrap=True)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("Variant", "left"), ("State", "left"), ("Size", "right"), ("File", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for file in files:
        size = file.size if file.size is not None else file.partial
        table.add_row(file.variant.name, file.state, megabytes(size) if size else "", file.path.name)
    console.print(table)
    console.print(f"Graphs in {printable(str(graphs_dir()))}", soft_wrap=True)
    if not graphs:
        console.print("  none")
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading, justify in (("Graph", "left"), ("State", "left"), ("Size", "right"), ("Made from", "left")):
        table.add_column(heading, justify=justify, overflow="fold")  # type: ignore[arg-type]
    for graph in graphs:
        source = printable(Path(graph.weights).name) if graph.weights else ""
        table.add_row(graph.folder.name[:8], graph.state, megabytes(graph.size), source)
    console.print(table)
    console.print(f"{_graphs(len(graphs))}, {megabytes(sum(graph.size for graph in graphs))}")
