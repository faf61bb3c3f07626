"""Rendering of self-contained HTML pages: escaping templates, with inline style and script.

The Content-Security-Policy allows only the style and the script with the given hashes and forbids all requests, so
names of images and classes cannot run code or load anything.
"""

from __future__ import annotations

import base64
import hashlib
import os
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from densenet_cli.errors import UsageError
from densenet_cli.output.checks import check_output_file
from densenet_cli.text import plural, to_printable, to_unicode

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH_VARIABLE = "SOURCE_DATE_EPOCH"


@cache
def environment() -> Environment:
    """Return the template environment. It escapes HTML and unprintable characters, except in ``Markup``."""
    templates = Environment(
        loader=PackageLoader("densenet_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: to_printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["percent"] = lambda fraction, decimals=1: f"{fraction:.{decimals}%}"
    templates.filters["commas"] = lambda number: f"{number:,}"
    templates.filters["plural"] = plural
    templates.filters["data_url"] = data_url
    templates.globals.update(style=_inline("style.css"), version=version("densenet-cli"))
    return templates


def render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    """Render a page.

    Args:
        template: File name of the template.
        scripts: File names of the scripts, which are joined to one.
        values: Values for the template.
    """
    script = Markup("\n").join(map(_inline, scripts))
    return environment().get_template(template).render(script=script, policy=_policy(script), **values)


def _inline(name: str) -> Markup:
    """Read one of the files in ``templates``, to be inserted without escaping."""
    return Markup(files("densenet_cli.report").joinpath("templates", name).read_text("utf-8"))


def _policy(script: str) -> str:
    """Return the Content-Security-Policy of a page with this script."""
    directives = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(str(environment().globals["style"])),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in directives.items())


def _digest(text: str) -> str:
    """Return the source expression that allows an inline style or script with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """Return a data URL for an image file of type ``image/{kind}``."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def check_page(path: str, overwrite: bool, *other_outputs: str | os.PathLike[str] | None) -> None:
    """Check that a page can be written.

    Args:
        path: The file of the page.
        overwrite: Whether to replace an existing file.
        other_outputs: The other files that the run writes; None is ignored.

    Raises:
        UsageError: ``path`` is not a file name, exists, or is one of the other outputs, or ``SOURCE_DATE_EPOCH`` is
            not a number.
        OutputError: The folder does not exist or is not writable.
    """
    if path in ("", "-"):
        raise UsageError("A page cannot be written to standard output. Set `html` to a file name.")
    for other in other_outputs:
        if other is not None and os.path.realpath(path) == os.path.realpath(other):
            raise UsageError(f"Cannot write two outputs to {to_unicode(path)}. Set `html` to another file name.")
    check_output_file(path, overwrite)
    current_time()


def current_time() -> datetime:
    """Return the time in UTC, or that of ``SOURCE_DATE_EPOCH`` (https://reproducible-builds.org/docs/source-date-epoch/).

    Raises:
        UsageError: The variable is not a number of seconds.
    """
    value = os.environ.get(EPOCH_VARIABLE)
    if not value:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(value), UTC)
    except (ValueError, OverflowError, OSError):
        message = f"{EPOCH_VARIABLE} is {value!r}. Set it to a number of seconds since 1970, or unset it."
        raise UsageError(message) from None


def format_settings(settings: Mapping[str, Any]) -> dict[str, str]:
    """Format setting values (JSON types) as text, without the notes on the checkpoint."""
    return {name: _format_setting(value) for name, value in settings.items() if name != "notes"}


def _format_setting(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no", None: "none"}[value] if isinstance(value, bool | None) else str(value)
