"""What MkDocs needs beside ``docs/``: the pages and files outside of it that the documentation links to.

MkDocs calls the functions that begin with ``on_`` (``hooks`` in ``mkdocs.yml``). The pages at the root become pages of
the site, any other file that is linked to goes along as it is, and links follow. In the repository the same links lead
to the same places, so that it reads well there too.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    ROOT / "README.md": "index.md",
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "SECURITY.md": "security.md",
    ROOT / "sample_images/README.md": "sample-images.md",
    DOCS / "index.md": "contents.md",
}
"""Pages that are at another place in the site than in ``docs/``; its home page is the README."""
FILES = "files"
"""The site's folder for what else lies outside of ``docs/``."""
LINK = re.compile(r"(\]\(|<img [^>]*?src=\"|<source [^>]*?srcset=\"|<a href=\")([^)\s\"#]+)")
ITEM = re.compile(r"^- \[(.+?)\]\((\S+\.md)\)", re.MULTILINE)
FENCED = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)


def place(path: Path) -> str:
    """Where a file of the repository lies in the site's sources: a path with forward slashes below ``docs/``."""
    if path in PAGES:
        return PAGES[path]
    return (
        path.relative_to(DOCS).as_posix()
        if path.is_relative_to(DOCS)
        else f"{FILES}/{path.relative_to(ROOT).as_posix()}"
    )


def targets(page: Path) -> dict[str, Path]:
    """The relative links of a page -> the files of the repository that they lead to."""
    text = "".join(FENCED.split(page.read_text(encoding="utf-8"))[::2])
    links = {link for _, link in LINK.findall(text) if not re.match(r"[a-z]+:", link)}
    return {link: Path(os.path.normpath(page.parent / link)) for link in links}


def relinked(text: str, page: Path) -> str:
    """A page's text with its links as they have to be in the site."""
    found = targets(page)
    here = posixpath.dirname(place(page))

    def link(match: re.Match[str]) -> str:
        if match[2] not in found or not found[match[2]].is_file():
            return match[0]
        return match[1] + posixpath.relpath(place(found[match[2]]), here or ".")

    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]
    return "".join(parts)


def listed() -> dict[str, list[dict[str, str]]]:
    """The pages that ``docs/index.md`` lists, in its order: those of commands, and the others."""
    from densenet_cli.cli import COMMANDS

    sections: dict[str, list[dict[str, str]]] = {"Commands": [], "Reference": []}
    for title, path in ITEM.findall((DOCS / "index.md").read_text(encoding="utf-8")):
        section = "Commands" if path.removesuffix(".md") in COMMANDS else "Reference"
        sections[section].append({title.replace("`", "").removeprefix("densenet "): path})
    return sections


def on_config(config: Any) -> None:
    """The pages that ``docs/index.md`` lists into the empty sections of the navigation."""
    sections = listed()
    for section in config.nav:
        for title in sections.keys() & section.keys():
            section[title] = sections[title]


def on_files(files: Any, config: Any) -> Any:
    """Add the pages at the root, and what else is linked to."""
    from mkdocs.structure.files import File

    linked = {target for page in {*PAGES, *DOCS.rglob("*.md")} for target in targets(page).values()}
    outside = {path for path in linked if path.is_file() and not path.is_relative_to(DOCS)}
    files.remove(files.get_file_from_path("index.md"))
    for path in sorted({*PAGES, *outside}):
        files.append(File.generated(config, place(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links as they have to be in the site."""
    return relinked(markdown, Path(page.file.abs_src_path))
