"""The documentation: its help pages are current, its links lead somewhere, and what it promises is so."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import click
import pytest
from PIL import Image

from densenet_cli import errors, variants
from densenet_cli.cli import COMMANDS, densenet
from densenet_cli.images.preprocessing import MODES
from densenet_cli.images.walking import SUFFIXES
from densenet_cli.layers import list_layers
from densenet_cli.output.record_formats import CSV_COLUMNS, RECORD_FORMATS
from densenet_cli.weights import store
from scripts import help_pages
from tests.support import command
from tests.support.networks import tiny_variant, tiny_weights

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
COMMAND_PAGES = REFERENCE / "commands"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    DOCS.rglob("*.md")
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """The fenced blocks of a page in one of these languages."""
    return [text for language, text in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def rows(page: Path) -> list[list[str]]:
    """The cells of every row of every table in a page, without backquotes."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines if line[:1] == "|"]


def anchors(page: Path) -> set[str]:
    """What a page's headings are linked by."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for link in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert target.is_relative_to(ROOT)
        if anchor:
            assert anchor in anchors(target), f"{page.name} links to {link}"


@pytest.mark.parametrize("page", help_pages.pages(), ids=lambda page: page.name)
def test_help_pages_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert text == help_pages.updated(text), "run make docs"


def test_a_stale_help_page_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(help_pages, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs" / "summary.md"
    for text in ("", "old text\n"):
        page.write_text(f"before\n<!-- help: densenet summary -->\n{text}<!-- end of help -->\nbehind\n")
        (tmp_path / "README.md").write_text("# nothing here\n")
        assert help_pages.main(["--check"]) == 1
        assert help_pages.main([]) == 0
        assert help_pages.main(["--check"]) == 0
        assert "--input-size" in page.read_text()
        assert page.read_text().startswith("before\n") and page.read_text().endswith("behind\n")
    assert "summary.md" in capsys.readouterr().out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_its_help_and_an_example(name):
    page = COMMAND_PAGES / f"{name}.md"
    assert f"<!-- help: densenet {name} -->" in page.read_text(encoding="utf-8")
    assert f"(docs/reference/commands/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Examples:" in help_pages.help_page(name)
    longest = max(map(len, help_pages.help_page(name).splitlines()))
    assert longest <= help_pages.WIDTH


def commands_shown() -> list[str]:
    found = []
    for page in PAGES:
        for block in blocks(page, "sh", "console"):
            for line in block.splitlines():
                for part in line.removeprefix("$ ").split(" | "):
                    if part.startswith("densenet "):
                        found.append(part)
    return found


@pytest.mark.parametrize("line", sorted(set(commands_shown())))
def test_every_command_shown_is_one(line, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = shlex.split(re.split(" [<>] ", line)[0], comments=True)[1:]
    for word in words:
        if word.endswith("/") and "//" not in word:
            Path(word).mkdir(exist_ok=True)
        elif Path(word).suffix in (".safetensors", ".h5", ".keras", ".txt", ".toml", ".csv") and "/" not in word:
            Path(word).touch()
    name, *arguments = words
    if name == "--version":
        return
    found = densenet.get_command(click.Context(densenet), name)
    assert found is not None
    if "--help" not in arguments and "--list" not in arguments:
        found.make_context(name, arguments)


def descendants(kind: type) -> set[type]:
    below = set(kind.__subclasses__())
    return below.union(*map(descendants, below))


def test_every_image_error_stands_in_the_table():
    table = [row[0] for row in rows(REFERENCE / "output.md")]
    kinds = descendants(errors.ImageError)
    names = {kind("").type for kind in kinds if kind.__module__.startswith("densenet_cli")}
    assert names <= set(table)
    documented = {name for name in table if re.fullmatch(r"([A-Z][a-z]+){2,}", name)}
    assert documented == names


def test_every_exit_status_is_documented():
    statuses = {kind.exit_code for kind in descendants(errors.DensenetError)} | {0, 130}
    assert {int(row[0]) for row in rows(REFERENCE / "exit-statuses.md") if row[0].isdigit()} == statuses


def test_tables_of_choices_are_whole():
    formats = ["table", *RECORD_FORMATS]
    assert [row[0] for row in rows(REFERENCE / "output.md") if row[0] in formats] == formats
    assert [row[0] for row in rows(REFERENCE / "preprocessing.md") if row[0] in MODES] == list(MODES)
    assert " ".join(sorted(suffix[1:] for suffix in SUFFIXES)) in {
        " ".join(sorted(listed.split()))
        for listed in re.findall(r"`([a-z0-9 ]+)`", (COMMAND_PAGES / "predict.md").read_text())
    }


def test_networks_are_as_documented():
    documented = {row[0]: row[1:] for row in rows(COMMAND_PAGES / "summary.md") if row[0] in variants.VARIANTS}
    for name, variant in variants.VARIANTS.items():
        found = list_layers(variant.config, variant.config.input_size)
        assert documented[name] == [
            ", ".join(map(str, variant.config.blocks)),
            str(variant.config.growth_rate),
            f"{sum(layer.parameters for layer in found):,}",
            f"{sum(layer.trainable_parameters for layer in found):,}",
            f"{sum(layer.multiply_adds for layer in found) / 1e9:.3f} G",
        ]


def test_published_weights_are_as_documented():
    page = COMMAND_PAGES / "download-weights.md"
    documented = {row[0]: row[1:] for row in rows(page)}
    for name in variants.downloadable():
        weights = variants.get(name).weights
        assert weights and documented[name] == [weights.name, weights.md5]
    assert re.findall(r"^- `(https://.*)`$", page.read_text(), re.MULTILINE) == list(store.BASE_URLS)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return tiny_weights(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def documented(tmp_path, monkeypatch, weights):
    """A folder with what the examples name; "121" is a tiny network with published weights, as they would be."""
    Image.new("RGB", (60, 50), (200, 120, 40)).save(tmp_path / "cat.jpg")
    (tmp_path / "broken.png").touch()
    for folder in ("photos", "more"):
        (tmp_path / folder).mkdir()
    shutil.copy(tmp_path / "cat.jpg", tmp_path / "photos")
    Image.new("RGB", (20, 20)).save(tmp_path / "more" / "a.png")
    models = tmp_path / "keras" / "models"
    models.mkdir(parents=True)
    shutil.copy(weights, models)
    shutil.copy(weights, tmp_path / "model.safetensors")
    monkeypatch.chdir(tmp_path)
    file = variants.WeightsFile(weights.name, hashlib.md5(weights.read_bytes()).hexdigest())
    with variants.register(tiny_variant("121", weights=file)):
        yield tmp_path


def form(value: object) -> object:
    """A value's form: keys in their order, and kinds. A class without an id is of the same form as one with."""
    if isinstance(value, dict):
        return [(key, form(held) if key != "id" else "id") for key, held in value.items()]
    if isinstance(value, list):
        return [form(held) for held in value]
    return type(value)


