"""The documentation site: complete, with valid links, and without requests to other servers."""

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


RESOURCES = {"link": "href", "script": "src", "img": "src", "source": "srcset", "iframe": "src", "image": "href"}
"""Element -> attribute with a URL that a browser loads at once."""


class Page(HTMLParser):
    """The links, the loaded resources, and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.anchors = {"", "__comments"}
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if values.get("id"):
            self.anchors.add(values["id"])
        if tag == "a" and values.get("href") is not None:
            self.links.append(values["href"])
        if values.get("rel") != "canonical" and values.get(RESOURCES.get(tag)):
            self.resources.append(values[RESOURCES[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the site, built as strictly as ``make site`` does."""
    pytest.importorskip("mkdocs", reason="the optional dependencies docs are not installed")
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
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    """Path -> page."""
    return {path: Page(path) for path in site.rglob("*.html") if path.name != "404.html"}


def test_links_are_valid(pages):
    assert len(pages) > 15
    for path, page in pages.items():
        for link in page.links + page.resources:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = Path(os.path.normpath(path.parent / unquote(parts.path))) if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name} links to {link}"
            if target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name} links to {link}"


def test_nothing_is_loaded_from_other_servers(site, pages):
    for path, page in pages.items():
        assert [link for link in page.resources if urlsplit(link).netloc] == [], path.name
    for sheet in site.rglob("*.css"):
        assert re.findall(r"(?:@import|url\()\s*[\"']?https?:[^)]+", sheet.read_text(encoding="utf-8")) == []


def test_all_pages_are_in_the_search_index(site, pages):
    index = (site / "search" / "search_index.json").read_text()
    for path in pages:
        assert f'"location":"{path.relative_to(site).as_posix()}"' in index


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Print nothing."""


@pytest.fixture
def url(site):
    """The URL of the site on a local server, which its search needs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


needs_browser = pytest.mark.skipif(support.why_unavailable() is not None, reason=str(support.why_unavailable()))


@needs_browser
def test_no_page_is_wider_than_its_window(pages, tmp_path):
    with support.open_browser(tmp_path / "profile") as browser:
        for path in pages:
            for width in (1280, 390):
                browser.open(path, width, 900)
                assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth"), path.name


@needs_browser
def test_page_in_a_browser(url, tmp_path):
    """Color scheme, layout on desktop and phone, and search."""
    with support.open_browser(tmp_path / "profile") as browser:
        for width, dark in ((1280, False), (390, True)):
            browser.open(f"{url}/reference/commands/predict.html", width, 900, dark=dark)
            assert browser.run("return getComputedStyle(document.body).colorScheme") == ("dark" if dark else "light")
            assert browser.run("return document.documentElement.scrollWidth <= window.innerWidth")
            # Help pages have 80 columns. They fit a desktop and scroll on a phone.
            assert dark or browser.run(
                "return [...document.querySelectorAll('pre code')].every(code => code.scrollWidth <= code.clientWidth)"
            )
            search = """const field = document.querySelector('.md-search__input');
                field.value = 'ten-crop'; field.focus(); field.dispatchEvent(new Event('keyup'));"""
            browser.run(search)
            results = "return document.querySelectorAll('.md-search-result__link').length"
            assert WebDriverWait(browser.chrome, 20).until(lambda _: browser.run(results)) > 0  # noqa: B023
            assert [requested for requested in browser.requests() if not requested.startswith((url, "blob:"))] == []
            assert browser.console_messages() == []
