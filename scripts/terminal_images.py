"""Draw what the terminal shows into ``docs/images/*.svg``: ``make docs``. With ``--check``, only say what is old.

The command runs as it is, but for its console: 80 columns wide, in color, and recorded. Rich makes the SVG; the font
that it would have a browser fetch from elsewhere is replaced by those that systems have.
"""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from densenet_cli.cli import densenet

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "images"
WIDTH = 80
FONTS = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace"

COMMANDS = {
    "predict": "predict red_panda.jpg espresso.jpg --variant tiny -k 3",
    "summary": "summary",
    "evaluate": "evaluate val/ --variant tiny",
}
"""Name of the image -> the command that it shows."""

CLASSES = {
    "n02410509": "bison.jpg",
    "n02124075": "cat.jpg",
    "n07920052": "espresso.jpg",
    "n02106662": "german_shepherd.jpg",
    "n01882714": "koala.jpg",
    "n02509815": "red_panda.jpg",
    "n04008634": "rocket.jpg",
}
"""WordNet id -> the sample image that shows it."""


def drawn(name: str) -> str:
    """The SVG of an image in ``COMMANDS``."""
    import rich.console

    consoles = []

    class Recording(rich.console.Console):
        def __init__(self, **settings: Any) -> None:
            screen = {"width": WIDTH, "force_terminal": True, "color_system": "truecolor", "no_color": False}
            super().__init__(**settings, **screen, record=True, file=io.StringIO())
            self.print(f"[bold green]$[/] densenet {COMMANDS[name]}", markup=True)
            consoles.append(self)

    arguments = [*COMMANDS[name].split(), "--quiet"]
    with _working_folder(), mock.patch("rich.console.Console", Recording):
        if status := densenet.main(arguments, prog_name="densenet", standalone_mode=False):
            raise SystemExit(f"densenet {COMMANDS[name]} ended with {status}")
    (console,) = consoles
    return console.export_svg(title=f"densenet {name}", code_format=_format(), unique_id=name)


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """A folder with what the commands name."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for wordnet_id, image in CLASSES.items():
            (Path("val") / wordnet_id).mkdir(parents=True)
            for place in (Path(), Path("val") / wordnet_id):
                shutil.copy(ROOT / "sample_images" / image, place)
        yield


def _format() -> str:
    """Rich's template without a font from elsewhere."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    text = re.sub(r" *@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return text.replace("Fira Code, monospace", FONTS).replace("font-family: arial", "font-family: sans-serif")


def alike(one: str, other: str) -> bool:
    """Whether two images are the same but for the last digit of a number, which processors may round differently."""
    number = re.compile(r"(\d+(?:\.\d+)?)")
    ours, theirs = number.split(one), number.split(other)
    return ours[::2] == theirs[::2] and all(map(_close, ours[1::2], theirs[1::2]))


def _close(one: str, other: str) -> bool:
    places = len(one.partition(".")[2])
    if places == 0 or places != len(other.partition(".")[2]):
        return one == other
    return abs(float(one) - float(other)) < 1.5 * 10**-places


def main(arguments: list[str]) -> int:
    """Draw or check; 1 where ``--check`` finds an image out of date."""
    status = 0
    for name in COMMANDS:
        path = FOLDER / f"{name}.svg"
        new = drawn(name)
        if path.is_file() and alike(path.read_text(encoding="utf-8"), new):
            continue
        if "--check" in arguments:
            print(path.relative_to(ROOT), "is out of date")
            status = 1
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(new, encoding="utf-8")
            print(path.relative_to(ROOT), "drawn")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