def test_the_json_example_is_what_comes_out(documented):
    (example,) = blocks(REFERENCE / "output.md", "json")
    result = command.densenet("predict", "cat.jpg", "broken.png", "-k", 1, "--format", "json")
    got, expected = json.loads(result.out), json.loads(example)
    assert result.status == 1
    assert form(got) == form(expected)
    assert [record["source"] for record in got] == [record["source"] for record in expected]
    assert {record["model"] for record in got} == {record["model"] for record in expected}
    assert got[1] == expected[1]
    assert [len(line) > 1 for line in result.out.splitlines()] == [len(line) > 1 for line in example.splitlines()]
    fields = {name.strip("` ") for row in rows(REFERENCE / "output.md") for name in row[0].split(",")}
    for record in got:
        assert set(record) <= fields
        for score in record.get("predictions", []):
            assert set(score) <= fields


def test_the_csv_example_is_what_comes_out(documented):
    (example,) = blocks(REFERENCE / "output.md", "csv")
    result = command.densenet("predict", "cat.jpg", "broken.png", "-k", 1, "--format", "csv")
    head, first, second = result.out.splitlines()
    assert head == ",".join(CSV_COLUMNS)
    expected_head, expected_first, expected_second = example.splitlines()
    assert (head, second) == (expected_head, expected_second)
    assert first.split(",")[:3] == expected_first.split(",")[:3]
    assert len(first.split(",")) == len(expected_first.split(","))


@pytest.mark.parametrize("page", [ROOT / "README.md", REFERENCE / "python.md"], ids=lambda page: page.name)
def test_python_examples_run(page, documented, capsys):
    """One after the other in the same session, as they would be typed."""
    examples = blocks(page, "python")
    assert examples
    exec(compile("\n".join(examples), str(page), "exec"), {})
    assert "class " in capsys.readouterr().out


def test_the_readme_opens_with_the_two_commands():
    opening, *_ = blocks(ROOT / "README.md", "sh")
    assert [line.partition("#")[0].strip() for line in opening.splitlines()] == ["make demo", "make test"]
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(re.findall(r"`make [^`]+`", page.read_text()))):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
