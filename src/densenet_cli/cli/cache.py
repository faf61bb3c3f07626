"""``densenet cache``: show, verify, prune, or remove the files that are stored for later runs."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from densenet_cli import variants
from densenet_cli.cli.command import command, format_option, option
from densenet_cli.cli.console import echo_error, echo_info, echo_lines, printable, stdout_console
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.paths import checkpoints_dir, images_dir, is_hub_url, models_dir, staging_dir
from densenet_cli.text import plural

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from densenet_cli.engines.cached_graphs import CacheEntry
    from densenet_cli.output.staging import StagedRun
    from densenet_cli.weights.file_identity import FileStatus
    from densenet_cli.weights.hub.cache import CachedRepository


@command(
    exit_statuses={
        3: "--verify found a damaged file",
        4: "a file cannot be removed, or output cannot be written",
    }
)
@option(
    "--prune",
    is_flag=True,
    help="Remove stale and damaged graphs, decoded images of training, checkpoints shared by Ray, and staged results "
    "that are uploaded.",
)
@option("--verify", is_flag=True, help="Hash every file instead of comparing sizes and times.")
@option(
    "--remove",
    multiple=True,
    metavar="hf://...",
    help="Remove this repository from the cache of the Hugging Face Hub. Can be repeated.",
)
@format_option
def cache(prune: bool, verify: bool, remove: tuple[str, ...], format_: str) -> int:
    """Show what is stored on this machine: published weights, graphs, and decoded images.

    Graphs are networks that ONNX Runtime has optimized or OpenVINO has compiled. Decoded images are those of training
    sets. Both can be deleted at any time, because they are created again when needed. Published weights are never
    deleted automatically.

    Staged results are those of unfinished runs with --output in object storage. --resume continues them.

    The cache of the Hugging Face Hub is shared with other programs. Only repositories that were used before or have
    "densenet" in their name are shown, and only --remove deletes from it.

    \b
    Examples:
      densenet cache
      densenet cache --prune
      densenet cache --verify
      densenet cache --remove hf://timm/densenet121.ra_in1k
    """
    from densenet_cli.engines import cached_graphs
    from densenet_cli.weights import file_identity
    from densenet_cli.weights.hub import cache as hub_cache

    repositories = [_parse_repository(url) for url in remove]
    is_removed = [_remove_repository(repository) for repository in repositories]
    files = list(_weights(verify))
    graphs = list(cached_graphs.list_entries(verify))
    if prune:
        graphs = _prune_graphs(graphs)
        is_removed += [graph.state == "current" for graph in graphs]
        is_removed += [_prune_files(images_dir()), _prune_files(checkpoints_dir()), _prune_staged()]
        file_identity.prune_checksums()
    cached = list(hub_cache.list_densenets())
    if format_ == "json":
        click.echo(json.dumps(_to_json(files, cached, graphs), indent=2))
    else:
        _print_tables(files, cached, graphs)
    damaged = [str(file.path) for file in files if file.state == "wrong"]
    damaged += [str(graph.folder) for graph in graphs if graph.state == "damaged"]
    if verify:
        damaged += [str(blob) for repository in cached for blob in hub_cache.find_damaged(repository.folder)]
    for path in damaged:
        echo_error(f"Damaged: {printable(path)}")
    if damaged and verify:
        return 3
    return 0 if all(is_removed) else 4


def _weights(verify: bool) -> Iterator[FileStatus]:
    """Yield the statuses of the weights that Keras publishes. Errors are printed."""
    from densenet_cli.weights import store

    for name in variants.downloadable():
        variant = variants.get(name)
        if variant.weights:
            try:
                yield store.status(variant, recompute=verify)
            except WeightsUnavailableError as error:
                echo_lines(str(error))


def _parse_repository(url: str) -> str:
    """Return the name of a repository. Raises ``click.UsageError``."""
    from densenet_cli.weights.hub.url import HubUrl, parse_url

    if not is_hub_url(url):
        raise click.UsageError(f"--remove requires a URL such as hf://timm/densenet121.ra_in1k, not {url!r}.")
    target = parse_url(url)
    if target != HubUrl(target.repository):
        raise click.UsageError(f"--remove removes a whole repository: use {HubUrl(target.repository)}.")
    return target.repository


def _try_remove(name: str, remove: Callable[[], object]) -> bool:
    """Remove something. If that fails, print the reason and return False."""
    try:
        remove()
    except OSError as error:
        echo_error(f"Cannot remove {printable(name)}: {error.strerror or error}.")
        return False
    return True


def _remove_repository(repository: str) -> bool:
    """Remove a repository from the cache of the Hub. Return whether it is removed."""
    from densenet_cli.weights.hub import cache as hub_cache

    def remove() -> None:
        try:
            echo_info(f"Removed {repository} ({megabytes(hub_cache.remove(repository))}).")
        except FileNotFoundError:
            raise OSError(f"it is not in {hub_cache.cache_dir()}") from None

    return _try_remove(repository, remove)


def _prune_graphs(graphs: list[CacheEntry]) -> list[CacheEntry]:
    """Remove all graphs that are not current, and return the remaining ones."""
    from densenet_cli.engines import cached_graphs

    remaining, freed = [], 0
    for graph in graphs:
        if graph.state != "current" and _try_remove(str(graph.folder), partial(cached_graphs.remove, graph)):
            freed += graph.size
        else:
            remaining.append(graph)
    echo_info(f"Removed {plural(len(graphs) - len(remaining), 'graph')} ({megabytes(freed)}).")
    return remaining


def _size(folder: Path) -> int:
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # deleted in the meantime
                total += Path(parent, name).stat().st_size
    return total


def _prune_files(folder: Path) -> bool:
    """Remove the files below a folder. Return whether all are removed. A run that has them open continues with them."""
    is_removed = True
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            path = Path(parent, name)
            is_removed &= _try_remove(str(path), partial(path.unlink, missing_ok=True))
        if Path(parent) != folder:
            with suppress(OSError):
                Path(parent).rmdir()
    return is_removed


def _prune_staged() -> bool:
    """Remove the results of unfinished runs that object storage has as well. Return whether all are removed."""
    from densenet_cli.output.staging import list_staged, remove_staged

    def remove(run: StagedRun) -> None:
        try:
            remove_staged(run)
            echo_info(f"Removed staged results of {printable(run.url)} ({megabytes(run.size)}).")
        except BlockingIOError:
            echo_info(f"Kept staged results of {printable(run.url)}: the run has not ended.")

    is_removed = [_try_remove(str(run.folder), partial(remove, run)) for run in list_staged() if run.is_uploaded]
    return all(is_removed)


def megabytes(size: int) -> str:
    """Format a number of bytes in megabytes."""
    return f"{size / 1e6:,.1f} MB"


def _to_json(files: list[FileStatus], cached: list[CachedRepository], graphs: list[CacheEntry]) -> dict[str, Any]:
    from densenet_cli.engines.graph_cache import graphs_dir
    from densenet_cli.output.staging import list_staged
    from densenet_cli.weights.hub import cache as hub_cache

    return {
        "images_folder": str(images_dir()),
        "images_size": _size(images_dir()),
        "checkpoints_folder": str(checkpoints_dir()),
        "checkpoints_size": _size(checkpoints_dir()),
        "weights_folder": str(models_dir()),
        "weights": [
            {"variant": file.name, "path": str(file.path), "size": file.size, "state": file.state} for file in files
        ],
        "hub_folder": str(hub_cache.cache_dir()),
        "hub": [{"repository": entry.repository, "path": str(entry.folder), "size": entry.size} for entry in cached],
        "graphs_folder": str(graphs_dir()),
        "graphs": [
            {"path": str(graph.folder), "weights": graph.weights, "size": graph.size, "state": graph.state}
            for graph in graphs
        ],
        "staging_folder": str(staging_dir()),
        "staged": [
            {"path": str(run.folder), "url": run.url, "size": run.size, "uploaded": run.is_uploaded}
            for run in list_staged()
        ],
    }


def _print_tables(files: list[FileStatus], cached: list[CachedRepository], graphs: list[CacheEntry]) -> None:
    from densenet_cli.cli.render import create_table, number_column, text_column
    from densenet_cli.engines.graph_cache import graphs_dir
    from densenet_cli.weights.hub import cache as hub_cache

    console = stdout_console()
    table = create_table(text_column("Variant"), text_column("State"), number_column("Size"), text_column("File"))
    for file in files:
        size = file.partial if file.size is None else file.size
        table.add_row(file.name, file.state, megabytes(size) if size else "", file.path.name)
    console.print(f"Weights in {printable(str(models_dir()))}", soft_wrap=True)
    console.print()
    console.print(table)
    console.print()
    console.print(f"Hugging Face Hub in {printable(str(hub_cache.cache_dir()))}", soft_wrap=True)
    if cached:
        table = create_table(text_column("Repository"), number_column("Size"))
        for entry in cached:
            table.add_row(entry.repository, megabytes(entry.size))
        console.print()
        console.print(table)
    else:
        console.print("  none")
    console.print()
    console.print(f"Graphs in {printable(str(graphs_dir()))}", soft_wrap=True)
    if graphs:
        table = create_table(
            text_column("Graph"), text_column("State"), number_column("Size"), text_column("Checkpoint")
        )
        for graph in graphs:
            checkpoint = printable(_checkpoint_name(Path(graph.weights))) if graph.weights else ""
            table.add_row(graph.folder.name[:8], graph.state, megabytes(graph.size), checkpoint)
        console.print()
        console.print(table)
        console.print()
        console.print(f"{plural(len(graphs), 'graph')}, {megabytes(sum(graph.size for graph in graphs))}")
    else:
        console.print("  none")
    for name, folder in {"Decoded images": images_dir(), "Checkpoints shared by Ray": checkpoints_dir()}.items():
        if size := _size(folder):
            console.print(f"{name} in {printable(str(folder))}: {megabytes(size)}", soft_wrap=True)
    _print_staged(console)


def _print_staged(console: Console) -> None:
    """Print the results of unfinished runs that write to object storage, if there are any."""
    from densenet_cli.cli.render import create_table, number_column, text_column
    from densenet_cli.output.staging import list_staged

    if not (runs := list_staged()):
        return
    console.print()
    console.print(f"Staged results in {printable(str(staging_dir()))}", soft_wrap=True)
    table = create_table(text_column("Output"), text_column("State"), number_column("Size"))
    for run in runs:
        table.add_row(printable(run.url), "uploaded" if run.is_uploaded else "not uploaded", megabytes(run.size))
    console.print()
    console.print(table)


def _checkpoint_name(path: Path) -> str:
    """Return the name of a file, or of its repository if it is in the cache of the Hub, where files are checksums."""
    if path.parent.name == "blobs":
        return path.parents[1].name.rpartition("--")[2]
    return path.name
