"""``densenet embed``, end to end, with a tiny network."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from densenet_cli import Classifier, variants
from densenet_cli.layers import embedding_size
from densenet_cli.output.vector_formats import VECTOR_FORMATS
from densenet_cli.weights import safetensors
from tests.conftest import SAMPLES
from tests.support.command import densenet, restore_sigint
from tests.support.networks import TINY, random_arrays
from tests.test_docs import DOCS, blocks, rows

EMBED_PAGE = DOCS / "reference" / "commands" / "embed.md"


@pytest.fixture
def folder(tmp_path):
    """A folder with images of noise, a damaged image, and a file that is not an image."""
    root = tmp_path / "images"
    (root / "below").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ["b.png", "a.png", "below/a.png", "z.bmp"]:
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), np.uint8)).save(root / name)
    (root / "broken.jpg").write_bytes(b"this is text")
    (root / "notes.txt").write_text("nothing to see")
    return root


NAMES = ["a.png", "b.png", "below/a.png", "broken.jpg", "z.bmp"]


@pytest.fixture
def output(tmp_path):
    return tmp_path / "features.npz"


def test_vectors_and_sources_of_a_folder(weights, folder, output):
    result = densenet("embed", folder, "-o", output, "--weights", weights)
    assert result.status == 1
    assert result.out == ""
    lines = result.err.splitlines()
    assert any(line.startswith(f"{folder / 'broken.jpg'}: UnreadableImage: ") for line in lines)
    assert any("4 vectors" in line and str(embedding_size(TINY)) in line and str(output) in line for line in lines)
    assert lines[-1].startswith("1 source failed") and f"{output}.sources.jsonl" in lines[-1]
    loaded = np.load(output)
    assert loaded["sources"].tolist() == [str(folder / name) for name in NAMES if name != "broken.jpg"]
    assert loaded["features"].shape == (4, embedding_size(TINY))
    assert (np.abs(loaded["features"]).max(axis=1) > 0).all()
    listing = [json.loads(line) for line in Path(f"{output}.sources.jsonl").read_text().splitlines()]
    assert [record["source"] for record in listing] == [str(folder / name) for name in NAMES]
    assert listing[3]["error"]["type"] == "UnreadableImage"
    settings = json.loads(Path(f"{output}.meta.json").read_text())
    assert (settings["model"], settings["input_size"], settings["preprocess"]) == ("tiny0", 224, "crop")


def test_command_and_api_are_bit_identical_for_any_batch_size(weights, folder, output):
    vectors = []
    for number, options in enumerate([("--batch-size", 1, "--threads", 1), ("--batch-size", 3, "--threads", 2)]):
        path = output.with_stem(f"features{number}")
        densenet("embed", folder, "-o", path, "--weights", weights, *options)
        vectors.append(np.load(path)["features"])
    np.testing.assert_array_equal(*vectors)
    embeddings = list(Classifier(weights=weights).embed_many([folder]))
    assert [one.source for one in embeddings if one.error] == [str(folder / "broken.jpg")]
    np.testing.assert_array_equal([one.vector for one in embeddings if not one.error], vectors[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["p", "-o", "x.csv"], ".npz, .npy, or .parquet"),
        (["p", "-o", "-"], "Standard output is not supported"),
        (["p"], "Missing option '-o'"),
        (["-o", "x.npz"], "No source"),
        (["p", "-o", "x.npz", "--null"], "--null"),
        (["p", "-o", "x.npz", "--resume", "--overwrite"], "--resume"),
        (["p", "-o", "x.npz", "--retry-errors"], "--retry-errors needs --resume"),
        (["p", "-o", "x.npz", "--labels", "x"], "No such option"),
    ],
)
def test_usage_errors_precede_missing_weights(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = densenet("embed", *arguments, "--variant", "121", "--offline")
    assert result.status == 2
    assert message in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format_name", VECTOR_FORMATS)
def test_missing_weights_leave_no_files(format_name, folder, tmp_path):
    before = sorted(tmp_path.iterdir())
    result = densenet("embed", folder, "-o", tmp_path / f"x.{format_name}", "--variant", "121", "--offline")
    assert result.status == 3
    assert [path for path in sorted(tmp_path.iterdir()) if path.name != "cache"] == before


def test_a_missing_optional_package_is_named(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = densenet("embed", folder, "-o", tmp_path / "x.parquet", "--variant", "121", "--offline")
    assert result.status == 2
    assert "pip install pyarrow" in result.err


def test_resume_adds_sources_and_retries_errors(weights, folder, output):
    densenet("embed", folder / "b.png", folder / "broken.jpg", "-o", output, "--weights", weights)
    assert densenet("embed", folder, "-o", output, "--weights", weights).status == 2
    result = densenet("embed", folder, "-o", output, "--weights", weights, "--resume")
    assert result.status == 1  # the output still contains an error
    assert "2 sources already done" in result.err
    result = densenet("embed", folder / "b.png", "-o", output, "--weights", weights, "--resume", "--retry-errors")
    assert result.status == 1  # the image with the error is not among the sources
    Image.new("RGB", (40, 40)).save(folder / "broken.jpg")
    result = densenet("embed", folder, "-o", output, "--weights", weights, "--resume", "--retry-errors")
    assert result.status == 0
    order = ["b.png", "a.png", "below/a.png", "z.bmp", "broken.jpg"]
    loaded = np.load(output)
    assert loaded["sources"].tolist() == [str(folder / name) for name in order]
    expected = [one.vector for one in Classifier(weights=weights).embed_many([folder / name for name in order])]
    np.testing.assert_array_equal(loaded["features"], expected)


def test_resume_rejects_other_preprocessing(weights, folder, output):
    densenet("embed", folder, "-o", output, "--weights", weights)
    result = densenet("embed", folder, "-o", output, "--weights", weights, "--resume", "--preprocess", "squash")
    assert result.status == 2
    assert 'other settings: --preprocess (now "squash", before "crop")' in result.err


def start(*arguments):
    command = [sys.executable, "-m", "densenet_cli", "embed", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, preexec_fn=restore_sigint)


def wait_for_parts(running, parts, size):
    deadline = time.monotonic() + 60
    while running.poll() is None and time.monotonic() < deadline:
        if parts.exists() and parts.stat().st_size >= size:
            return
        time.sleep(0.005)


@pytest.fixture
def many(folder, tmp_path):
    """A list of 400 names of five images, one of which is damaged."""
    path = tmp_path / "many.txt"
    path.write_text("".join(f"{folder / NAMES[number % 5]}\n" for number in range(400)))
    return path


def test_a_killed_and_resumed_run_writes_the_same_bytes(weights, many, output):
    options = ["--files-from", many, "--weights", weights, "-q"]
    expected = output.with_stem("expected")
    assert densenet("embed", *options, "-o", expected).status == 1
    parts = Path(f"{output}.parts.jsonl")
    kills = 0
    for size in (1, 30_000):
        with start(*options, "-o", output, "--resume") as running:
            wait_for_parts(running, parts, size)
            running.send_signal(signal.SIGKILL)
            running.communicate()
        kills += running.returncode == -signal.SIGKILL
        assert parts.exists() and not output.exists()
    assert kills == 2
    assert densenet("embed", *options, "-o", output, "--resume").status == 1
    for suffix in ("", ".sources.jsonl", ".meta.json"):
        assert Path(f"{output}{suffix}").read_bytes() == Path(f"{expected}{suffix}").read_bytes()
    assert not parts.exists()


def test_interruption_reports_the_partial_file(weights, many, output):
    parts = Path(f"{output}.parts.jsonl")
    with start("--files-from", many, "--weights", weights, "-o", output) as running:
        wait_for_parts(running, parts, 1)
        running.send_signal(signal.SIGINT)
        _, err = running.communicate(timeout=60)
    assert running.returncode == 130
    messages = [line for line in err.splitlines() if line]
    assert str(parts) in messages[-2] and "--resume" in messages[-2]
    assert messages[-1] == "Interrupted."
    assert not output.exists()


class TestDocs:
    def test_the_search_example_finds_the_nearest_neighbor(self, photographs, tmp_path, monkeypatch, capsys):
        """With the bundled model, the mirrored first photograph is its nearest neighbor."""
        monkeypatch.chdir(tmp_path)
        with Image.open(photographs[0]) as image:
            ImageOps.mirror(image).save("mirrored.jpg")
        densenet("embed", *photographs, "mirrored.jpg", "-o", "features.npz", "--variant", "tiny")
        search = blocks(DOCS / "guides" / "embeddings.md", "py")[0]
        assert len([line for line in search.splitlines() if line]) == 5
        exec(compile(search, "embed.md", "exec"), {})
        nearest, *others = re.findall(r"'([^']+)'", capsys.readouterr().out)
        assert nearest == "mirrored.jpg"
        assert len(others) == 4

    def test_documented_vector_lengths(self):
        documented = {row[0]: row[1] for row in rows(EMBED_PAGE) if row[0] in variants.VARIANTS}
        assert {"121", "169", "201", "tiny"} <= documented.keys()
        for name, length in documented.items():
            assert length == f"{embedding_size(variants.get(name).config):,}"

    def test_all_formats_are_documented(self):
        assert [row[0] for row in rows(EMBED_PAGE) if row[0][:1] == "."] == [f".{name}" for name in VECTOR_FORMATS]

    def test_documented_listing(self, weights, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        os.mkdir("photos")
        for name in ("cat.jpg", "dog.jpg"):
            Image.new("RGB", (40, 40)).save(f"photos/{name}")
        Path("photos/broken.png").touch()
        names = [f"photos/{name}" for name in ("cat.jpg", "broken.png", "dog.jpg")]
        densenet("embed", *names, "-o", "features.npy", "--weights", weights)
        assert Path("features.npy.sources.jsonl").read_text() == blocks(EMBED_PAGE, "jsonl")[0]


def test_network_without_a_head(tmp_path):
    """It gives vectors, and every other command refuses it before it writes anything."""
    config = replace(TINY, classes=0)
    arrays = {layer: values for layer, values in random_arrays(TINY).items() if layer != "predictions"}
    weights = tmp_path / "backbone.safetensors"
    safetensors.write(weights, arrays, config)
    image, model = str(SAMPLES / "cat.jpg"), ["--weights", str(weights)]
    assert densenet("embed", image, "-o", str(tmp_path / "v.npz"), *model).status == 0
    assert np.load(tmp_path / "v.npz")["features"].shape[0] == 1
    for command in (
        ["predict", image, "-o", str(tmp_path / "out.jsonl")],
        ["explain", image, "-o", str(tmp_path / "maps")],
        ["export", "-o", str(tmp_path / "model.onnx")],
    ):
        result = densenet(*command, *model)
        assert result.status == 3 and "without a head" in result.err
        assert not list(tmp_path.glob("out*")) + list(tmp_path.glob("maps*")) + list(tmp_path.glob("model*"))
