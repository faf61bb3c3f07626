"""``densenet download-weights``: download and verify the published checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import variants as registry
from densenet_cli.cli.command import command, describe_weights_error, option
from densenet_cli.cli.console import echo_info, printable, stdout_console
from densenet_cli.errors import WeightsUnavailableError
from densenet_cli.variants import Variant

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from densenet_cli.weights.store import Status


T = TypeVar("T")

STATE_STYLES = {"ready": "green", "wrong": "red", "partial": "yellow"}


class PublishedVariant(click.ParamType):  # type: ignore[type-arg]
    """The name of a variant that has published weights."""

    name = "variant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Variant:
        """Return the variant. Raises ``click.BadParameter``."""
        if isinstance(value, Variant):
            return value
        if value not in registry.downloadable():
            names = ", ".join(registry.downloadable())
            self.fail(f"{value!r} has no published weights. Variants with published weights: {names}.", param, ctx)
        return registry.get(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that start with ``incomplete``."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in registry.downloadable() if name.startswith(incomplete)]


@command(
    exit_statuses={
        0: "all weights are ready",
        2: "invalid usage",
        3: "a download failed, or a file is missing or wrong",
        130: "interrupted; the next run continues",
    }
)
@click.argument("variants", nargs=-1, type=PublishedVariant(), metavar="[VARIANT]...")
@option("--list", "only_list", is_flag=True, help="Only show the files and their states.")
@option("--verify", is_flag=True, help="Only compute and verify the MD5 of the existing files.")
@option("--force", is_flag=True, help="Download again. A different file of that name is kept as NAME.MD5.old.")
@option(
    "--base-url",
    metavar="URL",
    help="Download from a mirror: an http(s) or file URL to which the file name is appended.  [env: DENSENET_BASE_URL]",
)
def download_weights(
    variants: tuple[Variant, ...], only_list: bool, verify: bool, force: bool, base_url: str | None
) -> None:
    """Download the published ImageNet weights and verify their MD5.

    VARIANT is 121, 169, or 201. Without it, all three are downloaded. The files are stored where Keras stores them:
    in $KERAS_HOME/models (default: ~/.keras/models). Verified files are not downloaded again, and an interrupted
    download is continued.

    \b
    States in the table:
      ready      the MD5 matches the published one
      unchecked  the MD5 will be verified at first use
      wrong      a different file, which is never used or deleted
      partial    an unfinished download
      absent     not downloaded

    \b
    Examples:
      densenet download-weights
      densenet download-weights 121 169
      densenet download-weights --verify
      densenet download-weights --base-url https://mirror.example.org/densenet/
      densenet download-weights 201 --base-url file:///media/usb/
    """
    if only_list and verify:
        raise click.UsageError("--list cannot be used with --verify.")
    for name, value in (("--force", force), ("--base-url", base_url)):
        if value and (only_list or verify):
            raise click.UsageError(f"{name} cannot be used with {'--list' if only_list else '--verify'}.")
    from densenet_cli.paths import models_dir
    from densenet_cli.weights import store

    store.base_urls(base_url)
    chosen = tuple(dict.fromkeys(variants)) or tuple(map(registry.get, registry.downloadable()))
    failures: list[WeightsUnavailableError] = []
    if verify:
        statuses = _for_each(chosen, store.verify, failures)
        failures += [store.wrong_file_error(file) for file in statuses if file.state == "wrong"]
        failures += [store.missing_file_error(file) for file in statuses if variants and file.size is None]
    else:
        if not only_list:
            _download(chosen, base_url, force, failures)
        statuses = _for_each(chosen, store.status, failures if only_list else [])
    _print_table(statuses)
    echo_info(f"Folder: {printable(str(models_dir()))}")
    if failures:
        raise WeightsUnavailableError("\n\n".join(map(describe_weights_error, failures)))


def _download(
    chosen: Sequence[Variant], base_url: str | None, force: bool, failures: list[WeightsUnavailableError]
) -> None:
    """Download all weights; one that fails does not prevent the next from being tried."""
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.weights import store

    with ProgressBar("download") as progress:

        def download(variant: Variant) -> None:
            store.download(variant, base_url=base_url, force=force, progress=progress.update_download)

        _for_each(chosen, download, failures)


def _for_each(
    chosen: Sequence[Variant], function: Callable[[Variant], T], failures: list[WeightsUnavailableError]
) -> list[T]:
    """Call a function with each variant and collect its results in a list and its errors in ``failures``."""
    results = []
    for variant in chosen:
        try:
            results.append(function(variant))
        except WeightsUnavailableError as error:
            failures.append(error)
    return results


def _print_table(statuses: Sequence[Status]) -> None:
    """Print one row per file. In a pipe a row is one line, however long."""
    from rich.text import Text

    from densenet_cli.cli.render import create_table, fixed_column, number_column, text_column

    console = stdout_console(**({} if sys.stdout.isatty() else {"width": 200}))
    table = create_table(fixed_column("Variant"), fixed_column("State"), number_column("Size"), text_column("File"))
    for file in statuses:
        size = file.partial if file.size is None else file.size
        table.add_row(
            file.variant.name,
            Text(file.state, style=STATE_STYLES.get(file.state, "")),
            f"{size / 1e6:.1f} MB" if size else "",
            file.path.name,
        )
    console.print(table)
