"""One browser for all of these tests; where none is installed, those that need it say so."""

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
    """What a parser, which knows nothing of ours, finds on a page."""

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
    if reason := support.missing():
        pytest.skip(reason)
    with support.opened(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def browser(chromium):
    """The browser; whatever a test does with a page, the page asks for nothing and the console stays silent."""
    yield chromium
    assert chromium.complaints() == []
    assert chromium.requests() == []


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """A tiny network whose classes have names that nobody would give."""
    from densenet_cli.labels import ClassLabel
    from densenet_cli.weights import safetensors
    from densenet_cli.weights.checkpoint import ModelMetadata

    labels = tuple(ClassLabel(index, None, name) for index, name in enumerate(LABELS))
    metadata = ModelMetadata(labels=labels, preprocess="squash", input_size=32, training={}, accuracy={})
    path = tmp_path_factory.mktemp("weights") / f"{HOSTILE}.safetensors"
    safetensors.write(path, random_arrays(TINY, top=0.15), TINY, metadata)
    return path
