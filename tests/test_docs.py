"""The documentation: current help pages, valid links, and tables and examples that match the program."""

from __future__ import annotations

import ast
import hashlib
import importlib
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
from tests.support.networks import tiny_variant

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
COMMAND_PAGES = REFERENCE / "commands"
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")] + sorted(
    DOCS.rglob("*.md")
)
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(page: Path, *languages: str) -> list[str]:
    """Return the fenced blocks of a page in one of the languages."""
    return [text for language, text in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def rows(page: Path) -> list[list[str]]:
    """Return the cells of each row of each table in a page, without backticks."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [[cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in lines if line[:1] == "|"]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    headings = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_are_valid(page):
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


def test_stale_help_page_is_found(tmp_path, monkeypatch, capsys):
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
def test_command_has_a_page_with_help_and_example(name):
    page = COMMAND_PAGES / f"{name}.md"
    assert f"<!-- help: densenet {name} -->" in page.read_text(encoding="utf-8")
    assert f"(docs/reference/commands/{name}.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "Examples:" in help_pages.help_page(name)
    longest = max(map(len, help_pages.help_page(name).splitlines()))
    assert longest <= help_pages.WIDTH


def shown_commands() -> list[str]:
    """Return the ``densenet`` commands in the fenced blocks of all pages."""
    commands = []
    for page in PAGES:
        for block in blocks(page, "sh", "console"):
            for line in block.splitlines():
                for part in line.removeprefix("$ ").split(" | "):
                    if part.startswith("densenet "):
                        commands.append(part)
    return commands


@pytest.mark.parametrize("line", sorted(set(shown_commands())))
def test_shown_command_is_valid(line, tmp_path, monkeypatch):
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
    subcommand = densenet.get_command(click.Context(densenet), name)
    assert subcommand is not None
    if "--help" not in arguments and "--list" not in arguments:
        subcommand.make_context(name, arguments)


def subclasses(cls: type) -> set[type]:
    """Return all direct and indirect subclasses."""
    direct = set(cls.__subclasses__())
    return direct.union(*map(subclasses, direct))


def test_image_errors_are_documented():
    table = [row[0] for row in rows(REFERENCE / "output.md")]
    classes = subclasses(errors.ImageError)
    names = {cls("").type for cls in classes if cls.__module__.startswith("densenet_cli")}
    assert names <= set(table)
    documented = {name for name in table if re.fullmatch(r"([A-Z][a-z]+){2,}", name)}
    assert documented == names


def test_exit_statuses_are_documented():
    statuses = {cls.exit_code for cls in subclasses(errors.DensenetError)} | {0, 130}
    assert {int(row[0]) for row in rows(REFERENCE / "exit-statuses.md") if row[0].isdigit()} == statuses


def test_choices_are_documented():
    formats = ["table", *RECORD_FORMATS]
    assert [row[0] for row in rows(REFERENCE / "output.md") if row[0] in formats] == formats
    assert [row[0] for row in rows(REFERENCE / "preprocessing.md") if row[0] in MODES] == list(MODES)
    assert " ".join(sorted(suffix[1:] for suffix in SUFFIXES)) in {
        " ".join(sorted(listed.split()))
        for listed in re.findall(r"`([a-z0-9 ]+)`", (COMMAND_PAGES / "predict.md").read_text())
    }


def test_variants_are_as_documented():
    documented = {row[0]: row[1:] for row in rows(COMMAND_PAGES / "summary.md") if row[0] in variants.VARIANTS}
    for name, variant in variants.VARIANTS.items():
        layers = list_layers(variant.config, variant.config.input_size)
        assert documented[name] == [
            ", ".join(map(str, variant.config.blocks)),
            str(variant.config.growth_rate),
            f"{sum(layer.parameters for layer in layers):,}",
            f"{sum(layer.trainable_parameters for layer in layers):,}",
            f"{sum(layer.multiply_adds for layer in layers) / 1e9:.3f} G",
        ]


def test_published_weights_are_as_documented():
    page = COMMAND_PAGES / "download-weights.md"
    documented = {row[0]: row[1:] for row in rows(page)}
    for name in variants.downloadable():
        variant = variants.get(name)
        expected = [variant.weights.name, variant.weights.md5] if variant.weights else [f"hf://{variant.repository}"]
        assert documented[name] == expected
    assert re.findall(r"^- `(https://.*)`$", page.read_text(), re.MULTILINE) == list(store.BASE_URLS)


@pytest.fixture
def documented(tmp_path, monkeypatch, weights):
    """A folder with the files that the examples name. Variant "121" is a tiny network whose weights are published."""
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


def structure(value: object) -> object:
    """Return the keys and types of a JSON value. A class with and without an id have the same structure."""
    if isinstance(value, dict):
        return [(key, structure(item) if key != "id" else "id") for key, item in value.items()]
    if isinstance(value, list):
        return [structure(item) for item in value]
    return type(value)


def test_json_example_is_current(documented):
    (example,) = blocks(REFERENCE / "output.md", "json")
    result = command.densenet("predict", "cat.jpg", "broken.png", "-k", 1, "--format", "json")
    actual, expected = json.loads(result.out), json.loads(example)
    assert result.status == 1
    assert structure(actual) == structure(expected)
    assert [record["source"] for record in actual] == [record["source"] for record in expected]
    assert {record["model"] for record in actual} == {record["model"] for record in expected}
    assert actual[1] == expected[1]
    assert [len(line) > 1 for line in result.out.splitlines()] == [len(line) > 1 for line in example.splitlines()]
    fields = {name.strip("` ") for row in rows(REFERENCE / "output.md") for name in row[0].split(",")}
    for record in actual:
        assert set(record) <= fields
        for score in record.get("predictions", []):
            assert set(score) <= fields


def test_csv_example_is_current(documented):
    (example,) = blocks(REFERENCE / "output.md", "csv")
    result = command.densenet("predict", "cat.jpg", "broken.png", "-k", 1, "--format", "csv")
    header, first, second = result.out.splitlines()
    assert header == ",".join(CSV_COLUMNS)
    expected_header, expected_first, expected_second = example.splitlines()
    assert (header, second) == (expected_header, expected_second)
    assert first.split(",")[:3] == expected_first.split(",")[:3]
    assert len(first.split(",")) == len(expected_first.split(","))


@pytest.mark.parametrize("page", [ROOT / "README.md", REFERENCE / "python.md"], ids=lambda page: page.name)
def test_python_examples_run(page, documented, capsys):
    """Run all examples of a page in one interpreter."""
    examples = blocks(page, "python")
    assert examples
    exec(compile("\n".join(examples), str(page), "exec"), {})
    assert "class " in capsys.readouterr().out


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_import_existing_names(page):
    for example in blocks(page, "python", "py"):
        for node in ast.walk(ast.parse(example)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("densenet_cli"):
                module = importlib.import_module(node.module)
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_repository_files_exist(page):
    for path in re.findall(r"`((?:benchmarks|recipes|scripts|tests)/[\w/.-]+)`", page.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


def test_readme_begins_with_the_demo():
    opening, *_ = blocks(ROOT / "README.md", "sh")
    assert [line.partition("#")[0].strip() for line in opening.splitlines()] == ["make demo", "make test"]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for page in PAGES:
        for target in re.findall(r"\bmake ([a-z][a-z-]+)", "\n".join(re.findall(r"`make [^`]+`", page.read_text()))):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{page.name}: make {target}"
