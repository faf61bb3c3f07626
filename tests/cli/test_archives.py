"""Archives on the command line: the same output as with the extracted folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.support.archives import FORMATS, pack, write_tar
from tests.support.command import densenet
from tests.support.eager_processes import use_at_once
from tests.support.images import encode, photograph
from tests.support.networks import tiny_weights


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with photographs, damaged images, and images with several pages, and archives of it."""
    root = tmp_path_factory.mktemp("root")
    folder = root / "photos"
    (folder / "b").mkdir(parents=True)
    for number in range(30):
        image = photograph(("coffee", "rocket")[number % 2], (100 + number, 90))
        (folder / ("b" if number % 3 else "") / f"{number:03}.jpg").write_bytes(encode(image, "JPEG"))
    good = encode(photograph("coffee", (300, 200)), "PNG")
    (folder / "half.png").write_bytes(good[:5000])
    (folder / "empty.jpg").touch()
    (folder / "text.gif").write_text("text")
    frames = [photograph("coffee", (60, 40)).rotate(number) for number in range(10)]
    frames[0].save(folder / "frames.gif", save_all=True, append_images=frames[1:])
    frames[0].save(folder / "frames.tif", save_all=True, append_images=frames[1:5])
    Image.new("L", (4000, 3000)).save(folder / "large.png")
    for format_ in FORMATS:
        pack(folder, root / f"photos.{format_}")
    tiny_weights(root)
    return root


@pytest.fixture(autouse=True)
def in_root(root, monkeypatch):
    monkeypatch.chdir(root)


def predict(*arguments: object) -> str:
    result = densenet("predict", *arguments, "--variant", "tiny", "--format", "jsonl", "--decode-memory", 50)
    assert result.status == 1  # some images are damaged
    return result.out


@pytest.mark.parametrize(
    "options",
    [
        "",
        "--threads 1",
        "--threads 16",
        "--pages all",
        "--isolate",
        "--processes 2",
        "--processes 2 --pages all --isolate",
    ],
)
def test_same_records_as_the_folder(options, monkeypatch):
    use_at_once(monkeypatch.setattr)
    expected = predict("photos", *options.split())
    assert "ImageTooLarge" in expected
    for format_ in FORMATS:
        records = predict(f"photos.{format_}", *options.split())
        assert records == expected.replace('"source": "photos/', f'"source": "photos.{format_}/'), format_


def test_records_name_sources():
    for archive in ("photos.tar", "photos.tar.gz", "photos.zip"):
        expected = predict(archive, "--pages", "all")
        names = [json.loads(line)["source"] for line in expected.splitlines()]
        assert len(names) > 40
        listed = "\n".join(names).encode()
        arguments = ["--variant", "tiny", "--format", "jsonl", "--decode-memory", 50]
        result = densenet("predict", "--files-from", "-", *arguments, stdin=listed)
        assert result.out.replace(', "more_pages": true', "") == expected


