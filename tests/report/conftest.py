"""A browser shared by all tests, and a network whose class names contain markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.support import browser as support
from tests.support.networks import TINY, random_arrays

HOSTILE = "<img src=x onerror=alert(1)>"
MARKUP = ("<b>bee</b>", "</script><script>alert(2)</script>", "<!--", "'\"&amp;")
LABELS = ("ant", *MARKUP, "elk", "fox", "gnu", "hen", "ibis")


class Page(HTMLParser):
    """The tags and the text that a standard parser finds on a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]

    def rows(self):
        return [attributes for attributes in self.of("li") if "image" in (attributes.get("class") or "").split()]


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    if reason := support.why_unavailable():
        pytest.skip(reason)
    with support.open_browser(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(chromium):
    """The browser. After each test, the page must have made no requests and the console must be empty."""
    yield chromium
    assert chromium.console_messages() == []
    assert chromium.requests() == []


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A small network whose file name and class names contain markup."""
    from densenet_cli.labels import ClassLabel
    from densenet_cli.weights import safetensors
    from densenet_cli.weights.contents import ModelMetadata

    labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(LABELS))
    metadata = ModelMetadata(labels=labels, preprocess="squash", input_size=32, training={}, accuracy={})
    path = tmp_path_factory.mktemp("weights") / f"{HOSTILE}.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, metadata)
    return path
