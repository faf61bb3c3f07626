"""Write the help pages in README.md and docs/ anew: ``make docs``. With ``--check``, only say which are out of date.

A help page stands between two comments, and whatever is between them is replaced::

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
    """The files in which a help page can stand."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def help_page(command: str) -> str:
    """What ``densenet COMMAND --help`` prints on a terminal of ``WIDTH`` columns; the command "" is ``densenet``."""
    arguments = [command] if command else []
    result = CliRunner().invoke(densenet, [*arguments, "--help"], prog_name="densenet", terminal_width=WIDTH)
    if result.exit_code:
        raise SystemExit(f"densenet {command} --help: {result.output}")
    return result.output


def renewed(text: str) -> str:
    """A page's text with its help pages as they are now."""
    return MARKED.sub(lambda found: f"{found[1]}\n```text\n{help_page(found[2])}```\n\n{found[3]}", text)


def main(arguments: list[str]) -> int:
    """Write or check; 1 where ``--check`` finds a page out of date."""
    stale = []
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text)) != text:
            stale.append(page)
            if "--check" not in arguments:
                page.write_text(new, encoding="utf-8")
    for page in stale:
        print(page.relative_to(ROOT), "is out of date" if "--check" in arguments else "written")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