@pytest.mark.parametrize("format_", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_resuming(format_, suffix, tmp_path):
    output = tmp_path / f"out{suffix}"
    arguments = ["predict", "--variant", "tiny", "-o", output]
    densenet(*arguments, f"photos.{format_}")
    complete = output.read_bytes()
    for seed in range(3):
        output.write_bytes(complete[: random.Random(seed).randrange(100, len(complete))])
        assert densenet(*arguments, "--resume", f"photos.{format_}").status == 1
        assert output.read_bytes() == complete
    densenet(*arguments, "--resume", f"./photos.{format_}")  # all of them are done
    assert output.read_bytes() == complete


def test_resuming_in_another_folder(root, tmp_path, monkeypatch):
    output = tmp_path / "out.jsonl"
    arguments = ["predict", "--variant", "tiny", "-o", output]
    densenet(*arguments, "photos.zip")
    complete = output.read_text().splitlines(keepends=True)
    output.write_text("".join(complete[:10]))
    monkeypatch.chdir(tmp_path)
    densenet(*arguments, "--resume", root / "photos.zip")
    sources = [json.loads(line)["source"] for line in output.read_text().splitlines()]
    assert sources[:10] == [json.loads(line)["source"] for line in complete[:10]]
    assert sources[10:] == [f"{root}/{json.loads(line)['source']}" for line in complete[10:]]


def test_failed_members_are_retried(tmp_path):
    output = tmp_path / "out.jsonl"
    for format_ in FORMATS:
        arguments = ["predict", f"photos.{format_}", "--variant", "tiny", "-o", output, "--decode-memory"]
        densenet(*arguments, 50, "--overwrite")
        assert "ImageTooLarge" in output.read_text()
        densenet(*arguments, 700, "--resume", "--retry-errors")
        records = output.read_text().splitlines()
        assert "ImageTooLarge" not in output.read_text() and len(records) == 36
        failed = [json.loads(line)["source"].rpartition("/")[2] for line in records if '"error"' in line]
        assert failed == ["empty.jpg", "half.png", "text.gif"]


def test_a_hostile_member_does_not_replace_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cat.png").write_bytes(encode(photograph("coffee", (60, 40)), "PNG"))
    write_tar(tmp_path / "a.tar", ("../cat.png", b"x"), ("x/../../cat.png", b"x"))
    arguments = ["predict", "--variant", "tiny", "-o", tmp_path / "out.jsonl", "--resume"]
    assert densenet(*arguments, "a.tar").status == 1
    assert densenet(*arguments, "cat.png").status == 1  # because of the earlier errors
    sources = [json.loads(line)["source"] for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert sources == ["a.tar/../cat.png", "a.tar/x/../../cat.png", "cat.png"]


def test_html(root, tmp_path):
    for name in ("photos", "photos.tar.gz"):
        densenet("predict", name, "--variant", "tiny", "--html", tmp_path / f"{name}.html")
    pages = [(tmp_path / f"{name}.html").read_text() for name in ("photos", "photos.tar.gz")]
    assert pages[0].count("data:image") == pages[1].count("data:image") >= 30


def test_embeddings(tmp_path):
    for name in ("photos", "photos.zip", "photos.tar.xz"):
        densenet("embed", name, "--variant", "tiny", "-o", tmp_path / f"{name}.npy")
    expected = np.load(tmp_path / "photos.npy")
    assert len(expected) == 33
    for name in ("photos.zip", "photos.tar.xz"):
        assert np.array_equal(np.load(tmp_path / f"{name}.npy"), expected)


def test_explanations(tmp_path):
    densenet("explain", "photos.tar/b", "photos.zip/frames.gif", "--variant", "tiny", "-o", tmp_path / "maps")
    files = {os.path.relpath(path, tmp_path / "maps") for path in (tmp_path / "maps").rglob("*.png")}
    assert {"photos.tar/b/001.jpg.png", "photos.zip/frames.gif.png"} < files and len(files) == 21


def test_other_commands_need_files(tmp_path):
    for command in (["sort", "photos.tar", "--into", tmp_path / "sorted"], ["benchmark", "--images", "photos.tar"]):
        result = densenet(*command, "--variant", "tiny")
        assert result.status == 2 and "archive" in result.err


def test_modules_for_archives_are_not_imported_for_an_image():
    code = (
        "import sys; from densenet_cli.cli import main\n"
        "try: main(['predict', 'photos/000.jpg', '--variant', 'tiny', '--format', 'jsonl'])\n"
        "finally: print(sorted(name for name in sys.modules if 'archives' in name))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[1:] == ["[]"]


@pytest.mark.parametrize("command", ["predict", "embed", "explain", "evaluate"])
def test_an_output_that_would_replace_what_is_read(command, root, tmp_path):
    archive = tmp_path / "a.zip"
    archive.write_bytes((root / "photos.zip").read_bytes())
    data = archive.read_bytes()
    (tmp_path / "link").symlink_to(archive)
    for source in (archive, f"{archive}/b"):
        for output in (["-o", archive], ["-o", tmp_path / "link"]):
            result = densenet(command, source, *output, "--overwrite", "--variant", "tiny")
            assert result.status == 2
            assert "--output" in result.err
    assert archive.read_bytes() == data
