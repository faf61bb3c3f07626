"""MkDocs hooks: add the pages and files outside ``docs/`` that the documentation links to.

MkDocs calls the functions that begin with ``on_`` (``hooks`` in ``mkdocs.yml``). Pages at the repository root become
pages of the site, other linked files are copied, and links are rewritten. In the repository the same links work as they
are written.
"""

from __future__ import annotations

import os
import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
ROOT_PAGES = {
    ROOT / "CONTRIBUTING.md": "contributing.md",
    ROOT / "CHANGELOG.md": "changelog.md",
    ROOT / "SECURITY.md": "security.md",
    ROOT / "sample_images/README.md": "sample-images.md",
}
"""Page outside ``docs/`` -> its path in the site."""
FILES = "files"
"""The site's folder for other linked files outside ``docs/``."""
LINK = re.compile(r"(\]\(|<img [^>]*?src=\"|<source [^>]*?srcset=\"|<a href=\")([^)\s\"#]+)")
FENCED = re.compile(r"^(```.*?^```$)", re.DOTALL | re.MULTILINE)


def site_path(path: Path) -> str:
    """Return the path of a repository file in the site's sources."""
    if path in ROOT_PAGES:
        return ROOT_PAGES[path]
    if path.is_relative_to(DOCS):
        return path.relative_to(DOCS).as_posix()
    return f"{FILES}/{path.relative_to(ROOT).as_posix()}"


def link_targets(page: Path) -> dict[str, Path]:
    """Map the relative links of a page to the repository files that they lead to."""
    text = "".join(FENCED.split(page.read_text(encoding="utf-8"))[::2])
    links = {link for _, link in LINK.findall(text) if not re.match(r"[a-z]+:", link)}
    return {link: Path(os.path.normpath(page.parent / link)) for link in links}


def rewrite_links(text: str, page: Path) -> str:
    """Rewrite the links in the text of a page for the site."""
    targets = link_targets(page)
    folder = posixpath.dirname(site_path(page))

    def rewrite(match: re.Match[str]) -> str:
        if match[2] not in targets or not targets[match[2]].is_file():
            return match[0]
        return match[1] + posixpath.relpath(site_path(targets[match[2]]), folder or ".")

    parts = FENCED.split(text)
    parts[::2] = [LINK.sub(rewrite, part) for part in parts[::2]]
    return "".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the pages at the repository root and other linked files."""
    from mkdocs.structure.files import File

    linked = {target for page in {*ROOT_PAGES, *DOCS.rglob("*.md")} for target in link_targets(page).values()}
    outside = {path for path in linked if path.is_file() and not path.is_relative_to(DOCS)}
    for path in sorted({*ROOT_PAGES, *outside}):
        files.append(File.generated(config, site_path(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Rewrite the links of a page."""
    return rewrite_links(markdown, Path(page.file.abs_src_path))
