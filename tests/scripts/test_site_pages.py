"""The documentation as a site: whole, and asking for nothing that lies elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from selenium.webdriver.support.wait import WebDriverWait

from densenet_cli.cli import COMMANDS
from scripts import site_pages
from scripts.site_pages import DOCS, ROOT
from tests.support import browser as support


def test_every_page_is_in_the_navigation():
    listed = re.findall(r": ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    assert [f"reference/commands/{name}.md" for name in COMMANDS] == [path for path in listed if "/commands/" in path]
    pages = [site_pages.site_path(page) for page in {*site_pages.ROOT_PAGES, *DOCS.rglob("*.md")}]
    assert sorted(listed) == sorted(pages)


def test_links_are_rewritten():
    tiny, page = DOCS / "concepts" / "models" / "tiny.md", ROOT / "CONTRIBUTING.md"
    rewrite = site_pages.rewrite_links
    assert rewrite("[a](docs/concepts/architecture.md#errors)", page) == "[a](concepts/architecture.md#errors)"
    assert rewrite("[a](../../../recipes/tiny.toml)", tiny) == "[a](../../files/recipes/tiny.toml)"
    text = "[a](docs/concepts/architecture.md) [b](https://x.org/docs/summary.md)\n```\n[c](LICENSE)\n```\n"
    assert rewrite(text, page) == text.replace("docs/", "", 1)


LOADED = {"link": "href", "script": "src", "img": "src", "source": "srcset", "iframe": "src", "image": "href"}
"""Where elements name what a browser fetches at once."""


class _Page(HTMLParser):
    """What a page links to, what it loads, and what in it can be linked to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors = {"", "__comments"}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        if found.get("id"):
            self.anchors.add(found["id"])
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"])
        if found.get("rel") != "canonical" and found.get(LOADED.get(tag)):
            self.loaded.append(found[LOADED[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages of the site by their paths, built as strictly as ``make site`` does."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed")
    folder = tmp_path_factory.mktemp("site")
    result = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return {path: _Page(path.read_text(encoding="utf-8")) for path in folder.rglob("*.html") if path.name != "404.html"}


def test_links_of_the_site_lead_somewhere(site):
    assert len(site) > 15
    for path, page in site.items():
        for link in page.links + page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name} links to {link}"
            if target in site:
                assert unquote(parts.fragment) in site[target].anchors, f"{path.name} links to {link}"


def test_opening_a_page_asks_for_nothing_elsewhere(site):
    folder = next(iter(site)).parent
    for path, page in site.items():
        assert [link for link in page.loaded if urlsplit(link).netloc] == [], path.name
    for sheet in folder.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)]+", sheet.read_text(encoding="utf-8")) == []


def test_what_the_pages_say_can_be_searched(site):
    index = next(iter(site)).parent / "search" / "search_index.json"
    folder = next(path for path in site if path.name == "index.html").parent
    for path in site:
        assert f'"location":"{path.relative_to(folder).as_posix()}"' in index.read_text()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Nothing."""


@pytest.fixture
def served(site):
    """Where a server has the site; its search needs one."""
    folder = next(iter(site)).parent
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(support.why_unavailable() is not None, reason=str(support.why_unavailable()))
def test_in_a_browser(served, tmp_path):
    with support.open_browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(f"{served}/reference/commands/predict.html", width, 900, dark=dark)
            assert browser.run("return getComputedStyle(document.body).colorScheme") == ("dark" if dark else "light")
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
            # A help page is 80 columns wide; on a phone it is scrolled.
            assert dark or browser.run(
                "return [...document.querySelectorAll('pre code')].every(code => code.scrollWidth <= code.clientWidth)"
            )
            typed = """const field = document.querySelector('.md-search__input');
                field.value = 'ten-crop'; field.focus(); field.dispatchEvent(new Event('keyup'));"""
            browser.run(typed)
            results = "return document.querySelectorAll('.md-search-result__link').length"
            assert WebDriverWait(browser.chrome, 20).until(lambda _: browser.run(results)) > 0  # noqa: B023
            assert [url for url in browser.requests() if not url.startswith((served, "blob:"))] == []
            assert browser.console_messages() == []
