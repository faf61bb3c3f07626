"""``densenet download-weights``: download and verify published checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import variants as registry
from densenet_cli.cli.command import command, describe_weights_error, option
from densenet_cli.cli.console import echo_info, printable, stdout_console
from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.paths import is_hub_url
from densenet_cli.variants import Variant

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from densenet_cli.weights.file_identity import FileStatus
    from densenet_cli.weights.hub.url import HubUrl


T = TypeVar("T")

STATE_STYLES = {"ready": "green", "wrong": "red", "partial": "yellow"}


class PublishedWeights(click.ParamType):  # type: ignore[type-arg]
    """The name of a variant that has published weights, or a URL of the Hugging Face Hub."""

    name = "variant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Variant | HubUrl:
        """Return the variant or URL. Raises ``click.BadParameter``."""
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        if is_hub_url(value):
            from densenet_cli.weights.hub.url import parse_url

            try:
                return parse_url(value)
            except UsageError as error:
                self.fail(str(error), param, ctx)
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
        3: "a download failed, or a file is missing or wrong",
        130: "interrupted; the next run continues",
    }
)
@click.argument("weights", nargs=-1, type=PublishedWeights(), metavar="[VARIANT|hf://...]...")
@option("--list", "only_list", is_flag=True, help="Only show the files and their states.")
@option("--verify", is_flag=True, help="Only compute and verify the checksums of the existing files.")
@option(
    "--force",
    is_flag=True,
    help="Download again. A different file in the folder of Keras is kept as NAME.MD5.old.",
)
@option(
    "--base-url",
    metavar="URL",
    help="Download the files of Keras from a mirror: an http(s) or file URL to which the file name is appended.  "
    "[env: DENSENET_BASE_URL]",
)
def download_weights(
    weights: tuple[Variant | HubUrl, ...], only_list: bool, verify: bool, force: bool, base_url: str | None
) -> None:
    """Download published weights and verify their checksums.

    VARIANT is 121, 169, or 201, whose weights Keras publishes, or 161 or blur121d, whose weights timm publishes on the
    Hugging Face Hub. A URL hf://ORGANIZATION/NAME[@REVISION][/FILE] names any other DenseNet on the Hub. Without
    arguments, the three files of Keras are downloaded, and --list and --verify apply to all variants.

    Files are stored where Keras and huggingface_hub store them: in $KERAS_HOME/models (default: ~/.keras/models) and
    $HF_HUB_CACHE (default: ~/.cache/huggingface/hub). Verified files are not downloaded again, and an interrupted
    download is continued. For a revision on the Hub, the newest commit is downloaded.

    \b
    States in the table:
      ready      the checksum matches the published one
      unchecked  the checksum will be verified at first use
      wrong      a different file, which is never used or deleted
      partial    an unfinished download
      absent     not downloaded

    \b
    Examples:
      densenet download-weights
      densenet download-weights 121 161
      densenet download-weights hf://timm/densenet121.ra_in1k
      densenet download-weights --verify
      densenet download-weights --base-url https://mirror.example.org/densenet/
      densenet download-weights 201 --base-url file:///media/usb/
    """
    if only_list and verify:
        raise click.UsageError("--list cannot be used with --verify.")
    for name, value in (("--force", force), ("--base-url", base_url)):
        if value and (only_list or verify):
            raise click.UsageError(f"{name} cannot be used with {'--list' if only_list else '--verify'}.")
    from densenet_cli.weights import store

    store.base_urls(base_url)
    if base_url and any(map(store.hub_url, weights)):
        raise click.UsageError(
            "--base-url applies only to the files of Keras. For a mirror of the Hub, set HF_ENDPOINT."
        )
    published: list[Variant | HubUrl] = list(dict.fromkeys(weights))
    if not published:
        names = registry.downloadable()
        variants = map(registry.get, names)
        published = [variant for variant in variants if only_list or verify or not variant.repository]
    failures: list[WeightsUnavailableError] = []
    if verify:
        statuses = _for_each(published, partial(store.status, recompute=True), failures)
        failures += [store.wrong_file_error(file) for file in statuses if file.state == "wrong"]
        failures += [store.missing_file_error(file) for file in statuses if weights and file.size is None]
    else:
        if not only_list:
            _download(published, base_url, force, failures)
        statuses = _for_each(published, store.status, failures if only_list else [])
    _print_table(statuses)
    _print_folders(published)
    if failures:
        raise WeightsUnavailableError("\n\n".join(map(describe_weights_error, failures)))


def _download(
    published: Sequence[Variant | HubUrl], base_url: str | None, force: bool, failures: list[WeightsUnavailableError]
) -> None:
    """Download all weights; one that fails does not prevent the next from being tried."""
    from densenet_cli.cli.progress import ProgressBar
    from densenet_cli.weights import store

    with ProgressBar("download") as progress:
        download = partial(store.download, base_url=base_url, force=force, progress=progress.update_download)
        _for_each(published, download, failures)


def _for_each(
    published: Sequence[Variant | HubUrl],
    function: Callable[[Variant | HubUrl], T],
    failures: list[WeightsUnavailableError],
) -> list[T]:
    """Call a function for each argument and collect its results in a list and its errors in ``failures``."""
    results = []
    for weights in published:
        try:
            results.append(function(weights))
        except WeightsUnavailableError as error:
            failures.append(error)
    return results


def _print_table(statuses: Sequence[FileStatus]) -> None:
    """Print one row per file. In a pipe a row is one line, however long."""
    from rich.text import Text

    from densenet_cli.cli.render import create_table, fixed_column, number_column, text_column

    console = stdout_console(**({} if sys.stdout.isatty() else {"width": 200}))
    table = create_table(fixed_column("Name"), fixed_column("State"), number_column("Size"), text_column("File"))
    for file in statuses:
        size = file.partial if file.size is None else file.size
        table.add_row(
            file.name,
            Text(file.state, style=STATE_STYLES.get(file.state, "")),
            f"{size / 1e6:.1f} MB" if size else "",
            file.location,
        )
    console.print(table)


def _print_folders(published: Sequence[Variant | HubUrl]) -> None:
    """Print where the files are."""
    from densenet_cli.paths import models_dir
    from densenet_cli.weights import store

    is_on_hub = [store.hub_url(weights) is not None for weights in published]
    if not all(is_on_hub):
        echo_info(f"Folder: {printable(str(models_dir()))}")
    if any(is_on_hub):
        from densenet_cli.weights.hub import cache as hub_cache

        echo_info(f"Hub cache: {printable(str(hub_cache.cache_dir()))}")
