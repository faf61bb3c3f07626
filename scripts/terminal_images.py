"""Render terminal output as ``docs/images/*.svg``: ``make docs``. With ``--check``, only list outdated images.

The commands run with a console that is 80 columns wide, has colors, and records its output. Rich renders the SVG. Its
web font is replaced by system fonts, so that the documentation loads nothing from other sites.
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
"""Name of the image -> arguments of the command."""

CLASSES = {
    "n02410509": "bison.jpg",
    "n02124075": "cat.jpg",
    "n07920052": "espresso.jpg",
    "n02106662": "german_shepherd.jpg",
    "n01882714": "koala.jpg",
    "n02509815": "red_panda.jpg",
    "n04008634": "rocket.jpg",
}
"""WordNet ID -> sample image of this class."""


def render(name: str) -> str:
    """Run a command of ``COMMANDS`` and return its output as SVG."""
    import rich.console

    consoles = []

    class RecordingConsole(rich.console.Console):
        def __init__(self, **settings: Any) -> None:
            screen = {"width": WIDTH, "force_terminal": True, "color_system": "truecolor", "no_color": False}
            super().__init__(**settings, **screen, record=True, file=io.StringIO())
            self.print(f"[bold green]$[/] densenet {COMMANDS[name]}", markup=True)
            consoles.append(self)

    arguments = [*COMMANDS[name].split(), "--quiet"]
    with _working_folder(), mock.patch("rich.console.Console", RecordingConsole):
        if status := densenet.main(arguments, prog_name="densenet", standalone_mode=False):
            raise SystemExit(f"densenet {COMMANDS[name]} exited with status {status}")
    (console,) = consoles
    return console.export_svg(title=f"densenet {name}", code_format=_svg_template(), unique_id=name)


@contextlib.contextmanager
def _working_folder() -> Iterator[None]:
    """Change to a temporary folder with the images that the commands use."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for wordnet_id, image in CLASSES.items():
            (Path("val") / wordnet_id).mkdir(parents=True)
            for target in (Path(), Path("val") / wordnet_id):
                shutil.copy(ROOT / "sample_images" / image, target)
        yield


def _svg_template() -> str:
    """Return Rich's template without its web font."""
    from rich._export_format import CONSOLE_SVG_FORMAT

    text = re.sub(r" *@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return text.replace("Fira Code, monospace", FONTS).replace("font-family: arial", "font-family: sans-serif")


def are_equivalent(first: str, second: str) -> bool:
    """Return whether two images differ at most in the last digit of decimals, which depends on the processor."""
    number = re.compile(r"(\d+(?:\.\d+)?)")
    first_parts, second_parts = number.split(first), number.split(second)
    return first_parts[::2] == second_parts[::2] and all(map(_are_close, first_parts[1::2], second_parts[1::2]))


def _are_close(first: str, second: str) -> bool:
    digits = len(first.partition(".")[2])
    if digits == 0 or digits != len(second.partition(".")[2]):
        return first == second
    return abs(float(first) - float(second)) < 1.5 * 10**-digits


def main(arguments: list[str]) -> int:
    """Update all images, or check them. Returns 1 if ``--check`` finds an outdated image."""
    status = 0
    for name in COMMANDS:
        path = FOLDER / f"{name}.svg"
        new = render(name)
        if path.is_file() and are_equivalent(path.read_text(encoding="utf-8"), new):
            continue
        if "--check" in arguments:
            print("Outdated:", path.relative_to(ROOT))
            status = 1
        else:
            FOLDER.mkdir(exist_ok=True)
            path.write_text(new, encoding="utf-8")
            print("Updated:", path.relative_to(ROOT))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
