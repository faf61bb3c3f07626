"""``densenet download-weights``: the published checkpoints, fetched and checked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from densenet_cli import variants as registry
from densenet_cli.cli.console import common_options, has_unicode, say, show_progress, stdout_console
from densenet_cli.errors import UsageError, WeightsUnavailableError
from densenet_cli.variants import Variant

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from densenet_cli.weights.store import Status


T = TypeVar("T")


class PublishedVariant(click.ParamType):  # type: ignore[type-arg]
    """A variant that has published weights, by name."""

    name = "variant"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Variant:
        """The variant of that name."""
        if isinstance(value, Variant):
            return value
        if value not in registry.downloadable():
            names = ", ".join(registry.downloadable())
            self.fail(f"{value!r} has no published weights; these variants have: {names}.", param, ctx)
        return registry.get(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The names that begin so."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(name) for name in registry.downloadable() if name.startswith(incomplete)]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("variants", nargs=-1, type=PublishedVariant(), metavar="[VARIANT]...")
@click.option("--list", "only_list", is_flag=True, help="Only show what there is.")
@click.option("--verify", is_flag=True, help="Only hash what there is, whatever is remembered of it.")
@click.option("--force", is_flag=True, help="Fetch again; another file of that name is kept as NAME.MD5.old.")
@click.option(
    "--base-url",
    metavar="URL",
    help="A mirror: http(s) or file:///FOLDER; the file's name is added.  [env: DENSENET_BASE_URL]",
)
@common_options
def command(variants: tuple[Variant, ...], only_list: bool, verify: bool, force: bool, base_url: str | None) -> None:
    """Fetch the published ImageNet weights and check their MD5.

    VARIANT is 121, 169 or 201; without one, all of them. The files lie where Keras puts its own, in
    $KERAS_HOME/models (default ~/.keras/models). What is there and right is not fetched again, and an interrupted
    download goes on where it stopped.

    \b
    States in the table:
      ready      there, its MD5 is the published one
      unchecked  there, its MD5 will be measured when it is first used
      wrong      there, but another file: never used, never deleted
      partial    an unfinished download
      absent     not there

    \b
    Exit status: 0 all there, 2 wrong usage, 3 not to be had, or wrong.

    \b
    Examples:
      densenet download-weights
      densenet download-weights 121 169
      densenet download-weights --verify
      densenet download-weights --base-url https://mirror.example.org/densenet/
      densenet download-weights 201 --base-url file:///media/usb/
    """
    if only_list + verify + force > 1 or (base_url and (only_list or verify)):
        raise UsageError("--list and --verify only look; they go neither together nor with --force or --base-url.")
    from densenet_cli.paths import models_dir
    from densenet_cli.weights import store

    store.base_urls(base_url)
    chosen = tuple(dict.fromkeys(variants)) or tuple(map(registry.get, registry.downloadable()))
    failures: list[WeightsUnavailableError] = []
    if verify:
        found = _each(chosen, store.verify, failures)
        failures += [
            store.wrong_file_error(seen.variant, seen.path, seen.md5) for seen in found if seen.state == "wrong"
        ]
        failures += [
            store.missing_file_error(seen.variant, seen.path) for seen in found if variants and seen.size is None
        ]
    else:
        if not only_list:
            _fetch(chosen, base_url, force, failures)
        found = _each(chosen, store.status, failures if only_list else [])
    _show(found)
    say(f"In {models_dir()}")
    if failures:
        raise WeightsUnavailableError("\n\n".join(map(str, failures)))


def _fetch(
    chosen: Sequence[Variant], base_url: str | None, force: bool, failures: list[WeightsUnavailableError]
) -> None:
    """Bring every one that can be had; one that can't doesn't keep the next from being tried."""
    from densenet_cli.cli.progress import DownloadBar
    from densenet_cli.weights import store

    with DownloadBar() as bar:

        def fetch(variant: Variant) -> None:
            if not show_progress() and (force or store.status(variant).size is None):
                say(f"Fetching the weights of {variant.model}.")
            store.download(variant, base_url=base_url, force=force, progress=bar.update if show_progress() else None)

        _each(chosen, fetch, failures)


def _each(chosen: Sequence[Variant], do: Callable[[Variant], T], failures: list[WeightsUnavailableError]) -> list[T]:
    """What ``do`` gives for each variant; those that fail are added to ``failures``."""
    done = []
    for variant in chosen:
        try:
            done.append(do(variant))
        except WeightsUnavailableError as error:
            failures.append(error)
    return done


def _show(found: Sequence[Status]) -> None:
    """The table. In a pipe every row is one line, however long."""
    from rich.box import ASCII, SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    console = stdout_console(**({} if sys.stdout.isatty() else {"width": 200}))
    unicode = has_unicode(console)
    table = Table(box=SIMPLE_HEAD if unicode else ASCII, pad_edge=False, show_edge=False)
    table.add_column("Variant", no_wrap=True)
    table.add_column("State", no_wrap=True)
    table.add_column("Size", no_wrap=True, justify="right")
    table.add_column("File", overflow="fold")
    styles = {"ready": "green", "wrong": "red", "partial": "yellow"}
    for seen in found:
        size = seen.partial if seen.size is None else seen.size
        table.add_row(
            seen.variant.name,
            Text(seen.state, style=styles.get(seen.state, "")),
            f"{size / 1e6:.1f} MB" if size else "",
            seen.path.name,
        )
    console.print(table)
