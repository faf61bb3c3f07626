"""What every page has in common: templates that escape, style and script inside, and no way out of the file.

The Content-Security-Policy names the hash of the style and of the script, so that nothing else on the page runs,
whatever an image or a class is called, and nothing is fetched.
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
from densenet_cli.results import printable, unicode

if TYPE_CHECKING:
    from collections.abc import Mapping

EPOCH = "SOURCE_DATE_EPOCH"


@cache
def environment() -> Environment:
    """The templates. What they print is escaped, and without characters that can't be seen, unless it is ``Markup``."""
    made = Environment(
        loader=PackageLoader("densenet_cli.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: printable(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["percent"] = lambda share, decimals=1: f"{share:.{decimals}%}"
    made.filters["count"] = lambda number: f"{number:,}"
    made.filters["plural"] = lambda number, one, many: f"{number:,} {one if number == 1 else many}"
    made.filters["spaced"] = lambda name: name.replace("_", " ")
    made.filters["data_url"] = data_url
    made.globals.update(style=_inline("style.css"), version=version("densenet-cli"))
    return made


def render(template: str, scripts: tuple[str, ...], **values: Any) -> str:
    """A whole page: ``template`` with the named scripts as its only one."""
    script = Markup("\n").join(map(_inline, scripts))
    return environment().get_template(template).render(script=script, policy=_policy(script), **values)


def _inline(name: str) -> Markup:
    """A file of ours, to stand in a page as it is."""
    return Markup(files("densenet_cli.report").joinpath("templates", name).read_text("utf-8"))


def _policy(script: str) -> str:
    sources = {
        "default-src": "'none'",
        "img-src": "data:",
        "style-src": _digest(str(environment().globals["style"])),
        "script-src": _digest(script),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {source}" for name, source in sources.items())


def _digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def data_url(data: bytes, kind: str = "jpeg") -> str:
    """An image's file as an address that holds it."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def check(path: str, overwrite: bool, *beside: str | os.PathLike[str] | None) -> None:
    """Raise what writing a page would raise, as far as that can be known before the work.

    Args:
        path: the page's file, as somebody named it.
        overwrite: whether an existing one is replaced.
        beside: the other files that will be written, None for none.

    Raises:
        UsageError: no name of a file, or that of one of the others; an existing file; a wrong ``SOURCE_DATE_EPOCH``.
        OutputError: a folder that is missing or can't be written.
    """
    if path in ("", "-"):
        raise UsageError("--html needs the name of a file.")
    for other in beside:
        if other is not None and os.path.realpath(path) == os.path.realpath(other):
            raise UsageError(f"{unicode(path)} is named twice: --html needs a file of its own.")
    check_output_file(path, overwrite)
    written_at()


def written_at() -> datetime:
    """Now, or what ``SOURCE_DATE_EPOCH`` says (https://reproducible-builds.org/specs/source-date-epoch/), in UTC.

    Raises:
        UsageError: it is no number of seconds.
    """
    given = os.environ.get(EPOCH)
    if not given:
        return datetime.now(UTC)
    try:
        return datetime.fromtimestamp(int(given), UTC)
    except (ValueError, OverflowError, OSError):
        raise UsageError(f"{EPOCH} is {given!r}; it should be a number of seconds since 1970, or not be set.") from None


def plain(settings: Mapping[str, Any]) -> dict[str, str]:
    """Settings of JSON's types as words."""
    words = {True: "yes", False: "no", None: "none"}
    return {name: words[value] if isinstance(value, bool | None) else str(value) for name, value in settings.items()}
