"""Update the help pages in README.md and docs/: ``make docs``. With ``--check``, only list outdated files.

A help page is the text between two comments, which is replaced::

    <!-- help: densenet predict -->
    <!-- end of help -->
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from click.testing import CliRunner

from densenet_cli.cli import densenet

ROOT = Path(__file__).parents[1]
WIDTH = 80
MARKED = re.compile(r"(<!-- help: densenet ?([a-z-]*) -->\n).*?(<!-- end of help -->)", re.DOTALL)


def pages() -> list[Path]:
    """Return the files that can contain help pages."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def help_page(command: str) -> str:
    """Return the output of ``densenet COMMAND --help``, ``WIDTH`` columns wide. The command "" is ``densenet``."""
    arguments = [command] if command else []
    result = CliRunner().invoke(densenet, [*arguments, "--help"], prog_name="densenet", terminal_width=WIDTH)
    if result.exit_code:
        raise SystemExit(f"densenet {command} --help: {result.output}")
    return result.output


def updated(text: str) -> str:
    """Return the text of a file with its help pages updated."""
    return MARKED.sub(lambda match: f"{match[1]}\n```text\n{help_page(match[2])}```\n\n{match[3]}", text)


def main(arguments: list[str]) -> int:
    """Update all files, or check them. Returns 1 if ``--check`` finds an outdated file."""
    is_check = "--check" in arguments
    outdated = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := updated(text)) != text:
            outdated.append(page)
            if not is_check:
                page.write_text(new, encoding="utf-8")
    for page in outdated:
        print("Outdated:" if is_check else "Updated:", page.relative_to(ROOT))
    return 1 if outdated and is_check else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
